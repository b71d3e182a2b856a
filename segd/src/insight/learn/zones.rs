//! Zones for peers that no zone claims.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;
use segd_common::traffic::Direction;
use serde::Serialize;

use super::Options;
use super::naming::{Names, can_name_zone, of_address};
use super::prefixes::{Claims, around, common, cover};
use super::talks::Talk;
use crate::insight::replay::Decider;
use crate::policy::builtin::BUILT_IN_PREFIXES;
use crate::policy::locate::Atlas;
use crate::policy::ports::PortSpec;
use crate::policy::{Policy, Resolved};

/// Prefix lengths of a neighbourhood: what is usually one subnet.
const NEAR: (u8, u8) = (24, 64);

/// Peers that do the same from more neighbourhoods than this become one zone.
const MANY: usize = 16;

/// A zone that is proposed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProposedZone {
    /// Its name.
    pub name: String,
    /// What it claims.
    pub cidrs: Vec<IpNet>,
    /// How many addresses in it were seen.
    pub seen: usize,
    /// Whether the records call it so; else its name is made of its addresses.
    pub recorded: bool,
    /// What its members do, as `clients of orders (tcp/443)`.
    pub roles: Vec<String>,
}

/// What a peer does: who begins, with which subject, on which port.
type Role = (Direction, Arc<str>, PortSpec);

