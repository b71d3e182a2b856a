//! Real servers on a host: what warehouses run, as Debian packages it, with their data in the lab's directories.

mod dnsmasq;
mod journald;
mod nginx;
mod postgres;
mod prometheus;
mod redis;
mod rsyslog;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::User;

pub use dnsmasq::Dnsmasq;
pub use journald::Journald;
pub use prometheus::Prometheus;
pub use rsyslog::{Logged, Rsyslog};

use crate::host::Host;
use crate::process::Process;

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    process: Process,
    port: u16,
}

impl Server {
    /// The port it listens on, on all addresses of its host.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its main process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it in good order.
    fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(PATIENCE)?;
        Ok(())
    }

    /// Starts `command` and waits until `ready` holds.
    fn start(host: &Host, command: Command, port: u16, ready: impl Fn() -> bool) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut process = host.spawn(command)?;
        let deadline = Instant::now() + PATIENCE;
        while !ready() {
            if let Some(status) = process.ended()? {
                let finished = process.finish(PATIENCE)?;
                bail!("{name}: {status}: {}{}", finished.stdout, finished.stderr);
            }
            if Instant::now() > deadline {
                bail!("{name} is not ready after {PATIENCE:?}; its standard error: {}", process.stderr());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { process, port })
    }
}

/// The server's port on its host's loopback, where readiness is asked for: no policy decides that.
fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A new directory for a server's data, owned by `user`.
fn directory(host: &Host, name: &str, user: &str) -> Result<PathBuf> {
    let path = host.directory().join(name);
    fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
    own(&path, user)?;
    Ok(path)
}

fn own(path: &Path, user: &str) -> Result<()> {
    let user = User::from_name(user)?.with_context(|| format!("there is no user {user}"))?;
    chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
        .with_context(|| format!("cannot change the owner of {}", path.display()))
}

/// The program `name`, wherever Debian puts servers.
fn program(name: &str, package: &str) -> Result<PathBuf> {
    let places = ["/usr/sbin", "/usr/bin"];
    let found = places.iter().map(|place| Path::new(place).join(name)).find(|path| path.exists());
    found.with_context(|| {
        format!("{name} is not installed: apt-get install {package} (cargo xtask setup does)")
    })
}
