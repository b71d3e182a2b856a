//! A policy in names into the tables of one host, in numbers.

mod addresses;
pub(crate) mod grants;
mod modes;
pub(crate) mod prefixes;
mod rules;
mod services;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use segd_common::id::{SubjectId, ZoneId};
use segd_common::table::{PeerZone, Subject};
use segd_common::traffic::{Direction, Mode};

use super::compiled::Compiled;
use super::failsafe::{self, Failsafe, TooManyPorts};
use super::ids::{BUILT_IN_ZONES, Full, OTHER_SERVICE, Registry};
use super::model::{Exception, Override, Policy};
use super::resolved::{NO_NAMES, Resolved};
use super::workload::Local;
use grants::{Origin, grants};

pub(crate) use addresses::Peer;
pub(crate) use modes::{Modes, PassedOver, Setter};
pub(crate) use services::name_of;

/// The host that a policy is compiled for, and what holds there beside the policy.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// Its zone.
    pub zone: &'a str,
    /// Its own addresses, all of them: what it sends to one of these is loopback.
    pub addresses: &'a [IpAddr],
    /// What it is called, for canaries.
    pub name: &'a str,
    /// What the names in zones stand for.
    pub names: &'a Resolved,
    /// The uid of each user that a workload names; one that is not here selects nothing.
    pub users: &'a BTreeMap<String, u32>,
    /// Rules that people added at run time.
    pub exceptions: &'a [Exception],
    /// Whether live flows go on that the policy denies.
    pub keep_revoked: bool,
}

static NO_USERS: BTreeMap<String, u32> = BTreeMap::new();

impl<'a> Host<'a> {
    /// A host without a name, of which no name or user is looked up and nobody made an exception.
    #[must_use]
    pub fn in_zone(zone: &'a str, addresses: &'a [IpAddr]) -> Self {
        let (names, users) = (&NO_NAMES, &NO_USERS);
        Self { zone, addresses, name: "", names, users, exceptions: &[], keep_revoked: false }
    }
}

/// Why there are no tables.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CompileError {
    /// The policy does not define the host's zone.
    #[error("the host zone `{0}` is not defined in the zone files")]
    UnknownZone(String),
    /// Out of numbers.
    #[error(transparent)]
    Full(#[from] Full),
    /// Out of numbers for the peers of canaries.
    #[error(
        "the `peers` of canaries cut the zones into more parts than there are numbers for; use fewer of them"
    )]
    Cohorts,
    /// Out of failsafe entries.
    #[error(transparent)]
    Failsafes(#[from] TooManyPorts),
}

/// Makes the tables. Names that are new get numbers from `registry`.
pub fn compile(
    policy: &Policy,
    host: Host<'_>,
    overrides: &[Override],
    failsafes: &[Failsafe],
    registry: &mut Registry,
) -> Result<Compiled, CompileError> {
    let subjects = subjects(policy, host, overrides)?;
    let mut zone_ids = BTreeMap::new();
    for name in policy.zones.keys().map(String::as_str).chain(BUILT_IN_ZONES.map(|(name, _)| name)) {
        zone_ids.insert(name, registry.zone(name)?);
    }
    for name in policy.workloads.keys() {
        registry.zone(name)?;
    }
    let mut service_ids = BTreeMap::new();
    for name in policy.services.keys() {
        service_ids.insert(name.as_str(), registry.service(name)?);
    }
    let mut grants = grants(policy, host.exceptions);
    for grant in &mut grants {
        grant.number = match grant.origin {
            Origin::Rule(n) => registry.rule(policy.rules.get(n).map_or("", |r| &r.id))?,
            Origin::Exception(exception) => registry.rule(&exception.rule())?,
        };
    }

    let mut out = Compiled {
        host: SubjectId::from(registry.zone(host.zone)?),
        keep_revoked: host.keep_revoked,
        services: services::entries(policy, |name| service_ids.get(name).copied().unwrap_or_default()),
        failsafes: failsafe::keys(failsafes)?,
        ..Compiled::default()
    };
    let parts = addresses::parts(policy, host.names, &cohorts(&subjects));
    let zone_of = |peer: &Peer<'_>| zone_ids.get(peer.zone).copied().unwrap_or_default();
    let peers = numbered(addresses::peers(policy, &parts), zone_of, registry.last_subject())?;
    addresses::fill(&mut out, &parts, host.addresses, |peer| {
        let zone = zone_of(peer);
        PeerZone { zone, group: peers.get(peer).copied().unwrap_or(zone) }
    });

    let mut entries = rules::Entries::new();
    for (local, modes) in subjects {
        let id = SubjectId::from(registry.zone(local.name)?);
        rules::Subject { policy, local, id, modes, grants: &grants }.entries(&peers, &mut entries);
        if let Some(workload) = policy.workloads.get(local.name) {
            let subject = Subject { expires: local.expires(), ..Subject::lasting(id) };
            workloads::select(&mut out, &workload.selector, subject, host.users);
        }
    }
    out.policy = entries.into_iter().map(|((len, key), entry)| (len, key, entry)).collect();
    out.users.sort_unstable();
    Ok(out)
}

