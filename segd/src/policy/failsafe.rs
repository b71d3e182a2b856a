//! Traffic that no policy can cut.

use ipnet::{IpNet, Ipv6Net};
use segd_common::addr::Addr;
use segd_common::table::FailsafeKey;
use segd_common::traffic::{Direction, protocol};

use super::builtin::MAPPED;
use super::compile::prefixes::range_prefixes;
use super::ports::PortSpec;

/// The most ports that failsafe entries with CIDRs may name in all: each becomes entries of its own.
pub const MAX_PORTS: usize = 1024;

/// `[[failsafe]]`, or one of the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failsafe {
    /// Who begins.
    pub direction: Direction,
    /// What passes.
    pub ports: Vec<PortSpec>,
    /// For which peers; empty: all.
    pub cidrs: Vec<IpNet>,
}

/// Too many ports; see [`MAX_PORTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failsafe entries with CIDRs name {0} ports in all; {MAX_PORTS} is the most")]
pub struct TooManyPorts(
    /// How many.
    pub usize,
);

/// What is in force if `segd.toml` has no `[[failsafe]]`: remote administration, names and time.
#[must_use]
pub fn default_failsafes() -> Vec<Failsafe> {
    let any = |direction, specs: &[(u8, u16)]| Failsafe {
        direction,
        ports: specs.iter().map(|(protocol, port)| single(*protocol, *port)).collect(),
        cidrs: Vec::new(),
    };
    let (tcp, udp) = (protocol::TCP, protocol::UDP);
    vec![
        any(Direction::Inbound, &[(tcp, 22)]),
        any(Direction::Outbound, &[(tcp, 53), (udp, 53), (udp, 67), (udp, 123)]),
    ]
}

/// In force whatever `segd.toml` says: DHCP (RFC 2131 section 4.1, RFC 8415 section 7.2). A host that loses
/// its lease loses every connection.
const DHCP: [(Direction, u16); 4] = [
    (Direction::Outbound, 67),
    (Direction::Outbound, 547),
    (Direction::Inbound, 68),
    (Direction::Inbound, 546),
];

const fn single(protocol: u8, port: u16) -> PortSpec {
    PortSpec { protocol, first: port, last: port }
}

/// Number of ports that need entries of their own; refused if there are too many.
pub fn check_ports(failsafes: &[Failsafe]) -> Result<(), TooManyPorts> {
    let limited = failsafes.iter().filter(|f| !f.cidrs.is_empty());
    let count = limited.flat_map(|f| &f.ports).map(PortSpec::len).sum();
    if count > MAX_PORTS { Err(TooManyPorts(count)) } else { Ok(()) }
}

/// What is dangerous about the failsafes, a line for each.
#[must_use]
pub fn warnings(failsafes: &[Failsafe]) -> Vec<String> {
    let ssh = |f: &&Failsafe| {
        f.direction == Direction::Inbound && f.ports.iter().any(|spec| spec.contains(protocol::TCP, 22))
    };
    let everybody = |f: &Failsafe| {
        f.cidrs.is_empty() || IpNet::aggregate(&f.cidrs).iter().any(|net| net.prefix_len() == 0)
    };
    if !failsafes.iter().filter(ssh).any(everybody) {
        return Vec::new();
    }
    let message = "inbound ssh (tcp/22) is a failsafe for everybody, so no policy can close it: give the networks of \
                   your administrators as `cidrs` of a [[failsafe]]";
    vec![message.to_owned()]
}

/// Keys of the failsafe trie, with their lengths in bits, sorted.
pub(crate) fn keys(failsafes: &[Failsafe]) -> Result<Vec<(u32, FailsafeKey)>, TooManyPorts> {
    check_ports(failsafes)?;
    let mut keys = Vec::new();
    for (direction, port) in DHCP {
        add(&mut keys, direction, single(protocol::UDP, port), &[]);
    }
    for failsafe in failsafes {
        for spec in &failsafe.ports {
            add(&mut keys, failsafe.direction, *spec, &failsafe.cidrs);
        }
    }
    keys.sort();
    keys.dedup();
    Ok(keys)
}

