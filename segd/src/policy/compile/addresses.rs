//! Which zone each address is in, and which canaries' peers it belongs to.
//!
//! There may be a million prefixes: they are numbers in sorted lists, and every pass over them is one of the whole list.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use segd_common::addr::Addr;
use segd_common::id::ZoneId;
use segd_common::table::PeerZone;

use crate::pages;
use crate::policy::builtin::{BUILT_IN_PREFIXES, PEER_ZONES, built_in_name};
use crate::policy::claims::claims;
use crate::policy::compiled::Compiled;
use crate::policy::index::{Entry4, Entry6, Index};
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
pub(super) struct Parts<'a> {
    peers: Vec<Peer<'a>>,
    /// The zones' own prefixes, if they are not among the following, with the number of the peer of each zone.
    members: Option<(&'a Index, Vec<u32>)>,
    /// What counts more than those.
    four: Family<u32>,
    six: Family<u128>,
}

/// The prefixes of one family by length, then address: each with a number in [`Parts::peers`].
type Family<A> = Vec<(u8, A, u32)>;

/// An address as a number in host byte order.
trait Number: Copy + Ord {
    /// The first `len` bits, the others zero.
    fn first(self, len: u8) -> Self;
    /// As an address.
    fn ip(self) -> IpAddr;
}

impl Number for u32 {
    fn first(self, len: u8) -> Self {
        self & !Self::MAX.checked_shr(len.into()).unwrap_or(0)
    }

    fn ip(self) -> IpAddr {
        IpAddr::V4(self.into())
    }
}

impl Number for u128 {
    fn first(self, len: u8) -> Self {
        self & !Self::MAX.checked_shr(len.into()).unwrap_or(0)
    }

    fn ip(self) -> IpAddr {
        IpAddr::V6(self.into())
    }
}

/// Sorts, and leaves of equal prefixes the last.
fn settle<A: Number>(family: &mut Family<A>) {
    family.sort_by_key(|(len, address, _)| (*len, *address));
    family.dedup_by(|later, earlier| {
        let same = (later.0, later.1) == (earlier.0, earlier.1);
        if same {
            *earlier = *later;
        }
        same
    });
}

/// What the longest prefix says that holds the whole prefix.
fn holder<A: Number>(family: &Family<A>, len: u8, address: A) -> Option<u32> {
    (0..=len).rev().find_map(|len| {
        let key = (len, address.first(len));
        let found = family.binary_search_by_key(&key, |(len, address, _)| (*len, *address));
        found.ok().and_then(|n| family.get(n)).map(|(.., peer)| *peer)
    })
}

impl<'a> Parts<'a> {
    fn push(&mut self, net: IpNet, peer: u32) {
        match net {
            IpNet::V4(net) => self.four.push((net.prefix_len(), net.addr().into(), peer)),
            IpNet::V6(net) => self.six.push((net.prefix_len(), net.addr().into(), peer)),
        }
    }

    fn number(&mut self, peer: Peer<'a>) -> u32 {
        self.peers.push(peer);
        u32::try_from(self.peers.len() - 1).unwrap_or(0)
    }

    /// Puts the zones' own prefixes among the others.
    fn settle_members(&mut self) {
        if let Some((index, numbers)) = self.members.take() {
            self.four = merged4((index.four(), &numbers), &self.four, |len, ip, peer| (len, ip, peer));
            self.six = merged6((index.six(), &numbers), &self.six, |len, ip, peer| (len, ip, peer));
        }
    }

