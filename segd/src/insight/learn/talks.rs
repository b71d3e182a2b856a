//! Conversations over all hours, as the hosts that recorded them decide them under a policy.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use segd_common::traffic::{Direction, Reason, Verdict, protocol};

use crate::history::{Conversation, Peer, Summary};
use crate::insight::replay::{Decider, Undecided};
use crate::policy::ports::PortSpec;
use crate::telemetry::protocol as protocols;
use crate::telemetry::text::printable;

/// What one host recorded of one subject with one peer on one port, in all hours.
#[derive(Debug)]
pub(super) struct Talk<'a> {
    /// One of the conversations; all of them are decided alike.
    pub(super) of: &'a Conversation,
    /// Numbers of the summaries.
    pub(super) parts: Vec<usize>,
    /// What a rule would have to allow; none: no rule can.
    pub(super) spec: Option<PortSpec>,
    /// Whether it was denied when it was seen.
    pub(super) denied: bool,
    /// Flows by the beginning of their hour, in seconds since the Unix epoch.
    pub(super) hours: BTreeMap<i64, u64>,
    pub(super) flows: u64,
    /// Packets of the flows that ended.
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) bytes: u64,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    /// Programs at the host, with their units.
    pub(super) programs: BTreeSet<String>,
    /// Under the policy at hand.
    pub(super) decided: Decided,
}

/// What a host decides.
#[derive(Clone, Debug)]
pub(super) enum Decided {
    /// A rule or something built in allows it.
    Allowed(Ends),
    /// Nothing does.
    Needed(Ends),
    /// It cannot be said.
    Unknown(String),
}

/// What a host decides about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    /// Zone or workload of the local socket.
    pub(super) subject: Arc<str>,
    /// Zone of the other side.
    pub(super) peer: Arc<str>,
}

/// Both addresses and the port: the same at either end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Link {
    pub(super) client: IpAddr,
    pub(super) server: IpAddr,
    pub(super) spec: PortSpec,
}

/// What tells talks apart, beside what is decided.
type Key<'a> =
    (&'a str, Direction, Option<IpAddr>, Peer, Option<PortSpec>, (&'a str, Reason), bool, Arc<str>);

/// What decides of a conversation.
pub(super) fn decide(decider: &Decider<'_>, of: &Conversation) -> Decided {
    match decider.decide(of) {
        Ok(replayed) => {
            if replayed.reason == Reason::WorkloadExpired {
                return Decided::Unknown(format!("workload `{}` has expired", replayed.subject));
            }
            let ends = Ends { subject: replayed.subject, peer: replayed.peer_zone };
            if replayed.verdict == Verdict::Allowed { Decided::Allowed(ends) } else { Decided::Needed(ends) }
        }
        Err(Undecided::SeveralPorts) => {
            Decided::Unknown("several ports were recorded as one, and they are not all decided alike".into())
        }
        Err(why) => Decided::Unknown(why.to_string()),
    }
}

/// Sums up what was seen.
pub(super) fn talks<'a>(observed: &'a [Summary], decider: &Decider<'_>) -> Vec<Talk<'a>> {
    let mut found: HashMap<Key<'a>, Talk<'a>> = HashMap::new();
    for (part, summary) in observed.iter().enumerate() {
        let of = &summary.of;
        let decided = decide(decider, of);
        let subject = decided.ends().map_or(&of.subject, |ends| &ends.subject);
        let (spec, denied) = (spec(of), of.verdict == Verdict::Denied);
        let kind = match of.reason {
            _ if is_about_sockets(of) => Reason::SocketType,
            Reason::Fragment | Reason::Malformed => Reason::Fragment,
            _ => Reason::Rule,
        };
        let kind = (&*of.protocol, kind);
        let key = (&*of.host, of.direction, of.local, peer(of), spec, kind, denied, Arc::clone(subject));
        found.entry(key).or_insert_with(|| Talk::new(summary, spec, denied, decided)).add(part, summary);
    }
    join_locals(&mut found);
    let mut talks: Vec<Talk<'_>> = found.into_values().collect();
    talks.sort_unstable_by(|a, b| (a.of, &a.parts).cmp(&(b.of, &b.parts)));
    talks
}

/// A client may not know its own address when its flow begins, nor in an hour in which none ends: what was seen of the
/// same peer with an address is the same talk.
fn join_locals<'a>(found: &mut HashMap<Key<'a>, Talk<'a>>) {
    let mut known: HashMap<Key<'a>, IpAddr> = HashMap::new();
    for key in found.keys() {
        let (host, direction, Some(local), peer, spec, kind, denied, subject) = key else { continue };
        let without = (*host, *direction, None, *peer, *spec, *kind, *denied, Arc::clone(subject));
        if found.contains_key(&without) {
            known.entry(without).and_modify(|first| *first = (*first).min(*local)).or_insert(*local);
        }
    }
    for (without, local) in known {
        let Some(begun) = found.remove(&without) else { continue };
        let (host, direction, _, peer, spec, kind, denied, subject) = without;
        if let Some(talk) = found.get_mut(&(host, direction, Some(local), peer, spec, kind, denied, subject))
        {
            talk.absorb(begun);
        }
    }
}

