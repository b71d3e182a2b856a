//! An echo request by a ping socket or a raw one.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use segd_tests::Report;

use crate::{Failure, Step, sockets, tell};

const DATA: &[u8] = b"segd lab";

pub(crate) fn ping(to: IpAddr, raw: bool, timeout: Duration) -> Result<(), Failure> {
    let (family, protocol, request, reply) = match to {
        IpAddr::V4(_) => (libc::AF_INET, libc::IPPROTO_ICMP, 8, 0),
        IpAddr::V6(_) => (libc::AF_INET6, libc::IPPROTO_ICMPV6, 128, 129),
    };
    let kind = if raw { libc::SOCK_RAW } else { libc::SOCK_DGRAM };
    // UdpSocket only lends its sendto and recvfrom; the socket is what `open` made.
    let socket = UdpSocket::from(sockets::open(family, kind, protocol)?);
    socket.set_read_timeout(Some(timeout)).step("setsockopt")?;
    socket.send_to(&echo(request), SocketAddr::new(to, 0)).step("sendto")?;
    tell(&Report::Sent);

    let deadline = Instant::now() + timeout;
    let mut buffer = [0; 256];
    while Instant::now() < deadline {
        let (length, from) = socket.recv_from(&mut buffer).step("recv")?;
        // A raw IPv4 socket gives the IP header too, and other ICMP packets as well.
        let header = if raw && to.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
        let message = buffer.get(header..length).unwrap_or_default();
        if message.first() == Some(&reply) && message.ends_with(DATA) {
            tell(&Report::Received { from, text: "echo reply".into() });
            return Ok(());
        }
    }
    Err(Failure::timeout("recv"))
}

/// An echo request with its checksum (RFC 792). The kernel puts its own for ping sockets and for ICMPv6.
fn echo(kind: u8) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0x5e, 0x9d, 0, 1];
    message.extend_from_slice(DATA);
    let sum: u32 = message.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let [_, _, high, low] = (!folded).to_be_bytes();
    message[2..4].copy_from_slice(&[high, low]);
    message
}
