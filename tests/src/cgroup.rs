//! The cgroup2 tree: where it is, and how a subtree with its processes is removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::wait_for;

/// The root of the cgroup2 mount; on a hybrid host that is not `/sys/fs/cgroup`.
pub(crate) fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    mount_point(&mounts)
        .context("no cgroup2 file system is mounted: mount one (mount -t cgroup2 none /sys/fs/cgroup)")
}

/// The first cgroup2 mount point in the text of a mountinfo file (proc_pid_mountinfo(5)).
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let is_cgroup2 = filesystem.split(' ').next() == Some("cgroup2");
        is_cgroup2.then(|| mount.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
}

/// Kills every process in the cgroup at `path` and below, and waits until they are gone.
pub(crate) fn kill_all(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    // cgroup.kill is there from Linux 5.14 on.
    if fs::write(path.join("cgroup.kill"), "1").is_err() {
        kill_one_by_one(path)?;
    }
    wait_for("the lab's processes to end", Duration::from_secs(10), || {
        let events = fs::read_to_string(path.join("cgroup.events")).unwrap_or_default();
        events.lines().all(|line| line != "populated 1").then_some(())
    })
}

fn kill_one_by_one(path: &Path) -> Result<()> {
    for child in children(path)? {
        kill_one_by_one(&child)?;
    }
    for pid in fs::read_to_string(path.join("cgroup.procs"))?.lines() {
        if let Ok(pid) = pid.parse() {
            // A process that ended by itself meanwhile is what is wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    Ok(())
}

/// Removes the cgroup at `path` and all below it. They must be empty of processes.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    for child in children(path)? {
        remove_tree(&child)?;
    }
    match fs::remove_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            bail!("cannot remove the cgroup {}: {e}", path.display())
        }
        _ => Ok(()),
    }
}

fn children(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
";

    #[test]
    fn finds_cgroup2_on_a_hybrid_host() {
        assert_eq!(mount_point(HYBRID), Some(PathBuf::from("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn a_host_with_cgroup1_only_has_none() {
        assert_eq!(mount_point(HYBRID.rsplit_once("41 ").unwrap().0), None);
    }
}
