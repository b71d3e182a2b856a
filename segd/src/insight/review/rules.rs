//! Rules next to what they allowed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use segd_common::traffic::{Direction, Verdict};
use serde::Serialize;

use super::{Known, Limits, Material};
use crate::history::{Conversation, Peer, Summary};
use crate::insight::learn::TODO;
use crate::policy::Policy;
use crate::policy::check::shadowed;
use crate::policy::model::{Rule, ServiceRef};
use crate::telemetry::protocol;

/// A rule and how it was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleReview {
    /// Its id.
    pub id: String,
    /// Zone or workload of the client.
    pub from: String,
    /// Zone or workload of the server.
    pub to: String,
    /// Each with the flows that were observed on its ports.
    pub services: BTreeMap<String, u64>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Why it is there.
    pub reason: Option<String>,
    /// From when on it no longer matches.
    pub expires: Option<Timestamp>,
    /// Where it is written, as `file:line`.
    pub place: String,
    /// Since when it is known to be in force, or how far back was looked; none: nothing was observed.
    pub since: Option<Timestamp>,
    /// When it last allowed a flow.
    pub last_hit: Option<Timestamp>,
    /// Flows that it allowed since then.
    pub hits: u64,
    /// Different clients that were seen to use it; where there were too many to record, those of the busiest hour.
    pub clients: u64,
    /// Different servers that were, likewise.
    pub servers: u64,
    /// Without a hit, but not known for long enough to be called unused.
    pub too_early: bool,
    /// What somebody should look at.
    pub findings: Vec<Finding>,
}

/// What somebody should look at. As JSON: `{"kind": "unused", "text": "…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "text", rename_all = "kebab-case")]
pub enum Finding {
    /// Nothing used it for long.
    Unused(String),
    /// It ends soon.
    Expiring(String),
    /// It has ended.
    Expired(String),
    /// Nobody answers for it.
    NoOwner(String),
    /// Nobody wrote down why it is there.
    NoReason(String),
    /// Another rule always decides.
    Shadowed(String),
    /// It allows more than was used.
    Wide(String),
}

/// A finding about something that is no rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// `zone orders`, `workload inventory_bot`.
    pub what: String,
    /// What about it.
    #[serde(flatten)]
    pub finding: Finding,
}

impl Finding {
    /// One sentence.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Unused(text)
            | Self::Expiring(text)
            | Self::Expired(text)
            | Self::NoOwner(text)
            | Self::NoReason(text)
            | Self::Shadowed(text)
            | Self::Wide(text) => text,
        }
    }
}

