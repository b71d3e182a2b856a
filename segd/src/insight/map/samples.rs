//! What tests draw.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use segd_common::traffic::{Direction, Reason, Verdict};

use crate::history::summary::{hour_of, tests::conversation};
use crate::history::{Conversation, Peer, Summary};
use crate::telemetry::record::InOut;

/// Flows that were seen: tcp/5432 `postgres`, allowed, unless said otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Seen(Summary);

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

impl Seen {
    fn new(
        direction: Direction,
        host: &str,
        subject: &str,
        local: &str,
        peer: &str,
        peer_zone: &str,
    ) -> Self {
        let first = time("2026-11-22T18:05:00Z");
        Self(Summary {
            of: Conversation {
                rule: Some("r1".into()),
                ..conversation(direction, (host, subject, local), (peer, peer_zone))
            },
            hour: hour_of(first),
            flows: 1,
            packets: InOut::NONE,
            bytes: InOut::NONE,
            first,
            last: time("2026-11-22T18:45:00Z"),
        })
    }

    pub(crate) fn out(host: &str, subject: &str, local: &str, peer: &str, zone: &str) -> Self {
        Self::new(Direction::Outbound, host, subject, local, peer, zone)
    }

    pub(crate) fn into(host: &str, subject: &str, local: &str, peer: &str, zone: &str) -> Self {
        Self::new(Direction::Inbound, host, subject, local, peer, zone)
    }

    pub(crate) fn flows(mut self, flows: u64) -> Self {
        self.0.flows = flows;
        self
    }

    pub(crate) fn bytes(mut self, received: u64, sent: u64) -> Self {
        self.0.bytes = InOut { received, sent };
        self
    }

    /// Without a rule unless it is allowed.
    pub(crate) fn verdict(mut self, verdict: Verdict) -> Self {
        self.0.of.verdict = verdict;
        if verdict != Verdict::Allowed {
            (self.0.of.reason, self.0.of.rule) = (Reason::NoRule, None);
        }
        self
    }

    pub(crate) fn port(mut self, port: u16, service: &str) -> Self {
        (self.0.of.port, self.0.of.service) = (port, service.into());
        self
    }

    pub(crate) fn process(mut self, process: &str) -> Self {
        self.0.of.process = Some(process.into());
        self
    }

    pub(crate) fn workload(mut self, workload: &str) -> Self {
        let name: Arc<str> = workload.into();
        (self.0.of.subject, self.0.of.workload) = (Arc::clone(&name), Some(name));
        self
    }

    pub(crate) fn peers(mut self, others: u64) -> Self {
        self.0.of.peer = Peer::Others(others);
        self
    }

    pub(crate) fn later(mut self, hours: i64) -> Self {
        for time in [&mut self.0.hour, &mut self.0.first, &mut self.0.last] {
            *time = time.checked_add(SignedDuration::from_hours(hours)).unwrap();
        }
        self
    }

    pub(crate) fn summary(self) -> Summary {
        self.0
    }
}

/// A database, its client and what nobody asked for.
pub(crate) fn small() -> Vec<Summary> {
    let (app, db) = ("10.20.0.7", "10.10.0.5");
    [
        Seen::out("app-1", "fulfillment", app, db, "orders")
            .process("/usr/bin/java")
            .flows(120)
            .bytes(9000, 4000),
        Seen::into("db-1", "orders", db, app, "fulfillment")
            .process("/usr/sbin/postgres")
            .flows(120)
            .bytes(4000, 9000),
        Seen::out("app-1", "fulfillment", app, "10.30.0.9", "transport")
            .port(8443, "other")
            .flows(3)
            .verdict(Verdict::Audited),
        Seen::into("db-1", "orders", db, "192.0.2.7", "unknown").flows(9).verdict(Verdict::Denied),
        Seen::out("app-1", "fulfillment", app, "10.20.0.8", "fulfillment")
            .port(6379, "redis")
            .workload("inventory_bot"),
    ]
    .map(Seen::summary)
    .into()
}

/// Names that try to break out of every format.
pub(crate) fn hostile() -> Vec<Summary> {
    let names = [
        "</script><script>boom()</script>",
        "\"]; x [label=\"y\"] //",
        "--></svg><img src=x onerror=boom()>",
        "a\u{1b}[2J\nb\u{202e}c",
        "#quot;|-->|n0 %% {{x}}",
    ];
    names
        .iter()
        .map(|name| {
            let seen = Seen::out(name, name, "10.0.0.1", "10.0.0.2", name).process(name).port(1, name);
            let mut seen = seen.summary();
            seen.of.rule = Some((*name).into());
            seen
        })
        .collect()
}
