//! The rows of one hour.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::HashMap;

use super::known::{self, Known};
use super::parts::{Class, Group, Key, Place, Program, Row, Scope, group_of, has_name, is_ruled, scope_of};
use super::{Changed, Kept, Limits, Places, Removed};
use crate::history::sketch::hash;
use crate::history::summary::{Conversation, Peer, Sum};

/// Peers choose some of the keys of its tables, which are bounded and hashed with a seed of the process.
#[derive(Debug, Default)]
pub(super) struct Hour {
    classes: Vec<Class>,
    index: HashMap<Arc<Conversation>, u32>,
    rows: HashMap<Key, Row>,
    changed: Vec<Key>,
    removed: Vec<Key>,
    /// By the class without local address and program.
    groups: HashMap<u32, Group>,
    /// By the class without port too.
    scopes: HashMap<u32, Scope>,
    programs: HashMap<Arc<str>, HashSet<Program>>,
    /// Single peers of flows that a rule allowed, and of others.
    ruled: usize,
    unruled: usize,
    swaps: usize,
    /// What was written of it before is in here.
    pub(super) restored: bool,
}

impl Hour {
    pub(super) fn add(
        &mut self,
        of: Conversation,
        peer: IpAddr,
        sums: &Sum,
        limits: &Limits,
        known: &mut Known,
    ) {
        let mut of = Conversation { peer: Peer::Others(0), ..of };
        let mut class = self.index.get(&of).copied();
        if class.is_none() {
            self.limit_programs(&mut of, limits, known);
            self.limit_ports(&mut of, limits, known);
            class = self.index.get(&of).copied();
        }
        if class.is_some_and(|class| self.add_to(Key { class, peer: Some(peer) }, sums)) {
            return;
        }
        let at = match class.and_then(|class| self.classes.get(class as usize)) {
            Some(class) => class.at,
            None => self.place(&of),
        };
        let also = match class {
            Some(class) if of.local.is_none() => self.add_to_local(class, peer, sums),
            _ => of.local.is_some() && self.learn_local(&of, at, peer, sums),
        };
        if also {
            return;
        }
        let peer_hash = known::of_peer(&of, peer);
        if self.has_place(is_ruled(&of), at, limits) || self.makes_place(peer_hash, at, limits, known) {
            let class = self.intern_local(&of, at);
            self.keep(class, peer, *sums, false);
        } else {
            self.add_to_others(at.group, hash(peer), sums);
        }
    }

    /// A flow that begins may have no local address yet: it belongs to the row that learned one of another flow's end.
    fn add_to_local(&mut self, class: u32, peer: IpAddr, sums: &Sum) -> bool {
        let Some(local) = self.classes.get(class as usize).map(|class| &class.local) else { return false };
        let keys = local.iter().map(|class| Key { class: *class, peer: Some(peer) });
        let found = keys.into_iter().find(|key| self.rows.contains_key(key));
        found.is_some_and(|key| self.add_to(key, sums))
    }

    /// Gives a row that had no local address the one that is known when its flows end.
    fn learn_local(&mut self, of: &Conversation, at: Place, peer: IpAddr, sums: &Sum) -> bool {
        let without = Conversation { local: None, ..of.clone() };
        let Some(class) = self.index.get(&without) else { return false };
        let old = Key { class: *class, peer: Some(peer) };
        let Some(mut row) = self.rows.remove(&old) else { return false };
        if row.changed {
            self.changed.retain(|changed| *changed != old);
        }
        if row.written {
            self.removed.push(old);
        }
        let new = Key { class: self.intern_local(of, at), ..old };
        let kept = self.groups.get_mut(&at.group).map(|group| &mut group.kept);
        if let Some(place) = kept.and_then(|kept| kept.iter_mut().find(|key| **key == old)) {
            *place = new;
        }
        row.sums.add(sums);
        self.insert(new, row.sums, false);
        true
    }

    /// As [`Hour::intern`], and found from the class without the local address.
    fn intern_local(&mut self, of: &Conversation, at: Place) -> u32 {
        if of.local.is_none() {
            return self.intern(of, Some(at));
        }
        let without = self.intern(&Conversation { local: None, ..of.clone() }, Some(at));
        let class = self.intern(of, Some(at));
        if let Some(siblings) = self.classes.get_mut(without as usize).map(|class| &mut class.local)
            && !siblings.contains(&class)
        {
            siblings.push(class);
        }
        class
    }

    fn add_to(&mut self, key: Key, sums: &Sum) -> bool {
        let Some(row) = self.rows.get_mut(&key) else { return false };
        row.sums.add(sums);
        if !row.changed {
            row.changed = true;
            self.changed.push(key);
        }
        true
    }

