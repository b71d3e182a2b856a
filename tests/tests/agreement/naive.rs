//! The same questions answered in the plainest way: from the data of the zone file alone, one pass over all of it
//! for each question. Nothing of segd's own code is used.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use segd_common::traffic::Direction;

use crate::estate::{Estate, Expiry, Failsafe, Ports, Prefix, Service};

/// The first packet of a flow, seen from the host. `port` is the server's, of ICMP `type << 8 | code`, else 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Flow {
    pub(crate) direction: Direction,
    pub(crate) peer: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
}

/// Everything that is said of a flow, in names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Answer {
    pub(crate) verdict: String,
    pub(crate) reason: String,
    pub(crate) zone: String,
    pub(crate) rule: Option<String>,
    pub(crate) service: String,
}

/// An address's bits, from the left.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
        IpAddr::V6(v6) => u128::from(v6),
    }
}

pub(crate) fn inside(prefix: Prefix, address: IpAddr) -> bool {
    let address = address.to_canonical();
    let different = bits(prefix.address) ^ bits(address);
    prefix.address.is_ipv4() == address.is_ipv4() && different.leading_zeros() >= u32::from(prefix.length)
}

pub(crate) fn is_loopback(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.octets()[0] == 127 || v4 == Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(v6) => v6 == Ipv6Addr::LOCALHOST || v6 == Ipv6Addr::UNSPECIFIED,
    }
}

/// What the built-in zones other than `loopback` claim.
pub(crate) fn built_in() -> [(&'static str, Prefix); 5] {
    let v4 = |a, b, c, d| IpAddr::from([a, b, c, d]);
    let v6 = |first| IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0));
    let prefix = |address, length| Prefix { address, length };
    [
        ("multicast", prefix(v4(224, 0, 0, 0), 4)),
        ("multicast", prefix(v4(255, 255, 255, 255), 32)),
        ("multicast", prefix(v6(0xff00), 8)),
        ("link-local", prefix(v4(169, 254, 0, 0), 16)),
        ("link-local", prefix(v6(0xfe80), 10)),
    ]
}

/// The zone of an address, for every host.
pub(crate) fn zone(estate: &Estate, address: IpAddr) -> &'static str {
    if is_loopback(address) {
        return "loopback";
    }
    longest(estate, address, 128)
}

/// The zone of the longest prefix, of at most `most` bits, that an address is in.
fn longest(estate: &Estate, address: IpAddr, most: u8) -> &'static str {
    let mut found = "unknown";
    let mut longest = None;
    let members = estate.zones.iter().flat_map(|(name, cidrs)| cidrs.iter().map(|cidr| (*name, *cidr)));
    for (name, prefix) in members.chain(built_in()) {
        if inside(prefix, address) && prefix.length <= most && Some(prefix.length) > longest {
            longest = Some(prefix.length);
            found = name;
        }
    }
    found
}

/// The zone of a peer of the host: what the host sends to itself is loopback. An address of the host's own in a
/// packet on the wire is a container's or forged: it is in the zone of the range around it.
pub(crate) fn peer_zone(estate: &Estate, peer: IpAddr, on_wire: bool) -> &'static str {
    let own = estate.own.contains(&peer.to_canonical());
    if !own && !is_loopback(peer) {
        return zone(estate, peer);
    }
    match peer.to_canonical() {
        _ if !on_wire => "loopback",
        IpAddr::V4(v4) if v4.octets()[0] == 127 => "unknown",
        IpAddr::V4(_) => longest(estate, peer, 31),
        IpAddr::V6(_) => longest(estate, peer, 127),
    }
}

