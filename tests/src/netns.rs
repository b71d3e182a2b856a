//! Network namespaces by name, made and wired with iproute2.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};

/// Where iproute2 keeps named network namespaces.
pub(crate) const DIRECTORY: &str = "/run/netns";

/// A named network namespace. Dropping the value leaves the namespace.
#[derive(Debug, Clone)]
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    /// Makes the namespace, with loopback up and no duplicate address detection, so that addresses work at once.
    pub(crate) fn create(name: &str) -> Result<Self> {
        let netns = Self { name: name.to_owned() };
        ip(&["netns", "add", name], "")?;
        netns
            .on_thread(|| {
                fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")?;
                fs::write("/proc/sys/net/ipv6/conf/all/accept_dad", "0")?;
                // Ping sockets are for everybody, as on a Debian host with systemd.
                fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")
            })?
            .with_context(|| format!("cannot set up the network namespace {name}"))?;
        netns.ip("link set lo up\n")?;
        Ok(netns)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Runs iproute2 commands, one a line, inside the namespace.
    pub(crate) fn ip(&self, batch: &str) -> Result<()> {
        ip(&["-n", &self.name, "-batch", "-"], batch)
    }

    /// Runs `work` on a thread of its own in this namespace. The thread stays in this process's cgroup, so sockets
    /// that `work` makes are not the host's.
    pub(crate) fn on_thread<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("no network namespace {}", self.name))?;
        thread::scope(|scope| {
            let worker = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
                Ok(work())
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Takes away the name at `path`; the namespace goes with its last process.
pub(crate) fn remove(path: &Path) -> Result<()> {
    // EINVAL: the name is there, but no namespace is mounted on it.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}

fn ip(arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run ip: install iproute2 (cargo xtask setup)")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("ip {}: {}\n{input}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
