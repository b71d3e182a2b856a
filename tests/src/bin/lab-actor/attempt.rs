//! Many attempts to begin a flow, none of which waits for the peer.

use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockType, SockaddrStorage, connect, send, sendto};
use segd_tests::Report;

use crate::{Failure, Step, sockets, tell};

/// Each line is a way and an address: `tcp 10.1.2.3:80`. Reports one outcome a line, in their order.
pub(crate) fn attempts() -> Result<(), Failure> {
    for line in io::stdin().lock().lines() {
        let line = line.step("read")?;
        tell(&match attempt(&line) {
            Ok(()) => Report::Sent,
            Err(Failure { step, errno }) => Report::Failed { step: step.into(), errno },
        });
    }
    Ok(())
}

fn attempt(line: &str) -> Result<(), Failure> {
    let bad = || Failure { step: "parse", errno: "EINVAL".into() };
    let (way, to) = line.split_once(' ').ok_or_else(bad)?;
    let to: SocketAddr = to.parse().map_err(|_| bad())?;
    let to_kernel = SockaddrStorage::from(to);
    let kind = if way == "tcp" { SockType::Stream } else { SockType::Datagram };
    let fd = sockets::bound(kind, to, None)?;
    let socket = fd.as_raw_fd();
    match way {
        "tcp" => {
            sockets::unblock(&fd)?;
            match connect(socket, &to_kernel) {
                Err(Errno::EINPROGRESS) => Ok(()),
                outcome => outcome.step("connect"),
            }
        }
        "udp" => sendto(socket, b"attempt", &to_kernel, MsgFlags::MSG_DONTWAIT).step("sendto").map(drop),
        "udp-connected" => {
            connect(socket, &to_kernel).step("connect")?;
            send(socket, b"attempt", MsgFlags::MSG_DONTWAIT).step("send").map(drop)
        }
        _ => Err(bad()),
    }
}
