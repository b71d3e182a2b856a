//! What no rule should come of, and why.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;

use jiff::SignedDuration;
use segd_common::traffic::{Direction, Reason, protocol};
use serde::Serialize;

use super::Options;
use super::evidence::Watch;
use super::talks::{Decided, Link, Talk};
use crate::history::Peer;
use crate::policy::ports::PortSpec;

/// Bytes, both ways and headers included, that a flow has at most that may belong to a scan: more than a handshake, a
/// banner and the end of a connection need.
const LIGHT: u64 = 1024;

/// A connection that is younger may still wait for an answer: `tcp_syn_retries` is 6, which is given up after 127 s.
const HANDSHAKE: SignedDuration = SignedDuration::from_mins(3);

/// In so many hours a conversation is no longer a scan's.
const REGULAR: usize = 3;

/// Hours of the week that must have been watched before what was seen in one of them only is noise.
const WATCHED: u32 = 24;

/// Why something was left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// Somebody tried many peers, or many ports of one, and exchanged next to nothing with them.
    Scan,
    /// The policy in force denied it, at this end or the other.
    Denied,
    /// Nobody answered.
    Unanswered,
    /// Seen too few times, or in too few hours.
    Rare,
    /// Peers, or ports, that were too many to be recorded one by one.
    Others,
    /// No rule can allow it: packets without a readable transport header.
    Unreadable,
    /// A `[[test]]` of the zone files says that it must be denied.
    Tested,
    /// The peer is a host that is in a zone which does not claim its address.
    OwnAddress,
    /// What would be decided cannot be said.
    Undecided(String),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scan => "scan: many peers or ports, next to no bytes",
            Self::Denied => "denied by the policy that was in force",
            Self::Unanswered => "unanswered: refused or no reply",
            Self::Rare => "rare: seen too few times, or in too few hours",
            Self::Others => "too many peers or ports to be recorded one by one",
            Self::Unreadable => {
                "no rule can allow it: packets without a readable header, sockets of no known kind"
            }
            Self::Tested => "a [[test]] of the zone files says that it must be denied",
            Self::OwnAddress => "the peer's address is that of a host whose zone does not claim it",
            Self::Undecided(why) => return write!(f, "undecided: {why}"),
        })
    }
}

/// Who tries: a subject of a host, or a peer.
type Source<'a> = (&'a str, &'a str, Option<IpAddr>);

