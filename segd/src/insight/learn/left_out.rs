//! What was left out, summed up for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::net::IpAddr;

use jiff::Timestamp;
use segd_common::traffic::Direction;
use serde::Serialize;

use super::evidence::amounts;
use super::noise::Why;
use super::talks::Talk;
use super::text::{counted, few};
use super::week::minute;
use crate::history::{Peer, Summary};
use crate::telemetry::text::printable;

/// Ports, addresses and programs that are shown of each entry.
const SHOWN: usize = 5;

/// Traffic between two ends that no rule was proposed for, for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Why.
    pub why: Why,
    /// Zone or workload that began.
    pub from: String,
    /// Zone or workload with which.
    pub to: String,
    /// The first few ports.
    pub ports: Vec<String>,
    /// How many ports there were.
    pub port_count: usize,
    /// Addresses that began: the first few.
    pub clients: Vec<IpAddr>,
    /// How many there were.
    pub client_count: usize,
    /// Addresses with which: the first few.
    pub servers: Vec<IpAddr>,
    /// How many there were.
    pub server_count: usize,
    /// Further peers or ports, by estimate, that were too many to be recorded one by one.
    pub others: u64,
    /// Hosts that recorded it: the first few.
    pub hosts: Vec<String>,
    /// Their programs: the first few.
    pub programs: Vec<String>,
    /// Flows or attempts, each once.
    pub flows: u64,
    /// The first record.
    pub first: Timestamp,
    /// The last one.
    pub last: Timestamp,
    /// Whether present and proposed rules allow all of it nevertheless.
    pub allowed: bool,
}

impl fmt::Display for LeftOut {
    /// On one line, without the reason.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LeftOut { from, to, ports, port_count, others, flows, programs, .. } = self;
        let addresses = |shown: &[IpAddr], count: usize| match shown {
            [] => String::new(),
            [one] if count == 1 => format!(" {one}"),
            [first, ..] => format!(" {first} and {} more", count - 1),
        };
        let clients = addresses(&self.clients, self.client_count);
        let servers = addresses(&self.servers, self.server_count);
        let mut said = format!("{from}{clients} -> {to}{servers}: {}", ports.join(" "));
        if *port_count > ports.len() {
            let _ = write!(said, " and {} more ports", port_count - ports.len());
        }
        if *others > 0 {
            let _ = write!(said, " and about {others} further peers or ports");
        }
        let _ = write!(said, "; {}", counted(*flows, "flow", "flows"));
        let (first, last) = (minute(self.first), minute(self.last));
        let _ = if first == last { write!(said, ", {first}") } else { write!(said, ", {first} to {last}") };
        if !programs.is_empty() {
            let _ = write!(said, "; {}", few(programs));
        }
        if self.allowed {
            said += "; allowed all the same";
        }
        f.write_str(&printable(&said))
    }
}

/// Sums up. `why`: of each talk; `denied`: numbers of the summaries that would be denied.
pub(super) fn list(
    observed: &[Summary],
    talks: &[Talk<'_>],
    why: &[Option<Why>],
    denied: &BTreeSet<usize>,
) -> Vec<LeftOut> {
    let mut groups: BTreeMap<(&Why, String, String), Vec<&Talk<'_>>> = BTreeMap::new();
    for (talk, why) in talks.iter().zip(why) {
        let Some(why) = why else { continue };
        let (from, to) = ends(talk);
        groups.entry((why, from, to)).or_default().push(talk);
    }
    let mut all: Vec<LeftOut> = Vec::new();
    for ((why, from, to), talks) in groups {
        let Some(head) = talks.first() else { continue };
        let (mut ports, mut hosts, mut programs) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let (mut clients, mut servers) = (BTreeSet::new(), BTreeSet::new());
        let (mut first, mut last) = (head.first, head.last);
        for talk in &talks {
            ports.extend(talk.spec);
            hosts.insert(printable(&talk.of.host));
            programs.extend(talk.programs.iter().cloned());
            (first, last) = (first.min(talk.first), last.max(talk.last));
            let local = talk.of.local.map(|ip| ip.to_canonical());
            let (client, server) = match talk.of.direction {
                Direction::Outbound => (local, talk.peer()),
                Direction::Inbound => (talk.peer(), local),
            };
            clients.extend(client);
            servers.extend(server);
        }
        let parts = || talks.iter().flat_map(|talk| &talk.parts);
        let few = |set: &BTreeSet<IpAddr>| set.iter().copied().take(SHOWN).collect();
        all.push(LeftOut {
            why: why.clone(),
            from,
            to,
            ports: ports.iter().take(SHOWN).map(ToString::to_string).collect(),
            port_count: ports.len(),
            clients: few(&clients),
            client_count: clients.len(),
            servers: few(&servers),
            server_count: servers.len(),
            others: others(parts().filter_map(|n| observed.get(*n))),
            hosts: hosts.into_iter().take(SHOWN).collect(),
            programs: programs.into_iter().take(SHOWN).collect(),
            flows: amounts(&talks).0,
            first,
            last,
            allowed: !parts().any(|n| denied.contains(n)),
        });
    }
    all
}

/// Between whom, under the policy at hand, or else as it was recorded.
fn ends(talk: &Talk<'_>) -> (String, String) {
    let (subject, peer) =
        talk.ends().map_or((&talk.of.subject, &talk.of.peer_zone), |e| (&e.subject, &e.peer));
    let (subject, peer) = (printable(subject), printable(peer));
    match talk.of.direction {
        Direction::Outbound => (subject, peer),
        Direction::Inbound => (peer, subject),
    }
}

/// In each hour other peers may be the same ones again, so the most of any hour counts.
fn others<'a>(summaries: impl Iterator<Item = &'a Summary>) -> u64 {
    let mut hours: BTreeMap<Timestamp, u64> = BTreeMap::new();
    for summary in summaries {
        if let Peer::Others(n) = summary.of.peer {
            let sum = hours.entry(summary.hour).or_default();
            *sum = sum.saturating_add(n);
        }
    }
    hours.into_values().max().unwrap_or(0)
}
