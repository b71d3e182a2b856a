//! A table that may hold a million entries, so that a small change of it must cost little: beside the map that is in
//! force a spare one is kept, which is brought up to date by what has changed since it was filled and then takes the
//! other one's place. A map that programs may read is never changed.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use aya::maps::{Map, MapError};

use super::slots::{Filled, Kind, Slots};
use super::{Error, sys};

/// A table with fewer entries is made anew.
const LARGE: usize = 4096;

/// An entry as user space keeps it, in lists that are sorted by [`Entry::key`].
pub(super) trait Entry: Copy + PartialEq + Send + Sync + 'static {
    /// What it is sorted by.
    type Key: Copy + Ord + Send;
    /// The kernel's key.
    type MapKey: aya::Pod;
    /// The kernel's value.
    type Value: aya::Pod;

    fn key(&self) -> Self::Key;
    fn pair(&self) -> (Self::MapKey, Self::Value);
}

/// One table in every slot.
pub(super) struct Large<T: Entry> {
    pub(super) slots: Slots,
    /// What the last plan was made of.
    last: Arc<Vec<T>>,
    copies: Vec<Copied<T>>,
    /// A copy that is being made.
    coming: Option<JoinHandle<Result<Filled, Error>>>,
}

/// A map, and what differs between it and `last`.
struct Copied<T: Entry> {
    filled: Arc<Filled>,
    /// Entries that it has room for.
    room: usize,
    holds: Holds<T>,
}

enum Holds<T: Entry> {
    /// What `last` holds, but for these.
    Apart(BTreeMap<T::Key, Apart<T>>),
    /// This.
    All(Arc<Vec<T>>),
}

/// One entry where two tables differ; at least one of them has it.
#[derive(Clone, Copy)]
struct Apart<T> {
    here: Option<T>,
    last: Option<T>,
}

impl<T: Entry> Large<T> {
    pub(super) fn new(map: Map, name: &'static str, kind: Kind) -> Result<Self, Error> {
        let slots = Slots::new(map, name, kind)?;
        Ok(Self { slots, last: Arc::default(), copies: Vec::new(), coming: None })
    }

    /// Makes a table of these entries for a slot, unless there is one that holds the same.
    pub(super) fn plan(&mut self, slot: u32, entries: &Arc<Vec<T>>) -> Result<(), Error> {
        self.take_coming();
        self.turn_to(entries);
        let same = self.copies.iter().filter(|copy| match &copy.holds {
            Holds::Apart(apart) => apart.is_empty(),
            Holds::All(all) => all == entries,
        });
        // One that is there already costs nothing.
        let same = same.max_by_key(|copy| self.slots.has(slot, &copy.filled));
        let filled = match same {
            Some(copy) => Arc::clone(&copy.filled),
            None => match self.bring_up_to_date(entries.len()) {
                Some(filled) => filled,
                None => self.make()?,
            },
        };
        self.slots.plan_map(slot, filled);
        Ok(())
    }

    fn make(&mut self) -> Result<Arc<Filled>, Error> {
        let filled = Arc::new(build(&self.slots, &self.last)?);
        self.copies.push(Copied::new(Arc::clone(&filled), self.last.len()));
        Ok(filled)
    }

    /// Brings the copy up to date that nobody reads and that differs least.
    fn bring_up_to_date(&mut self, entries: usize) -> Option<Arc<Filled>> {
        let Self { slots, copies, .. } = self;
        let apart = |copy: &Copied<T>| match &copy.holds {
            Holds::Apart(apart) if copy.room >= entries && !slots.reads(&copy.filled) => Some(apart.len()),
            _ => None,
        };
        let (_, nearest) = (0..).zip(&*copies).filter_map(|(n, copy)| Some((apart(copy)?, n))).min()?;
        let copy: &mut Copied<T> = copies.get_mut(nearest)?;
        match copy.bring_up_to_date() {
            Ok(()) => Some(Arc::clone(&copy.filled)),
            Err(error) => {
                tracing::warn!("the table {} is made anew: {error}", slots.name);
                // Nobody knows what it holds.
                copies.swap_remove(nearest);
                None
            }
        }
    }

