//! How far a stolen credential gets: what each zone and workload may begin, and what it did.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use jiff::Timestamp;
use segd_common::traffic::{Direction, protocol};
use serde::Serialize;

use super::Material;
use crate::history::{Peer, Summary};
use crate::policy::Policy;
use crate::policy::builtin::PEER_ZONES;
use crate::policy::compile::grants::{Grant, grants};
use crate::policy::compile::{self, Modes};
use crate::policy::ports::PortSpec;
use crate::policy::workload::Local;
use crate::telemetry::protocol as protocols;

/// Of one zone or workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// Its name.
    pub subject: String,
    /// Whether it is a workload.
    pub workload: bool,
    /// How far what no rule allows is denied to it. Where it is not, it can reach more than `can` says.
    pub enforced: Enforced,
    /// What rules let it begin.
    pub can: Extent,
    /// What it was seen to begin, allowed or audited.
    pub used: Extent,
}

/// Towards which zones outbound traffic is in enforce mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Enforced {
    /// All, for TCP and UDP.
    Everywhere,
    /// Some, or for some ports.
    Partly,
    /// None.
    Nowhere,
}

impl Enforced {
    /// In one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Everywhere => "everywhere",
            Self::Partly => "partly",
            Self::Nowhere => "nowhere",
        }
    }
}

/// How much that is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// Names of zones.
    pub zones: BTreeSet<String>,
    /// IPv4 addresses.
    pub hosts: u64,
    /// `can`: IPv6 prefixes; `used`: IPv6 addresses.
    pub v6: u64,
    /// Ports of all protocols; a protocol without ports is one.
    pub ports: u64,
}

pub(super) fn reach(material: &Material<'_>) -> Vec<Reach> {
    let policy = material.policy;
    let (sizes, grants) = (sizes(policy), grants(policy, &[]));
    let zones = policy.zones.keys().map(String::as_str).chain(PEER_ZONES);
    let peers: Vec<_> = zones.map(compile::Peer::plain).collect();
    let mut used = used(policy, material.observed);
    let names = policy.zones.keys().map(|name| (name, false));
    let names = names.chain(policy.workloads.keys().map(|name| (name, true)));
    let one = |(name, workload): (&String, bool)| {
        let local = Local::of(policy, name)?;
        Some(Reach {
            subject: name.clone(),
            workload,
            enforced: enforced(material, &local, &peers),
            can: can(policy, &local, &grants, &sizes),
            used: used.remove(name.as_str()).unwrap_or_default().extent(),
        })
    };
    names.filter_map(one).collect()
}

