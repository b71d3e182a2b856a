//! Where a try of segd takes place: a directory of its own with a bpf file system of its own.
//!
//! The file system is mounted in a mount namespace of this process and its children, which all end with it. So even
//! if this process is killed outright the kernel unmounts it, and with it go the pinned programs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::command::line_of;
use crate::say::say;

const DIRECTORY: &str = "/run/segd-try";
const LOCK: &str = "/run/segd-try.lock";
/// Its name comes before others: zone files are merged by name, and the first rollout that matches decides.
const MONITOR_FILE: &str = "!monitor-only.toml";
const MONITOR: &str = "# Made by cargo xtask run: whatever the estate's files enforce, here nothing is denied.\n\
                       [[rollout]]\nmode = \"monitor\"\n";

/// The directories and the mount; taken away with the value.
#[derive(Debug)]
pub(crate) struct Stage {
    segd: PathBuf,
    directory: PathBuf,
    struck: bool,
    _lock: Flock<File>,
}

impl Stage {
    pub(crate) fn set(segd: &Path) -> Result<Self> {
        let file = File::create(LOCK).with_context(|| format!("cannot make {LOCK}"))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| anyhow::anyhow!("another cargo xtask run is at work on this host: end it first"))?;
        let directory = PathBuf::from(DIRECTORY);
        if directory.exists() {
            // One that was killed: its programs and its mount went with it.
            fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {DIRECTORY}"))?;
        }
        let stage = Self { segd: segd.to_owned(), directory, struck: false, _lock: lock };
        for part in [stage.mount_point(), stage.state_dir(), stage.run_dir()] {
            fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        }
        unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .context("cannot make the mount namespace private")?;
        mount(Some("bpf"), &stage.mount_point(), Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .context("cannot mount a bpf file system: does this kernel have CONFIG_BPF_SYSCALL?")?;
        fs::create_dir(stage.bpffs()).context("cannot make a directory for the pins")?;
        Ok(stage)
    }

    /// Writes the agent's configuration, with a copy of the estate's zone files that enforces nothing.
    pub(crate) fn configure(&self, estate: &Path, zone: &str, listen: &str) -> Result<()> {
        let zones = self.directory.join("zones");
        copy_zone_files(estate, &zones)?;
        fs::write(zones.join(MONITOR_FILE), MONITOR).context("cannot write the zone files")?;
        let text = config(zone, &zones.to_string_lossy(), listen, &self.flow_log().to_string_lossy())?;
        fs::write(self.config(), text).context("cannot write the configuration")
    }

    pub(crate) fn segd(&self) -> &Path {
        &self.segd
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.directory.join("segd.toml")
    }

    fn mount_point(&self) -> PathBuf {
        self.directory.join("bpf")
    }

    /// For the pins: a directory of their own, for the kernel may have files at the root (`progs.debug`).
    pub(crate) fn bpffs(&self) -> PathBuf {
        self.mount_point().join("segd")
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.directory.join("state")
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.directory.join("run")
    }

    pub(crate) fn flow_log(&self) -> PathBuf {
        self.directory.join("flows.jsonl")
    }

    pub(crate) fn agent_log(&self) -> PathBuf {
        self.directory.join("agent.log")
    }

    /// The last lines of the agent's log.
    pub(crate) fn agent_log_tail(&self) -> String {
        let log = fs::read_to_string(self.agent_log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Takes everything off this host again and says so.
    pub(crate) fn strike(mut self) -> Result<()> {
        let off = self.take_off();
        match &off {
            Ok(()) => say!("segd is off this host again."),
            // Said here: after Ctrl-C a command that fails says only that it was interrupted.
            Err(fault) => say!("warning: {fault:#}"),
        }
        off
    }

    fn take_off(&mut self) -> Result<()> {
        self.struck = true;
        let mut detach = Command::new(&self.segd);
        detach.arg("detach").arg("--bpffs").arg(self.bpffs());
        let detached = detach.output();
        // Unmounting takes off what detach did not.
        umount2(&self.mount_point(), MntFlags::MNT_DETACH).context("cannot unmount the bpf file system")?;
        fs::remove_dir_all(&self.directory).with_context(|| format!("cannot remove {DIRECTORY}"))?;
        // The lock file goes while the lock is held.
        fs::remove_file(LOCK).with_context(|| format!("cannot remove {LOCK}"))?;
        let why = match detached {
            Ok(done) if done.status.success() => return Ok(()),
            Ok(failed) => String::from_utf8_lossy(&failed.stderr).trim().to_owned(),
            Err(fault) => fault.to_string(),
        };
        bail!("{}: {why}\nIts programs went with their file system all the same.", line_of(&detach));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.struck
            && let Err(fault) = self.take_off()
        {
            say!("warning: {fault:#}");
        }
    }
}

fn copy_zone_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let file = entry?.path();
        if let Some(name) = file.file_name().filter(|_| file.extension().is_some_and(|end| end == "toml")) {
            fs::copy(&file, to.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
        }
    }
    Ok(())
}

fn config(zone: &str, estate: &str, listen: &str, flow_log: &str) -> Result<String> {
    // A JSON string is a TOML basic string too.
    let quoted = |text| serde_json::to_string(text);
    Ok(format!(
        "[host]\nzone = {}\n\n[policy]\ndir = {}\n\n[metrics]\nlisten = {}\n\n[[sink]]\ntype = \"file\"\npath = {}\n",
        quoted(zone)?,
        quoted(estate)?,
        quoted(listen)?,
        quoted(flow_log)?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_quotes_is_still_toml() {
        let text = config("orders", "/srv/my \"zones\"\\x", "127.0.0.1:9464", "/run/f.jsonl").unwrap();
        assert_eq!(
            text,
            "[host]\nzone = \"orders\"\n\n[policy]\ndir = \"/srv/my \\\"zones\\\"\\\\x\"\n\n[metrics]\n\
             listen = \"127.0.0.1:9464\"\n\n[[sink]]\ntype = \"file\"\npath = \"/run/f.jsonl\"\n"
        );
    }
}
