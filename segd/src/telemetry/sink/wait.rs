//! Waiting for a socket, never for long.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long a receiver may take nothing before the sink counts as down.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);

/// Whether `socket` can be written to, or has failed, within `patience`.
pub(super) fn until_writable(socket: &impl AsFd, patience: Duration) -> io::Result<bool> {
    until(socket, PollFlags::POLLOUT, patience)
}

/// Whether `socket` fails within `patience`.
pub(super) fn until_failed(socket: &impl AsFd, patience: Duration) -> io::Result<bool> {
    until(socket, PollFlags::empty(), patience)
}

fn until(socket: &impl AsFd, events: PollFlags, patience: Duration) -> io::Result<bool> {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
    let mut sockets = [PollFd::new(socket.as_fd(), events)];
    match poll(&mut sockets, timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