    /// Cuts at the ends of the cohorts' prefixes too.
    fn cut(&mut self, cohorts: &[Cohort<'_>]) {
        let unknown = self.number(Peer::plain("unknown"));
        let cuts: BTreeSet<IpNet> = cohorts.iter().flat_map(|(_, nets)| *nets).copied().collect();
        let with_zone = |net: IpNet| {
            let zone = match net {
                IpNet::V4(net) => holder(&self.four, net.prefix_len(), net.addr().into()),
                IpNet::V6(net) => holder(&self.six, net.prefix_len(), net.addr().into()),
            };
            (net, zone.unwrap_or(unknown))
        };
        let cuts: Vec<(IpNet, u32)> = cuts.into_iter().map(with_zone).collect();
        for (net, peer) in cuts {
            self.push(net, peer);
        }
        settle(&mut self.four);
        settle(&mut self.six);
        let mut numbers = BTreeMap::new();
        let (four, six) = (std::mem::take(&mut self.four), std::mem::take(&mut self.six));
        self.four = self.with_cohorts(four, cohorts, &mut numbers);
        self.six = self.with_cohorts(six, cohorts, &mut numbers);
    }

    fn with_cohorts<A: Number>(
        &mut self,
        mut family: Family<A>,
        cohorts: &[Cohort<'_>],
        numbers: &mut BTreeMap<Peer<'a>, u32>,
    ) -> Family<A> {
        for (len, address, peer) in &mut family {
            let zone = self.peers.get(*peer as usize).map_or("unknown", |peer| peer.zone);
            let Ok(net) = IpNet::new(address.ip(), *len) else { continue };
            let holding = cohorts.iter().filter(|(_, nets)| nets.iter().any(|n| n.contains(&net)));
            let cohorts: Vec<usize> = holding.map(|(n, _)| *n).collect();
            // What is loopback is decided before any rollout.
            if zone == "loopback" || cohorts.is_empty() {
                continue;
            }
            let part = Peer { zone, cohorts };
            *peer = match numbers.get(&part) {
                Some(number) => *number,
                None => {
                    let number = self.number(part.clone());
                    numbers.insert(part, number);
                    number
                }
            };
        }
        family
    }
}

/// Cuts the addresses at the ends of the zones' and the cohorts' prefixes.
///
/// The prefixes that hold an address lie within each other. So the longest of them lies within all zones' prefixes and
/// all cohorts' that hold the address, and what holds for it holds for the address.
pub(super) fn parts<'a>(policy: &'a Policy, names: &Resolved, cohorts: &[Cohort<'_>]) -> Parts<'a> {
    let mut parts = Parts { peers: Vec::new(), members: None, four: Vec::new(), six: Vec::new() };
    // What comes later counts: a zone's own prefix more than its names, and what is built in more than all.
    let mut zones: BTreeMap<&str, u32> = BTreeMap::new();
    for zone in policy.zones.keys() {
        let number = parts.number(Peer::plain(zone));
        zones.insert(zone, number);
    }
    for (address, claim) in claims(policy, names) {
        let number = zones.get(claim.zone).copied().unwrap_or(0);
        parts.push(IpNet::from(address), number);
    }
    for (net, id) in BUILT_IN_PREFIXES {
        let number = parts.number(Peer::plain(built_in_name(id)));
        parts.push(net, number);
    }
    settle(&mut parts.four);
    settle(&mut parts.six);
    let numbers = policy.index.zones().map(|zone| zones.get(zone).copied().unwrap_or(0)).collect();
    parts.members = Some((&policy.index, numbers));
    if !cohorts.is_empty() {
        parts.settle_members();
        parts.cut(cohorts);
    }
    parts
}

/// A sorted list with the key that it is sorted by, and what becomes of its entries.
type Source<'l, E, Key, Make> = (&'l [E], Key, Make);

/// Entries of two sorted lists in the order of their keys; of those with equal keys the second list's.
fn merged<E, O, K: Ord, T>(
    (mut first, key, make): Source<'_, E, impl Fn(&E) -> K, impl Fn(&E) -> T>,
    (second, other_key, make_other): Source<'_, O, impl Fn(&O) -> K, impl Fn(&O) -> T>,
) -> Vec<T> {
    let mut all = pages::vec_with_capacity(first.len() + second.len());
    for other in second {
        let wanted = other_key(other);
        let (before, after) = first.split_at(first.partition_point(|entry| key(entry) < wanted));
        all.extend(before.iter().map(&make));
        let same = after.first().is_some_and(|entry| key(entry) == wanted);
        first = if same { after.get(1..).unwrap_or_default() } else { after };
        all.push(make_other(other));
    }
    all.extend(first.iter().map(make));
    all
}

/// The IPv4 prefixes of an index and others, each made from length, address and the number of its peer.
fn merged4<T>(
    (index, numbers): (&[Entry4], &[u32]),
    others: &[(u8, u32, u32)],
    make: impl Fn(u8, u32, u32) -> T,
) -> Vec<T> {
    let number = |zone: u32| numbers.get(zone as usize).copied().unwrap_or(0);
    let key = |entry: &Entry4| {
        let (len, ip, _) = entry.parts();
        (len, ip)
    };
    let of_index = |entry: &Entry4| {
        let (len, ip, zone) = entry.parts();
        make(len, ip, number(zone))
    };
    merged((index, key, of_index), (others, |o| (o.0, o.1), |o| make(o.0, o.1, o.2)))
}

/// As [`merged4`].
fn merged6<T>(
    (index, numbers): (&[Entry6], &[u32]),
    others: &[(u8, u128, u32)],
    make: impl Fn(u8, u128, u32) -> T,
) -> Vec<T> {
    let number = |zone: u32| numbers.get(zone as usize).copied().unwrap_or(0);
    let of_index = |entry: &Entry6| make(entry.0, entry.1, number(entry.2));
    merged((index, |e| (e.0, e.1), of_index), (others, |o| (o.0, o.1), |o| make(o.0, o.1, o.2)))
}

/// The peers that need entries of their own: every zone, and every part of one that is in a cohort.
pub(super) fn peers<'a>(policy: &'a Policy, parts: &Parts<'a>) -> BTreeSet<Peer<'a>> {
    zones(policy).chain(parts.peers.iter().filter(|peer| !peer.cohorts.is_empty()).cloned()).collect()
}

/// The same without the parts, which are not needed where there is no cohort.
pub(super) fn peers_of<'a>(
    policy: &'a Policy,
    names: &Resolved,
    cohorts: &[Cohort<'_>],
) -> BTreeSet<Peer<'a>> {
    if cohorts.is_empty() { zones(policy).collect() } else { peers(policy, &parts(policy, names, cohorts)) }
}

fn zones(policy: &Policy) -> impl Iterator<Item = Peer<'_>> {
    policy.zones.keys().map(String::as_str).chain(PEER_ZONES).map(Peer::plain)
}

