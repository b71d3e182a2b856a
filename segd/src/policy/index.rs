//! Every prefix of a policy once, sorted, with its zone: what overlap is looked for in, addresses are looked up in and
//! the kernel's tables are made of. A policy that differs little from a former one is indexed by what differs.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::builtin::{BUILT_IN_PREFIXES, owner_of};
use super::members::List;
use super::model::Zone;
use crate::pages;

/// Bits of a zone's number in an [`Entry4`].
const ZONE_BITS: u32 = 26;

/// Sorted prefixes.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Each zone with what its prefixes were taken from, by number; `None`: a number that is not used.
    zones: Vec<Option<(Arc<str>, Arc<List>)>>,
    four: Vec<Entry4>,
    six: Vec<Entry6>,
}

/// Number of a zone in an [`Index`].
type Number = u32;

/// Length, address and zone, packed into one number, from the highest bit on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry4(u64);

/// Length, address and zone.
pub(crate) type Entry6 = (u8, u128, Number);

impl Entry4 {
    /// Length, address and zone.
    pub(crate) const fn parts(self) -> (u8, u32, Number) {
        unpack(self.0)
    }
}

/// Prefixes of some zones.
#[derive(Default)]
struct Entries {
    four: Vec<Entry4>,
    six: Vec<Entry6>,
}

impl Entries {
    fn add(&mut self, list: &List, zone: Number) {
        self.four.extend(list.four().map(|(address, length)| pack(length, address, zone)));
        self.six.extend(list.six().map(|net| (net.prefix_len(), net.addr().into(), zone)));
    }
}

fn pack(length: u8, address: u32, zone: Number) -> Entry4 {
    Entry4((u64::from(length) << 58) | (u64::from(address) << ZONE_BITS) | u64::from(zone))
}

#[expect(clippy::cast_possible_truncation, reason = "each has as many bits as it is given")]
const fn unpack(entry: u64) -> (u8, u32, Number) {
    ((entry >> 58) as u8, (entry >> ZONE_BITS) as u32, (entry & ((1 << ZONE_BITS) - 1)) as u32)
}

impl Index {
    /// Of these zones, made of a former index by what differs.
    pub(crate) fn new(zones: &BTreeMap<String, Zone>, former: Option<&Self>) -> Self {
        let mut rest: BTreeMap<&str, &Arc<List>> =
            zones.iter().map(|(name, zone)| (name.as_str(), zone.cidrs.list())).collect();
        let (mut removed, mut added) = (Entries::default(), Entries::default());
        let mut numbers = Vec::new();
        for (number, known) in (0..).zip(former.map_or(&[][..], |f| &f.zones)) {
            numbers.push(known.as_ref().and_then(|(name, list)| {
                let new = rest.remove(&**name);
                if new.is_none_or(|new| !Arc::ptr_eq(new, list)) {
                    removed.add(list, number);
                    added.add(new?, number);
                }
                Some((Arc::clone(name), Arc::clone(new?)))
            }));
        }
        for (name, list) in rest {
            let entry = Some((Arc::from(name), Arc::clone(list)));
            let number = numbers.iter().position(Option::is_none).unwrap_or(numbers.len());
            match numbers.get_mut(number) {
                Some(place) => *place = entry,
                None => numbers.push(entry),
            }
            added.add(list, u32::try_from(number).unwrap_or(0));
        }
        let nothing = Self::default();
        let former = former.unwrap_or(&nothing);
        let four = changed(&former.four, removed.four, added.four);
        let six = changed(&former.six, removed.six, added.six);
        Self { zones: numbers, four, six }
    }

    /// Whether two zones, or one twice, claim a prefix, or one claims what is built in.
    pub(crate) fn has_conflicts(&self) -> bool {
        let twice4 = self.four.windows(2).any(|two| two[0].0 >> ZONE_BITS == two[1].0 >> ZONE_BITS);
        let twice6 = self.six.windows(2).any(|two| (two[0].0, two[0].1) == (two[1].0, two[1].1));
        twice4 || twice6 || BUILT_IN_PREFIXES.iter().any(|(net, _)| self.has_within(*net))
    }

