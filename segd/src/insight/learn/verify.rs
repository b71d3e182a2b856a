//! Tries a proposal: reads it as a zone file, checks it, and decides everything that was seen under it.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use segd_common::traffic::Verdict;
use serde::Serialize;

use super::{LearnError, shown};
use crate::history::{Peer, Summary};
use crate::insight::replay::{Around, Decider};
use crate::policy::check::{TestCase, test_cases};
use crate::policy::{Policy, Sources, check, load_stored};

/// What messages call the file that is proposed.
const NAME: &str = "learned.toml";

/// How a proposal came out when it was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SelfCheck {
    /// Warnings of `segd check`, those about the present files included.
    pub warnings: usize,
    /// Conversations and hours that were decided again.
    pub replayed: usize,
    /// Of those, allowed, whatever the mode.
    pub allowed: usize,
    /// Left out on purpose.
    pub left_out: usize,
    /// Of those, denied once everything is enforced.
    pub left_out_denied: usize,
}

/// Zone files, and the policy that they are.
#[derive(Debug)]
pub(super) struct Files {
    texts: Vec<(String, String)>,
    /// What the file that is proposed begins with.
    head: String,
    pub(super) policy: Policy,
}

impl Files {
    /// The present ones, which must be right.
    pub(super) fn present(policy: &Policy, around: &Around<'_>) -> Result<Self, LearnError> {
        let found = check(policy, around.failsafes, around.names, around.now);
        if found.errors() > 0 {
            return Err(LearnError::Present(found.render(false)));
        }
        let texts =
            policy.sources.files().iter().map(|file| (file.name.clone(), file.text.clone())).collect();
        Ok(Self { texts, head: String::new(), policy: policy.clone() })
    }

    /// None but the one that is proposed, which begins with `head`.
    pub(super) fn alone(head: String) -> Result<Self, LearnError> {
        let policy = load(&[], &head)?;
        Ok(Self { texts: Vec::new(), head, policy })
    }

    /// What the file that is proposed begins with.
    pub(super) fn head(&self) -> &str {
        &self.head
    }

    /// How many present files there are.
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    /// With a draft of what is proposed.
    pub(super) fn with(&self, draft: &str) -> Result<Tried, LearnError> {
        self.finished(&format!("{}{draft}", self.head))
    }

    /// With the whole file that is proposed.
    pub(super) fn finished(&self, text: &str) -> Result<Tried, LearnError> {
        Ok(Tried { policy: load(&self.texts, text)? })
    }
}

/// Rules that have expired meanwhile were an error when the present files were read, if they were to be.
fn load(texts: &[(String, String)], text: &str) -> Result<Policy, LearnError> {
    let own = (NAME.to_owned(), text.to_owned());
    let sources = Sources::from_texts(texts.iter().cloned().chain([own]));
    load_stored(sources).map_err(|found| LearnError::Check(found.render(false)))
}

/// The policy with a proposal.
#[derive(Debug)]
pub(super) struct Tried {
    pub(super) policy: Policy,
}

impl Tried {
    /// Tests of what must be denied that fail.
    pub(super) fn failing_tests(&self, around: &Around<'_>) -> Vec<TestCase> {
        let cases = test_cases(&self.policy, around.failsafes, around.names, around.now);
        cases.into_iter().filter(|case| case.failure.is_some() && case.wanted == "denied").collect()
    }

    /// Checks the policy, and decides everything again. `left_out`: numbers of the summaries that may be denied; the
    /// numbers of those that would be come with the result.
    pub(super) fn verify(
        &self,
        observed: &[Summary],
        left_out: &BTreeSet<usize>,
        around: &Around<'_>,
    ) -> Result<(SelfCheck, BTreeSet<usize>), LearnError> {
        let found = check(&self.policy, around.failsafes, around.names, around.now);
        if found.errors() > 0 {
            return Err(LearnError::Check(found.render(false)));
        }
        let decider = Decider::new(&self.policy, *around, observed)?;
        let (mut denied, mut broken) = (BTreeSet::new(), BTreeSet::new());
        for (n, Summary { of, .. }) in observed.iter().enumerate() {
            let answer = decider.decide(of);
            if answer.as_ref().is_ok_and(|replayed| replayed.enforced() == Verdict::Allowed) {
                continue;
            }
            denied.insert(n);
            if !left_out.contains(&n) {
                let why =
                    answer.map_or_else(|e| e.to_string(), |r| format!("{} ({})", r.enforced(), r.reason));
                let peer = match of.peer {
                    Peer::Address(ip) => ip.to_string(),
                    Peer::Others(n) => format!("{n} others"),
                };
                let (host, subject, zone) = (shown(&of.host), shown(&of.subject), shown(&of.peer_zone));
                let (direction, protocol, port) = (of.direction, &of.protocol, of.port);
                broken.insert(format!(
                    "{host}: {direction} {subject} {peer} ({zone}) {protocol}/{port}: {why}"
                ));
            }
        }
        if !broken.is_empty() {
            return Err(LearnError::Broken(broken.into_iter().collect()));
        }
        let allowed = observed.len() - denied.len();
        let result = SelfCheck {
            warnings: found.warnings(),
            replayed: observed.len(),
            allowed,
            left_out: left_out.len(),
            left_out_denied: denied.len(),
        };
        Ok((result, denied))
    }
}

/// What somebody should look at.
pub(super) fn notes(
    observed: &[Summary],
    policy: &Policy,
    unclaimed: &BTreeMap<String, Vec<IpNet>>,
) -> Vec<String> {
    let mut notes = Vec::new();
    for (zone, nets) in unclaimed {
        let nets: Vec<String> = nets.iter().map(ToString::to_string).collect();
        notes.push(format!(
            "hosts of zone `{zone}` have addresses that it does not claim; add them to its `cidrs`: {}",
            nets.join(", ")
        ));
    }
    let gone: BTreeSet<String> = observed
        .iter()
        .filter_map(|summary| summary.of.workload.as_ref())
        .filter(|name| !policy.workloads.contains_key(&***name))
        .map(shown)
        .collect();
    notes.extend(gone.iter().map(|name| {
        format!("the zone files do not define workload `{name}`: what it did is proposed for its host's zone")
    }));
    let unknown = |rollout: &&crate::policy::model::Rollout| {
        rollout.peers.iter().flatten().any(|peer| peer.value == "unknown")
    };
    notes.extend(policy.rollouts.iter().filter(unknown).map(|rollout| {
        format!(
            "{} is for the peers in `unknown`: add the zones that are proposed here if it shall hold for them",
            policy.sources.file_line(rollout.place)
        )
    }));
    notes
}