/// Fills `hosts`, `prefixes4` and `prefixes6`. What the host calls itself is loopback, whoever claims it.
pub(super) fn fill(
    out: &mut Compiled,
    parts: &Parts<'_>,
    own_addresses: &[IpAddr],
    number: impl Fn(&Peer<'_>) -> PeerZone,
) {
    let numbers: Vec<PeerZone> = parts.peers.iter().map(number).collect();
    let number = |peer: u32| numbers.get(peer as usize).copied().unwrap_or(PeerZone::plain(ZoneId::UNKNOWN));
    let (index4, index6, zones) = match &parts.members {
        Some((index, numbers)) => (index.four(), index.six(), &numbers[..]),
        None => (&[][..], &[][..], &[][..]),
    };
    // Whole addresses come last.
    let four = parts.four.split_at(parts.four.partition_point(|(len, ..)| *len < 32));
    let six = parts.six.split_at(parts.six.partition_point(|(len, ..)| *len < 128));
    let index4 = index4.split_at(index4.partition_point(|entry| entry.parts().0 < 32));
    let index6 = index6.split_at(index6.partition_point(|(len, ..)| *len < 128));
    let hosts4 = merged4((index4.1, zones), four.1, |_, ip, peer| (Addr::from(ip.ip()), number(peer)));
    let hosts6 = merged6((index6.1, zones), six.1, |_, ip, peer| (Addr::from(ip.ip()), number(peer)));
    let own = own_addresses.iter().map(|ip| (Addr::from(*ip), PeerZone::plain(ZoneId::LOOPBACK)));
    let mut hosts: Vec<(Addr, PeerZone)> = hosts6.into_iter().chain(hosts4).chain(own).collect();
    hosts.sort_by_key(|(address, _)| *address);
    hosts.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            *earlier = *later;
        }
        same
    });
    out.hosts = Arc::new(hosts);
    let prefix4 = |len, ip: u32, peer| (len, ip.to_be_bytes(), number(peer));
    out.prefixes4 = Arc::new(merged4((index4.0, zones), four.0, prefix4));
    let prefix6 = |len, ip: u128, peer| (len, ip.to_be_bytes(), number(peer));
    out.prefixes6 = Arc::new(merged6((index6.0, zones), six.0, prefix6));
}
