//! Which policy the kernel's generation belongs to, kept so that it is known again after the agent was killed
//! at any moment: it is written before the kernel changes, and the kernel tells afterwards whether it did.

use jiff::Timestamp;
use segd_common::id::Generation;
use serde::{Deserialize, Serialize};

use super::intent::Held;
use crate::policy::model::Exception;
use crate::rollout::journal::Action;
use crate::state::{StateDir, StateError};

const FILE: &str = "standing.json";

/// What a generation of the kernel stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Standing {
    /// The kernel's generation.
    pub(super) generation: u32,
    /// Its policy in the history.
    pub(super) record: u32,
    pub(super) pending: Option<PendingStanding>,
    pub(super) held: Option<Held>,
    pub(super) exceptions: Vec<Exception>,
    /// What brought it into force, for the journal; none where nothing is journaled.
    pub(super) change: Option<Announced>,
}

/// What returns if the deadline passes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PendingStanding {
    /// The kernel's generation.
    pub(super) generation: u32,
    /// Its policy in the history.
    pub(super) record: u32,
    /// By the wall clock as it was then. While the host runs the kernel's own deadline counts.
    pub(super) deadline: Timestamp,
    pub(super) since: Timestamp,
    pub(super) by: Option<u32>,
}

/// A change, as the journal tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Announced {
    pub(super) action: Action,
    pub(super) uid: Option<u32>,
    pub(super) pid: Option<i32>,
    pub(super) reason: Option<String>,
    pub(super) details: serde_json::Value,
}

/// The file: what stands, and what was about to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Standings {
    pub(super) now: Option<Standing>,
    next: Option<Standing>,
}

/// A change that came into force and is not in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recovered {
    /// Generations of the kernel.
    pub(super) before: Option<u32>,
    pub(super) after: u32,
    pub(super) change: Announced,
}

/// What a former agent left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing: this is the first start.
    Nothing,
    /// This stands.
    Standing(Standing),
    /// The deadline of this passed: its former policy stands.
    Lapsed(Standing),
}

impl Standings {
    pub(super) fn load(state: &StateDir) -> Result<Self, StateError> {
        Ok(state.load(FILE)?.unwrap_or_default())
    }

    /// To be called before the kernel changes.
    pub(super) fn announce(&mut self, state: &StateDir, next: Standing) -> Result<(), StateError> {
        self.next = Some(next);
        state.save(FILE, self)
    }

    /// Whether this generation was announced and is not settled.
    pub(super) fn is_announced(&self, generation: Generation) -> bool {
        self.next.as_ref().is_some_and(|next| next.generation == generation.0)
    }

    /// To be called when the kernel has changed, or has refused to.
    pub(super) fn settle(&mut self, state: &StateDir, changed: bool) -> Result<(), StateError> {
        let next = self.next.take();
        if changed {
            self.now = next;
        }
        state.save(FILE, self)
    }

    /// The last generation that was given, as far as it is known.
    pub(super) fn last(&self) -> Option<u32> {
        [&self.now, &self.next].into_iter().flatten().map(|s| s.generation).max()
    }

    /// Records of what was announced and never came into force.
    pub(super) fn unfulfilled(&self, kernel: Generation) -> Vec<u32> {
        let records = |s: &Standing| [Some(s.record), s.pending.as_ref().map(|p| p.record)];
        let standing: Vec<u32> = self.now.iter().flat_map(records).flatten().collect();
        let next = self.next.iter().filter(|next| !is(next, kernel));
        next.flat_map(records).flatten().filter(|record| !standing.contains(record)).collect()
    }

    /// What was announced for the journal and came into force, but was not settled.
    pub(super) fn unsettled(&self, kernel: Generation) -> Option<Recovered> {
        let next = self.next.as_ref().filter(|next| is(next, kernel))?;
        let change = next.change.clone()?;
        let before = self.now.as_ref().map(|now| now.generation);
        Some(Recovered { before, after: next.generation, change })
    }

