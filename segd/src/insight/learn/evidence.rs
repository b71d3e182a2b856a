//! What speaks for a rule: how much was seen, by whom, when, and whether it is time to rely on it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use segd_common::traffic::Direction;
use serde::Serialize;

use super::talks::Talk;
use super::week::{WEEK, Week, minute};
use crate::history::Summary;
use crate::telemetry::text::printable;

/// Hours of the week that must have been watched before anything is more than `learning`.
const FEW_HOURS: u32 = 24;

/// Hours of the week that must have been watched before anything is `stable`. Not all 168: a host that is restarted or
/// idle for an hour records nothing in it.
const MOST_HOURS: u32 = 160;

/// How long nothing new may have come up before something is `stabilising`.
const A_DAY: SignedDuration = SignedDuration::from_hours(24);

/// How long nothing new may have come up before something is `stable`.
const A_WEEK: SignedDuration = SignedDuration::from_hours(24 * 7);

/// Whether it is time to rely on what was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Readiness {
    /// Fewer than 24 hours of the week were watched, or something new came up within the last 24 hours.
    Learning,
    /// Fewer than 160 hours of the week were watched, or something new came up within the last seven days.
    Stabilising,
    /// Neither.
    Stable,
}

impl Readiness {
    /// As in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Learning => "learning",
            Self::Stabilising => "stabilising",
            Self::Stable => "stable",
        }
    }
}

/// How far the watching has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Maturity {
    /// In one word.
    pub readiness: Readiness,
    /// Hours of the 168 of a week in which the hosts concerned recorded anything.
    pub watched: u32,
    /// When the last conversation appeared that had not been there before: client, server and port.
    pub newest: Timestamp,
}

impl Maturity {
    fn of(watched: Week, newest: Timestamp, end: Timestamp) -> Self {
        let (watched, quiet) = (watched.hours(), end.duration_since(newest));
        let readiness = if watched < FEW_HOURS || quiet < A_DAY {
            Readiness::Learning
        } else if watched < MOST_HOURS || quiet < A_WEEK {
            Readiness::Stabilising
        } else {
            Readiness::Stable
        };
        Self { readiness, watched, newest }
    }

    /// In one line.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{}: {} of the {WEEK} hours of a week watched, last new conversation {}",
            self.readiness.name(),
            self.watched,
            minute(self.newest)
        )
    }
}

/// What was watched: when, by whom.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    hosts: HashMap<&'a str, Week>,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    pub(super) all: Week,
}

impl<'a> Watch<'a> {
    /// Nothing can be watched in nothing.
    pub(super) fn of(observed: &'a [Summary]) -> Option<Self> {
        let head = observed.first()?;
        let (hosts, all) = (HashMap::new(), Week::default());
        let mut watch = Self { hosts, first: head.first, last: head.last, all };
        for summary in observed {
            let hour = summary.hour.as_second();
            watch.hosts.entry(&summary.of.host).or_default().add(hour);
            watch.all.add(hour);
            watch.first = watch.first.min(summary.first);
            watch.last = watch.last.max(summary.last);
        }
        Some(watch)
    }

    pub(super) fn hosts(&self) -> usize {
        self.hosts.len()
    }

