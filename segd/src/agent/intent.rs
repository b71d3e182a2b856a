//! What is meant to be in force: the policy and modes that people chose, and the surroundings they hold in.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::control::api::ModeOverride;
use crate::datapath::host;
use crate::policy::model::Exception;
use crate::policy::{Policy, Resolved};

/// What people chose. A rollback brings a former one back.
#[derive(Clone, Debug)]
pub(super) struct Stance {
    /// Its number in the history: the generation that it came into force with; 0: none yet.
    pub(super) record: u32,
    /// The record that it took the place of, if any.
    pub(super) previous: Option<u32>,
    pub(super) policy: Arc<Policy>,
    pub(super) overrides: Vec<ModeOverride>,
    /// Numbers of the users that workloads name, as they were when it was loaded.
    pub(super) users: Arc<BTreeMap<String, u32>>,
    pub(super) loaded_at: Timestamp,
    /// What `segd check` warns of.
    pub(super) warnings: Vec<String>,
}

impl Stance {
    /// The same, changed; it gets a number of its own when it comes into force.
    pub(super) fn with_overrides(&self, overrides: Vec<ModeOverride>) -> Self {
        if overrides == self.overrides {
            return self.clone();
        }
        Self { record: 0, previous: Some(self.record), overrides, ..self.clone() }
    }
}

/// What holds whatever policy is in force.
#[derive(Clone, Debug, Default)]
pub(super) struct Around {
    /// Of this host.
    pub(super) addresses: Vec<IpAddr>,
    /// What the names in zones stand for.
    pub(super) names: Arc<Resolved>,
    /// Neither revoked nor expired when this was made.
    pub(super) exceptions: Vec<Exception>,
}

/// A stance that gives way to the former one unless it is confirmed.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) former: Stance,
    /// What counts: nanoseconds of CLOCK_BOOTTIME.
    pub(super) deadline_ns: u64,
    /// What people see: the same by the wall clock as it was when it was set.
    pub(super) deadline: Timestamp,
    pub(super) since: Timestamp,
    /// User id of who asked for it.
    pub(super) by: Option<u32>,
}

impl Pending {
    /// Whether the kernel has left what waits.
    pub(super) fn has_passed(&self) -> bool {
        host::boottime_ns() >= self.deadline_ns
    }
}

/// Zone files that a person or a guard turned away from. A start does not load them; `segd apply` does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    /// As [`Policy::hash`].
    pub(super) hash: String,
    /// How that came, as a person should read it.
    pub(super) why: String,
}

/// Everything that a generation is made of.
#[derive(Clone, Debug)]
pub(super) struct Intent {
    pub(super) stance: Stance,
    pub(super) around: Around,
    pub(super) pending: Option<Pending>,
    pub(super) held: Option<Held>,
}

impl Intent {
    /// The former stance in place of one that was not confirmed, or that is turned away from. `files`: hash of the
    /// zone files on disk, which are held back if they are others.
    pub(super) fn back_to(&self, stance: Stance, files: String, why: impl Into<String>) -> Self {
        let held = (files != stance.policy.hash()).then(|| Held { hash: files, why: why.into() });
        Self { stance, around: self.around.clone(), pending: None, held }
    }
}
