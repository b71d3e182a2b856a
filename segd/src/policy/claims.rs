//! Whose an address is that DNS names of zones stand for.
//!
//! A zone that claims the address itself (a /32 or /128) keeps it, else the zone that had it first, else the one whose
//! name comes first in the files: what was decided as one zone does not change because another name moved there.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::Serialize;

use super::builtin::owner_of;
use super::model::Policy;
use super::resolved::Resolved;
use super::source::Place;

/// A zone's claim on one address, by a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim<'a> {
    pub(crate) zone: &'a str,
    pub(crate) name: &'a str,
    /// Where the name is written.
    pub(crate) place: Place,
    since: Timestamp,
}

/// An address that two zones claim, at least one of them by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// What both claim.
    pub address: IpAddr,
    /// The zone that has it.
    pub kept_by: Claimant,
    /// The zone that does not get it.
    pub refused: Claimant,
}

/// One side of a [`Conflict`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Claimant {
    /// The zone.
    pub zone: String,
    /// The DNS name or the prefix that claims the address.
    pub by: String,
    /// Where that is written, as `file:line`.
    pub place: String,
    #[serde(skip)]
    pub(crate) at: Place,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, kept_by, refused } = self;
        write!(
            f,
            "{address} stays in zone `{}` (by {} at {}); zone `{}` claims it too, by {} at {}",
            kept_by.zone, kept_by.by, kept_by.place, refused.zone, refused.by, refused.place
        )
    }
}

/// Addresses that several zones claim, and who has them. Names that resolve to this host itself (127.0.1.1, as some
/// hosts have for their own name) claim nothing and are no conflict.
#[must_use]
pub fn conflicts(policy: &Policy, names: &Resolved) -> Vec<Conflict> {
    let side = |zone: &str, by: String, at: Place| Claimant {
        zone: zone.to_owned(),
        by,
        place: policy.sources.file_line(at),
        at,
    };
    let mut found = Vec::new();
    let candidates = candidates(policy, names);
    let literal = literal(policy, &candidates);
    for (address, claims) in candidates {
        let kept_by = match (literal.get(&address), claims.first()) {
            (Some((zone, at)), _) => side(zone, IpNet::from(address).to_string(), *at),
            (None, Some(first)) => side(first.zone, first.name.to_owned(), first.place),
            (None, None) => continue,
        };
        for claim in claims.iter().filter(|claim| claim.zone != kept_by.zone) {
            let refused = side(claim.zone, claim.name.to_owned(), claim.place);
            found.push(Conflict { address, kept_by: kept_by.clone(), refused });
        }
    }
    found
}

/// Who has each address that names stand for.
pub(crate) fn claims<'a>(policy: &'a Policy, names: &Resolved) -> BTreeMap<IpAddr, Claim<'a>> {
    let all = candidates(policy, names);
    let literal = literal(policy, &all);
    all.into_iter()
        .filter(|(address, _)| !literal.contains_key(address))
        .filter_map(|(address, claims)| claims.first().map(|first| (address, *first)))
        .collect()
}

/// Every claim on each address, the one that counts first.
fn candidates<'a>(policy: &'a Policy, names: &Resolved) -> BTreeMap<IpAddr, Vec<Claim<'a>>> {
    let mut all: BTreeMap<IpAddr, Vec<Claim<'a>>> = BTreeMap::new();
    for (zone, members) in &policy.zones {
        for name in &members.names {
            for (address, since) in names.addresses(&name.value) {
                if owner_of(IpNet::from(address)).is_none() {
                    let claim = Claim { zone, name: &name.value, place: name.place, since };
                    all.entry(address).or_default().push(claim);
                }
            }
        }
    }
    for claims in all.values_mut() {
        claims.sort_by_key(|claim| (claim.since, claim.place));
    }
    all
}

/// Those of the addresses that a zone claims exactly in its `cidrs`, with the zone.
fn literal<'a>(
    policy: &'a Policy,
    addresses: &BTreeMap<IpAddr, Vec<Claim<'_>>>,
) -> BTreeMap<IpAddr, (&'a str, Place)> {
    let claimed = |address: &IpAddr| {
        let alone = IpNet::from(*address);
        let (zone, members) = policy.zones.get_key_value(policy.index.exactly(alone)?)?;
        let place = members.cidrs.iter().find(|cidr| cidr.value == alone)?.place;
        Some((*address, (zone.as_str(), place)))
    };
    addresses.keys().filter_map(claimed).collect()
}
