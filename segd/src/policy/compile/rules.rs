//! The policy trie: what the host zone may do with each peer zone.

use std::collections::{BTreeMap, BTreeSet};

use segd_common::id::{RuleId, SubjectId, ZoneId};
use segd_common::table::{PolicyEntry, PolicyKey};
use segd_common::traffic::{Direction, Mode, protocol};

use super::modes::Modes;
use super::prefixes::{prefixes, sweep};
use crate::policy::model::{Policy, Rule};
use crate::policy::ports::PortSpec;

pub(super) type Entries = BTreeMap<(u32, PolicyKey), PolicyEntry>;

/// What is needed to write the entries of one subject.
pub(super) struct Subject<'a> {
    pub(super) policy: &'a Policy,
    pub(super) zone: &'a str,
    pub(super) id: SubjectId,
    pub(super) modes: Modes<'a>,
    /// Of `policy.rules`, in that order.
    pub(super) rule_ids: Vec<RuleId>,
}

/// The rule that decides where several match: the one that lives longest, so that a temporary rule that ends
/// takes nothing with it that a permanent one allows; else the first.
pub(crate) fn deciding<'a>(rules: impl Iterator<Item = (usize, &'a Rule)>) -> Option<(usize, &'a Rule)> {
    let longer = |a: &Rule, b: &Rule| match (a.expires, b.expires) {
        (Some(a), Some(b)) => a > b,
        (None, Some(_)) => true,
        (_, None) => false,
    };
    rules.fold(None, |best, next| match best {
        Some((_, rule)) if !longer(next.1, rule) => best,
        _ => Some(next),
    })
}

/// Rules from one zone to another, with their numbers in the policy.
pub(crate) fn between<'a>(policy: &'a Policy, from: &str, to: &str) -> Vec<(usize, &'a Rule)> {
    let rules = policy.rules.iter().enumerate();
    rules.filter(|(_, r)| r.from.value == from && r.to.value == to).collect()
}

/// Whether a rule names this port.
pub(crate) fn names(policy: &Policy, rule: &Rule, protocol: u8, port: u16) -> bool {
    policy.all_ports(&rule.services).any(|s| s.contains(protocol, port))
}

fn none(mode: Mode) -> PolicyEntry {
    PolicyEntry::new(RuleId::NONE, mode, 0)
}

impl Subject<'_> {
    /// The entries of every peer, and the default over all of them.
    pub(super) fn entries(&self, peers: &[(&str, ZoneId)]) -> Entries {
        let towards = |d: Direction| peers.iter().map(move |(name, id)| (d, *name, *id));
        let sides: Vec<_> = Direction::ALL.iter().copied().flat_map(towards).collect();
        let modes = sides.iter().map(|(d, peer, _)| self.modes.default_of(*d, peer));
        let enforced = modes.filter(|m| *m == Mode::Enforce).count();
        let common = none(if enforced * 2 > sides.len() { Mode::Enforce } else { Mode::Monitor });

        let mut out = Entries::new();
        let first = PolicyKey::new(self.id, ZoneId(0), Direction::Outbound, 0, 0);
        out.insert((PolicyKey::ANY_PEER, first), common);
        for (direction, peer, id) in sides {
            self.side(direction, peer, id, common, &mut out);
        }
        for direction in Direction::ALL {
            self.sockets(*direction, peers, common, &mut out);
        }
        out
    }

    fn entry(&self, rule: Option<(usize, &Rule)>, mode: Mode) -> PolicyEntry {
        let Some((n, rule)) = rule else { return none(mode) };
        // The rule may have been loaded in an earlier life of the agent and be long gone: 1 is past, 0 never.
        let expires = rule.expires.map_or(0, |t| u64::try_from(t.as_nanosecond()).unwrap_or(0).max(1));
        PolicyEntry::new(self.rule_ids.get(n).copied().unwrap_or_default(), mode, expires)
    }

    fn rules(&self, direction: Direction, peer: &str) -> Vec<(usize, &Rule)> {
        match direction {
            Direction::Outbound => between(self.policy, self.zone, peer),
            Direction::Inbound => between(self.policy, peer, self.zone),
        }
    }

    /// The entries between the subject and one peer in one direction.
    fn side(&self, direction: Direction, peer: &str, id: ZoneId, common: PolicyEntry, out: &mut Entries) {
        let base = none(self.modes.default_of(direction, peer));
        if base != common {
            let key = PolicyKey::new(self.id, id, direction, 0, 0);
            out.insert((PolicyKey::ANY_PROTOCOL, key), base);
        }
        let rules = self.rules(direction, peer);
        let mut specs: Vec<PortSpec> = self.modes.specs(direction, peer).collect();
        specs.extend(rules.iter().flat_map(|(_, r)| self.policy.all_ports(&r.services)));
        let protocols: BTreeSet<u8> = specs.iter().map(|s| s.protocol).collect();
        for protocol in protocols {
            let cells = sweep(protocol, specs.iter().copied(), |port| {
                let matching = rules.iter().copied().filter(|(_, r)| names(self.policy, r, protocol, port));
                self.entry(deciding(matching), self.modes.at(direction, peer, protocol, port).0)
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
    fn sockets(
        &self,
        direction: Direction,
        peers: &[(&str, ZoneId)],
        common: PolicyEntry,
        out: &mut Entries,
    ) {
        let enforced = peers.iter().any(|(peer, _)| self.modes.enforce_anything(direction, peer));
        let mode = if enforced { Mode::Enforce } else { Mode::Monitor };
        let base = none(mode);
        if base != common {
            let key = PolicyKey::new(self.id, ZoneId::ANY, direction, 0, 0);
            out.insert((PolicyKey::ANY_PROTOCOL, key), base);
        }
        if direction == Direction::Inbound {
            return;
        }
        let rules = self.policy.rules.iter().enumerate();
        let rules: Vec<_> = rules.filter(|(_, r)| r.from.value == self.zone).collect();
        let specs = rules.iter().flat_map(|(_, r)| self.policy.all_ports(&r.services));
        let protocols: BTreeSet<u8> =
            specs.map(|s| s.protocol).filter(|p| !matches!(*p, protocol::TCP | protocol::UDP)).collect();
        for protocol in protocols {
            let names_it = |r: &Rule| self.policy.all_ports(&r.services).any(|s| s.protocol == protocol);
            let matching = rules.iter().copied().filter(|(_, r)| names_it(r));
            let key = PolicyKey::new(self.id, ZoneId::ANY, direction, protocol, 0);
            out.insert((PolicyKey::ANY_PORT, key), self.entry(deciding(matching), mode));
        }
    }
}
