//! Sums of lines, with every name kept once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use segd_common::event::Kind;
use segd_common::traffic::{Direction, Reason, Verdict};

use super::line::{Line, Text};
use crate::history::summary::hour_of;
use crate::history::{Conversation, Peer, Summary};
use crate::telemetry::protocol;
use crate::telemetry::record::InOut;

/// What one thread has read.
#[derive(Debug, Default)]
pub(super) struct Sums {
    names: Names,
    sums: HashMap<Key, Sum>,
}

/// Number of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Name(u32);

/// A [`Conversation`] and its hour, with numbers for names: small, and without a pointer to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// In seconds since 1970.
    hour: i64,
    host: Name,
    subject: Name,
    workload: Option<Name>,
    process: Option<Name>,
    unit: Option<Name>,
    uid: Option<u32>,
    direction: Direction,
    local: Option<IpAddr>,
    peer: IpAddr,
    peer_zone: Name,
    protocol: u8,
    port: u16,
    icmp: Option<(u8, u8)>,
    service: Name,
    verdict: Verdict,
    reason: Reason,
    rule: Option<Name>,
}

#[derive(Clone, Copy, Debug)]
struct Sum {
    flows: u64,
    packets: InOut,
    bytes: InOut,
    first: Timestamp,
    last: Timestamp,
}

#[derive(Debug, Default)]
struct Names {
    numbers: HashMap<Arc<str>, Name>,
    names: Vec<Arc<str>>,
}

impl Names {
    fn number(&mut self, name: &str) -> Name {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        // A fifth billion of names would not fit into memory before.
        let number = Name(u32::try_from(self.names.len()).unwrap_or(u32::MAX));
        let name: Arc<str> = name.into();
        self.numbers.insert(Arc::clone(&name), number);
        self.names.push(name);
        number
    }

    fn number_of(&mut self, name: Option<&Text<'_>>) -> Option<Name> {
        name.map(|name| self.number(&name.0))
    }

    fn name(&self, number: Name) -> Arc<str> {
        self.names.get(number.0 as usize).map_or_else(|| "?".into(), Arc::clone)
    }
}

impl Sums {
    /// Adds what a line says.
    pub(super) fn add(&mut self, line: &Line<'_>) {
        let begins = matches!(line.event, Kind::Open | Kind::Deny);
        let none = InOut { received: 0, sent: 0 };
        let sum = Sum {
            flows: if begins { line.count } else { 0 },
            packets: if begins { none } else { line.packets },
            bytes: if begins { none } else { line.bytes },
            first: line.time,
            last: line.time,
        };
        let key = self.names.key(line);
        self.sums.entry(key).and_modify(|all| all.add(&sum)).or_insert(sum);
    }

    /// Adds what another thread has read.
    pub(super) fn merge(&mut self, other: Self) {
        if self.sums.is_empty() {
            *self = other;
            return;
        }
        let numbers: Vec<_> = other.names.names.iter().map(|name| self.names.number(name)).collect();
        let number = |name: Name| numbers.get(name.0 as usize).copied().unwrap_or(name);
        for (key, sum) in other.sums {
            let key = Key {
                host: number(key.host),
                subject: number(key.subject),
                workload: key.workload.map(number),
                process: key.process.map(number),
                unit: key.unit.map(number),
                peer_zone: number(key.peer_zone),
                service: number(key.service),
                rule: key.rule.map(number),
                ..key
            };
            self.sums.entry(key).and_modify(|all| all.add(&sum)).or_insert(sum);
        }
    }

    /// Sorted by hour and conversation.
    pub(super) fn into_summaries(self) -> Vec<Summary> {
        let Self { names, sums } = self;
        let mut summaries: Vec<_> = sums.into_iter().map(|(key, sum)| names.summary(key, sum)).collect();
        summaries.sort_unstable_by(|a, b| (a.hour, &a.of).cmp(&(b.hour, &b.of)));
        summaries
    }
}

impl Names {
    fn key(&mut self, line: &Line<'_>) -> Key {
        let (local, peer) = line.ends();
        let process = line.process.as_ref();
        Key {
            hour: hour_of(line.time).as_second(),
            host: self.number(&line.host.0),
            subject: self.number(&line.subject.0),
            workload: self.number_of(line.workload.as_ref()),
            process: process.map(|p| self.number(&p.exe.as_ref().unwrap_or(&p.comm).0)),
            unit: self.number_of(process.and_then(|p| p.unit.as_ref())),
            uid: process.map(|p| p.uid),
            direction: line.direction,
            local: Some(local.ip).filter(|ip| !ip.is_unspecified()),
            peer: peer.ip,
            peer_zone: self.number(&peer.zone.0),
            protocol: line.protocol,
            port: line.dst.port,
            icmp: line.icmp_type.zip(line.icmp_code),
            service: self.number(&line.service.0),
            verdict: line.verdict,
            reason: line.reason,
            rule: self.number_of(line.rule.as_ref()),
        }
    }

    fn summary(&self, key: Key, sum: Sum) -> Summary {
        Summary {
            of: Conversation {
                host: self.name(key.host),
                subject: self.name(key.subject),
                workload: key.workload.map(|n| self.name(n)),
                process: key.process.map(|n| self.name(n)),
                unit: key.unit.map(|n| self.name(n)),
                uid: key.uid,
                direction: key.direction,
                local: key.local,
                peer: Peer::Address(key.peer),
                peer_zone: self.name(key.peer_zone),
                protocol: protocol::name(key.protocol),
                port: key.port,
                icmp: key.icmp,
                service: self.name(key.service),
                verdict: key.verdict,
                reason: key.reason,
                rule: key.rule.map(|n| self.name(n)),
            },
            hour: hour_of(sum.first),
            flows: sum.flows,
            packets: sum.packets,
            bytes: sum.bytes,
            first: sum.first,
            last: sum.last,
        }
    }
}

impl Sum {
    fn add(&mut self, more: &Self) {
        self.flows = self.flows.saturating_add(more.flows);
        for (sum, more) in [(&mut self.packets, more.packets), (&mut self.bytes, more.bytes)] {
            sum.received = sum.received.saturating_add(more.received);
            sum.sent = sum.sent.saturating_add(more.sent);
        }
        self.first = self.first.min(more.first);
        self.last = self.last.max(more.last);
    }
}
