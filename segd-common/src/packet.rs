//! Reads what a decision needs from a packet that begins at its IP header.
//!
//! The walk over IPv6 extension headers is bounded, so the verifier accepts it and a packet that hides its
//! transport behind more of them is [`Unreadable::Malformed`].

use crate::addr::Addr;
use crate::decide::icmp_request_of;
use crate::traffic::{Direction, Reason, protocol};

/// Where the bytes come from: an skb in the kernel, a slice in tests and tools.
pub trait Bytes {
    /// The `N` bytes from offset `at`, or `None` beyond the end.
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]>;
}

impl Bytes for &[u8] {
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        self.get(at as usize..)?.first_chunk::<N>().copied()
    }
}

/// The headers of one packet. Ports are in host byte order; for ICMP both are `type << 8 | code`; for
/// protocols without ports both are 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Source address of the IP header.
    pub src: Addr,
    /// Destination address of the IP header.
    pub dst: Addr,
    /// Transport protocol, behind all extension headers.
    pub protocol: u8,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// The flags byte of the TCP header (RFC 9293, 3.1), else 0.
    pub tcp_flags: u8,
}

/// Why a packet's transport is not known. The addresses are kept where they could be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unreadable {
    /// [`Reason::Fragment`] or [`Reason::Malformed`].
    pub reason: Reason,
    /// Source and destination address.
    pub ends: Option<(Addr, Addr)>,
    /// The protocol where the walk stopped.
    pub protocol: u8,
}

/// TCP's SYN flag.
pub const TCP_SYN: u8 = 0x02;
/// TCP's RST flag.
pub const TCP_RST: u8 = 0x04;
/// TCP's ACK flag.
pub const TCP_ACK: u8 = 0x10;

/// Most extension headers walked over in one packet.
pub const MAX_EXTENSIONS: usize = 8;

impl Packet {
    /// Parses an IPv4 or IPv6 packet.
    ///
    /// # Errors
    /// [`Unreadable`] if the packet is neither, is cut short, or is a fragment without its transport header.
    #[inline(always)]
    pub fn parse<B: Bytes>(bytes: &B) -> Result<Self, Unreadable> {
        let lost = Unreadable { reason: Reason::Malformed, ends: None, protocol: 0 };
        let [first] = bytes.read(0).ok_or(lost)?;
        match first >> 4 {
            4 => Self::parse_v4(bytes, first),
            6 => Self::parse_v6(bytes),
            _ => Err(lost),
        }
    }

    #[inline(always)]
    fn parse_v4<B: Bytes>(bytes: &B, first: u8) -> Result<Self, Unreadable> {
        let lost = Unreadable { reason: Reason::Malformed, ends: None, protocol: 0 };
        let [a, b, _, proto] = bytes.read(6).ok_or(lost)?;
        let src = Addr::v4(bytes.read(12).ok_or(lost)?);
        let dst = Addr::v4(bytes.read(16).ok_or(lost)?);
        let header = u32::from(first & 0x0f) * 4;
        let unreadable = |reason| Unreadable { reason, ends: Some((src, dst)), protocol: proto };
        if header < 20 {
            return Err(unreadable(Reason::Malformed));
        }
        if u16::from_be_bytes([a & 0x1f, b]) != 0 {
            return Err(unreadable(Reason::Fragment));
        }
        Self::transport(bytes, header, src, dst, proto)
    }

    #[inline(always)]
    fn parse_v6<B: Bytes>(bytes: &B) -> Result<Self, Unreadable> {
        let lost = Unreadable { reason: Reason::Malformed, ends: None, protocol: 0 };
        let [mut next] = bytes.read(6).ok_or(lost)?;
        let src = Addr::v6(bytes.read(8).ok_or(lost)?);
        let dst = Addr::v6(bytes.read(24).ok_or(lost)?);
        let mut at = 40;
        for _ in 0..=MAX_EXTENSIONS {
            let unreadable = |reason| Unreadable { reason, ends: Some((src, dst)), protocol: next };
            let length = match next {
                // Hop-by-hop, routing, destination options, mobility, HIP, shim6 (RFC 8200, RFC 6564).
                0 | 43 | 60 | 135 | 139 | 140 => {
                    let [following, units] = bytes.read(at).ok_or(unreadable(Reason::Malformed))?;
                    next = following;
                    (u32::from(units) + 1) * 8
                }
                // Fragment (RFC 8200, 4.5).
                44 => {
                    let [following, _, a, b] = bytes.read(at).ok_or(unreadable(Reason::Malformed))?;
                    if u16::from_be_bytes([a, b & 0xf8]) != 0 {
                        return Err(unreadable(Reason::Fragment));
                    }
                    next = following;
                    8
                }
                // Authentication (RFC 4302, 2.2).
                51 => {
                    let [following, words] = bytes.read(at).ok_or(unreadable(Reason::Malformed))?;
                    next = following;
                    (u32::from(words) + 2) * 4
                }
                _ => return Self::transport(bytes, at, src, dst, next),
            };
            at += length;
        }
        Err(Unreadable { reason: Reason::Malformed, ends: Some((src, dst)), protocol: next })
    }

