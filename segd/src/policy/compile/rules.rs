//! The policy trie: what each subject may do with each peer zone.

use std::collections::BTreeMap;

use segd_common::id::{RuleId, SubjectId, ZoneId};
use segd_common::table::{PolicyEntry, PolicyKey};
use segd_common::traffic::{Direction, Mode, protocol};

use super::addresses::Peer;
use super::grants::{Grant, deciding, protocols};
use super::modes::Modes;
use super::prefixes::{prefixes, sweep};
use crate::policy::model::Policy;
use crate::policy::ports::PortSpec;
use crate::policy::workload::{Local, nanoseconds};

pub(super) type Entries = BTreeMap<(u32, PolicyKey), PolicyEntry>;

/// Every peer that needs entries, with the number that they stand under.
pub(super) type Peers<'a> = BTreeMap<Peer<'a>, ZoneId>;

/// What is needed to write the entries of one subject.
pub(super) struct Subject<'a> {
    pub(super) policy: &'a Policy,
    pub(super) local: Local<'a>,
    pub(super) id: SubjectId,
    pub(super) modes: Modes<'a>,
    pub(super) grants: &'a [Grant<'a>],
}

fn none(mode: Mode) -> PolicyEntry {
    PolicyEntry::new(RuleId::NONE, mode, 0)
}

impl Subject<'_> {
    /// The entries of every peer, and the default over all of them.
    pub(super) fn entries(&self, peers: &Peers<'_>, out: &mut Entries) {
        let towards = |d: Direction| peers.iter().map(move |(peer, id)| (d, peer, *id));
        let sides: Vec<_> = Direction::ALL.iter().copied().flat_map(towards).collect();
        let modes = sides.iter().map(|(d, peer, _)| self.modes.default_of(*d, peer));
        let enforced = modes.filter(|m| *m == Mode::Enforce).count();
        let common = none(if enforced * 2 > sides.len() { Mode::Enforce } else { Mode::Monitor });

        let first = PolicyKey::new(self.id, ZoneId(0), Direction::Outbound, 0, 0);
        out.insert((PolicyKey::ANY_PEER, first), common);
        for (direction, peer, id) in sides {
            self.side(direction, peer, id, common, out);
        }
        for direction in Direction::ALL {
            self.sockets(*direction, peers, common, out);
        }
    }

    /// What comes of the grants that match.
    fn entry<'g, 'a: 'g>(&self, matching: impl Iterator<Item = &'g Grant<'a>>, mode: Mode) -> PolicyEntry {
        deciding(matching).map_or(none(mode), |grant| {
            PolicyEntry::new(grant.number, mode, grant.expires.map_or(0, nanoseconds))
        })
    }

    /// The entries between the subject and one peer in one direction.
    fn side(
        &self,
        direction: Direction,
        peer: &Peer<'_>,
        id: ZoneId,
        common: PolicyEntry,
        out: &mut Entries,
    ) {
        let base = none(self.modes.default_of(direction, peer));
        if base != common {
            let key = PolicyKey::new(self.id, id, direction, 0, 0);
            out.insert((PolicyKey::ANY_PROTOCOL, key), base);
        }
        let is_for = |g: &&Grant<'_>| g.is_for(self.policy, &self.local, direction, peer.zone);
        let grants: Vec<&Grant<'_>> = self.grants.iter().filter(is_for).collect();
        let mut specs: Vec<PortSpec> = self.modes.specs(direction, peer).collect();
        specs.extend(grants.iter().flat_map(|g| &g.ports));
        for protocol in protocols(specs.iter()) {
            let cells = sweep(protocol, specs.iter().copied(), |port| {
                let matching = grants.iter().copied().filter(|g| g.names(protocol, port));
                self.entry(matching, self.modes.at(direction, peer, protocol, port).0)
            });
            for (len, port, entry) in prefixes(&cells, base) {
                let key = PolicyKey::new(self.id, id, direction, protocol, port);
                out.insert((PolicyKey::ANY_PORT + len, key), entry);
            }
        }
    }

    /// The entries under [`ZoneId::ANY`]: for sockets that have no peer yet, what the rules towards any peer
    /// allow; for packets without a readable address, only the mode. In enforce mode as soon as anything in
    /// that direction is: else such a socket would be the way round it.
    fn sockets(&self, direction: Direction, peers: &Peers<'_>, common: PolicyEntry, out: &mut Entries) {
        let enforced = peers.keys().any(|peer| self.modes.enforce_anything(direction, peer));
        let mode = if enforced { Mode::Enforce } else { Mode::Monitor };
        let base = none(mode);
        if base != common {
            let key = PolicyKey::new(self.id, ZoneId::ANY, direction, 0, 0);
            out.insert((PolicyKey::ANY_PROTOCOL, key), base);
        }
        if direction == Direction::Inbound {
            return;
        }
        let own = |g: &&Grant<'_>| self.local.in_rule(g.from);
        let grants: Vec<&Grant<'_>> = self.grants.iter().filter(own).collect();
        for protocol in protocols(grants.iter().flat_map(|g| &g.ports)) {
            if matches!(protocol, protocol::TCP | protocol::UDP) {
                continue;
            }
            let names_it = |g: &&Grant<'_>| g.ports.iter().any(|s| s.protocol == protocol);
            let matching = grants.iter().copied().filter(names_it);
            let key = PolicyKey::new(self.id, ZoneId::ANY, direction, protocol, 0);
            out.insert((PolicyKey::ANY_PORT, key), self.entry(matching, mode));
        }
    }
}
