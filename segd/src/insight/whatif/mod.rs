//! What other zone files would change for flows that were observed: newly denied, newly allowed, unchanged.
//!
//! Each flow is decided by [`replay`](super::replay) and compared with the last verdict that it had. A flow between two
//! hosts that both recorded it counts once: as its client saw it, with what both ends say. Fields that are serialised
//! are the JSON of `segd whatif`: new ones may come, none of these changes.

mod few;
mod fold;
mod lines;
mod owners;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use segd_common::traffic::Verdict;
use serde::Serialize;

use super::replay::{Decider, Placed, Replayed, Undecided};
use crate::history::Summary;
use fold::{Observation, Seen};
use lines::Lines;

pub use few::Few;
pub use lines::{End, Line, RuleLine};
pub use owners::Owners;

/// How it is compared.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// As if everything were enforced, whatever the rollouts of the zone files say.
    pub as_if_enforced: bool,
    /// What was seen within this time before the newest record is recent.
    pub recent: SignedDuration,
}

/// What changes, and for how much.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// When the first flow was seen.
    pub first: Option<Timestamp>,
    /// When the last one was.
    pub last: Option<Timestamp>,
    /// From here on a flow is recent.
    pub recent_since: Option<Timestamp>,
    /// Everything that was observed.
    pub observed: Counts,
    /// Passed, and would be denied.
    pub newly_denied: Section,
    /// Would pass only because of monitor mode: no rule allows it any more, or it is not denied any more.
    pub newly_audited: Section,
    /// Was denied, or passed only because of monitor mode, and a rule would allow it.
    pub newly_allowed: Section,
    /// The verdict stays.
    pub unchanged: Section,
    /// Passed, and would be denied were everything enforced; of this the newly denied is a part.
    pub if_enforced: Counts,
    /// Nothing can be said of these.
    pub undecided: Vec<Unsaid>,
    /// Where the hosts that recorded flows would be, by name.
    pub hosts: BTreeMap<String, HostShown>,
}

/// Observed flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Kinds of flows that differ in more than their time and the client's port.
    pub conversations: u64,
    /// Of these, those seen lately.
    pub recent_conversations: u64,
    /// Flows.
    pub flows: u64,
}

/// Flows with one outcome.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Section {
    /// All of them.
    #[serde(flatten)]
    pub counts: Counts,
    /// By the rule that allowed them before; what is newly allowed and what is unchanged, by the rule that would allow
    /// them. The most flows first.
    pub rules: Vec<RuleLine>,
    /// By who talks to whom. The most flows first.
    pub lines: Vec<Line>,
    /// Lines that were left out.
    pub more_lines: usize,
}

/// Flows of which nothing can be said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unsaid {
    /// Why.
    pub why: String,
    /// How much.
    #[serde(flatten)]
    pub counts: Counts,
}

/// A host that recorded flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostShown {
    /// Its zone under the new zone files.
    pub zone: Option<String>,
    /// What says so: `said`, `addresses`, `recorded` or `nothing`.
    pub by: &'static str,
    /// The zone that it recorded.
    pub was: Option<String>,
}

/// What becomes of the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Effect {
    Denied,
    Audited,
    Allowed,
    Unchanged,
}

impl Effect {
    fn of(was: Verdict, now: Verdict) -> Self {
        match (was, now) {
            (was, now) if was == now => Self::Unchanged,
            (_, Verdict::Denied) => Self::Denied,
            (_, Verdict::Audited) => Self::Audited,
            (_, Verdict::Allowed) => Self::Allowed,
        }
    }
}

/// One end of a flow, with what would be decided there.
struct Outcome<'a> {
    seen: &'a Seen<'a>,
    replayed: Replayed,
    /// Of `replayed`, in the mode that is asked about.
    now: Verdict,
}

