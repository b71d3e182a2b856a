//! Hour by hour into one, and the two ends of a flow to each other.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use jiff::Timestamp;
use segd_common::traffic::{Direction, Reason};

use crate::history::{Conversation, Peer, Summary};

/// A conversation over all hours, with the verdict that it had last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    /// As it was seen last.
    pub(super) of: &'a Conversation,
    /// What was decided last of its subject towards this peer and port, for whichever process: denials that are told
    /// together name none, and must not leave an older verdict standing for the process that they concern.
    pub(super) was: &'a Conversation,
    /// At least 1, as one may have begun before the first hour.
    pub(super) flows: u64,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
}

/// What another host says of the same flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Partner {
    /// Nothing.
    Nobody,
    /// This one, the server's side of it.
    Other(usize),
    /// It is the server's side of others.
    Merged,
}

/// Everything that was observed.
pub(super) struct Observation<'a> {
    pub(super) seen: Vec<Seen<'a>>,
    /// Of each.
    pub(super) partners: Vec<Partner>,
}

/// What is decided alike: all of a [`Conversation`] but what was decided, and but the host's own address, which a client
/// may not know yet when its flow begins.
#[derive(PartialEq, Eq, Hash)]
struct Question<'a> {
    host: &'a str,
    workload: Option<&'a str>,
    process: Option<&'a str>,
    unit: Option<&'a str>,
    uid: Option<u32>,
    direction: u8,
    peer: Peer,
    /// Where that stands for the address.
    zone: Option<&'a str>,
    protocol: &'a str,
    port: u16,
    icmp: Option<(u8, u8)>,
    /// Reasons for which something else than the first packet is decided.
    kind: Option<u8>,
}

impl<'a> Question<'a> {
    fn of(of: &'a Conversation) -> Self {
        let odd = matches!(of.reason, Reason::SocketType | Reason::Fragment | Reason::Malformed);
        // Their number differs from hour to hour.
        let (peer, zone) = match of.peer {
            Peer::Others(_) => (Peer::Others(0), Some(&*of.peer_zone)),
            peer => (peer, None),
        };
        Self {
            host: &of.host,
            workload: of.workload.as_deref(),
            process: of.process.as_deref(),
            unit: of.unit.as_deref(),
            uid: of.uid,
            direction: of.direction as u8,
            peer,
            zone,
            protocol: &of.protocol,
            port: of.port,
            icmp: of.icmp,
            kind: odd.then_some(of.reason as u8),
        }
    }

    /// The same of any process, which is all that the verdict of the past hangs on: whom a socket belonged to is in
    /// the workload.
    fn of_anybody(of: &'a Conversation) -> Self {
        Self { process: None, unit: None, uid: None, ..Self::of(of) }
    }
}

/// Sums up over the hours and finds pairs.
pub(super) fn fold(observed: &[Summary]) -> Observation<'_> {
    let mut seen: Vec<Seen<'_>> = Vec::new();
    let mut known: HashMap<Question<'_>, usize> = HashMap::new();
    for summary in observed {
        let Summary { of, flows, first, last, .. } = summary;
        let next = Seen { of, was: of, flows: *flows, first: *first, last: *last };
        let at = *known.entry(Question::of(of)).or_insert(seen.len());
        match seen.get_mut(at) {
            None => seen.push(next),
            Some(sum) => {
                sum.flows = sum.flows.saturating_add(next.flows);
                sum.first = sum.first.min(next.first);
                if next.last >= sum.last {
                    (sum.of, sum.last) = (next.of, next.last);
                }
            }
        }
    }
    drop(known);
    let mut latest: HashMap<Question<'_>, (Timestamp, &Conversation)> = HashMap::new();
    for one in &seen {
        let latest = latest.entry(Question::of_anybody(one.of)).or_insert((one.last, one.of));
        if latest.0 < one.last {
            *latest = (one.last, one.of);
        }
    }
    for one in &mut seen {
        one.flows = one.flows.max(1);
        one.was = latest.get(&Question::of_anybody(one.of)).map_or(one.of, |(_, was)| was);
    }
    let partners = pair(&seen);
    Observation { seen, partners }
}

/// Client's host, server's host, protocol, port, type and code.
type Pair<'a> = (&'a str, &'a str, &'a str, u16, Option<(u8, u8)>);

/// The pair of hosts, if it is known who has the peer's address.
fn key<'a>(homes: &HashMap<IpAddr, Option<&'a str>>, of: &'a Conversation) -> Option<Pair<'a>> {
    let Peer::Address(peer) = of.peer else { return None };
    let other = homes.get(&peer).copied().flatten()?;
    let (client, server) = match of.direction {
        Direction::Outbound => (&*of.host, other),
        Direction::Inbound => (other, &*of.host),
    };
    Some((client, server, &of.protocol, of.port, of.icmp))
}

fn pair<'a>(seen: &[Seen<'a>]) -> Vec<Partner> {
    let homes = homes(seen);
    let key = |one: &Seen<'a>| key(&homes, one.of);
    let mut servers: HashMap<Pair<'_>, usize> = HashMap::new();
    for (n, one) in seen.iter().enumerate().filter(|(_, one)| one.of.direction == Direction::Inbound) {
        if let Some(key) = key(one) {
            let latest = servers.entry(key).or_insert(n);
            if seen.get(*latest).is_some_and(|known| known.last <= one.last) {
                *latest = n;
            }
        }
    }
    let mut partners = vec![Partner::Nobody; seen.len()];
    let mut clients = HashSet::new();
    for (n, one) in seen.iter().enumerate().filter(|(_, one)| one.of.direction == Direction::Outbound) {
        if let Some(key) = key(one)
            && let Some(server) = servers.get(&key)
            && let Some(partner) = partners.get_mut(n)
        {
            *partner = Partner::Other(*server);
            clients.insert(key);
        }
    }
    for (n, one) in seen.iter().enumerate().filter(|(_, one)| one.of.direction == Direction::Inbound) {
        if key(one).is_some_and(|key| clients.contains(&key))
            && let Some(partner) = partners.get_mut(n)
        {
            *partner = Partner::Merged;
        }
    }
    partners
}

/// Which host has an address; none where several say that they have it, as with bridges of containers.
fn homes<'a>(seen: &[Seen<'a>]) -> HashMap<IpAddr, Option<&'a str>> {
    let mut homes: HashMap<IpAddr, Option<&'a str>> = HashMap::new();
    for Seen { of, .. } in seen {
        let Some(local) = of.local else { continue };
        let home = homes.entry(local).or_insert(Some(&of.host));
        if home.is_some_and(|home| *home != *of.host) {
            *home = None;
        }
    }
    homes
}
