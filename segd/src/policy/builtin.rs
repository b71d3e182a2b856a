//! Zones that are always there.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use segd_common::id::ZoneId;

use super::ids::BUILT_IN_ZONES;

const fn v4(a: u8, b: u8, len: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), len))
}

const fn v6(first: u16, last: u16, len: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last), len))
}

/// What the built-in zones claim. `0.0.0.0` and `::` as a destination mean this host.
pub(crate) const BUILT_IN_PREFIXES: [(IpNet, ZoneId); 9] = [
    (v4(127, 0, 8), ZoneId::LOOPBACK),
    (v6(0, 1, 128), ZoneId::LOOPBACK),
    (v4(0, 0, 32), ZoneId::LOOPBACK),
    (v6(0, 0, 128), ZoneId::LOOPBACK),
    (v4(224, 0, 4), ZoneId::MULTICAST),
    (v6(0xff00, 0, 8), ZoneId::MULTICAST),
    (IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32)), ZoneId::MULTICAST),
    (v4(169, 254, 16), ZoneId::LINK_LOCAL),
    (v6(0xfe80, 0, 10), ZoneId::LINK_LOCAL),
];

/// Built-in zones that a rule may name, and that a peer may be in.
pub(crate) const PEER_ZONES: [&str; 3] = ["unknown", "multicast", "link-local"];

pub(crate) fn is_built_in(zone: &str) -> bool {
    BUILT_IN_ZONES.iter().any(|(name, _)| *name == zone)
}

pub(crate) fn built_in_name(id: ZoneId) -> &'static str {
    BUILT_IN_ZONES.iter().find(|(_, i)| *i == id).map_or("unknown", |(name, _)| name)
}

/// The built-in zone whose own prefix this is, or `loopback` for anything inside it.
pub(crate) fn owner_of(net: IpNet) -> Option<&'static str> {
    let own = |(prefix, id): &(IpNet, _)| {
        let name = built_in_name(*id);
        (*prefix == net || (name == "loopback" && prefix.contains(&net))).then_some(name)
    };
    BUILT_IN_PREFIXES.iter().find_map(own)
}

/// What IPv4 addresses are mapped to (RFC 4291, 2.5.5.2).
pub(crate) const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);
