//! Random policies whose prefixes, ranges and rules overlap, and flows that lie at their edges.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use segd_common::traffic::Direction;

use crate::estate::{Estate, Expiry, Failsafe, Ports, Prefix, Rollout, Rule, Service};
use crate::naive::{self, Flow, inside, is_loopback};
use crate::rng::Rng;
use crate::wire::{Shown, answer_to};

const ZONES: [&str; 6] = ["admin", "fulfillment", "orders", "partner", "reporting", "transport"];
const BUILT_IN: [&str; 3] = ["unknown", "multicast", "link-local"];
const SERVICES: [&str; 5] = ["database", "edi", "ping", "printing", "web"];

/// Prefixes that hold others, and such as lie in or around built-in zones or the IPv4-mapped addresses.
const WIDE: [&str; 14] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/10",
    "10.20.0.0/14",
    "192.168.0.0/16",
    "169.254.7.0/24",
    "169.254.0.0/15",
    "239.1.0.0/16",
    "::/64",
    "2001:db8::/32",
    "2001:db8::/44",
    "fc00::/7",
    "fe80::/64",
    "ff15::/16",
];

const PEERS: [&str; 14] = [
    "127.0.0.1",
    "127.255.0.9",
    "0.0.0.0",
    "::",
    "::1",
    "::2",
    "224.0.0.1",
    "255.255.255.255",
    "169.254.1.1",
    "fe80::1",
    "ff02::1",
    "192.0.2.1",
    "8.8.8.8",
    "2001:db8:ffff::1",
];

const PORTS: [u16; 16] = [1, 22, 53, 67, 68, 80, 123, 443, 546, 547, 4000, 5432, 8443, 8444, 32768, u16::MAX];
const ICMP_TYPES: [u8; 12] = [3, 5, 8, 11, 13, 17, 42, 1, 128, 135, 139, 143];
/// Some that have no ports, or none that segd reads.
const PORTLESS: [u8; 5] = [47, 50, 89, 132, 136];

pub(crate) fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').unwrap();
    Prefix { address: address.parse().unwrap(), length: length.parse().unwrap() }
}

/// An address that stays in the `n`th zone whatever else is there.
fn homes(n: usize) -> [IpAddr; 2] {
    let n = u8::try_from(n).unwrap() + 1;
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, n.into(), 0, 0, 0, 0x77, 7);
    [Ipv4Addr::new(10, n * 10, 77, 7).into(), v6.into()]
}

fn host_bits(prefix: Prefix) -> u32 {
    (if prefix.address.is_ipv4() { 32 } else { 128 }) - u32::from(prefix.length)
}

/// An address from its bits, counted from the right.
fn address(like: IpAddr, bits: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(u32::try_from(bits & 0xffff_ffff).unwrap()).into(),
        IpAddr::V6(_) => Ipv6Addr::from(bits).into(),
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// 2^`n` - 1.
fn ones(n: u32) -> u128 {
    u128::MAX.checked_shr(128 - n).unwrap_or(0)
}

fn within(rng: &mut Rng, prefix: Prefix) -> IpAddr {
    let random = u128::from(rng.next()) << 64 | u128::from(rng.next());
    address(prefix.address, number(prefix.address) | random & ones(host_bits(prefix)))
}

/// A longer prefix inside of another: some bits longer, or one address.
fn hole(rng: &mut Rng, parent: Prefix) -> Option<Prefix> {
    let left = host_bits(parent).checked_sub(1)?;
    let short = u32::try_from(rng.below(9)).unwrap().min(left);
    let keep = if rng.percent(30) { 0 } else { left - short };
    let bits = number(within(rng, parent)) & !ones(keep);
    let length = if parent.address.is_ipv4() { 32 } else { 128 } - keep;
    Some(Prefix { address: address(parent.address, bits), length: u8::try_from(length).unwrap() })
}

/// Whether a zone file may name it.
fn may_be_named(prefix: Prefix) -> bool {
    let mapped =
        prefix.length >= 96 && matches!(prefix.address, IpAddr::V6(a) if a.to_ipv4_mapped().is_some());
    let loopback = is_loopback(prefix.address) && ![0, 64].contains(&prefix.length);
    !mapped && !loopback && naive::built_in().iter().all(|(_, own)| *own != prefix)
}

fn zones(rng: &mut Rng) -> BTreeMap<&'static str, Vec<Prefix>> {
    let mut zones: BTreeMap<_, Vec<Prefix>> = BTreeMap::new();
    let mut all = Vec::new();
    let count = 3 + rng.below(ZONES.len() - 2);
    for (n, name) in ZONES.into_iter().take(count).enumerate() {
        let own =
            [prefix(&format!("10.{}.0.0/16", (n + 1) * 10)), prefix(&format!("2001:db8:{}::/48", n + 1))];
        all.extend(own);
        zones.insert(name, own.to_vec());
    }
    for _ in 0..4 + rng.below(16) {
        let next = if rng.percent(25) {
            Some(prefix(rng.pick(&WIDE)))
        } else {
            let parent = rng.pick(&all);
            hole(rng, parent)
        };
        let Some(next) = next.filter(|next| may_be_named(*next) && !all.contains(next)) else { continue };
        // A hole around a home would leave its zone without it.
        let base = if next.address.is_ipv4() { 16 } else { 48 };
        if next.length > base && (0..count).flat_map(homes).any(|home| inside(next, home)) {
            continue;
        }
        all.push(next);
        let name = ZONES[rng.below(count)];
        zones.entry(name).or_default().push(next);
    }
    zones
}

