//! The same questions answered in the plainest way: one pass over everything for each of them.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use segd_common::traffic::{Direction, Mode};

use super::*;
use crate::policy::Failsafe;
use crate::policy::model::Override;

/// What is asked.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) direction: Direction,
    pub(super) peer: IpAddr,
    pub(super) protocol: u8,
    pub(super) port: u16,
}

/// Verdict, reason, peer zone, rule and service, by name.
pub(super) type Answer = (&'static str, &'static str, String, Option<String>, String);

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

fn zone(policy: &Policy, own: &[IpAddr], ip: IpAddr) -> String {
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
    best.1.into()
}

pub(super) fn answer(
    policy: &Policy,
    host: &str,
    own: &[IpAddr],
    overrides: &[Override],
    failsafes: &[Failsafe],
    now: Timestamp,
    p: &Packet,
) -> Answer {
    let peer = zone(policy, own, p.peer);
    let plain = |reason| ("allowed", reason, peer.clone(), None, "other".to_owned());
    if peer == "loopback" {
        return plain("loopback");
    }
    match (p.protocol, p.port >> 8) {
        (1, 3 | 4 | 11 | 12) | (58, 1..=4 | 130..=136 | 143) => return plain("control"),
        _ => {}
    }
    let holds = |service: &crate::policy::model::ServiceRef| {
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

    let (from, to) =
        if p.direction == Direction::Outbound { (host, peer.as_str()) } else { (peer.as_str(), host) };
    let mut rule: Option<&crate::policy::model::Rule> = None;
    for r in &policy.rules {
        if r.from.value == from && r.to.value == to && r.services.iter().any(|s| holds(&s.value)) {
            let end = |r: &crate::policy::model::Rule| r.expires.unwrap_or(Timestamp::MAX);
            if rule.is_none_or(|best| end(r) > end(best)) {
                rule = Some(r);
            }
        }
    }
    let id = rule.map(|r| r.id.clone());
    if rule.is_some_and(|r| r.expires.is_none_or(|e| now < e)) {
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
    let reason = if id.is_some() { "rule-expired" } else { "no-rule" };
    let verdict = match mode(policy, host, overrides, p.direction, &peer, &holds) {
        Mode::Enforce => "denied",
        Mode::Monitor => "audited",
    };
    (verdict, reason, peer, id, service)
}

fn mode(
    policy: &Policy,
    host: &str,
    overrides: &[Override],
    direction: Direction,
    peer: &str,
    holds: &dyn Fn(&crate::policy::model::ServiceRef) -> bool,
) -> Mode {
    for o in overrides {
        if o.subject.as_deref().is_none_or(|s| s == host)
            && o.direction.is_none_or(|d| Direction::from(d) == direction)
            && o.peers.as_ref().is_none_or(|p| p.iter().any(|p| p == peer))
            && o.services.as_ref().is_none_or(|s| s.iter().any(holds))
        {
            return o.mode();
        }
    }
    for r in &policy.rollouts {
        if r.subject.as_ref().is_none_or(|s| s.value == host)
            && r.direction.is_none_or(|d| d == direction)
            && r.peers.as_ref().is_none_or(|p| p.iter().any(|p| p.value == peer))
            && r.services.as_ref().is_none_or(|s| s.iter().any(|s| holds(&s.value)))
        {
            return r.mode;
        }
    }
    Mode::Monitor
}