    fn insert(&mut self, key: Key, sums: Sum, written: bool) {
        self.rows.insert(key, Row { sums, changed: !written, written });
        if !written {
            self.changed.push(key);
        }
    }

    fn keep(&mut self, class: u32, peer: IpAddr, sums: Sum, written: bool) {
        let Some(Class { at, .. }) = self.classes.get(class as usize) else { return };
        let Place { group, scope } = *at;
        let key = Key { class, peer: Some(peer) };
        self.insert(key, sums, written);
        self.groups.entry(group).or_default().kept.push(key);
        self.scopes.entry(scope).or_default().rows += 1;
        *self.rows_like(class) += 1;
    }

    fn rows_like(&mut self, class: u32) -> &mut usize {
        let ruled = self.classes.get(class as usize).is_some_and(|class| is_ruled(&class.of));
        if ruled { &mut self.ruled } else { &mut self.unruled }
    }

    /// The group and the scope that a class belongs to.
    fn place(&mut self, of: &Conversation) -> Place {
        let scope = self.intern(&scope_of(of), None);
        let group = group_of(of);
        let group = match self.index.get(&group) {
            Some(group) => *group,
            None => {
                let next = self.next_class();
                self.intern(&group, Some(Place { group: next, scope }))
            }
        };
        Place { group, scope }
    }

    fn next_class(&self) -> u32 {
        u32::try_from(self.classes.len()).unwrap_or(u32::MAX)
    }

    /// The number of a class. `None` for one that is its own group and scope.
    fn intern(&mut self, of: &Conversation, at: Option<Place>) -> u32 {
        if let Some(number) = self.index.get(of) {
            return *number;
        }
        let of = Arc::new(of.clone());
        let number = self.next_class();
        let at = at.unwrap_or(Place { group: number, scope: number });
        self.classes.push(Class { of: Arc::clone(&of), at, local: Vec::new() });
        self.index.insert(of, number);
        number
    }

    /// Takes away the program if its subject has too many.
    fn limit_programs(&mut self, class: &mut Conversation, limits: &Limits, known: &Known) {
        let program = (class.process.clone(), class.unit.clone(), class.uid);
        if program == (None, None, None) {
            return;
        }
        let programs = self.programs.entry(Arc::clone(&class.subject)).or_default();
        if !has_name(programs, program, limits, || known.has(known::of_program(class))) {
            *class = Conversation { process: None, unit: None, uid: None, ..class.clone() };
        }
    }

    /// Takes away the port if there are too many.
    fn limit_ports(&mut self, class: &mut Conversation, limits: &Limits, known: &Known) {
        if class.port == 0 && class.icmp.is_none() {
            return;
        }
        let scope = scope_of(class);
        let number = self.intern(&scope, None);
        let ports = &mut self.scopes.entry(number).or_default().ports;
        let port = (class.port, class.icmp);
        let full = self.groups.len() >= limits.groups && !self.index.contains_key(&group_of(class));
        if full || !has_name(ports, port, limits, || known.has(known::of_port(class))) {
            *class = Conversation { port: 0, icmp: None, service: scope.service, ..class.clone() };
        }
    }

    fn has_place(&self, ruled: bool, Place { group, scope }: Place, limits: &Limits) -> bool {
        let (places, used) = if ruled { (limits.ruled, self.ruled) } else { (limits.unruled, self.unruled) };
        let Places { group: of_group, ports, hour } = places;
        used < hour
            && self.groups.get(&group).is_none_or(|g| g.kept.len() < of_group)
            && self.scopes.get(&scope).is_none_or(|s| s.rows < ports)
    }

    /// Whether a peer of the group gave up its place.
    fn makes_place(&mut self, hash: u64, at: Place, limits: &Limits, known: &mut Known) -> bool {
        let is_known = known.has(hash);
        // The rest is for those that are known.
        let swaps = if is_known { limits.swaps } else { limits.swaps / 2 };
        if !(is_known || known.comes_again(hash)) || self.swaps >= swaps {
            return false;
        }
        self.swaps += 1;
        let Some(kept) = self.groups.get(&at.group).map(|g| &g.kept) else { return false };
        let weight = |key: &Key| {
            let flows = self.rows.get(key).map_or(0, |row| row.sums.flows);
            let class = self.classes.get(key.class as usize).zip(key.peer);
            let stays = class.is_some_and(|(class, peer)| known.has(known::of_peer(&class.of, peer)));
            (!stays && (is_known || flows <= 1)).then_some(flows)
        };
        let weights = kept.iter().enumerate().filter_map(|(place, key)| Some((weight(key)?, place)));
        let Some((_, place)) = weights.min() else { return false };
        self.give_up(place, at);
        true
    }