    /// Makes `entries` what the copies are held against.
    fn turn_to(&mut self, entries: &Arc<Vec<T>>) {
        let slots = &self.slots;
        let Some(changes) = difference(&self.last, entries) else {
            // Those that are read may be wanted again as they are.
            self.copies.retain_mut(|copy| {
                if let Holds::Apart(apart) = &copy.holds {
                    if !apart.is_empty() || !slots.reads(&copy.filled) {
                        return false;
                    }
                    copy.holds = Holds::All(Arc::clone(&self.last));
                }
                true
            });
            self.last = Arc::clone(entries);
            return;
        };
        for copy in &mut self.copies {
            if let Holds::Apart(apart) = &mut copy.holds {
                take_apart(apart, &changes);
            }
        }
        self.last = Arc::clone(entries);
    }

    /// Keeps one spare copy, and begins to make one if there is none.
    pub(super) fn keep_spare(&mut self) {
        self.take_coming();
        let slots = &self.slots;
        let mut spare = None;
        let wanted = self.last.len() >= LARGE;
        // The newest come last.
        let mut kept: Vec<Copied<T>> = self.copies.drain(..).rev().collect();
        kept.retain(|copy| {
            let read = slots.reads(&copy.filled);
            let first = !read && wanted && spare.is_none() && matches!(copy.holds, Holds::Apart(_));
            if first {
                spare = Some(Arc::clone(&copy.filled));
            }
            read || first
        });
        kept.reverse();
        self.copies = kept;
        self.slots.spare = spare;
        // While a fallback waits beside what is in force, there are two already.
        if wanted && self.copies.len() < 2 {
            let (maker, last) = (self.slots.maker(), Arc::clone(&self.last));
            let made = move || maker.build_with_room(room(last.len()), last.iter().map(Entry::pair));
            self.coming = thread::Builder::new().name(self.slots.name.to_owned()).spawn(made).ok();
        }
    }

    /// Waits for the copy that is being made, which takes no longer than to make another one. Nothing has changed since.
    fn take_coming(&mut self) {
        let Some(coming) = self.coming.take() else { return };
        match coming.join() {
            Ok(Ok(filled)) => self.copies.push(Copied::new(Arc::new(filled), self.last.len())),
            Ok(Err(error)) => tracing::warn!("the next change of a table will take longer: {error}"),
            Err(_) => tracing::warn!("the next change of a table will take longer: a thread panicked"),
        }
    }
}

impl<T: Entry> Copied<T> {
    /// One that holds `last`, of so many entries.
    fn new(filled: Arc<Filled>, entries: usize) -> Self {
        Self { filled, room: room(entries), holds: Holds::Apart(BTreeMap::new()) }
    }

    fn bring_up_to_date(&mut self) -> Result<(), Error> {
        let Holds::Apart(apart) = &mut self.holds else { return Ok(()) };
        let map = self.filled.map.fd().as_fd();
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let failed = |e| Error::map("a spare table", MapError::IoError(e));
        for differs in apart.values() {
            match (differs.here, differs.last) {
                (_, Some(entry)) => {
                    let (key, value) = entry.pair();
                    keys.push(key);
                    values.push(value);
                }
                (Some(entry), None) => sys::map_delete(map, &entry.pair().0).map_err(failed)?,
                (None, None) => {}
            }
        }
        sys::map_update_batch(map, &keys, &values).map_err(failed)?;
        apart.clear();
        Ok(())
    }
}

/// Room for a table that is to be kept up to date: an eighth more than it holds.
const fn room(entries: usize) -> usize {
    if entries < LARGE { entries } else { entries + entries / 8 }
}