    /// Of everything that was taken into account.
    pub(super) fn maturity(&self, talks: &[&Talk<'_>]) -> Maturity {
        Maturity::of(self.all, newest(talks).unwrap_or(self.first), self.last)
    }
}

/// When the last conversation appeared that had not been there before.
fn newest(talks: &[&Talk<'_>]) -> Option<Timestamp> {
    let mut first: BTreeMap<_, Timestamp> = BTreeMap::new();
    for talk in talks {
        // Two ends record the same one; what has no link is its host's alone.
        let alone = talk.link().is_none().then_some((
            &talk.of.host,
            talk.of.direction,
            &talk.of.peer_zone,
            talk.spec,
        ));
        first.entry((talk.link(), alone)).and_modify(|t| *t = talk.first.min(*t)).or_insert(talk.first);
    }
    first.into_values().max()
}

/// What was seen of one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// Each counted once, though both ends may have recorded it.
    pub flows: u64,
    /// Of flows that ended, as the end counted them that counted more.
    pub bytes: u64,
    /// Addresses that began.
    pub clients: usize,
    /// Addresses with which.
    pub servers: usize,
    /// Hosts that recorded it.
    pub hosts: Vec<String>,
    /// Programs that began, with their units.
    pub client_programs: Vec<String>,
    /// Programs with which.
    pub server_programs: Vec<String>,
    /// The first record.
    pub first: Timestamp,
    /// The last one.
    pub last: Timestamp,
    /// Hours with a record.
    pub hours: usize,
    /// Where in the week they are.
    pub week: Week,
    /// Whether it is time to rely on it.
    #[serde(flatten)]
    pub maturity: Maturity,
}

impl Evidence {
    /// Of the talks that a rule is for: at least one.
    pub(super) fn of(talks: &[&Talk<'_>], watch: &Watch<'_>) -> Option<Self> {
        let head = talks.first()?;
        let (mut clients, mut servers) = (BTreeSet::new(), BTreeSet::new());
        let (mut client_programs, mut server_programs) = (BTreeSet::new(), BTreeSet::new());
        let (mut hosts, mut hours) = (BTreeSet::new(), BTreeSet::new());
        let (mut week, mut watched) = (Week::default(), Week::default());
        let (mut first, mut last) = (head.first, head.last);
        for talk in talks {
            let local = talk.of.local.map(|ip| ip.to_canonical());
            let (client, server): (Option<IpAddr>, Option<IpAddr>) = match talk.of.direction {
                Direction::Outbound => (local, talk.peer()),
                Direction::Inbound => (talk.peer(), local),
            };
            clients.extend(client);
            servers.extend(server);
            let programs = match talk.of.direction {
                Direction::Outbound => &mut client_programs,
                Direction::Inbound => &mut server_programs,
            };
            programs.extend(talk.programs.iter().cloned());
            if hosts.insert(&*talk.of.host)
                && let Some(of_host) = watch.hosts.get(&*talk.of.host)
            {
                watched.join(*of_host);
            }
            hours.extend(talk.hours.keys().copied());
            talk.hours.keys().for_each(|hour| week.add(*hour));
            (first, last) = (first.min(talk.first), last.max(talk.last));
        }
        let (flows, bytes) = amounts(talks);
        Some(Self {
            flows,
            bytes,
            clients: clients.len(),
            servers: servers.len(),
            hosts: hosts.into_iter().map(printable).collect(),
            client_programs: client_programs.into_iter().collect(),
            server_programs: server_programs.into_iter().collect(),
            first,
            last,
            hours: hours.len(),
            week,
            maturity: Maturity::of(watched, newest(talks).unwrap_or(first), watch.last),
        })
    }
}

/// Flows and bytes, those that both ends recorded once: in each hour and between two addresses, what the end says that
/// says more.
pub(super) fn amounts(talks: &[&Talk<'_>]) -> (u64, u64) {
    let mut flows: HashMap<_, [u64; 2]> = HashMap::new();
    let mut bytes: HashMap<_, [u64; 2]> = HashMap::new();
    let (mut alone, mut alone_bytes) = (0_u64, 0_u64);
    for talk in talks {
        let end = usize::from(talk.of.direction == Direction::Inbound);
        let Some(link) = talk.link().map(|l| (l.client, l.server, l.spec.protocol, l.spec.first)) else {
            alone = alone.saturating_add(talk.flows);
            alone_bytes = alone_bytes.saturating_add(talk.bytes);
            continue;
        };
        for (hour, count) in &talk.hours {
            let ends = flows.entry((link, *hour)).or_default();
            if let Some(sum) = ends.get_mut(end) {
                *sum = sum.saturating_add(*count);
            }
        }
        if let Some(sum) = bytes.entry(link).or_default().get_mut(end) {
            *sum = sum.saturating_add(talk.bytes);
        }
    }
    let sum = |alone: u64, all: &mut dyn Iterator<Item = [u64; 2]>| {
        all.fold(alone, |sum, [a, b]| sum.saturating_add(a.max(b)))
    };
    (sum(alone, &mut flows.into_values()), sum(alone_bytes, &mut bytes.into_values()))
}