    /// Counts a single peer among the others from now on.
    fn give_up(&mut self, place: usize, Place { group, scope }: Place) {
        let Some(key) = self.groups.get_mut(&group).map(|g| g.kept.swap_remove(place)) else { return };
        let (Some(row), Some(peer)) = (self.rows.remove(&key), key.peer) else { return };
        if let Some(scope) = self.scopes.get_mut(&scope) {
            scope.rows = scope.rows.saturating_sub(1);
        }
        let rows = self.rows_like(key.class);
        *rows = rows.saturating_sub(1);
        if row.changed {
            self.changed.retain(|changed| *changed != key);
        }
        if row.written {
            self.removed.push(key);
        }
        self.add_to_others(group, hash(peer), &row.sums);
    }

    fn add_to_others(&mut self, group: u32, peer: u64, sums: &Sum) {
        self.groups.entry(group).or_default().others.get_or_insert_default().insert(peer);
        let key = Key { class: group, peer: None };
        if !self.add_to(key, sums) {
            self.insert(key, *sums, false);
        }
    }

    /// Takes a row that was written before, beside what is here already.
    pub(super) fn restore(&mut self, kept: Kept) {
        let class = Conversation { peer: Peer::Others(0), ..kept.of };
        let at = self.place(&class);
        if class.port != 0 || class.icmp.is_some() {
            self.scopes.entry(at.scope).or_default().ports.insert((class.port, class.icmp));
        }
        let program = (class.process.clone(), class.unit.clone(), class.uid);
        if program != (None, None, None) {
            self.programs.entry(Arc::clone(&class.subject)).or_default().insert(program);
        }
        let class = if kept.peer.is_some() { self.intern_local(&class, at) } else { at.group };
        let key = Key { class, peer: kept.peer };
        if kept.peer.is_none() {
            let others = self.groups.entry(at.group).or_default().others.get_or_insert_default();
            others.merge(&kept.others.unwrap_or_default());
        }
        if self.add_to(key, &kept.sums) {
            if let Some(row) = self.rows.get_mut(&key) {
                row.written = true;
            }
        } else if let Some(peer) = kept.peer {
            self.keep(class, peer, kept.sums, true);
        } else {
            self.insert(key, kept.sums, true);
        }
    }

    pub(super) fn changes(&self, hour: i64) -> impl Iterator<Item = Changed<'_>> {
        self.changed.iter().filter_map(move |key| {
            let row = self.rows.get(key)?;
            let others = match key.peer {
                None => self.groups.get(&key.class).and_then(|g| g.others.as_ref()),
                Some(_) => None,
            };
            Some(Changed {
                hour,
                class: key.class,
                of: &self.classes.get(key.class as usize)?.of,
                peer: key.peer,
                sums: &row.sums,
                others,
                is_new: !row.written,
            })
        })
    }

    pub(super) fn removals(&self, hour: i64) -> impl Iterator<Item = Removed<'_>> {
        self.removed.iter().filter_map(move |key| {
            let of = &self.classes.get(key.class as usize)?.of;
            Some(Removed { hour, class: key.class, of, peer: key.peer? })
        })
    }

    pub(super) fn pending(&self) -> usize {
        self.changed.len() + self.removed.len()
    }

    pub(super) fn written(&mut self) {
        self.removed.clear();
        for key in self.changed.drain(..) {
            if let Some(row) = self.rows.get_mut(&key) {
                (row.changed, row.written) = (false, true);
            }
        }
    }

    pub(super) fn lost(&mut self) {
        self.removed.clear();
        self.changed = self.rows.keys().copied().collect();
        for row in self.rows.values_mut() {
            (row.changed, row.written) = (true, false);
        }
    }

    /// Flows in rows that were changed since they were written.
    pub(super) fn unwritten(&self) -> u64 {
        self.changed.iter().filter_map(|key| self.rows.get(key)).map(|row| row.sums.flows).sum()
    }

    /// Single peers.
    pub(super) fn kept(&self) -> impl Iterator<Item = (&Conversation, IpAddr)> {
        self.rows.keys().filter_map(|key| Some((&*self.classes.get(key.class as usize)?.of, key.peer?)))
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        let names: usize = self.scopes.values().map(|s| s.ports.len()).sum();
        let programs: usize = self.programs.values().map(HashSet::len).sum();
        let lists = self.changed.len() + self.removed.len();
        self.rows.len()
            + self.classes.len()
            + self.groups.len()
            + self.scopes.len()
            + names
            + programs
            + lists
    }
}
