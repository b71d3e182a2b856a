//! What segd's user space says: its tables, `explain` and `check`.

use std::net::IpAddr;

use jiff::Timestamp;
use segd::policy::ids::Registry;
use segd::policy::ports::PortSpec;
use segd::policy::{self, Compiled, Policy, Sources, Tables};
use segd_common::decide::{Facts, decide_in_zone, zone_of, zone_on_wire};
use segd_common::table::Subject;
use segd_common::traffic::Direction;

use crate::estate::{Estate, Ports, Prefix, WRITTEN};
use crate::naive::{self, Answer, Flow};

pub(crate) fn load(text: &str) -> Policy {
    let written = WRITTEN.parse().unwrap();
    policy::load(Sources::from_texts([("zones.toml", text)]), written)
        .unwrap_or_else(|found| panic!("{}\n{text}", found.render(false)))
}

pub(crate) fn compile(estate: &Estate, policy: &Policy, registry: &mut Registry) -> Compiled {
    let host = policy::Host::in_zone(estate.host, &estate.own);
    policy::compile(policy, host, &[], &failsafes(estate), registry).unwrap()
}

pub(crate) fn failsafes(estate: &Estate) -> Vec<policy::Failsafe> {
    let Some(list) = &estate.failsafes else { return policy::default_failsafes() };
    let cidr = |prefix: &Prefix| prefix.to_string().parse().unwrap();
    list.iter()
        .map(|f| policy::Failsafe {
            direction: f.direction,
            ports: f.ports.iter().map(spec).collect(),
            cidrs: f.cidrs.iter().map(cidr).collect(),
        })
        .collect()
}

fn spec(ports: &Ports) -> PortSpec {
    ports.to_string().parse().unwrap()
}

/// What the tables hold of a flow. `on_wire`: as the programs see it in a packet.
pub(crate) fn by_tables(
    compiled: &Compiled,
    subject: Subject,
    registry: &Registry,
    now: Timestamp,
    flow: &Flow,
    on_wire: bool,
) -> Answer {
    let tables = Tables::new(compiled, u64::try_from(now.as_nanosecond()).unwrap());
    let Flow { direction, peer, protocol, port } = *flow;
    let facts = Facts { subject, direction, protocol, peer: peer.into(), port };
    let zone = if on_wire { zone_on_wire(&tables, &facts.peer) } else { zone_of(&tables, &facts.peer) };
    let said = decide_in_zone(&tables, &facts, zone);
    Answer {
        verdict: said.verdict.to_string(),
        reason: said.reason.to_string(),
        zone: registry.zone_name(said.zone).to_string(),
        rule: registry.rule_name(said.rule).map(|name| name.to_string()),
        service: registry.service_name(said.service).to_string(),
    }
}

/// What `segd explain` says of the end that is the estate's host, and whether it says that it enforces.
pub(crate) fn explained(estate: &Estate, policy: &Policy, now: Timestamp, flow: &Flow) -> (Answer, bool) {
    let own = estate.own[usize::from(flow.peer.is_ipv6())];
    let (from, to) = match flow.direction {
        Direction::Outbound => (own, flow.peer),
        Direction::Inbound => (flow.peer, own),
    };
    let said = explain(estate, policy, now, from, to, flow);
    let (end, peer) = match flow.direction {
        Direction::Outbound => (said.outbound, said.to),
        Direction::Inbound => (said.inbound, said.from),
    };
    let end = end.unwrap();
    assert_eq!(end.zone, estate.host);
    assert_eq!(end.direction, flow.direction.name());
    let own = end.reason == "loopback";
    let answer = Answer {
        verdict: end.verdict.to_owned(),
        reason: end.reason.to_owned(),
        zone: if own { "loopback".to_owned() } else { peer.zone },
        rule: end.rule.map(|rule| rule.id),
        service: end.service,
    };
    (answer, end.mode == "enforce")
}

fn explain(
    estate: &Estate,
    policy: &Policy,
    now: Timestamp,
    from: IpAddr,
    to: IpAddr,
    flow: &Flow,
) -> policy::Explanation {
    let port = match flow.protocol {
        1 | 6 | 17 | 58 => PortSpec { protocol: flow.protocol, first: flow.port, last: flow.port },
        protocol => PortSpec::whole(protocol),
    };
    let (from, to) = (from.to_string(), to.to_string());
    let failsafes = failsafes(estate);
    policy::explain(policy, &from, &to, port, &policy::Situation::of_files(&failsafes, now)).unwrap()
}

/// A `[[test]]` that asks for a flow's port between two zones, with what it must say; `None` where a test cannot
/// ask for that.
pub(crate) fn as_test(estate: &Estate, flow: &Flow, expected: bool) -> Option<String> {
    let peer = naive::peer_zone(estate, flow.peer, false);
    let (from, to) = match flow.direction {
        Direction::Outbound => (estate.host, peer),
        Direction::Inbound => (peer, estate.host),
    };
    let ports = match flow.protocol {
        6 | 17 if flow.port == 0 => return None,
        6 | 17 => Ports { protocol: flow.protocol, first: flow.port, last: flow.port },
        1 | 58 => Ports { protocol: flow.protocol, first: flow.port & 0xff00, last: flow.port | 0xff },
        protocol => Ports { protocol, first: 0, last: u16::MAX },
    };
    let key = if expected { "allow" } else { "deny" };
    Some(format!("[[test]]\nfrom = \"{from}\"\nto = \"{to}\"\n{key} = [\"{ports}\"]\n\n"))
}

/// The number of tests that fail.
pub(crate) fn failures(estate: &Estate, text: &str, now: Timestamp) -> usize {
    policy::check(&load(text), &failsafes(estate), &policy::Resolved::new(), now).errors()
}