fn ports(rng: &mut Rng) -> Ports {
    let whole = |protocol| Ports { protocol, first: 0, last: u16::MAX };
    match rng.below(20) {
        0 => return whole(rng.pick(&[6, 17, 1, 58])),
        1 => return whole(255),
        2 => return whole(rng.pick(&PORTLESS)),
        3..6 => {
            let first = u16::from(rng.pick(&ICMP_TYPES)) << 8;
            return Ports { protocol: rng.pick(&[1, 58]), first, last: first | 0xff };
        }
        _ => {}
    }
    let protocol = rng.pick(&[6, 6, 17]);
    let first = if rng.percent(80) { rng.pick(&PORTS) } else { rng.word().max(1) };
    let length = match rng.below(5) {
        0 => rng.word() & 0xff,
        1 => rng.word(),
        _ => 0,
    };
    Ports { protocol, first, last: first.saturating_add(length) }
}

fn service_list(rng: &mut Rng, known: &BTreeMap<String, Vec<Ports>>) -> Vec<Service> {
    let names: Vec<&String> = known.keys().collect();
    let mut one = || {
        if !names.is_empty() && rng.percent(50) {
            Service::Named(rng.pick(&names).clone())
        } else {
            Service::Ports(ports(rng))
        }
    };
    let mut list = vec![one(), one(), one()];
    let mut seen = BTreeSet::new();
    list.retain(|service| seen.insert(service.to_string()));
    list.truncate(1 + rng.below(3));
    list
}

/// A random policy and host. `strict`: what no other rollout names is enforced.
pub(crate) fn estate(rng: &mut Rng, soon: &str, strict: bool) -> Estate {
    let zones = zones(rng);
    let names: Vec<&'static str> = zones.keys().copied().collect();
    let peers: Vec<&'static str> = names.iter().copied().chain(BUILT_IN).collect();
    let host_number = rng.below(names.len());
    let host = names[host_number];
    let services: BTreeMap<String, Vec<Ports>> = SERVICES
        .into_iter()
        .filter(|_| rng.percent(70))
        .collect::<Vec<_>>()
        .into_iter()
        .map(|name| {
            let mut list: Vec<Ports> = Vec::new();
            for _ in 0..1 + rng.below(3) {
                let next = ports(rng);
                if !list.contains(&next) {
                    list.push(next);
                }
            }
            (name.to_owned(), list)
        })
        .collect();

    let mut rules = Vec::new();
    for n in 0..4 + rng.below(24) {
        // Most name the host's zone, few peers: several match the same packet.
        let (mut from, mut to) = (rng.pick(&peers), host);
        match rng.below(10) {
            0..4 => {}
            4..8 => (from, to) = (to, from),
            _ => to = rng.pick(&names),
        }
        let expires = rng.pick(&[
            Expiry::Never,
            Expiry::Never,
            Expiry::Never,
            Expiry::Far,
            Expiry::Soon,
            Expiry::Past,
            Expiry::LongPast,
        ]);
        rules.push(Rule { id: format!("r{n}"), from, to, services: service_list(rng, &services), expires });
    }

    let mut rollouts = Vec::new();
    for _ in 0..rng.below(7) {
        let few = |rng: &mut Rng| {
            let mut list = vec![rng.pick(&peers), rng.pick(&peers), rng.pick(&peers)];
            list.sort_unstable();
            list.dedup();
            list
        };
        rollouts.push(Rollout {
            subject: if rng.percent(60) { None } else { Some(rng.pick(&[host, names[0]])) },
            direction: rng.pick(&[None, Some(Direction::Inbound), Some(Direction::Outbound)]),
            peers: rng.percent(60).then(|| few(rng)),
            services: rng.percent(50).then(|| service_list(rng, &services)),
            enforce: rng.percent(60),
        });
    }
    if strict {
        rollouts.push(Rollout { subject: None, direction: None, peers: None, services: None, enforce: true });
    }
    let failsafes = rng.percent(50).then(|| (0..rng.below(4)).map(|_| failsafe(rng, &zones)).collect());
    let own = homes(host_number);
    Estate { zones, services, rules, rollouts, failsafes, host, own, soon: soon.to_owned() }
}

