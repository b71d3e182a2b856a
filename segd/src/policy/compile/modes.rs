//! Which rollout decides the mode of what one subject does.

use segd_common::traffic::{Direction, Mode};

use super::prefixes::sweep;
use crate::policy::model::{Override, Policy};
use crate::policy::ports::PortSpec;

/// What set a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setter {
    /// `overrides[n]`.
    Override(usize),
    /// `policy.rollouts[n]`.
    Rollout(usize),
}

/// The overrides and rollouts for one subject, first match first.
pub(crate) struct Modes<'a> {
    entries: Vec<Entry<'a>>,
}

struct Entry<'a> {
    direction: Option<Direction>,
    peers: Option<Vec<&'a str>>,
    /// None: every port of every protocol.
    ports: Option<Vec<PortSpec>>,
    mode: Mode,
    setter: Setter,
}

impl Entry<'_> {
    fn is_for(&self, direction: Direction, peer: &str) -> bool {
        self.direction.is_none_or(|d| d == direction) && self.peers.as_ref().is_none_or(|p| p.contains(&peer))
    }

    fn holds(&self, protocol: u8, port: u16) -> bool {
        self.ports.as_ref().is_none_or(|p| p.iter().any(|s| s.contains(protocol, port)))
    }
}

impl<'a> Modes<'a> {
    pub(crate) fn new(policy: &'a Policy, subject: &str, overrides: &'a [Override]) -> Self {
        let ports = |services: &mut dyn Iterator<Item = &'a _>| {
            services.flat_map(|s| policy.ports(s)).copied().collect()
        };
        let mut entries = Vec::new();
        for (n, o) in overrides.iter().enumerate() {
            if o.subject.as_ref().is_none_or(|s| s == subject) {
                entries.push(Entry {
                    direction: o.direction.map(Direction::from),
                    peers: o.peers.as_ref().map(|p| p.iter().map(String::as_str).collect()),
                    ports: o.services.as_ref().map(|s| ports(&mut s.iter())),
                    mode: o.mode(),
                    setter: Setter::Override(n),
                });
            }
        }
        for (n, r) in policy.rollouts.iter().enumerate() {
            if r.subject.as_ref().is_none_or(|s| s.value == subject) {
                entries.push(Entry {
                    direction: r.direction,
                    peers: r.peers.as_ref().map(|p| p.iter().map(|p| p.value.as_str()).collect()),
                    ports: r.services.as_ref().map(|s| ports(&mut s.iter().map(|s| &s.value))),
                    mode: r.mode,
                    setter: Setter::Rollout(n),
                });
            }
        }
        Self { entries }
    }

    /// The mode of one port, and what set it; monitor if nothing did.
    pub(crate) fn at(
        &self,
        direction: Direction,
        peer: &str,
        protocol: u8,
        port: u16,
    ) -> (Mode, Option<Setter>) {
        let mut entries = self.entries.iter();
        let first = entries.find(|e| e.is_for(direction, peer) && e.holds(protocol, port));
        first.map_or((Mode::Monitor, None), |e| (e.mode, Some(e.setter)))
    }

    /// The mode of what no entry names.
    pub(crate) fn default_of(&self, direction: Direction, peer: &str) -> Mode {
        let mut entries = self.entries.iter();
        let first = entries.find(|e| e.is_for(direction, peer) && e.ports.is_none());
        first.map_or(Mode::Monitor, |e| e.mode)
    }

    /// The ports that entries name between the subject and this peer.
    pub(crate) fn specs(&self, direction: Direction, peer: &str) -> impl Iterator<Item = PortSpec> {
        let entries = self.entries.iter().filter(move |e| e.is_for(direction, peer));
        entries.flat_map(|e| e.ports.iter().flatten()).copied()
    }

    /// Whether every port of `spec` is in enforce mode.
    pub(crate) fn enforced_throughout(&self, direction: Direction, peer: &str, spec: &PortSpec) -> bool {
        let cuts = self.specs(direction, peer).chain([*spec]);
        let cells = sweep(spec.protocol, cuts, |port| self.at(direction, peer, spec.protocol, port).0);
        let mut inside = cells.iter().filter(|c| c.first <= spec.last && spec.first <= c.last);
        inside.all(|c| c.value == Mode::Enforce)
    }

    /// Whether anything between the subject and this peer is in enforce mode.
    pub(crate) fn enforce_anything(&self, direction: Direction, peer: &str) -> bool {
        if self.default_of(direction, peer) == Mode::Enforce {
            return true;
        }
        let specs: Vec<PortSpec> = self.specs(direction, peer).collect();
        specs.iter().any(|spec| {
            let mode = |port| self.at(direction, peer, spec.protocol, port).0;
            let cells = sweep(spec.protocol, specs.iter().copied(), mode);
            cells.iter().any(|c| c.value == Mode::Enforce)
        })
    }
}