/// Numbers for peers: a zone has its own, and the parts of zones that are in cohorts have those that no zone has,
/// downwards from the highest. They mean something within these tables only.
fn numbered<'a>(
    peers: BTreeSet<Peer<'a>>,
    zone_of: impl Fn(&Peer<'_>) -> ZoneId,
    taken: u16,
) -> Result<BTreeMap<Peer<'a>, ZoneId>, CompileError> {
    let mut free = (taken.max(ZoneId::FIRST - 1) + 1..ZoneId::ANY.0).rev();
    let number = |peer: Peer<'a>| {
        let id = if peer.cohorts.is_empty() { Some(zone_of(&peer)) } else { free.next().map(ZoneId) };
        id.map(|id| (peer, id)).ok_or(CompileError::Cohorts)
    };
    peers.into_iter().map(number).collect()
}

/// The peers of all canaries that hold for some subject here.
fn cohorts<'a>(subjects: &[(Local<'a>, Modes<'a>)]) -> Vec<addresses::Cohort<'a>> {
    let all: BTreeMap<usize, &[IpNet]> = subjects.iter().flat_map(|(_, modes)| modes.cohorts()).collect();
    all.into_iter().collect()
}

/// What the sockets of a host are decided as, with the modes of each: its zone, then every workload, whichever zone it
/// belongs to. One that is meant for the hosts of another zone would have more rights here as the host than as itself.
fn subjects<'a>(
    policy: &'a Policy,
    host: Host<'_>,
    overrides: &'a [Override],
) -> Result<Vec<(Local<'a>, Modes<'a>)>, CompileError> {
    let unknown = || CompileError::UnknownZone(host.zone.to_owned());
    let own = Local::of(policy, host.zone).filter(|own| own.name == own.zone).ok_or_else(unknown)?;
    let workloads = policy.workloads.keys().filter_map(|name| Local::of(policy, name));
    let locals = std::iter::once(own).chain(workloads);
    Ok(locals.map(|local| (local, Modes::new(policy, &local, overrides, host.name))).collect())
}

/// The first zone towards which a subject of the host enforces anything, be it towards a part of it.
pub(crate) fn first_enforced<'a>(
    policy: &'a Policy,
    host: Host<'_>,
    overrides: &'a [Override],
    subject: &str,
    direction: Direction,
) -> Option<&'a str> {
    let subjects = subjects(policy, host, overrides).ok()?;
    let peers = addresses::peers_of(policy, host.names, &cohorts(&subjects));
    let (_, modes) = subjects.iter().find(|(local, _)| local.name == subject)?;
    let mut peers = peers.into_iter();
    peers.find(|peer| modes.enforce_anything(direction, peer)).map(|peer| peer.zone)
}

/// One row of the metric `segd_enforcing`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enforcing {
    /// The host's zone, or a workload.
    pub subject: String,
    /// Who begins.
    pub direction: Direction,
    /// A service, or `other`: what no rollout names.
    pub service: String,
    /// Whether every port of it is in enforce mode towards every zone.
    pub enforcing: bool,
}

/// For each subject of the host, direction and service, whether it is enforced towards every zone.
#[must_use]
pub fn enforcing(policy: &Policy, host: Host<'_>, overrides: &[Override]) -> Vec<Enforcing> {
    let subjects = subjects(policy, host, overrides).unwrap_or_default();
    let peers = addresses::peers_of(policy, host.names, &cohorts(&subjects));
    let mut rows = Vec::new();
    for (local, modes) in subjects {
        for direction in Direction::ALL.iter().copied() {
            let mut row = |service: &str, enforcing| {
                let (subject, service) = (local.name.to_owned(), service.to_owned());
                rows.push(Enforcing { subject, direction, service, enforcing });
            };
            for (name, service) in &policy.services {
                let throughout = |peer: &Peer<'_>| {
                    service.ports.iter().all(|s| modes.enforced_throughout(direction, peer, s))
                };
                row(name, peers.iter().all(throughout));
            }
            row(OTHER_SERVICE, peers.iter().all(|peer| modes.default_of(direction, peer) == Mode::Enforce));
        }
    }
    rows
}