/// Compares. `observed` in any order.
#[must_use]
pub fn compare(
    decider: &Decider<'_>,
    observed: &[Summary],
    owners: &Owners<'_>,
    options: Options,
) -> Comparison {
    let Observation { seen, partners } = fold::fold(observed);
    let decided = decide_all(decider, &seen);
    let first = seen.iter().map(|s| s.first).min();
    let last = seen.iter().map(|s| s.last).max();
    let recent_since = last.map(|last| last.checked_sub(options.recent).unwrap_or(Timestamp::MIN));
    let is_recent = |seen: &Seen<'_>| recent_since.is_none_or(|since| seen.last >= since);

    let mut all = Counts::default();
    let mut if_enforced = Counts::default();
    let mut undecided: BTreeMap<String, Counts> = BTreeMap::new();
    let mut lines = Lines::new(owners);
    let outcome = |n: usize| -> Option<Result<Outcome<'_>, &Undecided>> {
        let (seen, decided) = (seen.get(n)?, decided.get(n)?);
        let with_mode = |replayed: &Replayed| Outcome {
            seen,
            now: if options.as_if_enforced { replayed.enforced() } else { replayed.verdict },
            replayed: replayed.clone(),
        };
        Some(decided.as_ref().map(with_mode))
    };
    for (n, one) in seen.iter().enumerate() {
        let partner = match partners.get(n) {
            Some(fold::Partner::Merged) => continue,
            Some(fold::Partner::Other(other)) => outcome(*other),
            _ => None,
        };
        let recent = is_recent(one);
        all.add(one.flows, recent);
        let ends = match (outcome(n), partner) {
            (None, _) => continue,
            (Some(Ok(own)), Some(Ok(other))) => Ok((own, Some(other))),
            // What one end denies stays denied, whatever the other says.
            (Some(Ok(own)), Some(Err(why))) if own.now != Verdict::Denied => Err(why),
            (Some(Ok(own)), _) => Ok((own, None)),
            (Some(Err(_)), Some(Ok(other))) if other.now == Verdict::Denied => Ok((other, None)),
            (Some(Err(why)), _) => Err(why),
        };
        let (own, other) = match ends {
            Ok(ends) => ends,
            Err(why) => {
                undecided.entry(why.to_string()).or_default().add(one.flows, recent);
                continue;
            }
        };
        let both = [Some(&own), other.as_ref()];
        let was = both.iter().flatten().map(|o| o.seen.was.verdict).max().unwrap_or(Verdict::Allowed);
        let enforced = both.iter().flatten().map(|o| o.replayed.enforced()).max();
        if was.passes() && enforced == Some(Verdict::Denied) {
            if_enforced.add(one.flows, recent);
        }
        lines.add(one, was, &own, other.as_ref(), recent);
    }
    let hosts = decider.hosts().into_iter().map(|(name, placement)| {
        let by = match placement.by {
            Placed::Said => "said",
            Placed::Addresses => "addresses",
            Placed::Recorded => "recorded",
            Placed::Nothing => "nothing",
        };
        let was = placement.was.as_ref().map(ToString::to_string);
        (name.to_owned(), HostShown { zone: placement.zone.clone(), by, was })
    });
    let hosts = hosts.collect();
    let mut sections = lines.sections();
    let mut section = |effect| sections.remove(&effect).unwrap_or_default();
    let mut undecided: Vec<Unsaid> =
        undecided.into_iter().map(|(why, counts)| Unsaid { why, counts }).collect();
    undecided.sort_by_key(|u| std::cmp::Reverse(u.counts.flows));
    Comparison {
        first,
        last,
        recent_since,
        observed: all,
        newly_denied: section(Effect::Denied),
        newly_audited: section(Effect::Audited),
        newly_allowed: section(Effect::Allowed),
        unchanged: section(Effect::Unchanged),
        if_enforced,
        undecided,
        hosts,
    }
}

/// Decides on all cores.
fn decide_all(decider: &Decider<'_>, seen: &[Seen<'_>]) -> Vec<Result<Replayed, Undecided>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let decide = |part: &[Seen<'_>]| part.iter().map(|seen| decider.decide(seen.of)).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let parts = seen.chunks(seen.len().div_ceil(cores).max(1));
        let parts: Vec<_> = parts.map(|part| (part, scope.spawn(move || decide(part)))).collect();
        // A thread that panicked has said so; its part is decided here, to the same end.
        parts.into_iter().flat_map(|(part, done)| done.join().unwrap_or_else(|_| decide(part))).collect()
    })
}

impl Counts {
    fn add(&mut self, flows: u64, recent: bool) {
        self.conversations += 1;
        self.recent_conversations += u64::from(recent);
        self.flows = self.flows.saturating_add(flows);
    }
}

impl Comparison {
    /// Whether something that was seen lately would be cut.
    #[must_use]
    pub fn breaks(&self) -> bool {
        self.newly_denied.counts.recent_conversations > 0
    }

    /// Leaves so many lines in each section.
    pub fn limit(&mut self, most: usize) {
        let Self { newly_denied, newly_audited, newly_allowed, unchanged, .. } = self;
        for section in [newly_denied, newly_audited, newly_allowed, unchanged] {
            section.more_lines += section.lines.len().saturating_sub(most);
            section.lines.truncate(most);
        }
    }
}

#[cfg(test)]
mod tests;
