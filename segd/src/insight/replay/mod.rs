//! What the hosts that recorded flows would decide of them under zone files of any directory, by the code that decides
//! in the kernel.
//!
//! A host that records a flow knows its own side best: a workload by its unit or user, its zone by its addresses. So
//! each conversation is decided as its own host would; of the other end only its address counts. The modes are those of
//! the zone files (and, at this very host, what people set at run time); what would pass only for being in monitor
//! mode is told apart, so that one replay answers for both: the files as they are, and the same files enforced
//! everywhere.

mod hosts;
mod remembered;
mod subjects;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use segd_common::addr::Addr;
use segd_common::decide::{self, Decision, Facts, decide_in_zone, decide_socket, decide_unreadable};
use segd_common::id::{SubjectId, ZoneId};
use segd_common::table::{PeerZone, Subject};
use segd_common::traffic::{Reason, Verdict, protocol};

use crate::history::{Conversation, Peer, Summary};
use crate::policy::builtin::PEER_ZONES;
use crate::policy::ends::Ends;
use crate::policy::model::{Exception, Override};
use crate::policy::ports::PortSpec;
use crate::policy::resolved::NO_NAMES;
use crate::policy::workload::Local;
use crate::policy::{CompileError, Failsafe, Policy, Resolved, Situation};
use crate::telemetry::protocol as protocols;
use hosts::Groups;

pub use hosts::{Placed, Placement};
pub(crate) use remembered::remembered;

/// What holds beside the zone files.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// What no policy can cut.
    pub failsafes: &'a [Failsafe],
    /// What the names in zones stand for.
    pub names: &'a Resolved,
    /// Zones that hosts are said to be in, by host name; for others it is found out.
    pub zones: &'a BTreeMap<String, String>,
    /// What is known of the very host that asks, if it is one of those that recorded.
    pub own: Option<OwnHost<'a>>,
    /// The instant that is decided at: what expires by then allows nothing.
    pub now: Timestamp,
}

/// What only a host itself knows.
#[derive(Clone, Copy, Debug)]
pub struct OwnHost<'a> {
    /// Its name in flow records.
    pub name: &'a str,
    /// The uid of each user that a workload names.
    pub users: &'a BTreeMap<String, u32>,
    /// Modes set at run time.
    pub overrides: &'a [Override],
    /// Rules added at run time.
    pub exceptions: &'a [Exception],
}

static NO_ZONES: BTreeMap<String, String> = BTreeMap::new();

impl<'a> Around<'a> {
    /// Nothing but the zone files and failsafes.
    #[must_use]
    pub fn of_files(failsafes: &'a [Failsafe], now: Timestamp) -> Self {
        Self { failsafes, names: &NO_NAMES, zones: &NO_ZONES, own: None, now }
    }
}

/// What would be decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// By the zone files as they are, in the modes that they set.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The rule that allows it, or that would have had it not expired.
    pub rule: Option<Arc<str>>,
    /// What the local socket would be decided as.
    pub subject: Arc<str>,
    /// The peer's zone.
    pub peer_zone: Arc<str>,
    /// What the server's port would be called.
    pub service: Arc<str>,
    /// Whether the peer's address was not known: then its zone's name stands for it, and entries for some addresses
    /// only (failsafes with CIDRs, canaries with peers) are left out.
    pub by_zone: bool,
}

impl Replayed {
    /// What would be decided were everything in enforce mode.
    #[must_use]
    pub fn enforced(&self) -> Verdict {
        match self.verdict {
            Verdict::Audited => Verdict::Denied,
            verdict => verdict,
        }
    }
}

