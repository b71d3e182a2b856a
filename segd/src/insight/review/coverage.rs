//! How much of what flowed was under enforcement.

use std::collections::{BTreeMap, HashMap};

use segd_common::traffic::{Mode, Verdict};
use serde::Serialize;

use super::Material;
use crate::history::{Conversation, Peer};
use crate::policy::compile::{self, Modes};
use crate::policy::workload::Local;
use crate::telemetry::protocol;
use crate::telemetry::text::printable;

/// Flows and denied attempts, as the hosts counted them: one between two hosts with segd counts at both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// All of them.
    pub flows: u64,
    /// Those of a kind that the policy has in enforce mode.
    pub enforced: u64,
    /// A rule allowed them, or nothing could have denied them.
    pub allowed: u64,
    /// Passed for being in monitor mode.
    pub audited: u64,
    /// Refused.
    pub denied: u64,
}

/// All, and by what the local side was decided as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Of everything.
    pub all: Share,
    /// By zone or workload of the local side.
    pub subjects: BTreeMap<String, Share>,
}

impl Share {
    fn add(&mut self, flows: u64, verdict: Verdict, enforced: bool) {
        self.flows = self.flows.saturating_add(flows);
        self.enforced = self.enforced.saturating_add(if enforced { flows } else { 0 });
        let sum = match verdict {
            Verdict::Allowed => &mut self.allowed,
            Verdict::Audited => &mut self.audited,
            Verdict::Denied => &mut self.denied,
        };
        *sum = sum.saturating_add(flows);
    }

    /// From 0 to 100; none without flows.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
    pub fn percent_enforced(&self) -> Option<f64> {
        (self.flows > 0).then(|| 100.0 * self.enforced as f64 / self.flows as f64)
    }
}

pub(super) fn coverage(material: &Material<'_>) -> Coverage {
    let mut modes: HashMap<(&str, &str), Option<Modes<'_>>> = HashMap::new();
    let mut coverage = Coverage::default();
    for summary in material.observed {
        let of = &summary.of;
        let known = modes.entry((&of.host, &of.subject)).or_insert_with(|| {
            let local = Local::of(material.policy, &of.subject)?;
            Some(Modes::new(material.policy, &local, material.overrides, &of.host))
        });
        let enforced = known.as_ref().is_some_and(|modes| is_enforced(material, modes, of));
        let subject = coverage.subjects.entry(printable(&of.subject)).or_default();
        for share in [&mut coverage.all, subject] {
            share.add(summary.flows, of.verdict, enforced);
        }
    }
    coverage
}

fn is_enforced(material: &Material<'_>, modes: &Modes<'_>, of: &Conversation) -> bool {
    let peer = match of.peer {
        Peer::Address(ip) => compile::Peer::at(material.policy, &of.peer_zone, ip),
        Peer::Others(_) => compile::Peer::plain(&of.peer_zone),
    };
    let Some(number) = protocol::number(&of.protocol) else { return false };
    modes.at(of.direction, &peer, number, of.rule_port()).0 == Mode::Enforce
}