    /// What stands by what the kernel holds; [`Generation::NONE`]: it holds nothing, as after a reboot.
    pub(super) fn found(&self, kernel: Generation, now: Timestamp) -> Found {
        if kernel == Generation::NONE {
            return match &self.now {
                None => Found::Nothing,
                Some(s) if s.pending.as_ref().is_some_and(|p| p.deadline <= now) => Found::Lapsed(s.clone()),
                Some(s) => Found::Standing(s.clone()),
            };
        }
        for standing in [&self.next, &self.now].into_iter().flatten() {
            if standing.generation == kernel.0 {
                return Found::Standing(standing.clone());
            }
            if is(standing, kernel) {
                return Found::Lapsed(standing.clone());
            }
        }
        // Pins without a state directory, or with another's.
        Found::Nothing
    }
}

/// Whether a generation of the kernel is that of a standing, or what it falls back to.
fn is(standing: &Standing, kernel: Generation) -> bool {
    standing.generation == kernel.0 || standing.pending.as_ref().is_some_and(|p| p.generation == kernel.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(generation: u32, fallback: Option<u32>) -> Standing {
        let second = |s| Timestamp::from_second(s).unwrap();
        let pending = fallback.map(|generation| PendingStanding {
            generation,
            record: 1,
            deadline: second(100),
            since: second(40),
            by: Some(0),
        });
        let change = Announced {
            action: Action::Load,
            uid: Some(0),
            pid: None,
            reason: None,
            details: serde_json::Value::Null,
        };
        Standing {
            generation,
            record: generation,
            pending,
            held: None,
            exceptions: Vec::new(),
            change: Some(change),
        }
    }

    #[test]
    fn the_kernel_tells_what_stands() {
        let now = standing(5, None);
        let next = standing(7, Some(6));
        let both = Standings { now: Some(now.clone()), next: Some(next.clone()) };
        let pending = Standings { now: Some(next.clone()), next: None };
        let at = |s| Timestamp::from_second(s).unwrap();
        for (case, standings, kernel, time, wanted) in [
            ("killed before the flip", &both, 5, 50, Found::Standing(now.clone())),
            ("killed after the flip", &both, 7, 50, Found::Standing(next.clone())),
            ("killed after the flip, deadline passed", &both, 6, 150, Found::Lapsed(next.clone())),
            ("waits", &pending, 7, 50, Found::Standing(next.clone())),
            ("passed", &pending, 6, 150, Found::Lapsed(next.clone())),
            ("rebooted before the flip", &both, 0, 50, Found::Standing(now)),
            ("rebooted in time", &pending, 0, 50, Found::Standing(next.clone())),
            ("rebooted too late", &pending, 0, 100, Found::Lapsed(next)),
            ("first start", &Standings::default(), 0, 50, Found::Nothing),
            ("somebody else's pins", &pending, 3, 50, Found::Nothing),
        ] {
            assert_eq!(standings.found(Generation(kernel), at(time)), wanted, "{case}");
        }
        let recovered = |kernel| both.unsettled(Generation(kernel)).map(|r| (r.before, r.after));
        assert_eq!([5, 6, 7].map(recovered), [None, Some((Some(5), 7)), Some((Some(5), 7))]);
        assert_eq!([5, 6, 7].map(|k| both.unfulfilled(Generation(k))), [vec![7, 1], vec![], vec![]]);
    }

    #[test]
    fn what_was_announced_stands_once_it_is_settled() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let mut standings = Standings::load(&state).unwrap();
        standings.announce(&state, standing(1, None)).unwrap();
        standings.settle(&state, true).unwrap();
        standings.announce(&state, standing(2, None)).unwrap();
        standings.settle(&state, false).unwrap();
        let again = Standings::load(&state).unwrap();
        assert_eq!(again, Standings { now: Some(standing(1, None)), next: None });
    }
}
