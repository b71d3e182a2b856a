//! Proposals as a whole: histories in, zone files out.

mod demo;
mod facts;
mod random;

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use segd_common::traffic::{Direction, Reason, Verdict};

use super::{LearnError, Options, Proposal, learn};
use crate::history::{Conversation, Peer, Summary};
use crate::insight::replay::Around;
use crate::policy::{Policy, Sources, default_failsafes, load};
use crate::telemetry::record::InOut;

/// A Monday.
const BEGIN: &str = "2026-11-02T00:00:00Z";

fn at(hours: i64) -> Timestamp {
    BEGIN.parse::<Timestamp>().unwrap() + SignedDuration::from_hours(hours)
}

fn policy(text: &str) -> Policy {
    load(Sources::from_texts([("zones.toml", text)]), at(0)).unwrap_or_else(|e| panic!("{}", e.render(false)))
}

/// What hosts recorded.
#[derive(Clone, Debug, Default)]
struct History(Vec<Summary>);

/// One conversation of a host; what is not said is an audited TCP flow from an app.
#[derive(Clone, Debug)]
struct Said<'a> {
    host: &'a str,
    subject: &'a str,
    workload: bool,
    unit: Option<&'a str>,
    process: &'a str,
    direction: Direction,
    local: &'a str,
    peer: &'a str,
    peer_zone: &'a str,
    protocol: &'static str,
    port: u16,
    icmp: Option<(u8, u8)>,
    verdict: Verdict,
    reason: Reason,
    flows: u64,
    packets: u64,
    bytes: u64,
}

const OUT: Said<'static> = Said {
    host: "",
    subject: "",
    workload: false,
    unit: None,
    process: "/usr/bin/app",
    direction: Direction::Outbound,
    local: "",
    peer: "",
    peer_zone: "unknown",
    protocol: "tcp",
    port: 0,
    icmp: None,
    verdict: Verdict::Audited,
    reason: Reason::NoRule,
    flows: 2,
    packets: 20,
    bytes: 5000,
};

impl History {
    /// Once in each of these hours.
    fn say(&mut self, hours: impl IntoIterator<Item = i64>, said: &Said<'_>) -> &mut Self {
        let of = Conversation {
            host: said.host.into(),
            subject: said.subject.into(),
            workload: said.workload.then(|| said.subject.into()),
            process: Some(said.process.into()).filter(|_| !said.process.is_empty()),
            unit: said.unit.map(Into::into),
            uid: Some(1000),
            direction: said.direction,
            local: Some(said.local.parse().unwrap()),
            peer: match said.peer.strip_prefix('+') {
                Some(others) => Peer::Others(others.parse().unwrap()),
                None => Peer::Address(said.peer.parse().unwrap()),
            },
            peer_zone: said.peer_zone.into(),
            protocol: Cow::Borrowed(said.protocol),
            port: said.port,
            icmp: said.icmp,
            service: "other".into(),
            verdict: said.verdict,
            reason: said.reason,
            rule: None,
        };
        let each = InOut { received: said.packets / 2, sent: said.packets / 2 };
        let bytes = InOut { received: said.bytes / 2, sent: said.bytes / 2 };
        self.0.extend(hours.into_iter().map(|hour| Summary {
            of: of.clone(),
            hour: at(hour),
            flows: said.flows,
            packets: each,
            bytes,
            first: at(hour) + SignedDuration::from_mins(5),
            last: at(hour) + SignedDuration::from_mins(50),
        }));
        self
    }

    /// The same flows as both ends recorded them.
    fn between(
        &mut self,
        hours: impl IntoIterator<Item = i64> + Clone,
        client: &Said<'_>,
        server: &Said<'_>,
        port: u16,
    ) -> &mut Self {
        let out = Said { peer: server.local, peer_zone: server.subject, port, ..client.clone() };
        self.say(hours.clone(), &out);
        let into = Said {
            direction: Direction::Inbound,
            peer: client.local,
            peer_zone: client.subject,
            port,
            ..server.clone()
        };
        self.say(hours, &into)
    }

    fn learn(&self, present: &Policy, options: &Options) -> Result<Proposal, LearnError> {
        let failsafes = default_failsafes();
        learn(&self.0, present, Around::of_files(&failsafes, at(400)), options)
    }

    /// The proposal, which must be right.
    fn proposed(&self, present: &Policy, options: &Options) -> Proposal {
        self.learn(present, options).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// `id: from -> to services` of every rule.
fn rules(proposal: &Proposal) -> Vec<String> {
    let line = |r: &super::ProposedRule| format!("{}: {} -> {} {}", r.id, r.from, r.to, r.services.join(" "));
    proposal.rules.iter().map(line).collect()
}

/// `why: from -> to ports` of everything that was left out.
fn left_out(proposal: &Proposal) -> Vec<String> {
    let line = |l: &super::LeftOut| {
        let why = serde_json::to_value(&l.why).unwrap();
        format!("{}: {} -> {} {}", why.as_str().unwrap_or("undecided"), l.from, l.to, l.ports.join(" "))
    };
    proposal.left_out.iter().map(line).collect()
}
