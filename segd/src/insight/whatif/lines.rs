//! Flows grouped for people: by rule, and by who talks to whom.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use segd_common::traffic::{Direction, Reason, Verdict};
use serde::Serialize;

use super::fold::Seen;
use super::{Counts, Effect, Few, Outcome, Owners, Section};
use crate::history::Peer;
use crate::telemetry::named;

/// Flows of one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleLine {
    /// Its id; none: no rule allowed them.
    pub rule: Option<String>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Whether the new zone files have it.
    pub defined: bool,
    /// How many.
    #[serde(flatten)]
    pub counts: Counts,
    /// Whose flows.
    pub hosts: Few,
    /// When the first one was seen.
    pub first: Timestamp,
    /// When the last one was.
    pub last: Timestamp,
}

/// Who talks to whom about what, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Zone or workload that begins, under the new zone files.
    pub from: String,
    /// Zone or workload that it talks to, under the new zone files.
    pub to: String,
    /// What `from` was, if it was something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_before: Option<String>,
    /// What `to` was, if it was something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_before: Option<String>,
    /// Who answers for `from`.
    pub from_owner: Option<String>,
    /// Who answers for `to`.
    pub to_owner: Option<String>,
    /// As in flow records.
    pub protocol: String,
    /// The server's port; 0: it has none, or several were recorded as one.
    pub port: u16,
    /// ICMP and ICMPv6: type and code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp: Option<(u8, u8)>,
    /// What the port would be called.
    pub service: String,
    /// The verdict that it had last.
    #[serde(with = "named")]
    pub was: Verdict,
    /// The verdict that it would have.
    #[serde(with = "named")]
    pub now: Verdict,
    /// Why.
    #[serde(with = "named")]
    pub reason: Reason,
    /// Whose host decides so.
    pub at: End,
    /// The rule that allowed it there.
    pub rule_before: Option<String>,
    /// Who answers for that.
    pub rule_before_owner: Option<String>,
    /// The rule that would allow it there, or would have had it not expired.
    pub rule: Option<String>,
    /// Who answers for that.
    pub rule_owner: Option<String>,
    /// Whether it was decided by the names of zones, as the addresses were not recorded.
    pub approximate: bool,
    /// How many.
    #[serde(flatten)]
    pub counts: Counts,
    /// Hosts at the end that decides so.
    pub hosts: Few,
    /// Addresses of the other end.
    pub peers: Few,
    /// Programs at the end that decides so.
    pub processes: Few,
    /// When the first one was seen.
    pub first: Timestamp,
    /// When the last one was.
    pub last: Timestamp,
}

/// Which end of a flow decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// Who begins.
    Client,
    /// With whom.
    Server,
    /// Both.
    Both,
}

/// What makes flows one line.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a> {
    effect: Effect,
    from: Arc<str>,
    to: Arc<str>,
    before: (&'a str, &'a str),
    protocol: &'a str,
    port: u16,
    icmp: Option<(u8, u8)>,
    service: Arc<str>,
    was: Verdict,
    now: Verdict,
    reason: Reason,
    at: End,
    rule_before: Option<&'a str>,
    rule: Option<Arc<str>>,
    approximate: bool,
}

/// What is summed up of a line.
struct Sum<'a> {
    counts: Counts,
    hosts: BTreeSet<&'a str>,
    peers: BTreeSet<String>,
    others: u64,
    processes: BTreeSet<&'a str>,
    first: Timestamp,
    last: Timestamp,
}

impl Sum<'_> {
    fn new(seen: &Seen<'_>) -> Self {
        let (hosts, peers, processes) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let (first, last) = (seen.first, seen.last);
        Self { counts: Counts::default(), hosts, peers, others: 0, processes, first, last }
    }
}

/// Lines in the making.
pub(super) struct Lines<'a, 'o> {
    owners: &'o Owners<'o>,
    sums: HashMap<Effect, BTreeMap<Key<'a>, Sum<'a>>>,
}

impl<'a, 'o> Lines<'a, 'o> {
    pub(super) fn new(owners: &'o Owners<'o>) -> Self {
        Self { owners, sums: HashMap::new() }
    }

