//! Which zone each address is in, and which canaries' peers it belongs to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use segd_common::addr::Addr;
use segd_common::id::ZoneId;
use segd_common::table::PeerZone;

use crate::policy::builtin::{BUILT_IN_PREFIXES, PEER_ZONES, built_in_name};
use crate::policy::claims::claims;
use crate::policy::compiled::Compiled;
use crate::policy::model::Policy;
use crate::policy::resolved::Resolved;

/// Peers of a canary: the number of its rollout, and the prefixes.
pub(super) type Cohort<'a> = (usize, &'a [IpNet]);

/// Peers that every rule and every rollout treats alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Peer<'a> {
    pub(crate) zone: &'a str,
    /// The numbers, in order, of the rollouts whose canaries name them as peers.
    pub(crate) cohorts: Vec<usize>,
}

impl<'a> Peer<'a> {
    /// A zone, outside of every cohort.
    pub(crate) const fn plain(zone: &'a str) -> Self {
        Self { zone, cohorts: Vec::new() }
    }

    /// An address in a zone.
    pub(crate) fn at(policy: &Policy, zone: &'a str, address: IpAddr) -> Self {
        let address = address.to_canonical();
        let numbered = policy.rollouts.iter().enumerate();
        let named = numbered.filter(|(_, rollout)| {
            let peers = rollout.canary.as_ref().map_or(&[][..], |canary| &canary.peers);
            peers.iter().any(|net| net.contains(&address))
        });
        Self { zone, cohorts: named.map(|(n, _)| n).collect() }
    }
}

/// Prefixes, each with the peers that are in it as far as no longer one says otherwise.
pub(super) type Parts<'a> = BTreeMap<IpNet, Peer<'a>>;

/// Cuts the addresses at the ends of the zones' and the cohorts' prefixes.
///
/// The prefixes that hold an address lie within each other. So the longest of them lies within all zones' prefixes and
/// all cohorts' that hold the address, and what holds for it holds for the address.
pub(super) fn parts<'a>(policy: &'a Policy, names: &Resolved, cohorts: &[Cohort<'_>]) -> Parts<'a> {
    let named = claims(policy, names).into_iter();
    let named = named.map(|(address, claim)| (IpNet::from(address), claim.zone));
    let members = policy.zones.iter().flat_map(|(name, zone)| {
        let cidrs = zone.cidrs.iter();
        cidrs.map(move |cidr| (cidr.value, name.as_str()))
    });
    let built_in = BUILT_IN_PREFIXES.iter().map(|(net, id)| (*net, built_in_name(*id)));
    let zones: BTreeMap<IpNet, &str> = named.chain(members).chain(built_in).collect();
    let cuts: BTreeSet<IpNet> =
        zones.keys().chain(cohorts.iter().flat_map(|(_, nets)| *nets)).copied().collect();
    let part = |net: IpNet| {
        let zone = holders(net).find_map(|holder| zones.get(&holder)).copied().unwrap_or("unknown");
        let holding = cohorts.iter().filter(|(_, nets)| nets.iter().any(|n| n.contains(&net)));
        // What is loopback is decided before any rollout.
        let cohorts = if zone == "loopback" { Vec::new() } else { holding.map(|(n, _)| *n).collect() };
        (net, Peer { zone, cohorts })
    };
    cuts.into_iter().map(part).collect()
}

/// A prefix, then those that hold it, the longest first.
fn holders(net: IpNet) -> impl Iterator<Item = IpNet> {
    let lengths = (0..=net.prefix_len()).rev();
    lengths.filter_map(move |len| IpNet::new(net.addr(), len).ok().map(|holder| holder.trunc()))
}

/// The peers that need entries of their own: every zone, and every part of one that is in a cohort.
pub(super) fn peers<'a>(policy: &'a Policy, parts: &Parts<'a>) -> BTreeSet<Peer<'a>> {
    let zones = policy.zones.keys().map(String::as_str).chain(PEER_ZONES).map(Peer::plain);
    zones.chain(parts.values().filter(|peer| !peer.cohorts.is_empty()).cloned()).collect()
}

/// Fills `hosts`, `prefixes4` and `prefixes6`. What the host calls itself is loopback, whoever claims it.
pub(super) fn fill(
    out: &mut Compiled,
    parts: &Parts<'_>,
    own_addresses: &[IpAddr],
    number: impl Fn(&Peer<'_>) -> PeerZone,
) {
    let (mut hosts, mut four, mut six) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (net, peer) in parts {
        let peer = number(peer);
        if net.prefix_len() == net.max_prefix_len() {
            hosts.insert(Addr::from(net.addr()), peer);
            continue;
        }
        match net {
            IpNet::V4(v4) => four.insert((v4.prefix_len(), v4.addr().octets()), peer),
            IpNet::V6(v6) => six.insert((v6.prefix_len(), v6.addr().octets()), peer),
        };
    }
    hosts.extend(own_addresses.iter().map(|ip| (Addr::from(*ip), PeerZone::plain(ZoneId::LOOPBACK))));
    out.hosts = hosts.into_iter().collect();
    out.prefixes4 = four.into_iter().map(|((len, net), peer)| (len, net, peer)).collect();
    out.prefixes6 = six.into_iter().map(|((len, net), peer)| (len, net, peer)).collect();
}
