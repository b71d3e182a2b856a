//! Where hosts are under a policy, and the tables that they would load.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use segd_common::addr::Addr;
use segd_common::decide::zone_of;

use super::Around;
use crate::history::Summary;
use crate::policy::builtin::is_built_in;
use crate::policy::ids::Registry;
use crate::policy::workload::nanoseconds;
use crate::policy::{CompileError, Host, Policy, Tables, compile};

/// Where a host is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Its zone under the policy, if it has one.
    pub zone: Option<String>,
    /// What says so.
    pub by: Placed,
    /// The zone that it recorded last for sockets of no workload.
    pub was: Option<Arc<str>>,
    /// Its tables; else why it has no zone.
    pub(super) group: Result<usize, String>,
}

/// What says which zone a host is in. What comes first counts: zone files may move addresses between zones, and then
/// the host moves with them, as it would when it loads them; only if that gives not exactly one zone, somebody must
/// have named the one that it recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Placed {
    /// Somebody does.
    Said,
    /// The policy: all its addresses that are in a zone are in this one.
    Addresses,
    /// Its records.
    Recorded,
    /// Nothing.
    Nothing,
}

/// What a host recorded of itself.
#[derive(Debug, Default)]
pub(super) struct Sighting {
    addresses: BTreeSet<IpAddr>,
    zone: Option<(Timestamp, Arc<str>)>,
}

/// Of every host.
pub(super) fn sightings(observed: &[Summary]) -> HashMap<Arc<str>, Sighting> {
    let mut hosts: HashMap<Arc<str>, Sighting> = HashMap::new();
    for Summary { of, last, .. } in observed {
        if !hosts.contains_key(&of.host) {
            hosts.insert(Arc::clone(&of.host), Sighting::default());
        }
        let Some(host) = hosts.get_mut(&of.host) else { continue };
        if let Some(local) = of.local {
            host.addresses.insert(local.to_canonical());
        }
        if of.workload.is_none() && host.zone.as_ref().is_none_or(|(then, _)| then <= last) {
            host.zone = Some((*last, Arc::clone(&of.subject)));
        }
    }
    hosts
}

/// The tables of hosts: those in one zone and in the same canaries have the same.
#[derive(Debug)]
pub(super) struct Groups<'a> {
    policy: &'a Policy,
    around: Around<'a>,
    pub(super) registry: Registry,
    by_key: BTreeMap<(String, Vec<bool>, bool), usize>,
    tables: Vec<Tables<'static>>,
}

impl<'a> Groups<'a> {
    pub(super) fn new(policy: &'a Policy, around: Around<'a>) -> Self {
        let (registry, by_key, tables) = (Registry::default(), BTreeMap::new(), Vec::new());
        Self { policy, around, registry, by_key, tables }
    }

    pub(super) fn tables(&self, group: usize) -> Option<&Tables<'static>> {
        self.tables.get(group)
    }

    /// The number of the tables of a host in a zone. Its own addresses are not in them: what it says to itself is
    /// recorded by nobody, and what is on the wire is decided by the zones.
    fn group(&mut self, zone: &str, name: &str) -> Result<usize, CompileError> {
        let canaries = self.policy.rollouts.iter().filter_map(|r| r.canary.as_ref().map(|c| (r, c)));
        let canaries = canaries.map(|(rollout, canary)| canary.membership(rollout, name).is_in()).collect();
        let own = self.around.own.filter(|own| own.name == name);
        let key = (zone.to_owned(), canaries, own.is_some());
        if let Some(group) = self.by_key.get(&key) {
            return Ok(*group);
        }
        let (overrides, exceptions) = own.map_or((&[][..], &[][..]), |own| (own.overrides, own.exceptions));
        let host = Host { name, names: self.around.names, exceptions, ..Host::in_zone(zone, &[]) };
        let compiled = compile(self.policy, host, overrides, self.around.failsafes, &mut self.registry)?;
        self.tables.push(Tables::owned(compiled, nanoseconds(self.around.now)));
        self.by_key.insert(key, self.tables.len() - 1);
        Ok(self.tables.len() - 1)
    }
}

/// Finds each host's place.
pub(super) fn place(
    groups: &mut Groups<'_>,
    hosts: HashMap<Arc<str>, Sighting>,
) -> Result<HashMap<Arc<str>, Placement>, CompileError> {
    let mut placed = HashMap::new();
    for (name, sighting) in hosts {
        let was = sighting.zone.map(|(_, zone)| zone);
        let (found, by) = find(groups, &name, &sighting.addresses, was.as_deref())?;
        let group = match &found {
            Ok(zone) => Ok(groups.group(zone, &name)?),
            Err(why) => Err(why.clone()),
        };
        placed.insert(name, Placement { zone: found.ok(), by, was, group });
    }
    Ok(placed)
}

/// A host's zone, or why it has none.
type Found = (Result<String, String>, Placed);

fn find(
    groups: &mut Groups<'_>,
    name: &str,
    addresses: &BTreeSet<IpAddr>,
    was: Option<&str>,
) -> Result<Found, CompileError> {
    let policy = groups.policy;
    if let Some(zone) = groups.around.zones.get(name) {
        let known = policy.zones.contains_key(zone);
        let found =
            if known { Ok(zone.clone()) } else { Err(format!("the zone files do not define `{zone}`")) };
        return Ok((found, Placed::Said));
    }
    let Some(any) = policy.zones.keys().next() else {
        return Ok((Err("the zone files define no zone".to_owned()), Placed::Nothing));
    };
    let group = groups.group(any, "")?;
    let mut zones = BTreeSet::new();
    if let Some(tables) = groups.tables(group) {
        let of = addresses.iter().map(|ip| groups.registry.zone_name(zone_of(tables, &Addr::from(*ip)).zone));
        zones.extend(of.filter(|zone| !is_built_in(zone)));
    }
    if zones.len() == 1 {
        let zone = zones.into_iter().next().map(|zone| zone.to_string());
        return Ok((zone.ok_or_else(String::new), Placed::Addresses));
    }
    if let Some(zone) = was.filter(|zone| policy.zones.contains_key(*zone)) {
        return Ok((Ok(zone.to_owned()), Placed::Recorded));
    }
    let why = match (zones.is_empty(), was) {
        (true, None) => "none of its addresses is in a zone".to_owned(),
        (true, Some(was)) => {
            format!("none of its addresses is in a zone, and `{was}`, in which it was, is gone")
        }
        (false, _) => {
            let zones: Vec<String> = zones.iter().map(ToString::to_string).collect();
            format!("its addresses are in {}", zones.join(", "))
        }
    };
    Ok((Err(why), Placed::Nothing))
}
