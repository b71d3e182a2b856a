//! What of a guard outlives the agent: it is on disk before the change that it watches.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use segd_common::id::{Generation, SubjectId};
use segd_common::traffic::Direction;
use serde::{Deserialize, Serialize};

use super::Plan;
use crate::policy::guard::{DEFAULT_PROBE_TIMEOUT, Probe};
use crate::rollout::guard::Limits;
use crate::rollout::seen::Key;
use crate::state::{StateDir, StateError};

const FILE: &str = "guard.json";

/// A guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The policy that is watched.
    pub(super) record: u32,
    /// The one that comes back.
    pub(super) former: u32,
    /// The first generation of the watched one.
    pub(super) generation: u32,
    pub(super) since: Timestamp,
    pub(super) until: Timestamp,
    pub(super) max_denied_per_minute: Option<u64>,
    pub(super) max_cut: Option<u64>,
    pub(super) probe: Option<Probe>,
    pub(super) probe_timeout_ms: u64,
    /// The probe succeeded before the change.
    pub(super) probe_heeded: bool,
    flowing: Vec<KeptKey>,
}

/// A [`Key`]: subject, direction, peer, protocol, port.
type KeptKey = (u16, u8, IpAddr, u8, u16);

fn kept_key(key: &Key) -> KeptKey {
    (key.subject.0, key.direction as u8, key.peer.into(), key.protocol, key.port)
}

fn key(&(subject, direction, peer, protocol, port): &KeptKey) -> Option<Key> {
    let direction = Direction::from_byte(direction)?;
    Some(Key { subject: SubjectId(subject), direction, peer: peer.into(), protocol, port })
}

impl Kept {
    /// Of a plan, from now on.
    pub(super) fn new(
        plan: &Plan,
        (former, record, generation): (u32, u32, Generation),
        flowing: &HashSet<Key>,
    ) -> Self {
        let since = Timestamp::now();
        let (probe, limit) = plan.probe.clone().unzip();
        let limit = limit.unwrap_or(DEFAULT_PROBE_TIMEOUT);
        let window = jiff::SignedDuration::try_from(plan.limits.window).unwrap_or(jiff::SignedDuration::MAX);
        Self {
            record,
            former,
            generation: generation.0,
            since,
            until: since.checked_add(window).unwrap_or(Timestamp::MAX),
            max_denied_per_minute: plan.limits.max_denied_per_minute,
            max_cut: plan.limits.max_cut,
            probe,
            probe_timeout_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
            probe_heeded: matches!(plan.before, Some(Ok(()))),
            flowing: flowing.iter().map(kept_key).collect(),
        }
    }

    /// What flowed before the change.
    pub(super) fn flowing(&self) -> HashSet<Key> {
        self.flowing.iter().filter_map(key).collect()
    }

    pub(super) fn limits(&self) -> Limits {
        let window = Duration::try_from(self.until.duration_since(self.since)).unwrap_or_default();
        Limits { max_denied_per_minute: self.max_denied_per_minute, max_cut: self.max_cut, window }
    }

    /// Writes what is watched now, and before it what was: which of them it is after a crash, the policy in force
    /// says.
    pub(super) fn save(state: &StateDir, all: &[&Self]) -> Result<(), StateError> {
        if all.is_empty() { state.remove(FILE).map(drop) } else { state.save(FILE, &all) }
    }

    /// The guard of a policy.
    pub(super) fn load(state: &StateDir, record: u32) -> Result<Option<Self>, StateError> {
        let all: Vec<Self> = state.load(FILE)?.unwrap_or_default();
        Ok(all.into_iter().rev().find(|kept| kept.record == record))
    }
}

#[cfg(test)]
mod tests {
    use segd_common::addr::Addr;

    use super::*;

    fn kept(record: u32) -> Kept {
        let limits =
            Limits { max_denied_per_minute: Some(3), max_cut: None, window: Duration::from_secs(60) };
        let probe = Some((Probe::Command(vec!["/bin/true".into()]), Duration::from_secs(7)));
        let plan = Plan { limits, probe, before: Some(Ok(())), asked: true };
        let flowing = HashSet::from([Key {
            subject: SubjectId(16),
            direction: Direction::Inbound,
            peer: Addr::v4([10, 0, 0, 1]),
            protocol: 6,
            port: 5432,
        }]);
        let kept = Kept::new(&plan, (record - 1, record, Generation(record)), &flowing);
        assert_eq!((kept.flowing(), kept.limits()), (flowing, limits));
        kept
    }

    #[test]
    fn the_policy_in_force_says_which_guard_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let (old, new) = (kept(5), kept(7));
        // Killed before or after the change.
        Kept::save(&state, &[&old, &new]).unwrap();
        assert_eq!(Kept::load(&state, 7).unwrap(), Some(new));
        assert_eq!(Kept::load(&state, 5).unwrap(), Some(old));
        assert_eq!(Kept::load(&state, 6).unwrap(), None);
        Kept::save(&state, &[]).unwrap();
        assert_eq!(Kept::load(&state, 7).unwrap(), None);
    }
}