    /// Whether a prefix inside a built-in one belongs to that.
    fn has_within(&self, built_in: IpNet) -> bool {
        match built_in {
            IpNet::V4(net) => (net.prefix_len()..=32).any(|length| {
                let [first, last] = [net.network(), net.broadcast()].map(u32::from);
                let from = self.four.partition_point(|e| *e < pack(length, first, 0));
                let inside = self.four.get(from..).unwrap_or_default().iter().map(|e| e.parts());
                inside
                    .take_while(|(l, address, _)| *l == length && *address <= last)
                    .any(|(_, address, _)| is_owned(IpAddr::V4(address.into()), length))
            }),
            IpNet::V6(net) => (net.prefix_len()..=128).any(|length| {
                let [first, last] = [net.network(), net.broadcast()].map(u128::from);
                let from = self.six.partition_point(|(l, address, _)| (*l, *address) < (length, first));
                let inside = self.six.get(from..).unwrap_or_default().iter();
                inside
                    .take_while(|(l, address, _)| *l == length && *address <= last)
                    .any(|(_, address, _)| is_owned(IpAddr::V6((*address).into()), length))
            }),
        }
    }

    /// The zones by number; a number that is not used has an empty name.
    pub(crate) fn zones(&self) -> impl ExactSizeIterator<Item = &str> {
        self.zones.iter().map(|zone| zone.as_ref().map_or("", |(name, _)| &**name))
    }

    fn zone(&self, number: Number) -> &str {
        self.zones.get(number as usize).and_then(Option::as_ref).map_or("", |(name, _)| name)
    }

    /// The IPv4 prefixes as length, address and zone, sorted.
    pub(crate) fn four(&self) -> &[Entry4] {
        &self.four
    }

    /// The IPv6 prefixes as length, address and zone, sorted.
    pub(crate) fn six(&self) -> &[Entry6] {
        &self.six
    }

    /// The zone of exactly this prefix.
    pub(crate) fn exactly(&self, net: IpNet) -> Option<&str> {
        let number = match net {
            IpNet::V4(net) => {
                let least = pack(net.prefix_len(), net.addr().into(), 0);
                let found = *self.four.get(self.four.partition_point(|e| *e < least))?;
                (found.0 >> ZONE_BITS == least.0 >> ZONE_BITS).then_some(found.parts().2)
            }
            IpNet::V6(net) => {
                let wanted = (net.prefix_len(), u128::from(net.addr()));
                let found = self.six.binary_search_by_key(&wanted, |(l, address, _)| (*l, *address));
                found.ok().and_then(|n| self.six.get(n)).map(|(.., zone)| *zone)
            }
        };
        number.map(|number| self.zone(number))
    }

    /// The longest prefix that holds an address, and its zone.
    pub(crate) fn longest(&self, address: IpAddr) -> Option<(IpNet, &str)> {
        let alone = IpNet::from(address);
        let holders =
            (0..=alone.max_prefix_len()).rev().filter_map(|length| IpNet::new(address, length).ok());
        holders.map(|net| net.trunc()).find_map(|net| Some((net, self.exactly(net)?)))
    }
}

fn is_owned(address: IpAddr, length: u8) -> bool {
    IpNet::new(address, length).is_ok_and(|net| owner_of(net).is_some())
}

/// A sorted list less some of its entries and with others.
fn changed<T: Copy + Ord>(former: &[T], mut removed: Vec<T>, mut added: Vec<T>) -> Vec<T> {
    removed.sort_unstable();
    added.sort_unstable();
    if former.is_empty() {
        return added;
    }
    // A list of which a little changed was removed and added as a whole.
    let (removed, added) = difference(&removed, &added);
    let length = (former.len() + added.len()).saturating_sub(removed.len());
    let mut all = pages::vec_with_capacity(length);
    let (mut rest, mut removed, mut added) = (former, &removed[..], &added[..]);
    while let Some(next) = removed.first().into_iter().chain(added.first()).min().copied() {
        let (before, after) = rest.split_at(rest.partition_point(|entry| *entry < next));
        all.extend_from_slice(before);
        rest = after;
        if removed.first() == Some(&next) {
            removed = &removed[1..];
            rest = rest.get(1..).unwrap_or_default();
        } else {
            added = &added[1..];
            all.push(next);
        }
    }
    all.extend_from_slice(rest);
    all
}

/// Of two sorted lists what only the first and what only the second has.
fn difference<T: Copy + Ord>(mut first: &[T], mut second: &[T]) -> (Vec<T>, Vec<T>) {
    let (mut only_first, mut only_second) = (Vec::new(), Vec::new());
    while let ([a, rest @ ..], [b, others @ ..]) = (first, second) {
        match a.cmp(b) {
            Ordering::Less => {
                only_first.push(*a);
                first = rest;
            }
            Ordering::Greater => {
                only_second.push(*b);
                second = others;
            }
            Ordering::Equal => (first, second) = (rest, others),
        }
    }
    only_first.extend_from_slice(first);
    only_second.extend_from_slice(second);
    (only_first, only_second)
}

#[cfg(test)]
mod tests;