    /// Adds a flow by the end that recorded it and, if it did too, the other one, which is the server's.
    pub(super) fn add(
        &mut self,
        one: &Seen<'a>,
        was: Verdict,
        own: &Outcome<'a>,
        other: Option<&Outcome<'a>>,
        recent: bool,
    ) {
        // The end that says no speaks; where both say the same, the client.
        let speaks = other.filter(|other| other.now > own.now).unwrap_or(own);
        let of = speaks.seen.of;
        let at = match (other, of.direction) {
            (Some(other), _) if other.now == own.now => End::Both,
            (_, Direction::Outbound) => End::Client,
            (_, Direction::Inbound) => End::Server,
        };
        let replayed = &speaks.replayed;
        let (mine, peer) = (Arc::clone(&replayed.subject), Arc::clone(&replayed.peer_zone));
        let (from, to) = match of.direction {
            Direction::Outbound => (mine, peer),
            Direction::Inbound => (peer, mine),
        };
        let past = speaks.seen.was;
        let before = past.ends();
        let key = Key {
            effect: Effect::of(was, speaks.now),
            from,
            to,
            before: (before.0, before.1),
            protocol: &of.protocol,
            port: of.port,
            icmp: of.icmp,
            service: Arc::clone(&replayed.service),
            was,
            now: speaks.now,
            reason: replayed.reason,
            at,
            rule_before: past.rule.as_deref().filter(|_| past.verdict == Verdict::Allowed),
            rule: replayed.rule.clone(),
            approximate: replayed.by_zone,
        };
        let sums = self.sums.entry(key.effect).or_default();
        let sum = sums.entry(key).or_insert_with(|| Sum::new(one));
        sum.counts.add(one.flows, recent);
        sum.hosts.insert(&of.host);
        sum.processes.extend(of.process.as_deref());
        sum.first = sum.first.min(one.first);
        sum.last = sum.last.max(one.last);
        match of.peer {
            Peer::Address(ip) => {
                sum.peers.insert(ip.to_string());
            }
            Peer::Others(n) => sum.others = sum.others.saturating_add(n),
        }
    }

    /// Everything, by what becomes of it.
    pub(super) fn sections(self) -> HashMap<Effect, Section> {
        let owners = self.owners;
        self.sums.into_iter().map(|(effect, sums)| (effect, section(owners, effect, sums))).collect()
    }
}

fn section(owners: &Owners<'_>, effect: Effect, sums: BTreeMap<Key<'_>, Sum<'_>>) -> Section {
    let mut counts = Counts::default();
    let mut rules: BTreeMap<Option<String>, (RuleLine, BTreeSet<String>)> = BTreeMap::new();
    for (key, sum) in &sums {
        counts.join(sum.counts);
        let rule = match effect {
            Effect::Denied | Effect::Audited => key.rule_before.map(str::to_owned),
            Effect::Allowed | Effect::Unchanged => key.rule.as_ref().map(ToString::to_string),
        };
        let (line, hosts) = rules.entry(rule.clone()).or_insert_with(|| {
            let owner = rule.as_deref().and_then(|rule| owners.rule(rule));
            let defined = rule.as_deref().is_some_and(|rule| owners.has_rule(rule));
            let (counts, hosts, first, last) = (Counts::default(), Few::default(), sum.first, sum.last);
            (RuleLine { rule, owner, defined, counts, hosts, first, last }, BTreeSet::new())
        });
        line.counts.join(sum.counts);
        line.first = line.first.min(sum.first);
        line.last = line.last.max(sum.last);
        hosts.extend(sum.hosts.iter().map(|host| (*host).to_owned()));
    }
    let with_hosts =
        |(line, hosts): (RuleLine, BTreeSet<String>)| RuleLine { hosts: Few::of(&hosts, 0), ..line };
    let mut rules: Vec<RuleLine> = rules.into_values().map(with_hosts).collect();
    rules.sort_by_key(|line| Reverse(line.counts.flows));
    let mut lines: Vec<Line> = sums.into_iter().map(|(key, sum)| line(owners, key, &sum)).collect();
    lines.sort_by_key(|line| Reverse(line.counts.flows));
    Section { counts, rules, lines, more_lines: 0 }
}

fn line(owners: &Owners<'_>, key: Key<'_>, sum: &Sum<'_>) -> Line {
    let changed = |before: &str, now: &str| (before != now).then(|| before.to_owned());
    Line {
        from_before: changed(key.before.0, &key.from),
        to_before: changed(key.before.1, &key.to),
        from_owner: owners.end(&key.from),
        to_owner: owners.end(&key.to),
        from: key.from.to_string(),
        to: key.to.to_string(),
        protocol: key.protocol.to_owned(),
        port: key.port,
        icmp: key.icmp,
        service: key.service.to_string(),
        was: key.was,
        now: key.now,
        reason: key.reason,
        at: key.at,
        rule_before: key.rule_before.map(str::to_owned),
        rule_before_owner: key.rule_before.and_then(|rule| owners.rule(rule)),
        rule_owner: key.rule.as_deref().and_then(|rule| owners.rule(rule)),
        rule: key.rule.map(|rule| rule.to_string()),
        approximate: key.approximate,
        counts: sum.counts,
        hosts: Few::of(&sum.hosts, 0),
        peers: Few::of(&sum.peers, sum.others),
        processes: Few::of(&sum.processes, 0),
        first: sum.first,
        last: sum.last,
    }
}

impl Counts {
    fn join(&mut self, other: Self) {
        self.conversations += other.conversations;
        self.recent_conversations += other.recent_conversations;
        self.flows = self.flows.saturating_add(other.flows);
    }
}
