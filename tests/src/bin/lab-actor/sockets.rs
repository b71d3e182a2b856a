//! Sockets with exactly the family, type and protocol asked for.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, getsockopt, setsockopt, socket,
    sockopt,
};
use segd_tests::Report;

use crate::{Failure, Step, tell};

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Family {
    Inet,
    Inet6,
    Packet,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Kind {
    Raw,
    Dgram,
    Stream,
    Seqpacket,
}

/// A socket of any protocol number, which nix's enumeration does not cover.
pub(crate) fn open(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Failure> {
    // SAFETY: socket(2) takes numbers only.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    Errno::result(fd).step("socket")?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn only_open(family: Family, kind: Kind, protocol: i32) -> Result<(), Failure> {
    let family = match family {
        Family::Inet => libc::AF_INET,
        Family::Inet6 => libc::AF_INET6,
        Family::Packet => libc::AF_PACKET,
    };
    let kind = match kind {
        Kind::Raw => libc::SOCK_RAW,
        Kind::Dgram => libc::SOCK_DGRAM,
        Kind::Stream => libc::SOCK_STREAM,
        Kind::Seqpacket => libc::SOCK_SEQPACKET,
    };
    open(family, kind, protocol)?;
    tell(&Report::Opened);
    Ok(())
}

/// A TCP or UDP socket of the family of `to`, bound to `from` if given.
pub(crate) fn bound(kind: SockType, to: SocketAddr, from: Option<SocketAddr>) -> Result<OwnedFd, Failure> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).step("socket")?;
    if let Some(from) = from {
        setsockopt(&fd, sockopt::ReuseAddr, &true).step("setsockopt")?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(from)).step("bind")?;
    }
    Ok(fd)
}

/// Lets no call on it wait.
pub(crate) fn unblock(fd: &OwnedFd) -> Result<(), Failure> {
    let old = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).step("fcntl")?);
    fcntl(fd, FcntlArg::F_SETFL(old | OFlag::O_NONBLOCK)).step("fcntl").map(drop)
}

/// Connects over TCP, in at most `timeout`.
pub(crate) fn tcp(to: SocketAddr, from: Option<SocketAddr>, timeout: Duration) -> Result<TcpStream, Failure> {
    let stream = TcpStream::from(bound(SockType::Stream, to, from)?);
    stream.set_nonblocking(true).step("fcntl")?;
    match connect(stream.as_raw_fd(), &SockaddrStorage::from(to)) {
        Err(Errno::EINPROGRESS) => finish_connect(&stream, timeout)?,
        outcome => outcome.step("connect")?,
    }
    stream.set_nonblocking(false).step("fcntl")?;
    stream.set_read_timeout(Some(timeout)).step("setsockopt")?;
    Ok(stream)
}

fn finish_connect(stream: &TcpStream, timeout: Duration) -> Result<(), Failure> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)], left) {
            Ok(0) => return Err(Failure::timeout("connect")),
            Err(Errno::EINTR) => {}
            ready => {
                ready.step("poll")?;
                break;
            }
        }
    }
    match getsockopt(stream, sockopt::SocketError).step("getsockopt")? {
        0 => Ok(()),
        error => Err(Errno::from_raw(error)).step("connect"),
    }
}
