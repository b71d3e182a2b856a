//! Short-lived cgroups: what connects as soon as they are there, and what outlives them.

use std::fs;
use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{SockaddrStorage, connect};
use segd_tests::Report;

use crate::{Failure, Step, sockets, tell};

/// Makes a cgroup below `cgroup` for each number, enters it, connects at once and reports the outcome. Goes back and
/// removes it unless it shall be kept.
pub(crate) fn run(
    cgroup: &Path,
    count: u32,
    keep: bool,
    to: SocketAddr,
    timeout: Duration,
) -> Result<(), Failure> {
    for n in 1..=count {
        let job = cgroup.join(format!("job-{n}.service"));
        fs::create_dir(&job).step("mkdir")?;
        enter(&job)?;
        tell(&match sockets::tcp(to, None, timeout) {
            Ok(_) => Report::Sent,
            Err(Failure { step, errno }) => Report::Failed { step: step.into(), errno },
        });
        enter(cgroup)?;
        if !keep {
            fs::remove_dir(&job).step("rmdir")?;
        }
    }
    Ok(())
}

/// Makes a socket in a cgroup that is removed before the socket connects: to the address of each line of standard input,
/// until one takes it.
pub(crate) fn leave(cgroup: &Path, top: &Path) -> Result<(), Failure> {
    fs::create_dir_all(cgroup).step("mkdir")?;
    let back = top.parent().unwrap_or(top);
    enter(cgroup)?;
    let socket = sockets::open(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    enter(back)?;
    for path in cgroup.ancestors().take_while(|path| path.starts_with(top)) {
        fs::remove_dir(path).step("rmdir")?;
    }
    for line in io::stdin().lock().lines() {
        let line = line.step("read")?;
        let to: SocketAddr = line.parse().map_err(|_| Failure { step: "parse", errno: "EINVAL".into() })?;
        match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).step("connect") {
            Ok(()) => tell(&Report::Sent),
            Err(Failure { step, errno }) => tell(&Report::Failed { step: step.into(), errno }),
        }
    }
    Ok(())
}

/// "0" is the writing process itself (cgroups(7)).
fn enter(cgroup: &Path) -> Result<(), Failure> {
    fs::write(cgroup.join("cgroup.procs"), "0").step("enter")
}
