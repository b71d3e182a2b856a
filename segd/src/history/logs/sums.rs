//! Sums of lines, with every name kept once.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use jiff::Timestamp;
use segd_common::traffic::{Direction, Reason, Verdict};

use super::bounded::Bounded;
use super::line::{Line, Text};
use crate::history::summary::{Sum, hour_of, share};
use crate::history::{Conversation, Peer, Summary};
use crate::policy::ids::OTHER_SERVICE;
use crate::telemetry::protocol;

/// What one thread has read.
#[derive(Debug)]
pub(super) struct Sums {
    names: Names,
    sums: Bounded,
}

/// The name of a port that no service names.
const OTHER: Name = Name(0);

/// Number of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name(u32);

/// A [`Conversation`] and its hour, with numbers for names: small, and without a pointer to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// In seconds since 1970.
    hour: i64,
    host: Name,
    subject: Name,
    workload: Option<Name>,
    process: Option<Name>,
    unit: Option<Name>,
    uid: Option<u32>,
    direction: Direction,
    pub(super) local: Option<IpAddr>,
    pub(super) peer: IpAddr,
    peer_zone: Name,
    protocol: u8,
    pub(super) port: u16,
    pub(super) icmp: Option<(u8, u8)>,
    service: Name,
    verdict: Verdict,
    reason: Reason,
    rule: Option<Name>,
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
    /// Of about `most` conversations of an hour; of what is more, groups.
    pub(super) fn new(most: usize) -> Self {
        let mut names = Names::default();
        // So that it is the first one.
        names.number(OTHER_SERVICE);
        Self { names, sums: Bounded::new(most) }
    }

    /// Adds what a line says.
    pub(super) fn add(&mut self, line: &Line<'_>) {
        let (flows, packets, bytes) = share(line.event, line.count, line.packets, line.bytes);
        let sum = Sum { flows, packets, bytes, first: line.since.unwrap_or(line.time), last: line.time };
        let key = self.names.key(line);
        self.sums.add(key, sum);
    }

    /// Adds what another thread has read.
    pub(super) fn merge(&mut self, other: Self) {
        let numbers: Vec<_> = other.names.names.iter().map(|name| self.names.number(name)).collect();
        let number = |name: Name| numbers.get(name.0 as usize).copied().unwrap_or(name);
        self.sums.merge(other.sums, |key| Key {
            host: number(key.host),
            subject: number(key.subject),
            workload: key.workload.map(number),
            process: key.process.map(number),
            unit: key.unit.map(number),
            peer_zone: number(key.peer_zone),
            service: number(key.service),
            rule: key.rule.map(number),
            ..key
        });
    }

    /// Sorted by hour and conversation.
    pub(super) fn into_summaries(self) -> Vec<Summary> {
        let Self { names, sums } = self;
        let mut summaries: Vec<_> = sums
            .with_locals()
            .into_sums()
            .map(|(key, sum, others)| names.summary(key, sum, others))
            .collect();
        summaries.sort_unstable_by(|a, b| (a.hour, &a.of).cmp(&(b.hour, &b.of)));
        summaries
    }
}

impl Key {
    /// What a client may know of it when it begins.
    pub(super) fn without_local(&self) -> Self {
        Self { local: None, ..*self }
    }

    /// Flows that differ only in peer, local address and program.
    pub(super) fn group(&self) -> Self {
        Self {
            peer: Ipv4Addr::UNSPECIFIED.into(),
            local: None,
            process: None,
            unit: None,
            uid: None,
            ..*self
        }
    }

    /// And in their port.
    pub(super) fn group_of_ports(&self) -> Self {
        Self { port: 0, icmp: None, service: OTHER, ..self.group() }
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

    fn summary(&self, key: Key, sum: Sum, others: Option<u64>) -> Summary {
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
                peer: others.map_or(Peer::Address(key.peer), Peer::Others),
                peer_zone: self.name(key.peer_zone),
                protocol: protocol::name(key.protocol),
                port: key.port,
                icmp: key.icmp,
                service: self.name(key.service),
                verdict: key.verdict,
                reason: key.reason,
                rule: key.rule.map(|n| self.name(n)),
            },
            hour: Timestamp::from_second(key.hour).unwrap_or(sum.first),
            flows: sum.flows,
            packets: sum.packets,
            bytes: sum.bytes,
            first: sum.first,
            last: sum.last,
        }
    }
}
