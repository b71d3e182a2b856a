//! Which host has an address: both ends' records of one flow are found by it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::history::{Conversation, Peer, Summary};

/// What is known of the hosts that recorded.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    /// `None`: several hosts have it.
    by_address: HashMap<IpAddr, Option<Arc<str>>>,
    /// Zones of hosts, by the sockets that belong to no workload.
    zones: HashMap<Arc<str>, Arc<str>>,
    /// Zones of workloads, as seen from the other end; where nothing else is known of them.
    workloads: HashMap<Arc<str>, Arc<str>>,
}

/// One side of a flow, as far as it can be told apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Who {
    /// A host that recorded.
    Host(Arc<str>),
    /// Somebody else.
    Address(IpAddr),
    /// Too many to be recorded.
    Others,
}

impl Hosts {
    pub(super) fn of<'a>(summaries: impl Iterator<Item = &'a Summary> + Clone) -> Self {
        let mut hosts = Self::default();
        for Summary { of, .. } in summaries.clone() {
            if of.workload.is_none() {
                hosts.zones.entry(Arc::clone(&of.host)).or_insert_with(|| Arc::clone(&of.subject));
            }
            let Some(local) = of.local.filter(|ip| !is_shared(*ip)) else { continue };
            let owner = hosts.by_address.entry(local).or_insert_with(|| Some(Arc::clone(&of.host)));
            if owner.as_ref().is_some_and(|host| *host != of.host) {
                *owner = None;
            }
        }
        let seen: HashMap<IpAddr, &Arc<str>> = summaries
            .clone()
            .filter_map(|s| match s.of.peer {
                Peer::Address(ip) => Some((ip, &s.of.peer_zone)),
                Peer::Others(_) => None,
            })
            .collect();
        for Summary { of, .. } in summaries {
            let (Some(workload), Some(local)) = (&of.workload, of.local) else { continue };
            if let Some(zone) = seen.get(&local).filter(|_| !is_shared(local)) {
                hosts.workloads.entry(Arc::clone(workload)).or_insert_with(|| Arc::clone(zone));
            }
        }
        hosts
    }

    /// The other side.
    pub(super) fn peer(&self, of: &Conversation) -> Who {
        match of.peer {
            Peer::Others(_) => Who::Others,
            Peer::Address(ip) => match self.by_address.get(&ip) {
                Some(Some(host)) => Who::Host(Arc::clone(host)),
                _ => Who::Address(ip),
            },
        }
    }

    /// The zone that a workload on `host` is probably in.
    pub(super) fn zone_of(&self, workload: &str, host: &str) -> Option<&Arc<str>> {
        self.workloads.get(workload).or_else(|| self.zones.get(host))
    }
}

/// Whether any number of hosts may have it.
fn is_shared(ip: IpAddr) -> bool {
    ip.is_loopback()
        || ip.is_multicast()
        || match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        }
}