fn build<T: Entry>(slots: &Slots, entries: &[T]) -> Result<Filled, Error> {
    slots.maker().build_with_room(room(entries.len()), entries.iter().map(Entry::pair))
}

/// Key, old and new entry.
type Change<T> = (<T as Entry>::Key, Option<T>, Option<T>);

/// Takes changes into what differs between a copy and the last plan.
fn take_apart<T: Entry>(apart: &mut BTreeMap<T::Key, Apart<T>>, changes: &[Change<T>]) {
    for (key, old, new) in changes {
        let differs = apart.entry(*key).or_insert(Apart { here: *old, last: *old });
        differs.last = *new;
        if differs.here == differs.last {
            apart.remove(key);
        }
    }
}

/// Key, old and new entry where two sorted lists differ; `None` if that is more than an eighth of them.
fn difference<T: Entry>(old: &Arc<Vec<T>>, new: &Arc<Vec<T>>) -> Option<Vec<Change<T>>> {
    let mut found = Vec::new();
    if Arc::ptr_eq(old, new) {
        return Some(found);
    }
    let limit = (old.len() / 8).max(64);
    let (mut left, mut right) = (&old[..], &new[..]);
    loop {
        match (left.split_first(), right.split_first()) {
            (None, None) => return Some(found),
            (Some((a, rest)), Some((b, others))) if a == b => (left, right) = (rest, others),
            (Some((a, rest)), Some((b, others))) if a.key() == b.key() => {
                found.push((a.key(), Some(*a), Some(*b)));
                (left, right) = (rest, others);
            }
            (Some((a, rest)), b) if b.is_none_or(|(b, _)| a.key() < b.key()) => {
                found.push((a.key(), Some(*a), None));
                left = rest;
            }
            (_, Some((b, others))) => {
                found.push((b.key(), None, Some(*b)));
                right = others;
            }
            (Some(_), None) => return None,
        }
        if found.len() > limit {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use segd_common::addr::Addr;
    use segd_common::id::ZoneId;
    use segd_common::table::PeerZone;

    use super::*;

    type Host = (Addr, PeerZone);

    fn table(entries: BTreeMap<u8, u16>) -> Arc<Vec<Host>> {
        let host = |(ip, zone)| (Addr::v4([10, 0, 0, ip]), PeerZone::plain(ZoneId(zone)));
        Arc::new(entries.into_iter().map(host).collect())
    }

    #[test]
    fn lists_that_differ_much_are_not_compared_to_the_end() {
        let all = |zone| table((0..=u8::MAX).map(|ip| (ip, zone)).collect());
        assert!(difference(&all(1), &all(2)).is_none());
        assert_eq!(difference(&all(1), &all(1)).map(|changes| changes.len()), Some(0));
    }

    proptest! {
        #[test]
        fn a_copy_follows_by_what_differs(
            tables in prop::collection::vec(prop::collection::btree_map(0_u8..60, 0_u16..3, 0..50), 1..8),
            updated in prop::collection::vec(any::<bool>(), 8),
        ) {
            let tables: Vec<Arc<Vec<Host>>> = tables.into_iter().map(table).collect();
            let mut copy: BTreeMap<Addr, Host> = tables[0].iter().map(|host| (host.0, *host)).collect();
            let mut apart = BTreeMap::new();
            for (pair, update) in tables.windows(2).zip(updated) {
                take_apart(&mut apart, &difference(&pair[0], &pair[1]).unwrap());
                let same = copy.values().copied().eq(pair[1].iter().copied());
                prop_assert_eq!(apart.is_empty(), same);
                if update {
                    for (key, differs) in std::mem::take(&mut apart) {
                        prop_assert_eq!(copy.get(&key).copied(), differs.here);
                        match differs.last {
                            Some(host) => copy.insert(key, host),
                            None => copy.remove(&key),
                        };
                    }
                    prop_assert!(copy.values().copied().eq(pair[1].iter().copied()));
                }
            }
        }
    }
}
