//! A flow record: one turn of one flow, as it is logged, streamed and kept.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use jiff::Timestamp;
use segd_common::event::{Event, Kind};
use segd_common::flow::Flow;
use segd_common::id::{RuleId, SubjectId};
use segd_common::socket::Owner;
use segd_common::traffic::{Direction, Reason, Verdict, protocol};
use serde::{Deserialize, Serialize, Serializer};

use crate::policy::ids::Registry;

use super::clock::BootClock;
use super::process::ProcessLookup;
use super::{named, protocol as protocols, text};

/// Version of a record's fields and their meaning. A new optional field does not change it.
pub const SCHEMA: u32 = 1;

/// One turn of a flow. As JSON: one object on one line, its keys in the order of the fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When it happened: RFC 3339, UTC, microseconds.
    #[serde(serialize_with = "microseconds")]
    pub time: Timestamp,
    /// Name of the host that recorded it.
    pub host: Arc<str>,
    /// The host's labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// When the first flow of it began or ended, as `time` is when the last one did. `summary` only.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "optional_microseconds")]
    pub since: Option<Timestamp>,
    /// `open`, `close`, `deny`, `revoke` or `summary`.
    #[serde(with = "named")]
    pub event: Kind,
    /// `allowed`, `audited` or `denied`.
    #[serde(with = "named")]
    pub verdict: Verdict,
    /// Why.
    #[serde(with = "named")]
    pub reason: Reason,
    /// Who began the flow, seen from this host.
    #[serde(with = "named")]
    pub direction: Direction,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, `udplite`, `raw`, else the IP protocol number.
    pub protocol: Cow<'static, str>,
    /// Who began the flow.
    pub src: Endpoint,
    /// With whom.
    pub dst: Endpoint,
    /// Type of the first packet. ICMP and ICMPv6 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// Code of the first packet. ICMP and ICMPv6 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// What the server's port is called; `other` when no service names it.
    pub service: Arc<str>,
    /// The rule that allowed it, or would have had it not expired.
    pub rule: Option<Arc<str>>,
    /// That rule's owner.
    pub rule_owner: Option<Arc<str>>,
    /// The policy generation that decided.
    pub generation: u32,
    /// What the local socket was decided as.
    pub subject: Arc<str>,
    /// The local workload.
    pub workload: Option<Arc<str>>,
    /// Who made the local socket; of one older than the agent, who had it open. `null` where that is not known, and where
    /// `count` is more than 1.
    pub process: Option<Process>,
    /// Denials that this record stands for; flows of a `summary` that began; else 1.
    pub count: u64,
    /// IP packets so far, seen from this host; those of a `summary` are of the flows that ended.
    pub packets: InOut,
    /// IP bytes so far, seen from this host; those of a `summary` are of the flows that ended.
    pub bytes: InOut,
    /// From the decision to the end. `close` and `revoke` only.
    pub duration_ms: Option<u64>,
    /// Smoothed round-trip time. `close` of a TCP flow only.
    pub rtt_us: Option<u32>,
    /// Segments sent again. `close` of a TCP flow only.
    pub retransmits: Option<u32>,
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address; the unspecified one for a local socket that has none yet.
    pub ip: IpAddr,
    /// Its port; 0 for protocols without ports, and for the client of a `summary`.
    pub port: u16,
    /// Its zone. For the local end: the subject.
    pub zone: Arc<str>,
}

/// The maker of a socket; for an accepted one, of its listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// In the initial pid namespace; 0 in a `summary` of flows of several processes.
    pub pid: u32,
    /// Name of the thread. The process chooses it: never decide by it.
    pub comm: Arc<str>,
    /// Path of its program, if it could still be seen.
    pub exe: Option<Arc<str>>,
    /// The systemd unit of the socket's cgroup, if it could be found.
    pub unit: Option<Arc<str>>,
    /// In the initial user namespace.
    pub uid: u32,
}

/// Received and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InOut {
    /// Received by this host.
    #[serde(rename = "in")]
    pub received: u64,
    /// Sent by this host.
    #[serde(rename = "out")]
    pub sent: u64,
}

impl InOut {
    /// Nothing in, nothing out.
    pub const NONE: Self = Self { received: 0, sent: 0 };

    /// Adds more of both; stays at the largest number.
    pub fn add(&mut self, more: Self) {
        self.received = self.received.saturating_add(more.received);
        self.sent = self.sent.saturating_add(more.sent);
    }
}

/// The names that an event's numbers stand for. Replaced as a whole when a policy is loaded.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Name of this host.
    pub host: Arc<str>,
    /// Its labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// Names of zones, services and rules.
    pub registry: Arc<Registry>,
    /// Owners of the rules that have one.
    pub rule_owners: HashMap<RuleId, Arc<str>>,
    /// Subjects that are workloads.
    pub workloads: HashSet<SubjectId>,
}

