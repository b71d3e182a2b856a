//! Which zone an address is in and what says so; and the other way, an address that is in a zone.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use jiff::Timestamp;

use super::builtin::{BUILT_IN_PREFIXES, built_in_name};
use super::claims::{Claim, claims};
use super::model::Policy;
use super::resolved::Resolved;
use super::source::Place;

/// Where every address belongs. For people, not for packets.
pub(crate) struct Atlas<'a> {
    policy: &'a Policy,
    named: BTreeMap<IpAddr, Claim<'a>>,
}

/// The zone of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Located<'a> {
    pub(crate) zone: &'a str,
    pub(crate) by: By<'a>,
}

/// What puts an address into its zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By<'a> {
    /// Nothing does: it is `unknown`.
    Nothing,
    /// The longest prefix that holds it.
    Prefix(IpNet),
    /// A name that stands for it.
    Name(&'a str),
}

impl<'a> Atlas<'a> {
    pub(crate) fn new(policy: &'a Policy, names: &Resolved) -> Self {
        Self { policy, named: claims(policy, names) }
    }

    /// The zone of an address.
    pub(crate) fn locate(&self, address: IpAddr) -> Located<'a> {
        let address = address.to_canonical();
        if let Some(Claim { zone, name, .. }) = self.named.get(&address) {
            return Located { zone, by: By::Name(name) };
        }
        let member = self.policy.index.longest(address).and_then(|(net, zone)| {
            let (name, _) = self.policy.zones.get_key_value(zone)?;
            Some((name.as_str(), net))
        });
        let built_in = BUILT_IN_PREFIXES.iter().map(|(net, id)| (built_in_name(*id), *net));
        let holding = member.into_iter().chain(built_in.filter(|(_, net)| net.contains(&address)));
        match holding.max_by_key(|(_, net)| net.prefix_len()) {
            Some((zone, prefix)) => Located { zone, by: By::Prefix(prefix) },
            None => Located { zone: "unknown", by: By::Nothing },
        }
    }

    /// Where that is written; none: it is built in, or nothing.
    pub(crate) fn place(&self, located: &Located<'_>) -> Option<Place> {
        let zone = self.policy.zones.get(located.zone)?;
        match located.by {
            By::Nothing => None,
            By::Prefix(net) => zone.cidrs.iter().find(|c| c.value == net).map(|c| c.place),
            By::Name(name) => zone.names.iter().find(|n| n.value == name).map(|n| n.place),
        }
    }

    /// An address that is in a zone; none if longer prefixes of other zones leave it none.
    pub(crate) fn representative(&self, zone: &str) -> Option<IpAddr> {
        if let Some(defined) = self.policy.zones.get(zone) {
            let by_prefix = defined.cidrs.iter().find_map(|c| self.free(zone, c.value, first_host(c.value)));
            let by_name = || self.named.iter().find(|(_, claim)| claim.zone == zone).map(|(ip, _)| *ip);
            return by_prefix.or_else(by_name);
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
            .find_map(|(net, start)| self.free(zone, net, start));
        }
        let own = BUILT_IN_PREFIXES.iter().filter(|(_, id)| built_in_name(*id) == zone);
        own.map(|(net, _)| *net).find_map(|net| self.free(zone, net, first_host(net)))
    }

    /// The first address from `start` on, inside `net`, that is in the zone.
    fn free(&self, zone: &str, net: IpNet, start: IpAddr) -> Option<IpAddr> {
        let mut address = start;
        while net.contains(&address) {
            let located = self.locate(address);
            if located.zone == zone {
                return Some(address);
            }
            address = match located.by {
                By::Nothing => return None,
                By::Prefix(prefix) => next(prefix.broadcast())?,
                By::Name(_) => next(address)?,
            };
        }
        None
    }
}

