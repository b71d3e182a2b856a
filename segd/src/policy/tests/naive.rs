//! The same questions answered in the plainest way: one pass over everything for each of them.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use segd_common::traffic::{Direction, Mode};

use super::*;
use crate::policy::model::{Exception, Override, ServiceRef};
use crate::policy::{Failsafe, Resolved};

/// What is asked.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) direction: Direction,
    pub(crate) peer: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
}

/// Verdict, reason, peer zone, rule and service, by name.
pub(crate) type Answer = (&'static str, &'static str, String, Option<String>, String);

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn inside(net: &IpNet, ip: IpAddr) -> bool {
    let is_v4 = |ip: IpAddr| bits(ip) >> 32 == 0xffff;
    let len =
        if net.addr().is_ipv4() { u32::from(net.prefix_len()) + 96 } else { u32::from(net.prefix_len()) };
    let mask = if len == 0 { 0 } else { u128::MAX << (128 - len) };
    net.addr().is_ipv4() == is_v4(ip) && (bits(net.addr()) ^ bits(ip)) & mask == 0
}

/// Everything that an answer depends on beside the policy and the packet.
pub(crate) struct World<'a> {
    /// The zone or workload that the socket belongs to.
    pub(crate) subject: &'a str,
    pub(crate) host: &'a str,
    pub(crate) own: &'a [IpAddr],
    pub(crate) names: &'a Resolved,
    pub(crate) exceptions: &'a [Exception],
    pub(crate) overrides: &'a [Override],
    pub(crate) failsafes: &'a [Failsafe],
    pub(crate) now: Timestamp,
}

fn zone(policy: &Policy, own: &[IpAddr], names: &Resolved, ip: IpAddr) -> String {
    let v6 = Ipv6Addr::from(bits(ip));
    let octets = v6.to_ipv4_mapped().map(|v4| v4.octets());
    let loopback = match octets {
        Some(o) => o[0] == 127 || o == [0; 4],
        None => v6 == Ipv6Addr::LOCALHOST || v6 == Ipv6Addr::UNSPECIFIED,
    };
    if own.iter().any(|o| bits(*o) == bits(ip)) || loopback {
        return "loopback".into();
    }
    let mut best: (i32, &str) = match octets {
        Some([255, 255, 255, 255]) => (32, "multicast"),
        Some([a, ..]) if a >> 4 == 14 => (4, "multicast"),
        Some([169, 254, ..]) => (16, "link-local"),
        None if v6.octets()[0] == 0xff => (8, "multicast"),
        None if v6.segments()[0] & 0xffc0 == 0xfe80 => (10, "link-local"),
        _ => (-1, "unknown"),
    };
    for (name, zone) in &policy.zones {
        for cidr in &zone.cidrs {
            let len = i32::from(cidr.value.prefix_len());
            if inside(&cidr.value, ip) && len > best.0 {
                best = (len, name);
            }
        }
    }
    let mut first: Option<(Timestamp, &str)> = None;
    for (name, zone) in policy.zones.iter().filter(|_| best.0 < if octets.is_some() { 32 } else { 128 }) {
        // No name is in two zones here and all instants differ, so the earliest is the only one.
        for (_, since) in
            zone.names.iter().flat_map(|n| names.addresses(&n.value)).filter(|(a, _)| bits(*a) == bits(ip))
        {
            if first.is_none_or(|(t, _)| since < t) {
                first = Some((since, name));
            }
        }
    }
    first.map_or(best.1, |(_, name)| name).into()
}

/// The zone that others see of a zone or workload.
fn seen_as(policy: &Policy, end: &str) -> String {
    policy.workloads.get(end).map_or(end, |w| &w.zone.value).into()
}

