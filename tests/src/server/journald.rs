//! systemd-journald: a journal for one host, in a mount namespace of its own, beside the machine's if that has one.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Server, directory};
use crate::host::Host;

/// Where Debian has it.
const PROGRAM: &str = "/lib/systemd/systemd-journald";

const CONFIG: &str = "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\nForwardToSyslog=no\nForwardToKMsg=no\n\
                      ForwardToConsole=no\nForwardToWall=no\nRateLimitIntervalSec=0\n";

/// Run by a shell in a mount namespace of its own, `$1` being the journal's directory: journald knows no other places than
/// these.
const ENTER: &str = "set -e
mount --bind \"$1\" /mnt
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal
mount --bind /mnt/run /run/systemd/journal
mount --bind /mnt/log /run/log/journal
mount --bind /mnt/journald.conf /etc/systemd/journald.conf
exec \"$2\"";

/// A journal. Dropping it kills its daemon.
#[derive(Debug)]
pub struct Journald {
    host: Host,
    home: PathBuf,
    server: Option<Server>,
}

impl Journald {
    /// Whether this machine has systemd's, and a journalctl to read it.
    pub fn is_installed() -> bool {
        let needed = [PROGRAM, "/usr/bin/journalctl", "/etc/systemd/journald.conf", "/etc/machine-id"];
        needed.iter().all(|path| Path::new(path).exists())
    }

    /// Starts one.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub fn start(host: &Host) -> Result<Self> {
        let home = directory(host, "journald", "root")?;
        fs::create_dir(home.join("run"))?;
        fs::create_dir(home.join("log"))?;
        fs::write(home.join("journald.conf"), CONFIG)?;
        let mut journald = Self { host: host.clone(), home, server: None };
        journald.go_on()?;
        Ok(journald)
    }

    /// Its socket for the native protocol.
    pub fn socket(&self) -> PathBuf {
        self.home.join("run/socket")
    }

    /// Stops it in good order. What arrives then is refused.
    ///
    /// # Errors
    /// When it goes on for 30 seconds.
    pub fn stop(&mut self) -> Result<()> {
        self.server.take().map_or(Ok(()), Server::stop)
    }

    /// Starts it again, with the same socket and journal.
    ///
    /// # Errors
    /// When it does not start.
    pub fn go_on(&mut self) -> Result<()> {
        let mut command = self.host.command("unshare")?;
        command.args(["--mount", "--propagation", "private", "sh", "-c", ENTER, "sh"]);
        command.arg(&self.home).arg(PROGRAM);
        let socket = self.socket();
        let ready = || UnixDatagram::unbound().is_ok_and(|client| client.connect(&socket).is_ok());
        self.server = Some(Server::start(&self.host, command, 0, ready)?);
        Ok(())
    }

    /// All entries of segd, each with its fields, oldest first.
    ///
    /// # Errors
    /// When journalctl cannot read them.
    pub fn entries(&self) -> Result<Vec<Value>> {
        let mut command = Command::new("journalctl");
        command.args(["--no-pager", "--quiet", "--output=json", "--all", "--identifier=segd", "--directory"]);
        let output = command.arg(self.home.join("log")).output().context("cannot run journalctl")?;
        if !output.status.success() {
            bail!("journalctl: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        let lines = output.stdout.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).context("a line of journalctl is not JSON")).collect()
    }
}
