//! Workloads: identities on a host that rules may name, and what a local socket is decided as.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use segd_common::table::{PATTERN_BYTES, Pattern, Subject};

use super::model::Policy;
use super::source::{Place, Placed};

/// `[workload.NAME]`.
///
/// Only the host that it runs on knows it. From elsewhere it is seen as its zone: a rule from it lets its whole
/// zone in at the server, and a rule to it lets the client reach its whole zone; the other end is exact.
#[derive(Clone, Debug)]
pub struct Workload {
    /// What it is.
    pub description: Option<String>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// What it is for.
    pub purpose: Option<String>,
    /// The zone that it belongs to.
    pub zone: Placed<String>,
    /// Which of a host's sockets are its own.
    pub selector: Selector,
    /// Whether rules for the zone apply to it too. Rollouts for the zone always do.
    pub inherit: bool,
    /// The instant from which it is denied everything but failsafe traffic.
    pub expires: Option<Timestamp>,
    /// Its name.
    pub place: Place,
}

/// Which sockets of a host belong to a workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// Those of a systemd unit, by its name with suffix; a template (`agent@.service`) means every instance.
    Unit(String),
    /// Those in a cgroup and below, by its path under the root of the cgroup2 tree; `*` stands for any
    /// characters but `/`.
    Cgroup(String),
    /// Those of a user, where no cgroup says otherwise.
    User(User),
}

/// A user of the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// By name, which may mean another uid on each host.
    Name(String),
    /// By uid.
    Id(u32),
}

impl User {
    /// The uid, if there is one among those of the host's users.
    pub(crate) fn uid(&self, users: &BTreeMap<String, u32>) -> Option<u32> {
        match self {
            Self::Name(name) => users.get(name).copied(),
            Self::Id(uid) => Some(*uid),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(name) => write!(f, "unit {name}"),
            Self::Cgroup(path) => write!(f, "cgroup {path}"),
            Self::User(User::Name(name)) => write!(f, "user {name}"),
            Self::User(User::Id(uid)) => write!(f, "user {uid}"),
        }
    }
}

/// Names of cgroup controllers, which are no names of cgroups if a dot follows.
const CONTROLLERS: [&str; 9] =
    ["blkio", "cgroup", "cpu", "cpuacct", "cpuset", "devices", "io", "memory", "pids"];

impl Selector {
    /// No socket at all: in place of one that the file gets wrong, so that the other errors can be found. The
    /// kernel takes this number for "no user".
    pub(crate) const NOTHING: Self = Self::User(User::Id(u32::MAX));

    /// The text of the [`Pattern`] for it, and whether it may begin anywhere in the path; none for a user.
    pub(crate) fn pattern_text(&self) -> Option<(String, bool)> {
        match self {
            Self::Unit(name) => Some((unit_cgroup(name), true)),
            Self::Cgroup(path) => Some((path.clone(), false)),
            Self::User(_) => None,
        }
    }

    /// The [`Pattern`] for it; none for a user.
    pub(crate) fn pattern(&self, subject: Subject) -> Option<Pattern> {
        let (written, anywhere) = self.pattern_text()?;
        let mut text = [0; PATTERN_BYTES];
        text.get_mut(..written.len())?.copy_from_slice(written.as_bytes());
        let len = u8::try_from(written.len()).ok()?;
        Some(Pattern { subject, len, anywhere: anywhere.into(), pad: [0; 6], text })
    }
}

/// What systemd calls the cgroup of a unit: its name, with `_` in front where that would be a file of the kernel's
/// (`cg_escape` in systemd's src/basic/cgroup-util.c).
fn unit_cgroup(unit: &str) -> String {
    let name = match (unit.find('@'), unit.rfind('.')) {
        (Some(at), Some(dot)) if dot == at + 1 => format!("{}@*{}", &unit[..at], &unit[dot..]),
        _ => unit.to_owned(),
    };
    let of_kernel =
        CONTROLLERS.iter().any(|c| name.strip_prefix(c).is_some_and(|rest| rest.starts_with('.')));
    if of_kernel || name.starts_with(['_', '.']) { format!("_{name}") } else { name }
}

/// A line for each workload that selects nothing on this host: its user does not exist here, or has the uid of
/// another workload's. `users` as in [`Host::users`](super::Host::users).
#[must_use]
pub fn without_user(policy: &Policy, users: &BTreeMap<String, u32>) -> Vec<String> {
    let mut taken: BTreeMap<u32, &str> = BTreeMap::new();
    let mut lines = Vec::new();
    for (name, workload) in &policy.workloads {
        let Selector::User(user) = &workload.selector else { continue };
        let Some(uid) = user.uid(users) else {
            lines.push(format!("workload `{name}` selects nothing: this host has no {}", workload.selector));
            continue;
        };
        if let Some(other) = taken.get(&uid) {
            lines.push(format!(
                "workload `{name}` selects nothing: its {} is uid {uid}, which workload `{other}` has",
                workload.selector
            ));
        } else {
            taken.insert(uid, name);
        }
    }
    lines
}

/// What a local socket is decided as: the zone of its host, or a workload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local<'a> {
    pub(crate) name: &'a str,
    /// Its own name, or the zone of the workload.
    pub(crate) zone: &'a str,
    /// Whether rules for the zone apply.
    inherits: bool,
    expires: Option<Timestamp>,
}

impl<'a> Local<'a> {
    /// The zone or workload of that name.
    pub(crate) fn of(policy: &'a Policy, name: &str) -> Option<Self> {
        if let Some((zone, _)) = policy.zones.get_key_value(name) {
            return Some(Self { name: zone, zone, inherits: true, expires: None });
        }
        let (name, workload) = policy.workloads.get_key_value(name)?;
        let Workload { zone, inherit, expires, .. } = workload;
        Some(Self { name, zone: &zone.value, inherits: *inherit, expires: *expires })
    }

    /// Whether an end of a rule means it.
    pub(crate) fn in_rule(&self, end: &str) -> bool {
        end == self.name || (self.inherits && end == self.zone)
    }

    /// Whether a rollout's subject means it.
    pub(crate) fn in_rollout(&self, subject: &str) -> bool {
        subject == self.name || subject == self.zone
    }

    /// When it expires, as in the tables of [`Compiled`](super::Compiled).
    pub(crate) fn expires(&self) -> u64 {
        self.expires.map_or(0, nanoseconds)
    }
}

/// An instant as tables hold it. It may be long gone: 1 is past, 0 would be never.
pub(crate) fn nanoseconds(instant: Timestamp) -> u64 {
    u64::try_from(instant.as_nanosecond()).unwrap_or(0).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_what_systemd_calls_cgroups() {
        for (unit, text) in [
            ("inventory-bot.service", "inventory-bot.service"),
            ("agent@.service", "agent@*.service"),
            ("agent@7.service", "agent@7.service"),
            ("agent@.7.service", "agent@.7.service"),
            ("memory.service", "_memory.service"),
            ("memory-check.service", "memory-check.service"),
            ("_x.scope", "__x.scope"),
        ] {
            assert_eq!(Selector::Unit(unit.into()).pattern_text(), Some((text.into(), true)), "{unit}");
        }
        let pattern = Selector::Cgroup("/agents/*".into()).pattern(Subject::default()).unwrap();
        assert_eq!((&pattern.text[..10], pattern.len, pattern.anywhere), (&b"/agents/*\0"[..], 9, 0));
        assert_eq!(Selector::User(User::Id(7)).pattern(Subject::default()), None);
    }
}