/// Prefixes that no new zone may touch: those of zones, and the addresses of hosts that recorded.
pub(super) fn claims(policy: &Policy, names: &Resolved, talks: &[Talk<'_>]) -> Claims {
    let mut claims = Claims::default();
    for (net, _) in BUILT_IN_PREFIXES {
        claims.add(net);
    }
    for zone in policy.zones.values() {
        zone.cidrs.iter().for_each(|cidr| claims.add(cidr.value));
    }
    for name in policy.dns_names() {
        names.addresses(name).for_each(|(address, _)| claims.add(address.into()));
    }
    for talk in talks {
        talk.of.local.into_iter().for_each(|local| claims.add(local.to_canonical().into()));
    }
    claims
}

/// Zones that the records name and the policy does not define: of hosts that would be in no zone without them, and of
/// peers.
pub(super) fn recorded(
    policy: &Policy,
    names: &Resolved,
    decider: &Decider<'_>,
    talks: &[Talk<'_>],
    options: &Options,
) -> Vec<ProposedZone> {
    let atlas = Atlas::new(policy, names);
    let usable = |name: &str| {
        can_name_zone(name) && !policy.zones.contains_key(name) && !policy.workloads.contains_key(name)
    };
    let hosts = decider.hosts();
    let mut found: BTreeMap<IpAddr, (Timestamp, Arc<str>)> = BTreeMap::new();
    let mut say = |address: IpAddr, name: &Arc<str>, when: Timestamp| {
        let address = address.to_canonical();
        if !usable(name) || found.get(&address).is_some_and(|(then, _)| *then > when) {
            return;
        }
        if atlas.locate(address).zone == "unknown" {
            found.insert(address, (when, Arc::clone(name)));
        }
    };
    for talk in talks {
        let placement = hosts.get(&*talk.of.host);
        if let Some(name) = placement.filter(|p| p.zone.is_none()).and_then(|p| p.was.as_ref())
            && let Some(local) = talk.of.local
        {
            // A host knows its own zone better than others do.
            say(local, name, Timestamp::MAX);
        }
        if let Some(peer) = talk.peer() {
            say(peer, &talk.of.peer_zone, talk.last);
        }
    }
    let mut zones: BTreeMap<Arc<str>, BTreeSet<IpAddr>> = BTreeMap::new();
    for (address, (_, name)) in found {
        zones.entry(name).or_default().insert(address);
    }
    let mut claims = claims(policy, names, talks);
    zones.values().flatten().for_each(|address| claims.add((*address).into()));
    let zones = zones.into_iter().map(|(name, addresses)| ProposedZone {
        name: name.to_string(),
        cidrs: covered(&addresses, options.dense, &mut claims),
        seen: addresses.len(),
        recorded: true,
        roles: Vec::new(),
    });
    zones.collect()
}

/// Zones for the peers of talks that need rules: those that are near each other and do the same. Peers that do
/// different things are in zones of their own, as a rule for one would let in the other.
pub(super) fn unknown(
    policy: &Policy,
    talks: &[Talk<'_>],
    kept: &[usize],
    claims: &mut Claims,
    options: &Options,
) -> Vec<ProposedZone> {
    let of = || kept.iter().filter_map(|n| talks.get(*n));
    let is_unknown = |talk: &&Talk<'_>| talk.ends().is_some_and(|ends| &*ends.peer == "unknown");
    let needy: BTreeSet<IpAddr> =
        of().filter(is_unknown).filter(|talk| talk.is_needed()).filter_map(Talk::peer).collect();
    let mut roles: BTreeMap<IpAddr, BTreeSet<Role>> = BTreeMap::new();
    for talk in of().filter(is_unknown) {
        if let (Some(peer), Some(spec), Some(ends)) = (talk.peer(), talk.spec, talk.ends())
            && needy.contains(&peer)
        {
            roles.entry(peer).or_default().insert((talk.of.direction, Arc::clone(&ends.subject), spec));
        }
    }
    let mut groups: BTreeMap<(BTreeSet<Role>, Option<IpNet>), BTreeSet<IpAddr>> = BTreeMap::new();
    for (peer, roles) in &roles {
        let near = around(*peer, NEAR.0, NEAR.1);
        let role = if options.widen_peers { BTreeSet::new() } else { roles.clone() };
        groups.entry((role, Some(near))).or_default().insert(*peer);
    }
    if !options.widen_peers {
        groups = join_many(groups);
    }
    roles.keys().for_each(|peer| claims.add((*peer).into()));
    let mut names = Names::default();
    names.take(policy.zones.keys().chain(policy.workloads.keys()));
    let mut zones = Vec::new();
    for ((role, near), peers) in groups {
        let wide = near.filter(|near| options.widen_peers && !hold(&peers, near, claims));
        let cidrs = match wide {
            Some(near) => vec![near],
            None => covered(&peers, options.dense, claims),
        };
        let all = peers.iter().filter_map(|peer| roles.get(peer)).flatten();
        let mut said: BTreeSet<String> = all.map(said).collect();
        let name = match (near, role.first(), wide.or_else(|| common(&peers))) {
            (None, Some((direction, subject, spec)), _) | (_, Some((direction, subject, spec)), None) => {
                let what = if *direction == Direction::Inbound { "clients" } else { "servers" };
                format!("{what}-of-{subject}-{}", of_address(spec)).replace('*', "any")
            }
            (_, _, Some(net)) if net.prefix_len() == net.max_prefix_len() => {
                format!("peer-{}", of_address(&net.addr()))
            }
            (_, _, Some(net)) => format!("net-{}", of_address(&net)),
            (_, None, None) => "peers".to_owned(),
        };
        let roles = std::mem::take(&mut said).into_iter().collect();
        zones.push(ProposedZone {
            name: names.free(&name),
            cidrs,
            seen: peers.len(),
            recorded: false,
            roles,
        });
    }
    zones.sort_by(|a, b| a.name.cmp(&b.name));
    zones
}

/// Whether a prefix holds something of somebody else.
fn hold(peers: &BTreeSet<IpAddr>, near: &IpNet, claims: &mut Claims) -> bool {
    peers.iter().for_each(|peer| claims.remove(&(*peer).into()));
    let held = claims.any_in(near);
    peers.iter().for_each(|peer| claims.add((*peer).into()));
    held
}

/// [`cover`] for addresses that are among the claims themselves.
fn covered(addresses: &BTreeSet<IpAddr>, dense: u8, claims: &mut Claims) -> Vec<IpNet> {
    addresses.iter().for_each(|address| claims.remove(&(*address).into()));
    let cidrs = cover(addresses, dense, claims);
    addresses.iter().for_each(|address| claims.add((*address).into()));
    cidrs
}

type Groups = BTreeMap<(BTreeSet<Role>, Option<IpNet>), BTreeSet<IpAddr>>;

/// Makes one zone of those that do the same from very many places.
fn join_many(groups: Groups) -> Groups {
    let mut places: BTreeMap<&BTreeSet<Role>, usize> = BTreeMap::new();
    for (roles, _) in groups.keys() {
        *places.entry(roles).or_default() += 1;
    }
    let many: BTreeSet<BTreeSet<Role>> =
        places.into_iter().filter(|(_, n)| *n > MANY).map(|(roles, _)| roles.clone()).collect();
    let mut joined = Groups::new();
    for ((roles, near), peers) in groups {
        let near = near.filter(|_| !many.contains(&roles));
        joined.entry((roles, near)).or_default().extend(peers);
    }
    joined
}

fn said((direction, subject, spec): &Role) -> String {
    match direction {
        Direction::Inbound => format!("clients of {subject} ({spec})"),
        Direction::Outbound => format!("servers of {subject} ({spec})"),
    }
}