/// `names`, and an address for each zone that has only names none of which stands for an address now: what the
/// policy says of such a zone can be asked all the same. They are in 100::/64, where nothing is (RFC 6666).
pub(crate) fn with_stand_ins(policy: &Policy, names: &Resolved) -> Resolved {
    let atlas = Atlas::new(policy, names);
    let mut all = names.clone();
    let mut free = (1..=u16::MAX).map(|n| IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, n)));
    for (zone, members) in &policy.zones {
        if let Some(name) = members.names.first()
            && atlas.representative(zone).is_none()
            && let Some(address) = free.find(|ip| !is_claimed(policy, &atlas, *ip))
        {
            all.set(&name.value, [address], Timestamp::MAX);
        }
    }
    all
}

fn is_claimed(policy: &Policy, atlas: &Atlas<'_>, address: IpAddr) -> bool {
    atlas.named.contains_key(&address) || policy.index.exactly(IpNet::from(address)).is_some()
}

/// Whether an address only stands in for names without one.
pub(crate) fn is_stand_in(names: &Resolved, located: &Located<'_>, address: IpAddr) -> bool {
    let By::Name(name) = located.by else { return false };
    names.addresses(name).any(|(ip, since)| ip == address && since == Timestamp::MAX)
}

fn first_host(net: IpNet) -> IpAddr {
    if net.max_prefix_len() - net.prefix_len() > 1 {
        next(net.addr()).unwrap_or(net.addr())
    } else {
        net.addr()
    }
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
            [zone.named]
            names = ["x.example.com", "y.example.com"]
        "#;
        load(Sources::from_texts([("a.toml", text)]), Timestamp::UNIX_EPOCH).unwrap()
    }

    fn names() -> Resolved {
        let mut names = Resolved::new();
        let ips = ["10.0.0.1", "10.0.0.130", "192.0.2.0", "127.0.1.1", "8.8.8.8"].map(|t| t.parse().unwrap());
        names.set("y.example.com", ips, Timestamp::UNIX_EPOCH);
        names
    }

    #[test]
    fn the_longest_prefix_says_the_zone_and_a_name_is_longer_than_any() {
        let (policy, names) = (policy(), names());
        let atlas = Atlas::new(&policy, &names);
        for (address, zone) in [
            ("10.0.0.1", "named"),
            ("::ffff:10.0.0.1", "named"),
            ("10.0.0.2", "b"),
            ("10.0.0.200", "a"),
            ("192.0.2.0", "covers"),
            ("8.8.8.8", "named"),
            ("11.0.0.1", "unknown"),
            ("127.0.1.1", "loopback"),
            ("127.1.2.3", "loopback"),
            ("fe80::1", "link-local"),
            ("255.255.255.255", "multicast"),
        ] {
            assert_eq!(atlas.locate(address.parse().unwrap()).zone, zone, "{address}");
        }
    }

    #[test]
    fn a_representative_is_in_its_zone() {
        let (policy, names) = (policy(), names());
        let atlas = Atlas::new(&policy, &names);
        for zone in ["a", "b", "covers", "named", "unknown", "multicast", "link-local", "loopback"] {
            let address = atlas.representative(zone).unwrap();
            assert_eq!(atlas.locate(address).zone, zone, "{address}");
        }
        assert_eq!(atlas.representative("a"), Some("10.0.0.131".parse().unwrap()));
        assert_eq!(atlas.representative("covered"), None);
    }

    #[test]
    fn what_stands_for_no_address_gets_one_to_ask_about() {
        let policy = policy();
        assert_eq!(Atlas::new(&policy, &Resolved::new()).representative("named"), None);
        let names = with_stand_ins(&policy, &Resolved::new());
        let atlas = Atlas::new(&policy, &names);
        let address = atlas.representative("named").unwrap();
        assert_eq!(address, "100::1".parse::<IpAddr>().unwrap());
        assert!(is_stand_in(&names, &atlas.locate(address), address));
        assert_eq!(with_stand_ins(&policy, &self::names()), self::names());
    }
}
