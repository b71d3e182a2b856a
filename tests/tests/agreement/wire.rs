//! A flow's first packet as `BPF_PROG_TEST_RUN` wants it: an Ethernet header, then the packet.

use std::net::IpAddr;

use segd_common::traffic::Direction;

use crate::naive::Flow;

/// What the programs are shown of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shown {
    /// Not the request of an ICMP flow but its answer, of which no request was seen.
    pub(crate) answer: bool,
    /// An IPv4 address in its IPv6 form, in an IPv6 packet.
    pub(crate) mapped: bool,
}

/// Whether the packet leaves the host.
pub(crate) fn leaves(flow: &Flow, shown: Shown) -> bool {
    (flow.direction == Direction::Outbound) != shown.answer
}

/// The type that answers an ICMP request.
pub(crate) fn answer_to(protocol: u8, request: u8) -> Option<u8> {
    match (protocol, request) {
        (1, 8) => Some(0),
        (1, 13 | 15 | 17) | (58, 128 | 139) => Some(request + 1),
        _ => None,
    }
}

/// `own`: the host's IPv4 and IPv6 address. `client_port`: of the client, for protocols with ports.
pub(crate) fn packet(flow: &Flow, shown: Shown, own: [IpAddr; 2], client_port: u16) -> Vec<u8> {
    let mut transport = Vec::new();
    match flow.protocol {
        6 | 17 => {
            transport.extend([client_port.to_be_bytes(), flow.port.to_be_bytes()].concat());
            // TCP: a SYN without data. UDP: 4 bytes of data.
            let rest: &[u8] = if flow.protocol == 6 {
                &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]
            } else {
                &[0, 12, 0, 0, 1, 2, 3, 4]
            };
            transport.extend(rest);
        }
        1 | 58 => {
            let [kind, code] = flow.port.to_be_bytes();
            let kind = if shown.answer { answer_to(flow.protocol, kind).unwrap() } else { kind };
            transport.extend([kind, code, 0, 0, 0, 7, 0, 1]);
        }
        _ => transport.extend([0; 8]),
    }
    let mut ends = [own[usize::from(flow.peer.is_ipv6())], flow.peer];
    if !leaves(flow, shown) {
        ends.reverse();
    }
    let mut frame = vec![0; 12];
    match ends {
        [IpAddr::V4(source), IpAddr::V4(target)] if !shown.mapped => {
            let length = u16::try_from(20 + transport.len()).unwrap();
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 64, flow.protocol, 0, 0]);
            frame.extend([source.octets(), target.octets()].concat());
        }
        ends => {
            let octets = |address| match address {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(u16::try_from(transport.len()).unwrap().to_be_bytes());
            frame.extend([flow.protocol, 64]);
            frame.extend(ends.map(octets).concat());
        }
    }
    frame.extend(transport);
    frame
}