fn can(
    policy: &Policy,
    local: &Local<'_>,
    grants: &[Grant<'_>],
    sizes: &BTreeMap<&str, (u64, u64)>,
) -> Extent {
    let mine = || grants.iter().filter(|g| local.in_rule(g.from));
    let zones: BTreeSet<&str> = mine().map(|g| policy.zone_of(g.to)).collect();
    let size = |pick: fn(&(u64, u64)) -> u64| zones.iter().filter_map(|z| sizes.get(z)).map(pick).sum();
    Extent {
        hosts: size(|s| s.0),
        v6: size(|s| s.1),
        zones: zones.iter().map(|z| (*z).to_owned()).collect(),
        ports: distinct(mine().flat_map(|g| g.ports.iter().copied()).collect()),
    }
}

/// How many ports there are in ranges that may overlap.
fn distinct(mut specs: Vec<PortSpec>) -> u64 {
    specs.sort_unstable();
    let mut count = 0;
    let mut counted: Option<(u8, u16)> = None;
    for PortSpec { protocol: number, first, last } in specs {
        if !protocols::has_ports(number) {
            count += u64::from(counted.is_none_or(|(n, _)| n != number));
            counted = Some((number, u16::MAX));
            continue;
        }
        let begin = match counted {
            Some((n, end)) if n == number && end >= last => continue,
            Some((n, end)) if n == number && end >= first => u32::from(end) + 1,
            _ => u32::from(first),
        };
        count += u64::from(u32::from(last) + 1 - begin);
        counted = Some((number, last));
    }
    count
}

fn enforced(material: &Material<'_>, local: &Local<'_>, peers: &[compile::Peer<'_>]) -> Enforced {
    let host = material.observed.first().map_or("", |s| &s.of.host);
    let modes = Modes::new(material.policy, local, material.overrides, host);
    let whole = [protocol::TCP, protocol::UDP].map(PortSpec::whole);
    let throughout =
        |peer| whole.iter().all(|spec| modes.enforced_throughout(Direction::Outbound, peer, spec));
    if peers.iter().all(throughout) {
        Enforced::Everywhere
    } else if peers.iter().any(|peer| modes.enforce_anything(Direction::Outbound, peer)) {
        Enforced::Partly
    } else {
        Enforced::Nowhere
    }
}

/// IPv4 addresses and IPv6 prefixes of each zone, without what a longer prefix gives to another zone.
fn sizes(policy: &Policy) -> BTreeMap<&str, (u64, u64)> {
    let mut all: Vec<(u32, u8, &str)> = Vec::new();
    let mut sizes: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (name, zone) in &policy.zones {
        all.extend(zone.cidrs.list().four().map(|(address, len)| (address, len, name.as_str())));
        sizes.insert(name, (0, zone.cidrs.list().six().count() as u64));
    }
    all.sort_unstable();
    let mut around: Vec<(u64, &str)> = Vec::new();
    for (address, len, zone) in all {
        let size = 1_u64 << (32 - u32::from(len).min(32));
        let begin = u64::from(address);
        while around.last().is_some_and(|(end, _)| *end <= begin) {
            around.pop();
        }
        if let Some(outer) = around.last().and_then(|(_, outer)| sizes.get_mut(outer)) {
            outer.0 = outer.0.saturating_sub(size);
        }
        sizes.entry(zone).or_default().0 += size;
        around.push((begin + size, zone));
    }
    sizes
}

/// What one subject was seen to begin.
#[derive(Default)]
struct Used<'a> {
    zones: BTreeSet<&'a str>,
    addresses: BTreeSet<IpAddr>,
    /// Those that were too many to record, by hour.
    others: BTreeMap<Timestamp, u64>,
    ports: BTreeSet<(&'a str, u16)>,
}

impl<'a> Used<'a> {
    fn add(&mut self, to_zone: &'a str, to: Option<IpAddr>, summary: &'a Summary) {
        self.zones.insert(to_zone);
        self.addresses.extend(to);
        if let (Peer::Others(n), Direction::Outbound) = (summary.of.peer, summary.of.direction) {
            let others = self.others.entry(summary.hour).or_default();
            *others = others.saturating_add(n);
        }
        self.ports.insert((&summary.of.protocol, summary.of.port));
    }

    fn extent(self) -> Extent {
        // Those of one hour may be those of another.
        let others = self.others.values().max().copied().unwrap_or_default();
        let four = self.addresses.iter().filter(|ip| ip.is_ipv4()).count() as u64;
        Extent {
            zones: self.zones.iter().map(|z| (*z).to_owned()).collect(),
            hosts: four.saturating_add(others),
            v6: self.addresses.len() as u64 - four,
            ports: self.ports.len() as u64,
        }
    }
}

/// A host sees what it begins, and what zones without an agent begin with it. A workload's flows are its zone's too where
/// only the zone is seen: at the other end.
fn used<'a>(policy: &'a Policy, observed: &'a [Summary]) -> HashMap<&'a str, Used<'a>> {
    let mut used: HashMap<&str, Used<'_>> = HashMap::new();
    for summary in observed.iter().filter(|s| s.of.verdict.passes()) {
        let of = &summary.of;
        match of.direction {
            Direction::Outbound => {
                let peer = match of.peer {
                    Peer::Address(ip) => Some(ip),
                    Peer::Others(_) => None,
                };
                used.entry(&of.subject).or_default().add(&of.peer_zone, peer, summary);
            }
            Direction::Inbound => {
                used.entry(&of.peer_zone).or_default().add(policy.zone_of(&of.subject), of.local, summary);
            }
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_ports_count_once() {
        for (specs, count) in [
            (&["tcp/80", "tcp/80", "udp/80"][..], 2),
            (&["tcp/1-100", "tcp/50-150", "tcp/60"], 150),
            (&["tcp/*", "tcp/80"], 65_536),
            (&["sctp", "sctp", "raw"], 2),
            (&[], 0),
        ] {
            let parsed = specs.iter().map(|s| s.parse().unwrap()).collect();
            assert_eq!(distinct(parsed), count, "{specs:?}");
        }
    }
}