fn add(keys: &mut Vec<(u32, FailsafeKey)>, direction: Direction, spec: PortSpec, cidrs: &[IpNet]) {
    /// Bits in front of the port.
    const PORT: u32 = 16;
    let key = |port, peer| FailsafeKey::new(direction, spec.protocol, port, peer);
    if cidrs.is_empty() {
        let ranges = range_prefixes(spec.first, spec.last);
        keys.extend(ranges.into_iter().map(|(len, port)| (PORT + len, key(port, [0; 16]))));
        return;
    }
    for (len, peer) in cidrs.iter().flat_map(peer_prefixes) {
        keys.extend((spec.first..=spec.last).map(|port| (FailsafeKey::ANY_PEER + len, key(port, peer))));
    }
}

/// A CIDR as prefixes of [`Addr`]. An IPv6 one that would hold `::ffff:0:0/96` is split around it, as that
/// means IPv4 there.
fn peer_prefixes(net: &IpNet) -> Vec<(u32, [u8; 16])> {
    let one = |net: &Ipv6Net| (u32::from(net.prefix_len()), net.addr().octets());
    match net {
        IpNet::V4(v4) => {
            let len = segd_common::addr::V4_BITS + u32::from(v4.prefix_len());
            vec![(len, Addr::v4(v4.addr().octets()).bytes())]
        }
        IpNet::V6(v6) if v6.contains(&MAPPED) => {
            let mut parts = Vec::new();
            let mut around = *v6;
            while let Ok(halves) = around.subnets(around.prefix_len() + 1) {
                let (mapped, other): (Vec<_>, Vec<_>) = halves.partition(|half| half.contains(&MAPPED));
                parts.extend(other.iter().map(one));
                match mapped.first() {
                    Some(half) if half.prefix_len() < MAPPED.prefix_len() => around = *half,
                    _ => break,
                }
            }
            parts
        }
        IpNet::V6(v6) => vec![one(v6)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_cidr_never_means_ipv4() {
        let parts = peer_prefixes(&"::/0".parse().unwrap());
        assert_eq!(parts.len(), 96);
        let inside = |addr: Addr| {
            parts.iter().any(|(len, p)| {
                let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
                u128::from_be_bytes(addr.bytes()) & mask == u128::from_be_bytes(*p)
            })
        };
        for (text, wanted) in
            [("10.0.0.1", false), ("2001:db8::1", true), ("::1", true), ("::fffe:0:1", true), ("ff::", true)]
        {
            let ip: std::net::IpAddr = text.parse().unwrap();
            assert_eq!(inside(ip.into()), wanted, "{text}");
        }
    }

    #[test]
    fn ssh_for_everybody_is_warned_of() {
        let of = |ports: &str, cidrs: &[&str]| {
            let cidrs = cidrs.iter().map(|c| c.parse().unwrap()).collect();
            let failsafe =
                Failsafe { direction: Direction::Inbound, ports: vec![ports.parse().unwrap()], cidrs };
            warnings(&[failsafe]).len()
        };
        for (ports, cidrs, wanted) in [
            ("tcp/22", &[][..], 1),
            ("tcp/20-30", &["10.0.0.0/8", "::/0"], 1),
            ("tcp/22", &["0.0.0.0/1", "128.0.0.0/1"], 1),
            ("tcp/22", &["10.0.9.0/24"], 0),
            ("tcp/23", &[], 0),
            ("udp/22", &[], 0),
        ] {
            assert_eq!(of(ports, cidrs), wanted, "{ports} {cidrs:?}");
        }
        assert_eq!(warnings(&default_failsafes()).len(), 1);
    }

    #[test]
    fn ranges_without_cidrs_are_few_entries() {
        let ports = vec!["tcp/*".parse().unwrap(), "icmp/echo".parse().unwrap()];
        let failsafe = Failsafe { direction: Direction::Inbound, ports, cidrs: Vec::new() };
        assert_eq!(keys(std::slice::from_ref(&failsafe)).unwrap().len(), 2 + DHCP.len());
        let cidrs = vec!["10.0.0.0/8".parse().unwrap()];
        assert_eq!(keys(&[Failsafe { cidrs, ..failsafe }]), Err(TooManyPorts(65536 + 256)));
    }
}