/// Why it cannot be said what would be decided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Undecided {
    /// The host's agent would refuse to enforce.
    #[error(
        "the zone of host `{host}` is not known: {why}; say it with --host-zone, or put its address into the `cidrs` of one zone"
    )]
    HostZone {
        /// Its name.
        host: Arc<str>,
        /// What is known.
        why: String,
    },
    /// Flows to several ports were summed up as one, and the policy tells them apart.
    #[error("flows to several ports were recorded as one, and the zone files do not decide them all alike")]
    SeveralPorts,
    /// Of the peers only the zone was recorded, and it is gone.
    #[error("too many peers in zone `{0}` to record their addresses, and the zone files do not define it")]
    ZoneGone(Arc<str>),
    /// The record is not of this version of segd.
    #[error("`{0}` is no protocol that segd knows")]
    Protocol(String),
}

/// Decides under one policy.
#[derive(Debug)]
pub struct Decider<'a> {
    policy: &'a Policy,
    around: Around<'a>,
    groups: Groups<'a>,
    hosts: HashMap<Arc<str>, Placement>,
    units: subjects::Units,
    zones: HashMap<&'a str, ZoneId>,
    /// What a workload is decided as, by its name.
    workloads: HashMap<&'a str, Subject>,
    /// Ports that stand for all ports of a protocol.
    samples: BTreeMap<u8, Vec<u16>>,
}

/// Protocols whose sockets are decided when they are made, and whose packets are too.
const DECIDED_TWICE: [u8; 2] = [protocol::SCTP, protocol::UDPLITE];
/// Protocols for which the port, or type and code, counts.
const WITH_PORTS: [u8; 4] = [protocol::TCP, protocol::UDP, protocol::ICMP, protocol::ICMPV6];

impl<'a> Decider<'a> {
    /// For the hosts that recorded these.
    ///
    /// # Errors
    /// The tables cannot be made.
    pub fn new(policy: &'a Policy, around: Around<'a>, observed: &[Summary]) -> Result<Self, CompileError> {
        let mut groups = Groups::new(policy, around);
        let hosts = hosts::place(&mut groups, hosts::sightings(observed))?;
        let mut zones = HashMap::new();
        for name in policy.zones.keys().map(String::as_str).chain(PEER_ZONES) {
            zones.insert(name, groups.registry.zone(name)?);
        }
        let mut workloads = HashMap::new();
        for name in policy.workloads.keys() {
            let id = SubjectId::from(groups.registry.zone(name)?);
            let expires = Local::of(policy, name).map_or(0, |local| local.expires());
            workloads.insert(name.as_str(), Subject { expires, ..Subject::lasting(id) });
        }
        let (overrides, exceptions) = around.own.map_or((&[][..], &[][..]), |o| (o.overrides, o.exceptions));
        let at = Situation { overrides, exceptions, ..Situation::of_files(around.failsafes, around.now) };
        let ends = Ends::new(policy, at);
        let samples = WITH_PORTS.map(|number| {
            let first = u16::from(!protocols::is_icmp(number));
            (number, ends.samples(&PortSpec { protocol: number, first, last: u16::MAX }))
        });
        let units = subjects::Units::of(policy);
        Ok(Self { policy, around, groups, hosts, units, zones, workloads, samples: samples.into() })
    }

    /// Where each host is under the policy, by name.
    #[must_use]
    pub fn hosts(&self) -> BTreeMap<&str, &Placement> {
        self.hosts.iter().map(|(name, placement)| (&**name, placement)).collect()
    }

