//! Flows of one hour that differ in nothing that a rule, an owner or a reader tells apart.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use segd_common::event::Kind;
use segd_common::traffic::{Direction, Reason, Verdict};
use serde::{Deserialize, Serialize};

use crate::telemetry::named;
use crate::telemetry::record::{FlowRecord, InOut, Process, microseconds};

/// Seconds of the span that a [`Summary`] stands for.
pub const HOUR: i64 = 3600;

/// What makes flows the same. Two of them that differ only in the client's port are one conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Conversation {
    /// Name of the host that recorded it.
    pub host: Arc<str>,
    /// What the local socket was decided as: a workload, else the host's zone.
    pub subject: Arc<str>,
    /// The same where it is a workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Arc<str>>,
    /// Path of the local program; where it could not be seen, the name of its thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Arc<str>>,
    /// Its systemd unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Arc<str>>,
    /// Its user, in the initial user namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Who began it, seen from the host.
    #[serde(with = "named")]
    pub direction: Direction,
    /// The host's own address; `None` where it was not known, and where flows of several are one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<IpAddr>,
    /// The other side.
    pub peer: Peer,
    /// Its zone.
    pub peer_zone: Arc<str>,
    /// As [`FlowRecord::protocol`].
    pub protocol: Cow<'static, str>,
    /// The server's port, host byte order; 0 for protocols without ports, and where flows to several ports are one.
    pub port: u16,
    /// ICMP and ICMPv6: type and code of the first packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<(u8, u8)>,
    /// What the server's port is called.
    pub service: Arc<str>,
    /// `allowed`, `audited` or `denied`.
    #[serde(with = "named")]
    pub verdict: Verdict,
    /// Why.
    #[serde(with = "named")]
    pub reason: Reason,
    /// The rule that allowed it, or would have had it not expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Arc<str>>,
}

/// The other side of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// One address.
    Address(IpAddr),
    /// So many further peers, or ports of peers, which came after too many others in their hour to be kept one by one.
    /// Their number is an estimate.
    Others(u64),
}

/// How often a conversation was seen within an hour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Whose flows these are.
    #[serde(flatten)]
    pub of: Conversation,
    /// When the hour began: RFC 3339, UTC.
    pub hour: Timestamp,
    /// Flows that began, or attempts that were denied.
    pub flows: u64,
    /// IP packets of the flows that ended in this hour.
    pub packets: InOut,
    /// Their IP bytes.
    pub bytes: InOut,
    /// The first record of it.
    #[serde(serialize_with = "microseconds")]
    pub first: Timestamp,
    /// The last one.
    #[serde(serialize_with = "microseconds")]
    pub last: Timestamp,
}

impl Conversation {
    /// Whose flow a record tells of.
    #[must_use]
    pub fn of(record: &FlowRecord) -> Self {
        let (local, peer) = match record.direction {
            Direction::Outbound => (&record.src, &record.dst),
            Direction::Inbound => (&record.dst, &record.src),
        };
        let program = record.process.as_ref().map(program);
        Self {
            host: Arc::clone(&record.host),
            subject: Arc::clone(&record.subject),
            workload: record.workload.clone(),
            process: program.map(|(name, ..)| Arc::clone(name)),
            unit: program.and_then(|(_, unit, _)| unit.cloned()),
            uid: program.map(|(.., uid)| uid),
            direction: record.direction,
            local: Some(local.ip).filter(|ip| !ip.is_unspecified()),
            peer: Peer::Address(peer.ip),
            peer_zone: Arc::clone(&peer.zone),
            protocol: record.protocol.clone(),
            port: record.dst.port,
            icmp: record.icmp_type.zip(record.icmp_code),
            service: Arc::clone(&record.service),
            verdict: record.verdict,
            reason: record.reason,
            rule: record.rule.clone(),
        }
    }

    /// The port as rules name it: of ICMP and ICMPv6 `type << 8 | code`, of others the server's.
    #[must_use]
    pub fn rule_port(&self) -> u16 {
        self.icmp.map_or(self.port, |(kind, code)| u16::from_be_bytes([kind, code]))
    }

    /// Zones of who began it and with whom; of the local side its subject.
    #[must_use]
    pub fn ends(&self) -> (&Arc<str>, &Arc<str>) {
        match self.direction {
            Direction::Outbound => (&self.subject, &self.peer_zone),
            Direction::Inbound => (&self.peer_zone, &self.subject),
        }
    }
}

