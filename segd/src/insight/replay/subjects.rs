//! Which workload a recorded socket would be decided as.
//!
//! A record names the socket's unit and user, and what it was decided as. A workload that the policy still defines keeps
//! its sockets unless its selector says that they are not its own; other sockets may belong to workloads that are new.

use std::collections::BTreeMap;

use segd_common::glob;
use segd_common::table::{Pattern, Subject};

use crate::history::Conversation;
use crate::policy::Policy;
use crate::policy::workload::{Selector, User};

/// Finds workloads by unit, as the kernel does.
#[derive(Debug)]
pub(super) struct Units {
    patterns: Vec<Pattern>,
    /// Of each pattern.
    names: Vec<String>,
}

impl Units {
    pub(super) fn of(policy: &Policy) -> Self {
        let units = policy.workloads.iter().filter(|(_, w)| matches!(w.selector, Selector::Unit(_)));
        let all = units.filter_map(|(name, w)| Some((w.selector.pattern(Subject::default())?, name.clone())));
        let (patterns, names) = all.unzip();
        Self { patterns, names }
    }

    /// The workload of a unit. Its cgroup has its name, where that is none of a kernel's file.
    fn named<'a>(&self, policy: &'a Policy, unit: &str) -> Option<&'a str> {
        let cgroup = Selector::Unit(unit.to_owned()).pattern_text()?.0;
        let best = glob::best(&self.patterns, format!("/{cgroup}").as_bytes())?;
        let at = self.patterns.iter().position(|pattern| std::ptr::eq(pattern, best))?;
        policy.workloads.get_key_value(self.names.get(at)?).map(|(name, _)| name.as_str())
    }

    /// The workload of a conversation; none: its host's zone counts. `users`: the uids of users on its host.
    pub(super) fn subject<'a>(
        &self,
        policy: &'a Policy,
        of: &Conversation,
        users: Option<&BTreeMap<String, u32>>,
    ) -> Option<&'a str> {
        let by_unit = of.unit.as_deref().and_then(|unit| self.named(policy, unit));
        let recorded = of.workload.as_deref().and_then(|name| policy.workloads.get_key_value(name));
        let is = |user: &User| match (user, of.uid) {
            (User::Id(id), Some(uid)) => Some(*id == uid),
            (User::Name(name), Some(uid)) => users.map(|users| users.get(name) == Some(&uid)),
            (_, None) => None,
        };
        let by_user = || {
            let mut users = policy.workloads.iter();
            let found = users.find(|(_, w)| matches!(&w.selector, Selector::User(u) if is(u) == Some(true)));
            found.map(|(name, _)| name.as_str())
        };
        let stays = recorded.filter(|(_, workload)| match &workload.selector {
            // Of the cgroup a record tells the unit only.
            Selector::Cgroup(_) => true,
            Selector::Unit(_) => of.unit.is_none(),
            Selector::User(user) => by_unit.is_none() && is(user) != Some(false),
        });
        stays.map(|(name, _)| name.as_str()).or(by_unit).or_else(by_user)
    }
}
