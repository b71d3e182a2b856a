//! The programs and addresses at one side of an edge.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::hosts::{Hosts, Who};
use super::merge::{View, unrecorded};
use super::model::{Parties, Party};
use crate::telemetry::text::printable;

/// Adds up who it was.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    all: BTreeMap<Identity, (Option<IpAddr>, u64)>,
    /// Further addresses, by hour: those of one hour may be those of another.
    unrecorded: BTreeMap<Timestamp, u64>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    who: Who,
    workload: Option<Arc<str>>,
    process: Option<Arc<str>>,
    unit: Option<Arc<str>>,
}

impl Gathered {
    /// A side of which its own host told.
    pub(super) fn own(&mut self, view: &View<'_>, flows: u64) {
        let of = &view.summary.of;
        let identity = Identity {
            who: Who::Host(clean(&of.host)),
            workload: of.workload.as_ref().map(clean),
            process: of.process.as_ref().map(clean),
            unit: of.unit.as_ref().map(clean),
        };
        self.add(identity, of.local, flows);
    }

    /// A side of which only the other end told.
    pub(super) fn peer(&mut self, hosts: &Hosts, view: &View<'_>, flows: u64) {
        let who = match hosts.peer(&view.summary.of) {
            Who::Others => {
                self.add_unrecorded(view.summary.hour, unrecorded(view));
                return;
            }
            Who::Host(host) => Who::Host(clean(&host)),
            address => address,
        };
        let address = match view.summary.of.peer {
            crate::history::Peer::Address(ip) => Some(ip),
            crate::history::Peer::Others(_) => None,
        };
        self.add(Identity { who, workload: None, process: None, unit: None }, address, flows);
    }

    fn add(&mut self, identity: Identity, address: Option<IpAddr>, flows: u64) {
        let (known, sum) = self.all.entry(identity).or_insert((None, 0));
        *known = known.or(address);
        *sum = sum.saturating_add(flows);
    }

    pub(super) fn join(&mut self, other: Self) {
        for (identity, (address, flows)) in other.all {
            self.add(identity, address, flows);
        }
        for (hour, n) in other.unrecorded {
            self.add_unrecorded(hour, n);
        }
    }

    fn add_unrecorded(&mut self, hour: Timestamp, n: u64) {
        let all = self.unrecorded.entry(hour).or_default();
        *all = all.saturating_add(n);
    }

    pub(super) fn finish(self) -> Parties {
        let mut most: Vec<Party> = self.all.into_iter().map(party).collect();
        most.sort_by_key(|party| std::cmp::Reverse(party.flows));
        let more = most.len().saturating_sub(Parties::SHOWN);
        most.truncate(Parties::SHOWN);
        let unrecorded = self.unrecorded.values().max().copied().unwrap_or_default();
        Parties { most, more, unrecorded }
    }
}

fn party((identity, (address, flows)): (Identity, (Option<IpAddr>, u64))) -> Party {
    let Identity { who, workload, process, unit } = identity;
    let (host, address) = match who {
        Who::Host(host) => (Some(host), address),
        Who::Address(ip) => (None, Some(ip)),
        Who::Others => (None, None),
    };
    Party { host, address, workload, process, unit, flows }
}

/// The same text, safe to print.
pub(super) fn clean(text: &Arc<str>) -> Arc<str> {
    let safe = printable(text);
    if *safe == **text { Arc::clone(text) } else { safe.into() }
}
