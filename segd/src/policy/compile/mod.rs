//! A policy in names into the tables of one host, in numbers.

mod modes;
pub(crate) mod prefixes;
pub(crate) mod rules;
mod services;
mod zones;

use std::collections::BTreeMap;
use std::net::IpAddr;

use segd_common::id::{SubjectId, ZoneId};
use segd_common::traffic::Direction;

use super::builtin::PEER_ZONES;
use super::compiled::Compiled;
use super::failsafe::{self, Failsafe, TooManyPorts};
use super::ids::{Full, OTHER_SERVICE, Registry};
use super::model::{Override, Policy};

pub(crate) use modes::{Modes, Setter};

/// The host that a policy is compiled for.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// Its zone.
    pub zone: &'a str,
    /// Its own addresses, all of them: what it sends to one of these is loopback.
    pub addresses: &'a [IpAddr],
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
    if !policy.zones.contains_key(host.zone) {
        return Err(CompileError::UnknownZone(host.zone.to_owned()));
    }
    let mut zone_ids = BTreeMap::new();
    for name in policy.zones.keys() {
        zone_ids.insert(name.as_str(), registry.zone(name)?);
    }
    let mut service_ids = BTreeMap::new();
    for name in policy.services.keys() {
        service_ids.insert(name.as_str(), registry.service(name)?);
    }
    let rule_ids = policy.rules.iter().map(|r| registry.rule(&r.id)).collect::<Result<_, _>>()?;

    let mut peers: Vec<(&str, ZoneId)> = zone_ids.iter().map(|(n, id)| (*n, *id)).collect();
    for name in PEER_ZONES {
        peers.push((name, registry.zone(name)?));
    }
    let id = SubjectId::from(registry.zone(host.zone)?);
    let modes = Modes::new(policy, host.zone, overrides);
    let subject = rules::Subject { policy, zone: host.zone, id, modes, rule_ids };
    let entries = subject.entries(&peers);

    let mut out = Compiled {
        host: id,
        policy: entries.into_iter().map(|((len, key), entry)| (len, key, entry)).collect(),
        services: services::entries(policy, |name| service_ids.get(name).copied().unwrap_or_default()),
        failsafes: failsafe::keys(failsafes)?,
        ..Compiled::default()
    };
    let members = policy.zones.iter().flat_map(|(name, zone)| {
        let id = zone_ids.get(name.as_str()).copied().unwrap_or_default();
        zone.cidrs.iter().map(move |cidr| (cidr.value, id))
    });
    zones::fill(&mut out, members, host.addresses);
    Ok(out)
}

/// One row of the metric `segd_enforcing`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enforcing {
    /// Who begins.
    pub direction: Direction,
    /// A service, or `other`: what no rollout names.
    pub service: String,
    /// Whether every port of it is in enforce mode towards every zone.
    pub enforcing: bool,
}

/// For each direction and service, whether the subject enforces it towards every zone.
#[must_use]
pub fn enforcing(policy: &Policy, subject: &str, overrides: &[Override]) -> Vec<Enforcing> {
    let modes = Modes::new(policy, subject, overrides);
    let peers: Vec<&str> = policy.zones.keys().map(String::as_str).chain(PEER_ZONES).collect();
    let mut rows = Vec::new();
    for direction in Direction::ALL.iter().copied() {
        for (name, service) in &policy.services {
            let enforcing = peers.iter().all(|peer| {
                service.ports.iter().all(|spec| modes.enforced_throughout(direction, peer, spec))
            });
            rows.push(Enforcing { direction, service: name.clone(), enforcing });
        }
        let other = |peer: &&str| modes.default_of(direction, peer) == segd_common::traffic::Mode::Enforce;
        let enforcing = peers.iter().all(other);
        rows.push(Enforcing { direction, service: OTHER_SERVICE.to_owned(), enforcing });
    }
    rows
}