impl Summary {
    /// What one record says.
    #[must_use]
    pub fn of(record: &FlowRecord) -> Self {
        let Sum { flows, packets, bytes, first, last } = Sum::of_record(record);
        let (of, hour) = (Conversation::of(record), hour_of(record.time));
        Self { of, hour, flows, packets, bytes, first, last }
    }

    /// What records say, in order; neighbours of one conversation and hour in one summary.
    pub(super) fn of_runs(records: &[Arc<FlowRecord>]) -> impl Iterator<Item = Self> {
        records.chunk_by(|one, next| likeness(one) == likeness(next)).filter_map(|run| {
            let (first, rest) = run.split_first()?;
            let mut summary = Self::of(first);
            rest.iter().for_each(|record| summary.add_sum(&Sum::of_record(record)));
            Some(summary)
        })
    }

    /// Adds what was seen of the same conversation, in whichever hour.
    pub fn add(&mut self, other: &Self) {
        self.add_sum(&Sum::of(other));
        self.hour = self.hour.min(other.hour);
    }

    fn add_sum(&mut self, more: &Sum) {
        let mut sum = Sum::of(self);
        sum.add(more);
        let Self { of: _, hour: _, flows, packets, bytes, first, last } = self;
        Sum { flows: *flows, packets: *packets, bytes: *bytes, first: *first, last: *last } = sum;
    }
}

/// How often and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::history) struct Sum {
    pub(in crate::history) flows: u64,
    pub(in crate::history) packets: InOut,
    pub(in crate::history) bytes: InOut,
    pub(in crate::history) first: Timestamp,
    pub(in crate::history) last: Timestamp,
}

impl Sum {
    pub(in crate::history) fn of(summary: &Summary) -> Self {
        let Summary { of: _, hour: _, flows, packets, bytes, first, last } = *summary;
        Self { flows, packets, bytes, first, last }
    }

    fn of_record(record: &FlowRecord) -> Self {
        let (flows, packets, bytes) = share(record.event, record.count, record.packets, record.bytes);
        Self { flows, packets, bytes, first: record.since.unwrap_or(record.time), last: record.time }
    }

    /// Nothing, at the same time.
    pub(in crate::history) fn none(&self) -> Self {
        Self { flows: 0, packets: InOut::NONE, bytes: InOut::NONE, ..*self }
    }

