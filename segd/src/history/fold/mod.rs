//! Adds up what flowed, hour by hour, within bounds that no traffic can exceed. Pure: no clock, no disk.
//!
//! Of an hour the peers are kept one by one, but in each group of flows that differ in nothing else only so many
//! ([`Limits`]). What is left over is one row with [`Peer::Others`]: its flows, packets and bytes are exact, the number
//! of its peers is estimated. Ports and programs that are too many become one as well (port 0, no program). So a scan or
//! a fork of a thousand names costs a bounded number of rows, and the totals are exact all the same.
//!
//! Who is kept: flows that a rule allowed have places of their own, in number and per zone, protocol and port. Within a
//! group a peer that was kept in a former hour, or that comes again, takes the place of one that came only once.

mod hour;
mod known;
mod parts;

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::sketch::Sketch;
use super::summary::{Conversation, HOUR, Peer, Sum, Summary};
use hour::Hour;
use jiff::Timestamp;
use known::Known;

/// Hours that are held at a time: the present one, and the one before for what comes late.
const HOURS: usize = 2;

/// What is kept of one hour at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Rows of single peers, for flows that a rule allowed.
    pub(super) ruled: Places,
    /// The same for all other flows.
    pub(super) unruled: Places,
    /// Ports of each group of flows that differ in nothing else that rules tell apart; programs of each subject.
    pub(super) names: usize,
    /// Groups for which there are rows of their own; later ones are counted without their port.
    pub(super) groups: usize,
    /// Times that a peer takes another one's place.
    pub(super) swaps: usize,
    /// Peers, ports and programs of former hours that are remembered.
    pub(super) known: usize,
}

/// Rows of single peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// In one group: of one subject, direction, zone, protocol, port, verdict and rule.
    pub(super) group: usize,
    /// In all groups that differ only in the port.
    pub(super) ports: usize,
    /// In all.
    pub(super) hour: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ruled: Places { group: 1024, ports: 4096, hour: 8192 },
            unruled: Places { group: 256, ports: 1024, hour: 4096 },
            names: 256,
            groups: 4096,
            swaps: 8192,
            known: 32_768,
        }
    }
}

/// A row as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// Its peer means nothing.
    pub(super) of: Conversation,
    /// `None`: further peers.
    pub(super) peer: Option<IpAddr>,
    pub(super) sums: Sum,
    /// Who the further peers are.
    pub(super) others: Option<Sketch>,
}

/// A row that is to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changed<'a> {
    /// Hours since 1970.
    pub(super) hour: i64,
    /// Stands for `of` within the hour for as long as [`Fold`] holds it.
    pub(super) class: u32,
    /// Its peer means nothing.
    pub(super) of: &'a Conversation,
    /// `None`: further peers.
    pub(super) peer: Option<IpAddr>,
    pub(super) sums: &'a Sum,
    pub(super) others: Option<&'a Sketch>,
    /// It was never written before.
    pub(super) is_new: bool,
}

/// A row that was written and is no more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Removed<'a> {
    pub(super) hour: i64,
    pub(super) class: u32,
    pub(super) of: &'a Conversation,
    pub(super) peer: IpAddr,
}

/// The sums of the last hours.
#[derive(Debug, Default)]
pub(super) struct Fold {
    limits: Limits,
    hours: BTreeMap<i64, Hour>,
    known: Known,
}

impl Fold {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Whether what belongs to an hour can be added.
    pub(super) fn holds(&self, hour: i64) -> bool {
        self.hours.contains_key(&hour)
    }

    /// The hour that would no longer be held if another one began.
    pub(super) fn ends_next(&self) -> Option<i64> {
        self.hours.first_key_value().filter(|_| self.hours.len() >= HOURS).map(|(hour, _)| *hour)
    }

    /// The oldest hour that is held.
    pub(super) fn oldest(&self) -> Option<i64> {
        self.hours.first_key_value().map(|(hour, _)| *hour)
    }

    /// The hours that are held, of which it is not known what was written before.
    pub(super) fn unrestored(&self) -> Vec<i64> {
        self.hours.iter().filter(|(_, hour)| !hour.restored).map(|(number, _)| *number).collect()
    }

    /// Begins an hour. Returns the flows that were not yet written of the hour that gives way to it.
    pub(super) fn begin(&mut self, hour: i64) -> u64 {
        let mut unwritten = 0;
        if let Some(over) = self.ends_next().and_then(|over| self.hours.remove(&over).map(|h| (over, h))) {
            unwritten = over.1.unwritten();
            for (of, peer) in over.1.kept() {
                self.known.note(over.0, of, peer, self.limits.known);
            }
        }
        self.hours.entry(hour).or_default();
        unwritten
    }

    /// Adds what was written of an hour that is held. Nothing, if that was done before: it would count twice.
    pub(super) fn restore(&mut self, hour: i64, written: impl IntoIterator<Item = Kept>) {
        if let Some(hour) = self.hours.get_mut(&hour).filter(|hour| !hour.restored) {
            written.into_iter().for_each(|kept| hour.restore(kept));
            hour.restored = true;
        }
    }

    /// Remembers a row of a former hour: its peer, port and program are preferred to new ones.
    pub(super) fn remember(&mut self, hour: i64, of: &Conversation, peer: IpAddr) {
        self.known.note(hour, of, peer, self.limits.known);
    }

    /// Adds what one record says. Its hour must be held; else nothing is done.
    pub(super) fn add(&mut self, one: Summary) {
        let Peer::Address(peer) = one.of.peer else { return };
        if let Some(hour) = self.hours.get_mut(&hour_number(one.hour)) {
            let sums = Sum::of(&one);
            hour.add(one.of, peer, &sums, &self.limits, &mut self.known);
        }
    }

    /// What is to be written since [`Fold::written`].
    pub(super) fn changes(&self) -> impl Iterator<Item = Changed<'_>> {
        self.hours.iter().flat_map(|(number, hour)| hour.changes(*number))
    }

    /// What is to be removed since [`Fold::written`], before the changes are written.
    pub(super) fn removals(&self) -> impl Iterator<Item = Removed<'_>> {
        self.hours.iter().flat_map(|(number, hour)| hour.removals(*number))
    }

    /// Rows that are to be written.
    pub(super) fn pending(&self) -> usize {
        self.hours.values().map(Hour::pending).sum()
    }

    /// All changes and removals were written.
    pub(super) fn written(&mut self) {
        self.hours.values_mut().for_each(Hour::written);
    }

    /// Nothing is written any more: all of it is to be written again.
    pub(super) fn lost(&mut self) {
        self.hours.values_mut().for_each(Hour::lost);
    }

    /// Everything of which memory is held, in entries.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.hours.values().map(Hour::entries).sum::<usize>() + self.known.len()
    }
}

/// Hours since 1970.
pub(super) fn hour_number(time: Timestamp) -> i64 {
    time.as_second().div_euclid(HOUR)
}

/// When an hour began.
pub(super) fn hour_start(number: i64) -> Timestamp {
    Timestamp::from_second(number.saturating_mul(HOUR)).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests;