/// What was observed of a rule.
#[derive(Default)]
struct Use<'a> {
    hits: u64,
    last: Option<Timestamp>,
    /// Flows by protocol and port; port 0 where flows to several are one.
    ports: BTreeMap<(u8, u16), u64>,
    ends: [BTreeSet<End<'a>>; 2],
    /// Further peers, by hour: those of one hour may be those of another.
    others: [BTreeMap<Timestamp, u64>; 2],
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum End<'a> {
    Address(std::net::IpAddr),
    Host(&'a str),
}

impl<'a> Use<'a> {
    fn add(&mut self, summary: &'a Summary) {
        let Summary { of, flows, last, .. } = summary;
        self.hits = self.hits.saturating_add(*flows);
        self.last = self.last.max(Some(*last));
        if let Some(number) = protocol::number(&of.protocol) {
            *self.ports.entry((number, of.rule_port())).or_default() += flows;
        }
        let (own, other) = match of.direction {
            Direction::Outbound => (0, 1),
            Direction::Inbound => (1, 0),
        };
        self.ends[own].insert(of.local.map_or(End::Host(&of.host), End::Address));
        match of.peer {
            Peer::Address(ip) => drop(self.ends[other].insert(End::Address(ip))),
            Peer::Others(n) => {
                let others = self.others[other].entry(summary.hour).or_default();
                *others = others.saturating_add(n);
            }
        }
    }

    /// Different clients and servers, at least.
    fn counts(&self) -> [u64; 2] {
        [0, 1].map(|n: usize| {
            let others = self.others[n].values().max().copied().unwrap_or_default();
            (self.ends[n].len() as u64).saturating_add(others)
        })
    }

    /// Flows on the ports of a service.
    fn of(&self, policy: &Policy, service: &ServiceRef) -> u64 {
        let specs = policy.ports(service);
        let on = |(number, port): (u8, u16)| specs.iter().any(|s| s.contains(number, port));
        self.ports.iter().filter(|(port, _)| on(**port)).map(|(_, flows)| flows).sum()
    }

    /// Whether the port of some flows is not known.
    fn is_vague(&self) -> bool {
        self.ports.keys().any(|(number, port)| *port == 0 && protocol::has_ports(*number))
    }
}

fn is_use(of: &Conversation) -> bool {
    of.verdict == Verdict::Allowed
}

pub(super) fn review(material: &Material<'_>, limits: Limits) -> Vec<RuleReview> {
    let Material { policy, observed, .. } = *material;
    let mut uses: HashMap<&str, Use<'_>> = HashMap::new();
    for summary in observed.iter().filter(|s| is_use(&s.of)) {
        if let Some(rule) = summary.of.rule.as_deref() {
            uses.entry(rule).or_default().add(summary);
        }
    }
    let shadowed: BTreeMap<usize, BTreeSet<usize>> = shadowed(policy).collect();
    let first = observed.iter().map(|s| s.first).min();
    let one = |(n, rule): (usize, &Rule)| {
        let used = uses.remove(rule.id.as_str()).unwrap_or_default();
        let known = material.known.get(&rule.id);
        let winners = shadowed.get(&n).into_iter().flatten().filter_map(|n| policy.rules.get(*n));
        let winners: Vec<&str> = winners.map(|rule| rule.id.as_str()).collect();
        one(material, rule, (&used, known, first), &winners, limits)
    };
    policy.rules.iter().enumerate().map(one).collect()
}

fn one(
    material: &Material<'_>,
    rule: &Rule,
    (used, known, first): (&Use<'_>, Option<&Known>, Option<Timestamp>),
    winners: &[&str],
    limits: Limits,
) -> RuleReview {
    let Material { policy, now, .. } = *material;
    let since = known.map(|k| k.since).into_iter().chain(first).min();
    let last_hit = known.and_then(|k| k.last_hit).max(used.last);
    let hits = known.map_or(0, |k| k.hits).max(used.hits);
    let [clients, servers] = used.counts();
    let services: BTreeMap<String, u64> =
        rule.services.iter().map(|s| (s.value.to_string(), used.of(policy, &s.value))).collect();
    let mut findings = Vec::new();
    let long_enough = since.is_some_and(|since| is_past(since, limits.unused, now));
    match last_hit {
        None if long_enough => {
            let since = since.map_or(String::new(), |since| format!(" since {}", date(since)));
            findings.push(Finding::Unused(format!("no flow used it{since}")));
        }
        Some(last) if is_past(last, limits.unused, now) => {
            findings.push(Finding::Unused(format!("no flow used it since {}", date(last))));
        }
        _ => {}
    }
    findings.extend(rule.expires.and_then(|at| lifetime(at, now, limits)));
    if is_missing(rule.owner.as_ref()) {
        findings.push(Finding::NoOwner("nobody answers for it".to_owned()));
    }
    if is_missing(rule.reason.as_ref()) {
        findings.push(Finding::NoReason("nobody wrote down why it is there".to_owned()));
    }
    if !winners.is_empty() {
        findings.push(Finding::Shadowed(format!("never decides: {} allows the same", winners.join(" or "))));
    } else if long_enough && used.hits > 0 && !used.is_vague() {
        findings.extend(wide(policy, rule, used, &services));
    }
    RuleReview {
        id: rule.id.clone(),
        from: rule.from.value.clone(),
        to: rule.to.value.clone(),
        services,
        owner: rule.owner.clone(),
        reason: rule.reason.clone(),
        expires: rule.expires,
        place: policy.sources.file_line(rule.place),
        since,
        last_hit,
        hits,
        clients,
        servers,
        too_early: last_hit.is_none() && !long_enough,
        findings,
    }
}

fn wide(policy: &Policy, rule: &Rule, used: &Use<'_>, services: &BTreeMap<String, u64>) -> Vec<Finding> {
    let mut found = Vec::new();
    let unused: Vec<&str> =
        services.iter().filter(|(_, n)| **n == 0).map(|(name, _)| name.as_str()).collect();
    if !unused.is_empty() {
        let (n, all) = (services.len() - unused.len(), services.len());
        found.push(Finding::Wide(format!("{n} of {all} services were used; not {}", unused.join(", "))));
    }
    for spec in policy.all_ports(&rule.services).filter(|s| s.len() > 1 && protocol::has_ports(s.protocol)) {
        let inside = |(number, port): &&(u8, u16)| spec.contains(*number, *port);
        let ports: Vec<u16> = used.ports.keys().filter(inside).map(|(_, port)| *port).collect();
        if !ports.is_empty() && ports.len() < spec.len() {
            let list: Vec<String> = ports.iter().take(8).map(ToString::to_string).collect();
            let more = if ports.len() > list.len() { ", …" } else { "" };
            let (n, all) = (ports.len(), spec.len());
            found.push(Finding::Wide(format!(
                "{n} of {all} ports of {spec} were used: {}{more}",
                list.join(", ")
            )));
        }
    }
    found
}

/// Whether nobody has written it; what `segd learn` leaves for people to fill in counts as nothing.
pub(super) fn is_missing(text: Option<&String>) -> bool {
    text.is_none_or(|text| text.trim().is_empty() || text.starts_with(TODO))
}

/// Zones and workloads that nobody answers for, and workloads that end soon.
pub(super) fn others(policy: &Policy, now: Timestamp, limits: Limits) -> Vec<Problem> {
    let mut found = Vec::new();
    for (name, zone) in &policy.zones {
        if is_missing(zone.owner.as_ref()) {
            let finding = Finding::NoOwner("nobody answers for it".to_owned());
            found.push(Problem { what: format!("zone {name}"), finding });
        }
    }
    for (name, workload) in &policy.workloads {
        let mut add = |finding| found.push(Problem { what: format!("workload {name}"), finding });
        workload.expires.and_then(|at| lifetime(at, now, limits)).into_iter().for_each(&mut add);
        if is_missing(workload.owner.as_ref()) {
            add(Finding::NoOwner("nobody answers for it".to_owned()));
        }
        if is_missing(workload.purpose.as_ref()) {
            add(Finding::NoReason("nobody wrote down what it is for".to_owned()));
        }
    }
    found
}

fn lifetime(expires: Timestamp, now: Timestamp, limits: Limits) -> Option<Finding> {
    if expires <= now {
        return Some(Finding::Expired(format!("ended on {}", date(expires))));
    }
    let left = Duration::try_from(expires.duration_since(now)).unwrap_or_default();
    let days = left.as_secs() / 86_400;
    let ends = format!("ends on {}, in {days} day{}", date(expires), if days == 1 { "" } else { "s" });
    (left < limits.expiring).then_some(Finding::Expiring(ends))
}

/// Whether an instant is longer ago than that.
fn is_past(then: Timestamp, long: Duration, now: Timestamp) -> bool {
    Duration::try_from(now.duration_since(then)).is_ok_and(|ago| ago >= long)
}

pub(super) fn date(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d").to_string()
}
