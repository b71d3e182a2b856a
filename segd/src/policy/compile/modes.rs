//! Which rollout decides the mode of what one subject does.

use segd_common::traffic::{Direction, Mode};

use super::addresses::{Cohort, Peer};
use super::prefixes::sweep;
use crate::policy::canary::{Canary, Membership};
use crate::policy::model::{Override, Policy};
use crate::policy::ports::PortSpec;
use crate::policy::workload::Local;

/// What set a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setter {
    /// `overrides[n]`.
    Override(usize),
    /// `policy.rollouts[n]`.
    Rollout(usize),
}

/// The overrides and rollouts for one subject of one host, first match first.
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
    /// What it is restricted to, and whether this host is in.
    canary: Option<(&'a Canary, Membership)>,
}

/// A rollout that does not hold because of its canary.
pub(crate) struct PassedOver<'a> {
    /// `policy.rollouts[n]`.
    pub(crate) rollout: usize,
    /// If the host is in, the peer is not.
    pub(crate) membership: &'a Membership,
    pub(crate) canary: &'a Canary,
}

impl Entry<'_> {
    /// Whether it is about these, its canary aside.
    fn names(&self, direction: Direction, peer: &Peer<'_>) -> bool {
        self.direction.is_none_or(|d| d == direction)
            && self.peers.as_ref().is_none_or(|p| p.contains(&peer.zone))
    }

    fn is_for(&self, direction: Direction, peer: &Peer<'_>) -> bool {
        self.names(direction, peer) && self.canary_holds(peer)
    }

    fn canary_holds(&self, peer: &Peer<'_>) -> bool {
        self.canary.as_ref().is_none_or(|(canary, membership)| {
            let in_cohort = |n| canary.peers.is_empty() || peer.cohorts.contains(&n);
            membership.is_in() && matches!(self.setter, Setter::Rollout(n) if in_cohort(n))
        })
    }

    fn holds(&self, protocol: u8, port: u16) -> bool {
        self.ports.as_ref().is_none_or(|p| p.iter().any(|s| s.contains(protocol, port)))
    }
}

impl<'a> Modes<'a> {
    /// `host`: its name, for canaries.
    pub(crate) fn new(policy: &'a Policy, local: &Local<'_>, overrides: &'a [Override], host: &str) -> Self {
        let ports = |services: &mut dyn Iterator<Item = &'a _>| {
            services.flat_map(|s| policy.ports(s)).copied().collect()
        };
        let mut entries = Vec::new();
        for (n, o) in overrides.iter().enumerate() {
            if o.subject.as_ref().is_none_or(|s| local.in_rollout(s)) {
                entries.push(Entry {
                    direction: o.direction.map(Direction::from),
                    peers: o.peers.as_ref().map(|p| p.iter().map(String::as_str).collect()),
                    ports: o.services.as_ref().map(|s| ports(&mut s.iter())),
                    mode: o.mode(),
                    setter: Setter::Override(n),
                    canary: None,
                });
            }
        }
        for (n, r) in policy.rollouts.iter().enumerate() {
            if r.subject.as_ref().is_none_or(|s| local.in_rollout(&s.value)) {
                entries.push(Entry {
                    direction: r.direction,
                    peers: r.peers.as_ref().map(|p| p.iter().map(|p| p.value.as_str()).collect()),
                    ports: r.services.as_ref().map(|s| ports(&mut s.iter().map(|s| &s.value))),
                    mode: r.mode,
                    setter: Setter::Rollout(n),
                    canary: r.canary.as_ref().map(|canary| (canary, canary.membership(r, host))),
                });
            }
        }
        Self { entries }
    }

    /// The peers of canaries that this host is in.
    pub(super) fn cohorts(&self) -> impl Iterator<Item = Cohort<'a>> + '_ {
        self.entries.iter().filter_map(|entry| match (&entry.canary, entry.setter) {
            (Some((canary, membership)), Setter::Rollout(n))
                if membership.is_in() && !canary.peers.is_empty() =>
            {
                Some((n, canary.peers.as_slice()))
            }
            _ => None,
        })
    }

    /// The mode of one port, and what set it; monitor if nothing did.
    pub(crate) fn at(
        &self,
        direction: Direction,
        peer: &Peer<'_>,
        protocol: u8,
        port: u16,
    ) -> (Mode, Option<Setter>) {
        let mut entries = self.entries.iter();
        let first = entries.find(|e| e.is_for(direction, peer) && e.holds(protocol, port));
        first.map_or((Mode::Monitor, None), |e| (e.mode, Some(e.setter)))
    }

    /// The rollouts that would set the mode of this port were it not for their canaries.
    pub(crate) fn passed_over(
        &self,
        direction: Direction,
        peer: &Peer<'_>,
        protocol: u8,
        port: u16,
    ) -> impl Iterator<Item = PassedOver<'_>> {
        let about = self.entries.iter().filter(move |e| e.names(direction, peer) && e.holds(protocol, port));
        about.take_while(|e| !e.canary_holds(peer)).filter_map(|e| match (&e.canary, e.setter) {
            (Some((canary, membership)), Setter::Rollout(rollout)) => {
                Some(PassedOver { rollout, membership, canary })
            }
            _ => None,
        })
    }

    /// The mode of what no entry names.
    pub(crate) fn default_of(&self, direction: Direction, peer: &Peer<'_>) -> Mode {
        let mut entries = self.entries.iter();
        let first = entries.find(|e| e.is_for(direction, peer) && e.ports.is_none());
        first.map_or(Mode::Monitor, |e| e.mode)
    }

    /// The ports that entries name between the subject and this peer.
    pub(crate) fn specs(&self, direction: Direction, peer: &Peer<'_>) -> impl Iterator<Item = PortSpec> {
        let entries = self.entries.iter().filter(move |e| e.is_for(direction, peer));
        entries.flat_map(|e| e.ports.iter().flatten()).copied()
    }

    /// Whether every port of `spec` is in enforce mode.
    pub(crate) fn enforced_throughout(&self, direction: Direction, peer: &Peer<'_>, spec: &PortSpec) -> bool {
        let cuts = self.specs(direction, peer).chain([*spec]);
        let cells = sweep(spec.protocol, cuts, |port| self.at(direction, peer, spec.protocol, port).0);
        let mut inside = cells.iter().filter(|c| c.first <= spec.last && spec.first <= c.last);
        inside.all(|c| c.value == Mode::Enforce)
    }

    /// Whether anything between the subject and this peer is in enforce mode.
    pub(crate) fn enforce_anything(&self, direction: Direction, peer: &Peer<'_>) -> bool {
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
