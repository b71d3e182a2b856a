//! Many short connections, their outcomes counted.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use segd_tests::Report;

use crate::{Failure, Step, sockets, tell};

pub(crate) fn churn(
    to: &[SocketAddr],
    connects: u64,
    bind: Option<IpAddr>,
    timeout: Duration,
) -> Result<(), Failure> {
    let from = bind.map(|address| SocketAddr::new(address, 0));
    let mut outcomes = BTreeMap::new();
    for (_, to) in (0..connects).zip(to.iter().cycle()) {
        let outcome = match one(*to, from, timeout) {
            Ok(()) => "ok".to_owned(),
            Err(failure) => failure.errno,
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    tell(&Report::Counted { outcomes });
    Ok(())
}

/// Connects and exchanges one byte, without which a fast client overruns the server's queue of connections to accept:
/// the kernel then drops SYNs, and a test would take that for a verdict.
fn one(to: SocketAddr, from: Option<SocketAddr>, timeout: Duration) -> Result<(), Failure> {
    let mut stream = sockets::tcp(to, from, timeout)?;
    // Close sends a reset, so that no TIME_WAIT keeps the local port: there are fewer ports than connects.
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &linger).step("setsockopt")?;
    stream.write_all(b".").step("send")?;
    stream.read_exact(&mut [0]).step("recv")
}