    #[inline(always)]
    fn transport<B: Bytes>(bytes: &B, at: u32, src: Addr, dst: Addr, proto: u8) -> Result<Self, Unreadable> {
        let cut = Unreadable { reason: Reason::Malformed, ends: Some((src, dst)), protocol: proto };
        let mut packet = Self { src, dst, protocol: proto, src_port: 0, dst_port: 0, tcp_flags: 0 };
        match proto {
            protocol::TCP | protocol::UDP => {
                let [a, b, c, d] = bytes.read(at).ok_or(cut)?;
                packet.src_port = u16::from_be_bytes([a, b]);
                packet.dst_port = u16::from_be_bytes([c, d]);
                if proto == protocol::TCP {
                    [packet.tcp_flags] = bytes.read(at + 13).ok_or(cut)?;
                }
            }
            protocol::ICMP | protocol::ICMPV6 => {
                let kind_and_code = u16::from_be_bytes(bytes.read(at).ok_or(cut)?);
                packet.src_port = kind_and_code;
                packet.dst_port = kind_and_code;
            }
            _ => {}
        }
        Ok(packet)
    }

    /// The two ends as the host sees them.
    #[inline(always)]
    #[must_use]
    pub const fn ends(&self, leaving: bool) -> Ends {
        if leaving {
            Ends { local: self.src, peer: self.dst, local_port: self.src_port, peer_port: self.dst_port }
        } else {
            Ends { local: self.dst, peer: self.src, local_port: self.dst_port, peer_port: self.src_port }
        }
    }
}

/// The two ends of a packet or a flow, seen from the host. Ports in host byte order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ends {
    /// This host's address.
    pub local: Addr,
    /// The other side's.
    pub peer: Addr,
    /// This host's port.
    pub local_port: u16,
    /// The other side's.
    pub peer_port: u16,
}

/// Who began the ICMP exchange that a packet belongs to, and the `type << 8 | code` of its request.
#[inline(always)]
#[must_use]
pub const fn icmp_flow(proto: u8, kind_and_code: u16, leaving: bool) -> (Direction, u16) {
    let [kind, _] = kind_and_code.to_be_bytes();
    match (icmp_request_of(proto, kind), leaving) {
        (None, true) => (Direction::Outbound, kind_and_code),
        (None, false) => (Direction::Inbound, kind_and_code),
        (Some(request), true) => (Direction::Inbound, (request as u16) << 8),
        (Some(request), false) => (Direction::Outbound, (request as u16) << 8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn v4(proto: u8, fragment: u16, rest: &[u8]) -> Vec<u8> {
        let mut p = std::vec![0x45, 0, 0, 0, 0, 0];
        p.extend(fragment.to_be_bytes());
        p.extend([64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        p.extend(rest);
        p
    }

    fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut p = std::vec![0x60, 0, 0, 0, 0, 0, next, 64];
        p.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        p.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        p.extend(rest);
        p
    }

    const TCP: [u8; 20] = [0x9c, 0x40, 0x15, 0x38, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, TCP_SYN, 0, 0, 0, 0, 0, 0];

    fn parse(p: &[u8]) -> Result<Packet, Unreadable> {
        Packet::parse(&p)
    }

    #[test]
    fn v4_tcp() {
        let p = parse(&v4(6, 0x4000, &TCP)).unwrap();
        assert_eq!((p.protocol, p.src_port, p.dst_port, p.tcp_flags), (6, 40000, 5432, TCP_SYN));
        let (sent, received) = (p.ends(true), p.ends(false));
        assert_eq!(Direction::Outbound.service_port(sent.local_port, sent.peer_port), 5432);
        assert_eq!(Direction::Inbound.service_port(received.local_port, received.peer_port), 5432);
    }

    #[test]
    fn v4_options_move_the_transport() {
        let mut p = v4(6, 0, &[1, 1, 1, 1]);
        p[0] = 0x46;
        p.extend(TCP);
        assert_eq!(parse(&p).unwrap().dst_port, 5432);
        p[0] = 0x44;
        assert_eq!(parse(&p).unwrap_err().reason, Reason::Malformed);
    }

    #[test]
    fn fragments() {
        assert!(parse(&v4(17, 0x2000, &[0; 8])).is_ok(), "the first fragment has the header");
        assert_eq!(parse(&v4(17, 0x0001, &[0; 8])).unwrap_err().reason, Reason::Fragment);
        assert!(parse(&v6(44, &[17, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 2, 0, 8, 0, 0])).is_ok());
        let later = parse(&v6(44, &[17, 0, 0, 8, 0, 0, 0, 0, 1, 2, 3, 4])).unwrap_err();
        assert_eq!(later.reason, Reason::Fragment);
        assert!(later.ends.is_some());
    }

    #[test]
    fn v6_extensions_are_walked_to_the_bound() {
        let chain = |n: usize| {
            let mut rest = Vec::new();
            for i in 0..n {
                rest.extend([if i + 1 == n { 6 } else { 60 }, 0, 0, 0, 0, 0, 0, 0]);
            }
            rest.extend(TCP);
            v6(if n == 0 { 6 } else { 60 }, &rest)
        };
        for n in 0..=MAX_EXTENSIONS {
            assert_eq!(parse(&chain(n)).unwrap().dst_port, 5432, "{n}");
        }
        assert_eq!(parse(&chain(MAX_EXTENSIONS + 1)).unwrap_err().reason, Reason::Malformed);
    }

    #[test]
    fn icmp_replies_belong_to_the_request() {
        assert_eq!(icmp_flow(1, 8 << 8, true), (Direction::Outbound, 8 << 8));
        assert_eq!(icmp_flow(1, 0, false), (Direction::Outbound, 8 << 8));
        assert_eq!(icmp_flow(58, 129 << 8, true), (Direction::Inbound, 128 << 8));
    }

    proptest! {
        /// Whatever the bytes, parsing ends and never reads beyond them.
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse(&bytes);
        }

        /// A packet cut anywhere before the end of what is read is unreadable, never misread.
        #[test]
        fn cut_short(n in 0usize..34) {
            prop_assert!(parse(&v4(6, 0, &TCP)[..n]).is_err());
        }
    }
}