/// For each talk, why no rule should come of it.
pub(super) fn find(talks: &[Talk<'_>], watch: &Watch<'_>, options: &Options) -> Vec<Option<Why>> {
    let scans = scans(talks, watch, options);
    let refused = refused(talks);
    let rare = rare(talks, watch, options);
    let of = |(n, talk): (usize, &Talk<'_>)| match &talk.decided {
        Decided::Allowed(_) => None,
        Decided::Unknown(_) if is_of_others(talk) => Some(Why::Others),
        Decided::Unknown(why) => Some(Why::Undecided(why.clone())),
        Decided::Needed(_) if is_of_others(talk) => Some(Why::Others),
        Decided::Needed(_) if talk.spec.is_none() => Some(Why::Unreadable),
        Decided::Needed(_) if !options.scans && scans.contains(&n) => Some(Why::Scan),
        Decided::Needed(_) => {
            let denied = talk.denied || talk.link().is_some_and(|link| refused.contains(&link));
            let unanswered = is_unanswered(talk);
            if denied {
                (!options.denied).then_some(Why::Denied)
            } else if unanswered {
                (!options.unanswered).then_some(Why::Unanswered)
            } else {
                rare.contains(&n).then_some(Why::Rare)
            }
        }
    };
    talks.iter().enumerate().map(of).collect()
}

/// Whether peers or ports were too many to be recorded one by one.
fn is_of_others(talk: &Talk<'_>) -> bool {
    let several_ports = talk.of.port == 0
        && matches!(&*talk.of.protocol, "tcp" | "udp")
        && !matches!(talk.of.reason, Reason::Fragment | Reason::Malformed | Reason::SocketType);
    several_ports || matches!(talk.of.peer, Peer::Others(_))
}

/// Whether the flows that ended had no answer but resets. What is recorded inbound was accepted.
fn is_unanswered(talk: &Talk<'_>) -> bool {
    talk.of.direction == Direction::Outbound
        && talk.spec.is_some_and(|spec| spec.protocol == protocol::TCP)
        && talk.sent > 0
        && talk.received <= talk.flows
}

/// Whether it may belong to a scan.
fn is_light(talk: &Talk<'_>, watch: &Watch<'_>) -> bool {
    let known = !talk.is_open() || may_wait(talk, watch);
    let few = known && talk.bytes <= LIGHT.saturating_mul(talk.flows.max(1)) && talk.hours.len() < REGULAR;
    talk.is_needed() && (talk.denied || is_unanswered(talk) || few)
}

/// Whether its flows began so shortly before the end of the records that nobody may have answered yet.
fn may_wait(talk: &Talk<'_>, watch: &Watch<'_>) -> bool {
    talk.is_open()
        && talk.of.direction == Direction::Outbound
        && watch.last.duration_since(talk.first) < HANDSHAKE
}

fn scans(talks: &[Talk<'_>], watch: &Watch<'_>, options: &Options) -> BTreeSet<usize> {
    let mut peers: BTreeMap<(Source<'_>, PortSpec), (BTreeSet<IpAddr>, Vec<usize>)> = BTreeMap::new();
    let mut ports: BTreeMap<(Source<'_>, IpAddr), (BTreeSet<PortSpec>, Vec<usize>)> = BTreeMap::new();
    for (n, talk) in talks.iter().enumerate().filter(|(_, talk)| is_light(talk, watch)) {
        let (Some(peer), Some(spec)) = (talk.peer(), talk.spec) else { continue };
        let (source, target): (Source<'_>, _) = match talk.of.direction {
            Direction::Outbound => ((&talk.of.host, &talk.of.subject, None), Some(peer)),
            Direction::Inbound => (("", "", Some(peer)), talk.of.local),
        };
        let Some(target) = target else { continue };
        let (found, of) = peers.entry((source, spec)).or_default();
        found.insert(target);
        of.push(n);
        let (found, of) = ports.entry((source, target)).or_default();
        found.insert(spec);
        of.push(n);
    }
    let wide = peers.into_values().filter(|(found, _)| found.len() >= options.scan_peers).map(|(_, of)| of);
    let deep = ports.into_values().filter(|(found, _)| found.len() >= options.scan_ports).map(|(_, of)| of);
    wide.chain(deep).flatten().collect()
}

/// What the server's host always denied: it came to nothing, though the client's host let it go.
fn refused(talks: &[Talk<'_>]) -> BTreeSet<Link> {
    let mut ends: BTreeMap<Link, bool> = BTreeMap::new();
    for talk in talks.iter().filter(|talk| talk.of.direction == Direction::Inbound) {
        let Some(link) = talk.link() else { continue };
        ends.entry(link).and_modify(|denied| *denied &= talk.denied).or_insert(talk.denied);
    }
    ends.into_iter().filter(|(_, denied)| *denied).map(|(link, _)| link).collect()
}

/// Of a zone as a whole; of a peer in no zone, of which a zone would have to be made, alone.
fn rare(talks: &[Talk<'_>], watch: &Watch<'_>, options: &Options) -> BTreeSet<usize> {
    let min_hours = options.min_hours.unwrap_or(if watch.all.hours() < WATCHED { 1 } else { 2 });
    let mut sums: HashMap<_, (u64, BTreeSet<i64>, bool, Vec<usize>)> = HashMap::new();
    for (n, talk) in talks.iter().enumerate().filter(|(_, talk)| talk.is_needed()) {
        let Some(ends) = talk.ends() else { continue };
        let alone = if &*ends.peer == "unknown" { talk.peer() } else { None };
        let of = sums.entry((talk.of.direction, ends.clone(), talk.spec, alone)).or_default();
        of.0 = of.0.saturating_add(talk.flows);
        of.1.extend(talk.hours.keys().copied());
        // What is open since the one time that it was opened, or was open before the first record, is in use.
        let tcp = talk.spec.is_some_and(|spec| spec.protocol == protocol::TCP);
        of.2 |= tcp && (talk.is_open() && !may_wait(talk, watch) || talk.flows == 0);
        of.3.push(n);
    }
    let is_rare = |(flows, hours, in_use, _): &(u64, BTreeSet<i64>, bool, Vec<usize>)| {
        let hours = u32::try_from(hours.len()).unwrap_or(u32::MAX);
        !in_use && (*flows < options.min_flows || hours < min_hours)
    };
    sums.into_values().filter(is_rare).flat_map(|(.., of)| of).collect()
}
