//! Peers, ports and programs of former hours, by their hashes; and those that came a moment ago and found no place.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::history::sketch::hash;
use crate::history::summary::Conversation;

/// Places for what came a moment ago.
const RECENT: usize = 4096;

#[derive(Debug)]
pub(super) struct Known {
    /// The last hour in which it was kept.
    seen: HashMap<u64, i64>,
    /// The last one of each place.
    recent: Box<[u64]>,
}

impl Default for Known {
    fn default() -> Self {
        Self { seen: HashMap::new(), recent: vec![0; RECENT].into() }
    }
}

impl Known {
    /// Remembers what a row of an hour stands for. Of more than `most` the oldest half is forgotten.
    pub(super) fn note(&mut self, hour: i64, of: &Conversation, peer: IpAddr, most: usize) {
        for hash in [of_peer(of, peer), of_port(of), of_program(of)] {
            self.seen.entry(hash).and_modify(|h| *h = hour.max(*h)).or_insert(hour);
        }
        if self.seen.len() > most {
            let mut hours: Vec<i64> = self.seen.values().copied().collect();
            let middle = hours.len() / 2;
            let (_, median, _) = hours.select_nth_unstable(middle);
            let median = *median;
            let mut newest = hours.iter().filter(|h| **h > median).count();
            // Of the hour in the middle as many as make a half.
            self.seen.retain(|_, h| {
                *h > median
                    || (*h == median && newest < middle && {
                        newest += 1;
                        true
                    })
            });
        }
    }

    pub(super) fn has(&self, hash: u64) -> bool {
        self.seen.contains_key(&hash)
    }

    /// Whether this came a moment ago too. From now on it did.
    pub(super) fn comes_again(&mut self, hash: u64) -> bool {
        let place = usize::try_from(hash % RECENT as u64).unwrap_or_default();
        self.recent.get_mut(place).is_some_and(|last| std::mem::replace(last, hash) == hash)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.seen.len() + self.recent.len()
    }
}

pub(super) fn of_peer(of: &Conversation, peer: IpAddr) -> u64 {
    hash((0, &of.subject, of.direction, &of.peer_zone, &of.protocol, of.port, peer))
}

pub(super) fn of_port(of: &Conversation) -> u64 {
    hash((1, &of.subject, of.direction, &of.peer_zone, &of.protocol, of.port, of.icmp))
}

pub(super) fn of_program(of: &Conversation) -> u64 {
    hash((2, &of.subject, &of.process, &of.unit, of.uid))
}