    /// What the host that recorded a conversation would decide of it.
    ///
    /// # Errors
    /// It cannot be said.
    pub fn decide(&self, of: &Conversation) -> Result<Replayed, Undecided> {
        let unplaced = |why: &str| Undecided::HostZone { host: Arc::clone(&of.host), why: why.to_owned() };
        let placement = self.hosts.get(&of.host).ok_or_else(|| unplaced("it recorded nothing"))?;
        let group = placement.group.as_ref().map_err(|why| unplaced(why))?;
        let tables = self.groups.tables(*group).ok_or_else(|| unplaced("it recorded nothing"))?;
        let subject = self.subject(of).and_then(|name| self.workloads.get(name)).copied();
        let subject = subject.unwrap_or(Subject::lasting(tables.compiled().host));
        let number =
            protocols::number(&of.protocol).ok_or_else(|| Undecided::Protocol(of.protocol.to_string()))?;
        let (peer, by_zone) = self.peer(of)?;
        let replayed = |decision: &Decision| Replayed {
            verdict: decision.verdict,
            reason: decision.reason,
            rule: self.groups.registry.rule_name(decision.rule),
            subject: self.groups.registry.subject_name(subject.id),
            peer_zone: self.groups.registry.zone_name(decision.zone),
            service: self.groups.registry.service_name(decision.service),
            by_zone,
        };
        if number == protocol::RAW || of.reason == Reason::SocketType {
            return Ok(replayed(&decide_socket(tables, subject, number)));
        }
        if matches!(of.reason, Reason::Fragment | Reason::Malformed) {
            let known = Some(&peer).filter(|peer| **peer != Addr::UNSPECIFIED && !by_zone);
            return Ok(replayed(&decide_unreadable(tables, subject, of.direction, known, of.reason)));
        }
        let zone = match of.peer {
            Peer::Others(_) => self
                .zones
                .get(&*of.peer_zone)
                .map_or(PeerZone::plain(ZoneId::UNKNOWN), |id| PeerZone::plain(*id)),
            // A host that talks to its own address does so over the loopback device.
            Peer::Address(ip) if of.local == Some(ip) => PeerZone::plain(ZoneId::LOOPBACK),
            Peer::Address(_) => decide::zone_of(tables, &peer),
        };
        let at = |port| {
            let facts = Facts { subject, direction: of.direction, protocol: number, peer, port };
            decide_in_zone(tables, &facts, zone)
        };
        let decision = match self.ports(number, of) {
            Ok(port) => at(port),
            Err(samples) => {
                let all: Vec<Decision> = samples.iter().map(|port| at(*port)).collect();
                let first = all.first().copied().ok_or(Undecided::SeveralPorts)?;
                let alike = |d: &Decision| (d.verdict, d.rule) == (first.verdict, first.rule);
                if !all.iter().all(alike) {
                    return Err(Undecided::SeveralPorts);
                }
                first
            }
        };
        let made = DECIDED_TWICE.contains(&number).then(|| decide_socket(tables, subject, number));
        let worse = made.filter(|made| made.verdict > decision.verdict && zone.zone != ZoneId::LOOPBACK);
        Ok(replayed(&Decision { zone: decision.zone, ..worse.unwrap_or(decision) }))
    }

    /// The workload that a conversation's socket would be decided as.
    fn subject(&self, of: &Conversation) -> Option<&'a str> {
        let users = self.around.own.filter(|own| *own.name == *of.host).map(|own| own.users);
        self.units.subject(self.policy, of, users)
    }

    /// The peer's address, or in its place none and that there is none.
    fn peer(&self, of: &Conversation) -> Result<(Addr, bool), Undecided> {
        match of.peer {
            Peer::Address(ip) => Ok((Addr::from(ip.to_canonical()), false)),
            Peer::Others(_) if self.zones.contains_key(&*of.peer_zone) => Ok((Addr::UNSPECIFIED, true)),
            Peer::Others(_) => Err(Undecided::ZoneGone(Arc::clone(&of.peer_zone))),
        }
    }

    /// The port as in [`Facts`], or those that stand for all where several were recorded as one.
    fn ports(&self, number: u8, of: &Conversation) -> Result<u16, &[u16]> {
        let known = match (of.icmp, of.port) {
            (Some((kind, code)), _) if protocols::is_icmp(number) => Some(u16::from_be_bytes([kind, code])),
            (_, port) if port != 0 && WITH_PORTS.contains(&number) => Some(port),
            _ => None,
        };
        match (known, self.samples.get(&number)) {
            (None, Some(samples)) => Err(samples),
            (port, _) => Ok(port.unwrap_or(0)),
        }
    }
}

#[cfg(test)]
mod tests;