/// Numbers of further peers are estimates: they are no identity.
fn peer(of: &Conversation) -> Peer {
    match of.peer {
        Peer::Address(ip) => Peer::Address(ip.to_canonical()),
        Peer::Others(_) => Peer::Others(0),
    }
}

/// Whether the making of a socket was decided, for which there is no peer yet.
fn is_about_sockets(of: &Conversation) -> bool {
    of.reason == Reason::SocketType || protocols::number(&of.protocol) == Some(protocol::RAW)
}

/// The narrowest words of a zone file for a conversation's port.
fn spec(of: &Conversation) -> Option<PortSpec> {
    let number = protocols::number(&of.protocol)?;
    if matches!(of.reason, Reason::Fragment | Reason::Malformed) {
        return None;
    }
    if is_about_sockets(of) {
        // Those that have ports are not decided when they are made.
        let by_packets = matches!(number, protocol::TCP | protocol::UDP);
        return (!by_packets).then_some(PortSpec::whole(number));
    }
    match number {
        protocol::TCP | protocol::UDP => {
            (of.port != 0).then_some(PortSpec { protocol: number, first: of.port, last: of.port })
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let first = u16::from(of.icmp?.0) << 8;
            Some(PortSpec { protocol: number, first, last: first | 0xff })
        }
        _ => Some(PortSpec::whole(number)),
    }
}

impl<'a> Talk<'a> {
    fn new(summary: &'a Summary, spec: Option<PortSpec>, denied: bool, decided: Decided) -> Self {
        Self {
            of: &summary.of,
            parts: Vec::new(),
            spec,
            denied,
            hours: BTreeMap::new(),
            flows: 0,
            received: 0,
            sent: 0,
            bytes: 0,
            first: summary.first,
            last: summary.last,
            programs: BTreeSet::new(),
            decided,
        }
    }

    fn add(&mut self, part: usize, summary: &Summary) {
        self.parts.push(part);
        let hour = self.hours.entry(summary.hour.as_second()).or_default();
        *hour = hour.saturating_add(summary.flows);
        self.flows = self.flows.saturating_add(summary.flows);
        self.received = self.received.saturating_add(summary.packets.received);
        self.sent = self.sent.saturating_add(summary.packets.sent);
        self.bytes = self.bytes.saturating_add(summary.bytes.received).saturating_add(summary.bytes.sent);
        self.first = self.first.min(summary.first);
        self.last = self.last.max(summary.last);
        self.programs.extend(program(&summary.of));
    }

    fn absorb(&mut self, other: Self) {
        let Self { parts, hours, flows, received, sent, bytes, first, last, programs, .. } = other;
        self.parts.extend(parts);
        self.parts.sort_unstable();
        for (hour, flows) in hours {
            let all = self.hours.entry(hour).or_default();
            *all = all.saturating_add(flows);
        }
        self.flows = self.flows.saturating_add(flows);
        self.received = self.received.saturating_add(received);
        self.sent = self.sent.saturating_add(sent);
        self.bytes = self.bytes.saturating_add(bytes);
        (self.first, self.last) = (self.first.min(first), self.last.max(last));
        self.programs.extend(programs);
    }

    /// The address of the other side; none where there are many, or none yet.
    pub(super) fn peer(&self) -> Option<IpAddr> {
        match peer(self.of) {
            Peer::Address(ip) if !self.is_about_sockets() => Some(ip),
            _ => None,
        }
    }

    pub(super) fn is_about_sockets(&self) -> bool {
        is_about_sockets(self.of)
    }

    /// What the same traffic is called at the other end.
    pub(super) fn link(&self) -> Option<Link> {
        let (local, peer) = (self.of.local?.to_canonical(), self.peer()?);
        let (client, server) = match self.of.direction {
            Direction::Outbound => (local, peer),
            Direction::Inbound => (peer, local),
        };
        Some(Link { client, server, spec: self.spec? })
    }

    /// Whether its flows were open when it was recorded last, as far as can be said.
    pub(super) fn is_open(&self) -> bool {
        self.received == 0 && self.sent == 0 && !self.denied
    }

    /// What is decided, if that can be said.
    pub(super) fn ends(&self) -> Option<&Ends> {
        self.decided.ends()
    }

    /// Whether a rule is missing for it.
    pub(super) fn is_needed(&self) -> bool {
        matches!(self.decided, Decided::Needed(_))
    }
}

impl Decided {
    fn ends(&self) -> Option<&Ends> {
        match self {
            Self::Allowed(ends) | Self::Needed(ends) => Some(ends),
            Self::Unknown(_) => None,
        }
    }
}

/// `/usr/bin/psql [wms.service]`.
fn program(of: &Conversation) -> Option<String> {
    let text = match (&of.process, &of.unit) {
        (Some(process), Some(unit)) => format!("{process} [{unit}]"),
        (Some(process), None) => process.to_string(),
        (None, Some(unit)) => format!("[{unit}]"),
        (None, None) => return None,
    };
    Some(printable(&text))
}