/// What a host in the zone `host` says of a flow with a peer in the zone `peer_zone`.
pub(crate) fn answer(estate: &Estate, host: &str, peer_zone: &str, flow: &Flow) -> Answer {
    let say = |verdict: &str, reason: &str, rule: Option<&str>, service: &str| Answer {
        verdict: verdict.to_owned(),
        reason: reason.to_owned(),
        zone: peer_zone.to_owned(),
        rule: rule.map(str::to_owned),
        service: service.to_owned(),
    };
    if peer_zone == "loopback" {
        return say("allowed", "loopback", None, "other");
    }
    let kind = flow.port >> 8;
    if flow.protocol == 2
        || flow.protocol == 1 && [3, 4, 11, 12].contains(&kind)
        || flow.protocol == 58 && [1, 2, 3, 4, 130, 131, 132, 133, 134, 135, 136, 143].contains(&kind)
    {
        return say("allowed", "control", None, "other");
    }
    let service = service_name(estate, flow);
    let (from, to) = match flow.direction {
        Direction::Outbound => (host, peer_zone),
        Direction::Inbound => (peer_zone, host),
    };
    // The rule that lives longest; of several, the first.
    let mut best: Option<(Expiry, &str)> = None;
    for rule in &estate.rules {
        if rule.from == from
            && rule.to == to
            && rule.services.iter().any(|service| names(estate, service, flow))
            && best.is_none_or(|(expires, _)| rule.expires > expires)
        {
            best = Some((rule.expires, &rule.id));
        }
    }
    match best {
        Some((expires, rule)) if expires > Expiry::Past => say("allowed", "rule", Some(rule), service),
        _ if is_failsafe(estate, flow) => say("allowed", "failsafe", None, service),
        _ => {
            let verdict = if enforces(estate, host, peer_zone, flow) { "denied" } else { "audited" };
            match best {
                Some((_, rule)) => say(verdict, "rule-expired", Some(rule), service),
                None => say(verdict, "no-rule", None, service),
            }
        }
    }
}

fn holds(ports: &Ports, flow: &Flow) -> bool {
    ports.protocol == flow.protocol && ports.first <= flow.port && flow.port <= ports.last
}

fn names(estate: &Estate, service: &Service, flow: &Flow) -> bool {
    match service {
        Service::Ports(ports) => holds(ports, flow),
        Service::Named(name) => estate.services[name].iter().any(|ports| holds(ports, flow)),
    }
}

/// The service with the narrowest range around the port; of several, the first by name.
fn service_name<'a>(estate: &'a Estate, flow: &Flow) -> &'a str {
    let mut best: Option<(u16, &str)> = None;
    for (name, ranges) in &estate.services {
        for ports in ranges {
            let width = ports.last - ports.first;
            if holds(ports, flow) && best.is_none_or(|(narrowest, _)| width < narrowest) {
                best = Some((width, name));
            }
        }
    }
    best.map_or("other", |(_, name)| name)
}

/// Whether the host at hand enforces towards a peer; the first rollout that matches says so.
pub(crate) fn enforces(estate: &Estate, host: &str, peer_zone: &str, flow: &Flow) -> bool {
    for rollout in &estate.rollouts {
        if rollout.subject.is_none_or(|zone| zone == host)
            && rollout.direction.is_none_or(|direction| direction == flow.direction)
            && rollout.peers.as_ref().is_none_or(|peers| peers.contains(&peer_zone))
            && rollout.services.as_ref().is_none_or(|s| s.iter().any(|s| names(estate, s, flow)))
        {
            return rollout.enforce;
        }
    }
    false
}

/// What the agent lets pass if its configuration names no failsafes.
pub(crate) fn default_failsafes() -> Vec<Failsafe> {
    let single = |(protocol, port)| Ports { protocol, first: port, last: port };
    let any = |direction, ports: &[(u8, u16)]| Failsafe {
        direction,
        ports: ports.iter().copied().map(single).collect(),
        cidrs: vec![],
    };
    vec![
        any(Direction::Inbound, &[(6, 22)]),
        any(Direction::Outbound, &[(6, 53), (17, 53), (17, 67), (17, 123)]),
    ]
}

/// The failsafes that name a flow's port, whoever the peer is.
pub(crate) fn failsafes_of(estate: &Estate, flow: &Flow) -> Vec<Failsafe> {
    let mut all = estate.failsafes.clone().unwrap_or_else(default_failsafes);
    all.retain(|f| f.direction == flow.direction && f.ports.iter().any(|ports| holds(ports, flow)));
    all
}

pub(crate) fn is_failsafe(estate: &Estate, flow: &Flow) -> bool {
    let dhcp = match flow.direction {
        Direction::Outbound => [67, 547],
        Direction::Inbound => [68, 546],
    };
    let holds_peer = |f: &Failsafe| f.cidrs.is_empty() || f.cidrs.iter().any(|c| inside(*c, flow.peer));
    flow.protocol == 17 && dhcp.contains(&flow.port) || failsafes_of(estate, flow).iter().any(holds_peer)
}
