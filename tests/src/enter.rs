//! Starts processes inside a host: in its cgroup and network namespace from before their first instruction.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::LazyLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use anyhow::{Context, Result};
use nix::unistd::User;

/// Where a process is to run.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) cgroup: PathBuf,
    pub(crate) netns: PathBuf,
}

impl Place {
    /// A command that runs here, as `user` if given. It must be started by [`spawn`].
    pub(crate) fn command(&self, program: impl AsRef<OsStr>, user: Option<&str>) -> Result<Command> {
        let open = |path: &Path, options: &OpenOptions| {
            options.open(path).with_context(|| format!("cannot open {}", path.display()))
        };
        let procs = open(&self.cgroup.join("cgroup.procs"), OpenOptions::new().write(true))?;
        let netns = open(&self.netns, OpenOptions::new().read(true))?;
        let ids = user.map(ids).transpose()?;
        let mut command = Command::new(program);
        // SAFETY: `enter` makes system calls only: it neither allocates nor takes a lock between fork and exec.
        unsafe { command.pre_exec(move || enter(&procs, &netns, ids)) };
        Ok(command)
    }
}

fn ids(user: &str) -> Result<(u32, u32)> {
    let user = User::from_name(user)?.with_context(|| format!("there is no user {user}"))?;
    Ok((user.uid.as_raw(), user.gid.as_raw()))
}

/// Runs in the child between fork and exec.
fn enter(procs: &File, netns: &File, ids: Option<(u32, u32)>) -> io::Result<()> {
    // SAFETY: the buffer is static, the descriptors are open, and the other calls take numbers only.
    unsafe {
        // "0" is the writing process itself (cgroups(7)).
        check(libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1))?;
        check(libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) as isize)?;
        if let Some((uid, gid)) = ids {
            check(libc::setgroups(0, std::ptr::null()) as isize)?;
            check(libc::setgid(gid) as isize)?;
            check(libc::setuid(uid) as isize)?;
        }
        // Last, for a change of user clears it (PR_SET_PDEATHSIG(2const)).
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) as isize)
    }
}

fn check(result: isize) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Starts `command` from a thread that lives as long as this process: a process with PR_SET_PDEATHSIG is killed
/// when the thread that started it ends, and a test's threads come and go.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: LazyLock<Sender<Order>> = LazyLock::new(|| {
        let (orders, inbox) = channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                // Who ordered it waits for the answer below.
                let _ = answer.send(command.spawn());
            }
        });
        orders
    });
    let (answer, child) = channel();
    SPAWNER.send((command, answer)).map_err(io::Error::other)?;
    child.recv().map_err(io::Error::other)?
}
