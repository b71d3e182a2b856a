//! PostgreSQL.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{Server, directory};
use crate::host::Host;

/// The user that Debian's package makes; the server refuses to run as root.
const USER: &str = "postgres";

impl Server {
    /// A new, empty database cluster on `port`, with the superuser `postgres`, who needs no password from anywhere.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, or does not start.
    pub fn postgres(host: &Host, port: u16) -> Result<Self> {
        let programs = programs()?;
        let home = directory(host, &format!("pg{port}"), USER)?;
        let data = home.join("data");
        let mut initdb = host.command_as(USER, programs.join("initdb"))?;
        initdb.arg("-D").arg(&data).args([
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ]);
        initdb.current_dir(&home);
        let made = host.run(initdb)?;
        if !made.status.success() {
            bail!("initdb: {}: {}", made.status, made.stderr);
        }
        let mut access = OpenOptions::new().append(true).open(data.join("pg_hba.conf"))?;
        access.write_all(b"host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n")?;

        let mut server = host.command_as(USER, programs.join("postgres"))?;
        server.arg("-D").arg(&data).arg("-k").arg(&home).arg("-p").arg(port.to_string());
        server.args(["-c", "listen_addresses=*", "-c", "fsync=off"]).current_dir(&home);
        let isready = programs.join("pg_isready");
        Self::start(host, server, port, || answers(&isready, &home, port))
    }
}

/// Whether the server answers on its unix socket, which no policy decides.
fn answers(isready: &Path, socket_dir: &Path, port: u16) -> bool {
    let mut ask = Command::new(isready);
    ask.arg("-q").arg("-h").arg(socket_dir).arg("-p").arg(port.to_string()).stderr(Stdio::null());
    ask.status().is_ok_and(|status| status.success())
}

/// The directory of the newest PostgreSQL's programs.
fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|version| Path::new(&format!("/usr/lib/postgresql/{version}/bin/initdb")).exists())
        .max()
        .context("PostgreSQL is not installed: apt-get install postgresql (cargo xtask setup does)")?;
    Ok(PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin")))
}