    pub(in crate::history) fn add(&mut self, other: &Self) {
        self.flows = self.flows.saturating_add(other.flows);
        self.packets.add(other.packets);
        self.bytes.add(other.bytes);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

/// What a record adds to its hour: flows, where they begin; packets and bytes, where they end.
pub(super) fn share(event: Kind, count: u64, packets: InOut, bytes: InOut) -> (u64, InOut, InOut) {
    let none = InOut::NONE;
    match event {
        Kind::Open | Kind::Deny => (count, none, none),
        Kind::Close | Kind::Revoke => (0, packets, bytes),
        Kind::Summary => (count, packets, bytes),
    }
}

/// What a conversation keeps of a process: the name of its program, its unit, its user.
fn program(process: &Process) -> (&Arc<str>, Option<&Arc<str>>, u32) {
    (process.exe.as_ref().unwrap_or(&process.comm), process.unit.as_ref(), process.uid)
}

/// What two records of one conversation and hour have in common: without the cost of making either.
fn likeness(of: &FlowRecord) -> impl PartialEq {
    let names = (&of.host, &of.subject, &of.workload, &of.service, &of.rule, &of.protocol);
    let ends = (of.src.ip, &of.src.zone, of.dst.ip, &of.dst.zone, of.dst.port);
    let how = (of.direction, of.verdict, of.reason, of.icmp_type, of.icmp_code);
    (how, ends, names, of.process.as_ref().map(program), of.time.as_second().div_euclid(HOUR))
}

/// The beginning of the hour (UTC) that `time` is in.
#[must_use]
pub fn hour_of(time: Timestamp) -> Timestamp {
    let second = time.as_second();
    Timestamp::from_second(second - second.rem_euclid(HOUR)).unwrap_or(time)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::telemetry::record::tests::{denied, event, record};

    /// A flow to tcp/5432, called postgres, that was allowed by no rule that it names.
    pub(crate) fn conversation(
        direction: Direction,
        (host, subject, local): (&str, &str, &str),
        (peer, peer_zone): (&str, &str),
    ) -> Conversation {
        Conversation {
            host: host.into(),
            subject: subject.into(),
            workload: None,
            process: None,
            unit: None,
            uid: None,
            direction,
            local: Some(local.parse().unwrap()),
            peer: Peer::Address(peer.parse().unwrap()),
            peer_zone: peer_zone.into(),
            protocol: "tcp".into(),
            port: 5432,
            icmp: None,
            service: "postgres".into(),
            verdict: Verdict::Allowed,
            reason: Reason::Rule,
            rule: None,
        }
    }

    #[test]
    fn a_record_counts_where_it_begins_and_weighs_where_it_ends() {
        let open = Summary::of(&record(&event(Kind::Open)));
        assert_eq!((open.flows, open.bytes.sent, open.of.port), (1, 0, 5432));
        let close = Summary::of(&record(&event(Kind::Close)));
        assert_eq!((close.flows, close.bytes.sent), (0, 900));
        assert_eq!(open.of, close.of);
        let refused = Summary::of(&record(&denied()));
        assert_eq!((refused.flows, refused.of.verdict), (3, Verdict::Denied));
        let (from, to) = open.of.ends();
        assert_eq!((&**from, &**to), ("fulfillment", "orders"));
        let mut sum = open;
        sum.add(&close);
        assert_eq!((sum.flows, sum.bytes.sent), (1, 900));
    }

    #[test]
    fn runs_of_records_say_what_each_of_them_says() {
        type Change = fn(&mut FlowRecord);
        let changes: [Change; 20] = [
            |r| r.host = "other".into(),
            |r| r.subject = "other".into(),
            |r| r.workload = Some("other".into()),
            |r| r.service = "other".into(),
            |r| r.rule = None,
            |r| r.protocol = "udp".into(),
            |r| r.src.ip = "192.0.2.1".parse().unwrap(),
            |r| r.dst.ip = "192.0.2.1".parse().unwrap(),
            |r| r.dst.zone = "other".into(),
            |r| r.dst.port = 1,
            |r| r.direction = Direction::Inbound,
            |r| r.verdict = Verdict::Audited,
            |r| r.reason = Reason::Expired,
            |r| (r.icmp_type, r.icmp_code) = (Some(8), Some(0)),
            |r| r.process = None,
            |r| r.process.as_mut().unwrap().exe = Some("/other".into()),
            |r| r.process.as_mut().unwrap().unit = Some("other".into()),
            |r| r.process.as_mut().unwrap().uid += 1,
            |r| r.process.as_mut().unwrap().comm = "other".into(),
            |r| r.time = Timestamp::from_second(r.time.as_second() + HOUR).unwrap(),
        ];
        let mut records = Vec::new();
        for change in changes {
            for kind in [Kind::Open, Kind::Open, Kind::Close] {
                let mut record = record(&event(kind));
                record.src.port = u16::try_from(records.len()).unwrap();
                if kind != Kind::Open || records.len() % 3 == 1 {
                    change(&mut record);
                }
                records.push(Arc::new(record));
            }
        }
        let mut want: Vec<Summary> = Vec::new();
        for one in records.iter().map(|record| Summary::of(record)) {
            match want.last_mut().filter(|last| last.of == one.of && last.hour == one.hour) {
                Some(last) => last.add(&one),
                None => want.push(one),
            }
        }
        assert_eq!(want.len(), 2 * changes.len());
        assert_eq!(Summary::of_runs(&records).collect::<Vec<_>>(), want);
    }

    #[test]
    fn hours_begin_at_the_hour() {
        let time = |t: &str| t.parse::<Timestamp>().unwrap();
        assert_eq!(hour_of(time("2026-11-22T18:59:59.9Z")), time("2026-11-22T18:00:00Z"));
        assert_eq!(hour_of(time("2026-11-22T18:00:00Z")), time("2026-11-22T18:00:00Z"));
        assert_eq!(hour_of(time("1969-12-31T23:59:59Z")), time("1969-12-31T23:00:00Z"));
    }

    #[test]
    fn a_summary_survives_json() {
        let summary = Summary::of(&record(&event(Kind::Open)));
        let text = serde_json::to_string(&summary).unwrap();
        assert!(text.contains(r#""peer":{"address":"10.30.0.5"}"#), "{text}");
        assert_eq!(serde_json::from_str::<Summary>(&text).unwrap(), summary);
    }
}
