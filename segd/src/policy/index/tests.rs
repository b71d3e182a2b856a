use proptest::prelude::*;

use super::*;
use crate::policy::members::Cidrs;
use crate::policy::source::{Place, Placed};

fn zone(prefixes: &[(u8, u8)]) -> Zone {
    let placed = |(a, len): &(u8, u8)| {
        let net = IpNet::new([10, *a, 0, 0].into(), *len).unwrap().trunc();
        Placed { value: net, place: Place::default() }
    };
    let six = |(a, len): &(u8, u8)| {
        let net = IpNet::new([0xfd00, u16::from(*a), 0, 0, 0, 0, 0, 0].into(), *len).unwrap().trunc();
        Placed { value: net, place: Place::default() }
    };
    let cidrs: Cidrs = prefixes.iter().map(placed).chain(prefixes.iter().map(six)).collect();
    Zone { description: None, owner: None, cidrs, names: Vec::new(), place: Place::default() }
}

/// Length, address and zone of every prefix.
type All<A> = Vec<(u8, A, String)>;

fn all(index: &Index) -> (All<u32>, All<u128>) {
    let four =
        index.four().iter().map(|e| e.parts()).map(|(len, ip, zone)| (len, ip, index.zone(zone).to_owned()));
    let six = index.six().iter().map(|(len, ip, zone)| (*len, *ip, index.zone(*zone).to_owned()));
    let (mut four, mut six): (Vec<_>, Vec<_>) = (four.collect(), six.collect());
    // Which number a zone has does not count, but length and address are in order.
    assert!(four.is_sorted_by_key(|(len, ip, _)| (*len, *ip)));
    assert!(six.is_sorted_by_key(|(len, ip, _)| (*len, *ip)));
    four.sort();
    six.sort();
    (four, six)
}

proptest! {
    #[test]
    fn what_differs_makes_the_same_index_as_everything(
        changes in prop::collection::vec(
            (0_usize..5, prop::option::of(prop::collection::vec((0_u8..20, 8_u8..33), 0..12))), 1..20),
    ) {
        let mut zones: BTreeMap<String, Zone> = BTreeMap::new();
        let mut index = Index::default();
        for (name, prefixes) in changes {
            let name = format!("z{name}");
            match prefixes {
                Some(prefixes) => zones.insert(name, zone(&prefixes)),
                None => zones.remove(&name),
            };
            index = Index::new(&zones, Some(&index));
            let anew = Index::new(&zones, None);
            prop_assert_eq!(all(&index), all(&anew));
            prop_assert_eq!(index.has_conflicts(), anew.has_conflicts());
            for (name, zone) in &zones {
                for cidr in &zone.cidrs {
                    let found = index.exactly(cidr.value).unwrap();
                    let has = zones[found].cidrs.iter().any(|c| c.value == cidr.value);
                    prop_assert!(has && (found == name || index.has_conflicts()));
                }
            }
        }
    }
}

#[test]
fn conflicts_are_found() {
    let index = |zones: &[(&str, &str)]| {
        let mut all: BTreeMap<String, Vec<Placed<IpNet>>> = BTreeMap::new();
        for (name, net) in zones {
            let placed = Placed { value: net.parse().unwrap(), place: Place::default() };
            all.entry((*name).to_owned()).or_default().push(placed);
        }
        let zone = |cidrs: Vec<Placed<IpNet>>| Zone { cidrs: cidrs.into_iter().collect(), ..zone(&[]) };
        Index::new(&all.into_iter().map(|(name, cidrs)| (name, zone(cidrs))).collect(), None)
    };
    for (zones, conflict) in [
        (&[("a", "10.0.0.0/8"), ("b", "10.0.0.0/9")][..], false),
        (&[("a", "10.0.0.0/8"), ("b", "10.0.0.0/8")], true),
        (&[("a", "2001:db8::/32"), ("a", "2001:db8::/32")], true),
        (&[("a", "127.1.0.0/16")], true),
        (&[("a", "126.0.0.0/7")], false),
        (&[("a", "::1/128")], true),
        (&[("a", "224.0.0.0/4")], true),
        (&[("a", "224.0.0.0/24")], false),
        (&[("a", "fe80::/10")], true),
        (&[("a", "0.0.0.0/0"), ("b", "::/0")], false),
    ] {
        assert_eq!(index(zones).has_conflicts(), conflict, "{zones:?}");
    }
    let both = index(&[("a", "10.0.0.0/8"), ("b", "10.1.0.0/16"), ("c", "fd00::/8")]);
    for (address, zone) in
        [("10.1.2.3", Some("b")), ("10.2.0.0", Some("a")), ("fd12::1", Some("c")), ("11.0.0.0", None)]
    {
        assert_eq!(both.longest(address.parse().unwrap()).map(|(_, zone)| zone), zone, "{address}");
    }
}
