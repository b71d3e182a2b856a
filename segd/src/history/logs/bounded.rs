//! Sums of so many conversations that they must not all be kept: those that are left over become one for each group
//! of flows that differ only in peer, local address and program; their number is estimated.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::sums::Key;
use crate::history::sketch::{Sketch, hash};
use crate::history::summary::Sum;

/// If there would be fewer conversations than this for each port, it is a scan of ports: they are not told apart.
const PORTS: usize = 4;

/// Sums by conversation and hour.
#[derive(Debug)]
pub(super) struct Bounded {
    /// So many are aimed at.
    most: usize,
    /// So many there may be before the next fold.
    limit: usize,
    single: HashMap<Key, Sum>,
    others: HashMap<Key, (Sum, Sketch)>,
}

impl Bounded {
    /// Of about `most` conversations of an hour.
    pub(super) fn new(most: usize) -> Self {
        Self { most, limit: most, single: HashMap::new(), others: HashMap::new() }
    }

    pub(super) fn add(&mut self, key: Key, sum: Sum) {
        self.single.entry(key).and_modify(|all| all.add(&sum)).or_insert(sum);
        if self.single.len() > self.limit {
            self.fold();
        }
    }

    /// Adds what another one has, whose keys `renamed` makes this one's.
    pub(super) fn merge(&mut self, other: Self, renamed: impl Fn(Key) -> Key) {
        for (key, (sum, peers)) in other.others {
            self.add_others(renamed(key), &sum, |all| all.merge(&peers));
        }
        other.single.into_iter().for_each(|(key, sum)| self.add(renamed(key), sum));
    }

    /// Joins what began without a local address, which a client may not know yet, with what tells it at its end.
    pub(super) fn with_locals(mut self) -> Self {
        let mut known: HashMap<Key, Key> = HashMap::new();
        for key in self.single.keys().filter(|key| key.local.is_some()) {
            let without = key.without_local();
            if self.single.contains_key(&without) {
                let first = known.entry(without).or_insert(*key);
                if key.local < first.local {
                    *first = *key;
                }
            }
        }
        for (without, key) in known {
            if let Some(sum) = self.single.remove(&without) {
                self.single.entry(key).and_modify(|all| all.add(&sum)).or_insert(sum);
            }
        }
        self
    }

    /// Every sum with its conversation; with the number of further peers where it is of several.
    pub(super) fn into_sums(self) -> impl Iterator<Item = (Key, Sum, Option<u64>)> {
        let others = self.others.into_iter().map(|(key, (sum, peers))| (key, sum, Some(peers.count())));
        self.single.into_iter().map(|(key, sum)| (key, sum, None)).chain(others)
    }

    fn add_others(&mut self, group: Key, sum: &Sum, count: impl FnOnce(&mut Sketch)) {
        let (all, peers) = self.others.entry(group).or_insert_with(|| (sum.none(), Sketch::default()));
        all.add(sum);
        count(peers);
    }

    /// Halves what is kept one by one, where most of it is; conversations with more flows stay rather than others.
    fn fold(&mut self) {
        let scopes = grouped(self.single.keys().copied(), Key::group_of_ports);
        let most = fair_share(scopes.values().map(Vec::len).collect(), self.most / 2);
        for (scope, keys) in scopes.into_iter().filter(|(_, keys)| keys.len() > most) {
            let groups = grouped(keys.iter().copied(), Key::group);
            if groups.len() > most / PORTS {
                self.fold_group(scope, keys, most);
                continue;
            }
            let most = fair_share(groups.values().map(Vec::len).collect(), most);
            groups.into_iter().for_each(|(group, keys)| self.fold_group(group, keys, most));
        }
        // Even if the groups alone are more: the work for each conversation stays the same.
        self.limit = self.most.max(2 * self.single.len());
    }

    fn fold_group(&mut self, group: Key, mut keys: Vec<Key>, most: usize) {
        if keys.len() <= most {
            return;
        }
        keys.select_nth_unstable_by_key(most, |key| Reverse(self.single.get(key).map(|sum| sum.flows)));
        for key in keys.drain(most..) {
            if let Some(sum) = self.single.remove(&key) {
                self.add_others(group, &sum, |peers| peers.insert(hash((key.peer, key.port, key.icmp))));
            }
        }
    }
}

fn grouped(keys: impl Iterator<Item = Key>, group_of: impl Fn(&Key) -> Key) -> HashMap<Key, Vec<Key>> {
    let mut groups: HashMap<Key, Vec<Key>> = HashMap::new();
    keys.for_each(|key| groups.entry(group_of(&key)).or_default().push(key));
    groups
}

/// The largest number that so many groups may keep each, so that together they keep no more than `budget`; at least one.
fn fair_share(mut sizes: Vec<usize>, mut budget: usize) -> usize {
    sizes.sort_unstable();
    for (n, size) in sizes.iter().enumerate() {
        let left = sizes.len() - n;
        if size * left > budget {
            return (budget / left).max(1);
        }
        budget -= size;
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_fair() {
        for (sizes, budget, want) in [
            (&[3, 100, 5][..], 28, 20),
            (&[100, 100], 50, 25),
            (&[1, 1, 1], 50, usize::MAX),
            (&[10, 10], 20, usize::MAX),
            (&[1, 1, 1], 2, 1),
            (&[], 2, usize::MAX),
        ] {
            assert_eq!(fair_share(sizes.to_vec(), budget), want, "{sizes:?}");
        }
    }
}