/// An event that this version of segd cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel sent an event whose {what} is {byte}, which this version of segd does not know")]
pub struct UnknownByte {
    what: &'static str,
    byte: u8,
}

impl FlowRecord {
    /// What `event` says, in names.
    ///
    /// # Errors
    /// One of the event's bytes has no meaning.
    pub fn from_event(
        event: &Event,
        context: &Context,
        clock: BootClock,
        processes: &dyn ProcessLookup,
    ) -> Result<Self, UnknownByte> {
        let flow = &event.flow;
        let kind = Kind::from_byte(event.kind).ok_or(UnknownByte { what: "kind", byte: event.kind })?;
        let verdict =
            Verdict::from_byte(flow.verdict).ok_or(UnknownByte { what: "verdict", byte: flow.verdict })?;
        let reason =
            Reason::from_byte(flow.reason).ok_or(UnknownByte { what: "reason", byte: flow.reason })?;
        let direction = Direction::from_byte(flow.direction)
            .ok_or(UnknownByte { what: "direction", byte: flow.direction })?;
        let subject = context.registry.subject_name(flow.subject);
        let (src, dst) = endpoints(flow, direction, &subject, &context.registry);
        let icmp = icmp_type_and_code(flow);
        let ended = matches!(kind, Kind::Close | Kind::Revoke);
        let is_workload = context.workloads.contains(&flow.subject);
        let measured = kind == Kind::Close && flow.protocol == protocol::TCP;
        Ok(Self {
            schema: SCHEMA,
            time: clock.wall(event.time),
            since: None,
            host: Arc::clone(&context.host),
            labels: Arc::clone(&context.labels),
            event: kind,
            verdict,
            reason,
            direction,
            protocol: protocols::name(flow.protocol),
            src,
            dst,
            icmp_type: icmp.map(|[kind, _]| kind),
            icmp_code: icmp.map(|[_, code]| code),
            service: context.registry.service_name(flow.service),
            rule: context.registry.rule_name(flow.rule),
            rule_owner: context.rule_owners.get(&flow.rule).cloned(),
            generation: flow.generation.0,
            workload: is_workload.then(|| Arc::clone(&subject)),
            subject,
            // Joined denials may be of several processes; which one was last says nothing of the others.
            process: if event.count > 1 { None } else { Process::of(&event.owner, processes) },
            count: event.count,
            packets: InOut { received: flow.packets_in, sent: flow.packets_out },
            bytes: InOut { received: flow.bytes_in, sent: flow.bytes_out },
            duration_ms: ended.then(|| event.time.saturating_sub(flow.started) / 1_000_000),
            rtt_us: (measured && event.rtt_us != 0).then_some(event.rtt_us),
            retransmits: measured.then_some(event.retransmits),
        })
    }
}

fn endpoints(
    flow: &Flow,
    direction: Direction,
    subject: &Arc<str>,
    registry: &Registry,
) -> (Endpoint, Endpoint) {
    let port = |port| if protocols::is_icmp(flow.protocol) { 0 } else { port };
    let local = Endpoint { ip: local_ip(flow), port: port(flow.local_port), zone: Arc::clone(subject) };
    let peer =
        Endpoint { ip: flow.peer.into(), port: port(flow.peer_port), zone: registry.zone_name(flow.zone) };
    match direction {
        Direction::Outbound => (local, peer),
        Direction::Inbound => (peer, local),
    }
}

/// The local address; while it is not known, the unspecified one of the peer's family.
fn local_ip(flow: &Flow) -> IpAddr {
    let peer = IpAddr::from(flow.peer);
    match IpAddr::from(flow.local) {
        IpAddr::V6(ip) if ip.is_unspecified() && peer.is_ipv4() => Ipv4Addr::UNSPECIFIED.into(),
        ip => ip,
    }
}

/// The kernel keeps them in one of the two ports; the other one is 0.
fn icmp_type_and_code(flow: &Flow) -> Option<[u8; 2]> {
    protocols::is_icmp(flow.protocol).then(|| flow.local_port.max(flow.peer_port).to_be_bytes())
}

impl Process {
    pub(super) fn of(owner: &Owner, processes: &dyn ProcessLookup) -> Option<Self> {
        if owner.pid == 0 {
            return None;
        }
        let found = processes.look_up(owner);
        Some(Self {
            pid: owner.pid,
            comm: text::from_padded(&owner.comm),
            exe: found.exe,
            unit: found.unit,
            uid: owner.uid,
        })
    }
}

/// RFC 3339, UTC, microseconds.
pub(crate) fn microseconds<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{time:.6}"))
}

fn optional_microseconds<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => microseconds(time, to),
        None => to.serialize_none(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
