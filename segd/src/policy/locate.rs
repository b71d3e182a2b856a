//! Which zone an address is in and what says so; and the other way, an address that is in a zone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::builtin::{BUILT_IN_PREFIXES, built_in_name};
use super::model::Policy;
use super::source::Place;

/// The zone of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Located<'a> {
    pub(crate) zone: &'a str,
    /// The longest prefix that holds the address; none: it is `unknown`.
    pub(crate) prefix: Option<IpNet>,
    /// Where that prefix is written; none: it is built in.
    pub(crate) place: Option<Place>,
}

/// Finds the longest prefix. Linear in the number of prefixes: for people, not for packets.
pub(crate) fn locate(policy: &Policy, address: IpAddr) -> Located<'_> {
    let address = address.to_canonical();
    let members = policy.zones.iter().flat_map(|(name, zone)| {
        let located = |c: &super::source::Placed<IpNet>| (name.as_str(), c.value, Some(c.place));
        zone.cidrs.iter().map(located)
    });
    let built_in = BUILT_IN_PREFIXES.iter().map(|(net, id)| (built_in_name(*id), *net, None));
    let holding = members.chain(built_in).filter(|(_, net, _)| net.contains(&address));
    match holding.max_by_key(|(_, net, _)| net.prefix_len()) {
        Some((zone, prefix, place)) => Located { zone, prefix: Some(prefix), place },
        None => Located { zone: "unknown", prefix: None, place: None },
    }
}

/// An address that is in a zone; none if longer prefixes of other zones leave it none.
pub(crate) fn representative(policy: &Policy, zone: &str) -> Option<IpAddr> {
    if let Some(defined) = policy.zones.get(zone) {
        return defined.cidrs.iter().find_map(|c| free(policy, zone, c.value, first_host(c.value)));
    }
    if zone == "unknown" {
        let all4 = IpNet::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0).ok()?;
        let all6 = IpNet::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0).ok()?;
        return [
            (all4, IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
            (all4, IpAddr::V4(Ipv4Addr::new(1, 0, 0, 1))),
            (all6, IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))),
            (all6, IpAddr::V6(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1))),
        ]
        .into_iter()
        .find_map(|(net, start)| free(policy, zone, net, start));
    }
    let own = BUILT_IN_PREFIXES.iter().filter(|(_, id)| built_in_name(*id) == zone);
    own.map(|(net, _)| *net).find_map(|net| free(policy, zone, net, first_host(net)))
}

fn first_host(net: IpNet) -> IpAddr {
    if net.max_prefix_len() - net.prefix_len() > 1 {
        next(net.addr()).unwrap_or(net.addr())
    } else {
        net.addr()
    }
}

/// The first address from `start` on, inside `net`, that is in the zone.
fn free(policy: &Policy, zone: &str, net: IpNet, start: IpAddr) -> Option<IpAddr> {
    let mut address = start;
    while net.contains(&address) {
        let located = locate(policy, address);
        if located.zone == zone {
            return Some(address);
        }
        address = next(located.prefix?.broadcast())?;
    }
    None
}

fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|n| IpAddr::V6(n.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Sources, load};

    fn policy() -> Policy {
        let text = r#"
            [zone.a]
            cidrs = ["10.0.0.0/24"]
            [zone.b]
            cidrs = ["10.0.0.0/25", "10.0.0.128/31"]
            [zone.covered]
            cidrs = ["192.0.2.0/31"]
            [zone.covers]
            cidrs = ["192.0.2.0/32", "192.0.2.1/32"]
        "#;
        load(Sources::from_texts([("a.toml", text)]), jiff::Timestamp::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn the_longest_prefix_says_the_zone() {
        let policy = policy();
        for (address, zone) in [
            ("10.0.0.1", "b"),
            ("10.0.0.200", "a"),
            ("::ffff:10.0.0.1", "b"),
            ("11.0.0.1", "unknown"),
            ("127.1.2.3", "loopback"),
            ("fe80::1", "link-local"),
            ("255.255.255.255", "multicast"),
        ] {
            assert_eq!(locate(&policy, address.parse().unwrap()).zone, zone, "{address}");
        }
    }

    #[test]
    fn a_representative_is_in_its_zone() {
        let policy = policy();
        for zone in ["a", "b", "covers", "unknown", "multicast", "link-local", "loopback"] {
            let address = representative(&policy, zone).unwrap();
            assert_eq!(locate(&policy, address).zone, zone, "{address}");
        }
        assert_eq!(representative(&policy, "a"), Some("10.0.0.130".parse().unwrap()));
        assert_eq!(representative(&policy, "covered"), None);
    }
}