pub(crate) fn answer(policy: &Policy, world: &World<'_>, p: &Packet) -> Answer {
    let World { subject, own, failsafes, now, .. } = *world;
    let peer = zone(policy, own, world.names, p.peer);
    let workload = policy.workloads.get(subject);
    let expired = workload.and_then(|w| w.expires).is_some_and(|end| end <= now);
    let plain = |reason| ("allowed", reason, peer.clone(), None, "other".to_owned());
    if peer == "loopback" {
        return plain("loopback");
    }
    match (p.protocol, p.port >> 8) {
        (1, 3 | 4 | 11 | 12) | (58, 1..=4 | 130..=136 | 143) => return plain("control"),
        _ => {}
    }
    let holds = |service: &ServiceRef| {
        policy.ports(service).iter().any(|s| s.protocol == p.protocol && (s.first..=s.last).contains(&p.port))
    };
    let mut service = ("other".to_owned(), usize::MAX);
    for (name, s) in &policy.services {
        for spec in s.ports.iter().filter(|s| s.contains(p.protocol, p.port)) {
            if usize::from(spec.last - spec.first) < service.1 {
                service = (name.clone(), usize::from(spec.last - spec.first));
            }
        }
    }
    let service = service.0;

    // The end of a rule that is here, and the one that is not.
    let applies = |from: &str, to: &str| {
        let (here, there) = if p.direction == Direction::Outbound { (from, to) } else { (to, from) };
        let inherited = workload.is_some_and(|w| w.inherit && w.zone.value == here);
        (here == subject || inherited) && seen_as(policy, there) == peer
    };
    let mut all: Vec<(String, Option<Timestamp>)> = Vec::new();
    for r in &policy.rules {
        if applies(&r.from.value, &r.to.value) && r.services.iter().any(|s| holds(&s.value)) {
            all.push((r.id.clone(), r.expires));
        }
    }
    for e in world.exceptions {
        let known = |end: &str| {
            policy.zones.contains_key(end)
                || policy.workloads.contains_key(end)
                || ["unknown", "multicast", "link-local"].contains(&end)
        };
        let defined = |s: &ServiceRef| match s {
            ServiceRef::Named(name) => policy.services.contains_key(name),
            ServiceRef::Ports(_) => true,
        };
        let valid = known(&e.from) && known(&e.to) && e.services.iter().all(defined);
        if valid && applies(&e.from, &e.to) && e.services.iter().any(holds) {
            all.push((format!("exception/{}", e.id), Some(e.expires)));
        }
    }
    let mut rule: Option<(String, Option<Timestamp>)> = None;
    for next in all {
        let end = |r: &(String, Option<Timestamp>)| r.1.unwrap_or(Timestamp::MAX);
        if rule.as_ref().is_none_or(|best| end(&next) > end(best)) {
            rule = Some(next);
        }
    }
    let id = rule.as_ref().map(|r| r.0.clone()).filter(|_| !expired);
    if !expired && rule.is_some_and(|r| r.1.is_none_or(|e| now < e)) {
        return ("allowed", "rule", peer, id, service);
    }
    for f in failsafes {
        let port = f.ports.iter().any(|s| s.contains(p.protocol, p.port));
        let ip = f.cidrs.is_empty() || f.cidrs.iter().any(|c| inside(c, p.peer));
        if f.direction == p.direction && port && ip {
            return ("allowed", "failsafe", peer, None, service);
        }
    }
    let dhcp = match p.direction {
        Direction::Outbound => [67, 547],
        Direction::Inbound => [68, 546],
    };
    if p.protocol == 17 && dhcp.contains(&p.port) {
        return ("allowed", "failsafe", peer, None, service);
    }
    if expired {
        return ("denied", "workload-expired", peer, None, service);
    }
    let reason = if id.is_some() { "rule-expired" } else { "no-rule" };
    let verdict = match mode(policy, world, p, &peer, &holds) {
        Mode::Enforce => "denied",
        Mode::Monitor => "audited",
    };
    (verdict, reason, peer, id, service)
}

fn mode(
    policy: &Policy,
    world: &World<'_>,
    p: &Packet,
    peer: &str,
    holds: &dyn Fn(&ServiceRef) -> bool,
) -> Mode {
    let zone = seen_as(policy, world.subject);
    let is_subject = |s: &str| s == world.subject || s == zone;
    for o in world.overrides {
        if o.subject.as_deref().is_none_or(is_subject)
            && o.direction.is_none_or(|d| Direction::from(d) == p.direction)
            && o.peers.as_ref().is_none_or(|p| p.iter().any(|p| p == peer))
            && o.services.as_ref().is_none_or(|s| s.iter().any(holds))
        {
            return o.mode();
        }
    }
    for r in &policy.rollouts {
        let canary = r.canary.as_ref().is_none_or(|c| {
            // Percentages have a test of their own; here they are 0, 100 or none.
            let named = c.hosts.iter().any(|h| h == world.host);
            let host = named || c.percent.map_or(c.hosts.is_empty(), |percent| percent == 100);
            host && (c.peers.is_empty() || c.peers.iter().any(|net| inside(net, p.peer)))
        });
        if canary
            && r.subject.as_ref().is_none_or(|s| is_subject(&s.value))
            && r.direction.is_none_or(|d| d == p.direction)
            && r.peers.as_ref().is_none_or(|p| p.iter().any(|p| p.value == peer))
            && r.services.as_ref().is_none_or(|s| s.iter().any(|s| holds(&s.value)))
        {
            return r.mode;
        }
    }
    Mode::Monitor
}