fn failsafe(rng: &mut Rng, zones: &BTreeMap<&'static str, Vec<Prefix>>) -> Failsafe {
    let all: Vec<Prefix> = zones.values().flatten().copied().collect();
    let direction = rng.pick(Direction::ALL);
    let mut cidrs = Vec::new();
    for _ in 0..rng.below(3) {
        cidrs.push(if rng.percent(20) { prefix(rng.pick(&["::/0", "0.0.0.0/0"])) } else { rng.pick(&all) });
    }
    // An entry with CIDRs may name few ports.
    let narrow = |p: &Ports| cidrs.is_empty() || p.last - p.first < 256;
    let list: Vec<Ports> = (0..1 + rng.below(2)).map(|_| ports(rng)).filter(|p| narrow(p)).collect();
    Failsafe { direction, ports: list, cidrs }
}

/// A random flow of the estate's host. With `kernel`, one that the packet programs decide without a socket: no
/// TCP from outside.
pub(crate) fn flow(rng: &mut Rng, estate: &Estate, kernel: bool) -> (Flow, Shown) {
    loop {
        let flow = if rng.percent(50) { by_rule(rng, estate) } else { by_chance(rng, estate) };
        let inbound_tcp = flow.protocol == 6 && flow.direction == Direction::Inbound;
        let [kind, code] = flow.port.to_be_bytes();
        let is_answer = |request| answer_to(flow.protocol, request) == Some(kind);
        if inbound_tcp == kernel || (0..=u8::MAX).any(is_answer) {
            continue;
        }
        let may_answer = code == 0 && answer_to(flow.protocol, kind).is_some();
        let answer = may_answer && rng.percent(25);
        return (flow, Shown { answer, mapped: flow.peer.is_ipv4() && rng.percent(15) });
    }
}

/// At the edge of what a rule says, most often.
fn by_rule(rng: &mut Rng, estate: &Estate) -> Flow {
    let rule = &estate.rules[rng.below(estate.rules.len())];
    let (direction, zone) = if rule.from == estate.host {
        (Direction::Outbound, rule.to)
    } else {
        (Direction::Inbound, rule.from)
    };
    let spec = match &rule.services[rng.below(rule.services.len())] {
        Service::Ports(ports) => *ports,
        Service::Named(name) => rng.pick(&estate.services[name]),
    };
    let inner = spec.first + (spec.last - spec.first) / 2;
    let edges = [spec.first, spec.last, inner, spec.first.wrapping_sub(1), spec.last.wrapping_add(1)];
    let port = if rng.percent(75) { rng.pick(&edges[..3]) } else { rng.pick(&edges) };
    let peer = match estate.zones.get(zone) {
        Some(members) => near(rng, members),
        None => any_peer(rng, estate),
    };
    whole_flow(direction, peer, spec.protocol, port)
}

fn by_chance(rng: &mut Rng, estate: &Estate) -> Flow {
    let protocol = if rng.percent(15) { rng.pick(&PORTLESS) } else { rng.pick(&[6, 6, 17, 17, 1, 58]) };
    let port = match protocol {
        1 | 58 => u16::from(rng.pick(&ICMP_TYPES)) << 8 | if rng.percent(20) { rng.word() & 0xff } else { 0 },
        _ if rng.percent(80) => rng.pick(&PORTS),
        _ => rng.word(),
    };
    let direction = rng.pick(Direction::ALL);
    whole_flow(direction, any_peer(rng, estate), protocol, port)
}

fn whole_flow(direction: Direction, peer: IpAddr, protocol: u8, port: u16) -> Flow {
    // Raw sockets have no packets of a protocol of that number.
    let protocol = if protocol == 255 { 47 } else { protocol };
    let port = if matches!(protocol, 1 | 6 | 17 | 58) { port } else { 0 };
    Flow { direction, peer, protocol, port }
}

fn any_peer(rng: &mut Rng, estate: &Estate) -> IpAddr {
    match rng.below(20) {
        0 => rng.pick(&estate.own),
        1..4 => rng.pick(&PEERS).parse().unwrap(),
        _ => {
            let mut all: Vec<Prefix> = estate.zones.values().flatten().copied().collect();
            all.extend(estate.failsafes.iter().flatten().flat_map(|f| f.cidrs.clone()));
            near(rng, &all)
        }
    }
}

/// An address in one of the prefixes, at its edge or just beside it.
fn near(rng: &mut Rng, prefixes: &[Prefix]) -> IpAddr {
    let prefix = rng.pick(prefixes);
    let first = number(prefix.address);
    let last = first | ones(host_bits(prefix));
    let found = match rng.below(10) {
        0 => address(prefix.address, first),
        1 => address(prefix.address, last),
        2 => address(prefix.address, first.wrapping_sub(1)),
        3 => address(prefix.address, last.wrapping_add(1)),
        _ => within(rng, prefix),
    };
    // What looks like IPv4 in IPv6 is IPv4.
    found.to_canonical()
}
