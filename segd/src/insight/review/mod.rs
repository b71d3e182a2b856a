//! What of a policy is used, what is not, and how far each zone and workload can reach.
//!
//! A rule that nothing uses is a door left open; a rule that ends unnoticed is an outage. What was observed says which
//! are which, but only for as long as it was observed: a rule that is new is not called unused.

mod coverage;
mod html;
mod reach;
mod rules;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

pub use coverage::{Coverage, Share};
pub use reach::{Enforced, Extent, Reach};
pub use rules::{Finding, Problem, RuleReview};

use crate::history::Summary;
use crate::policy::Policy;
use crate::policy::model::{Exception, Override};
use crate::telemetry::text::printable;

/// What is known of a rule beyond the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Since when it is in force.
    pub since: Timestamp,
    /// When a flow that it allowed was last seen.
    pub last_hit: Option<Timestamp>,
    /// Flows that it allowed since then.
    pub hits: u64,
}

/// What a review is made of.
#[derive(Clone, Copy, Debug)]
pub struct Material<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// Its hash, or what else tells it from others.
    pub policy_name: &'a str,
    /// What was observed.
    pub observed: &'a [Summary],
    /// What is known of rules, by id; of others only what was observed.
    pub known: &'a BTreeMap<String, Known>,
    /// Modes set at run time.
    pub overrides: &'a [Override],
    /// Rules added at run time.
    pub exceptions: &'a [Exception],
    /// Now.
    pub now: Timestamp,
}

/// What counts as long and as soon.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A rule without a hit for so long is unused.
    pub unused: Duration,
    /// What ends within so long ends soon.
    pub expiring: Duration,
}

/// A policy against what was observed. As JSON: stable keys, times as RFC 3339.
#[derive(Clone, Debug, Serialize)]
pub struct Review {
    /// When it was made.
    pub at: Timestamp,
    /// [`Material::policy_name`].
    pub policy: String,
    /// Hosts that recorded.
    pub hosts: Vec<String>,
    /// The first and the last record; none: nothing was observed.
    pub observed: Option<(Timestamp, Timestamp)>,
    /// In the order of the zone files.
    pub rules: Vec<RuleReview>,
    /// Rules added at run time.
    pub exceptions: Vec<Exception>,
    /// What nobody answers for, or ends soon, beside rules.
    pub others: Vec<Problem>,
    /// Of each zone and workload.
    pub reach: Vec<Reach>,
    /// How much of what flowed was under enforcement.
    pub coverage: Coverage,
    /// Who may reach what by which rules.
    pub matrix: Vec<Allowed>,
}

/// What one zone or workload may do with another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Allowed {
    /// Zone or workload of the client.
    pub from: String,
    /// Zone or workload of the server.
    pub to: String,
    /// Services, each with the rules that allow it.
    pub services: BTreeMap<String, Vec<String>>,
}

/// Reviews a policy.
#[must_use]
pub fn review(material: &Material<'_>, limits: Limits) -> Review {
    let Material { policy, observed, now, .. } = *material;
    let first = observed.iter().map(|s| s.first).min();
    let span = first.zip(observed.iter().map(|s| s.last).max());
    let mut hosts: Vec<String> = observed.iter().map(|s| printable(&s.of.host)).collect();
    hosts.sort_unstable();
    hosts.dedup();
    Review {
        at: now,
        policy: material.policy_name.to_owned(),
        hosts,
        observed: span,
        rules: rules::review(material, limits),
        exceptions: material.exceptions.to_vec(),
        others: rules::others(policy, now, limits),
        reach: reach::reach(material),
        coverage: coverage::coverage(material),
        matrix: matrix(policy),
    }
}

impl Review {
    /// Everything that somebody should look at: what it is about, and what is wrong with it.
    pub fn problems(&self) -> impl Iterator<Item = (String, &Finding)> {
        let rules = self.rules.iter().flat_map(|r| r.findings.iter().map(|f| (format!("rule {}", r.id), f)));
        rules.chain(self.others.iter().map(|p| (p.what.clone(), &p.finding)))
    }

    /// How many rules have no hit, but are not known for long enough to be called unused.
    #[must_use]
    pub fn too_early(&self) -> usize {
        self.rules.iter().filter(|r| r.too_early).count()
    }

    /// One page that needs nothing else: to read, to print, to file.
    #[must_use]
    pub fn html(&self) -> String {
        html::page(self)
    }
}

fn matrix(policy: &Policy) -> Vec<Allowed> {
    let mut pairs: BTreeMap<(&str, &str), BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for rule in &policy.rules {
        let services = pairs.entry((&rule.from.value, &rule.to.value)).or_default();
        for service in &rule.services {
            services.entry(service.value.to_string()).or_default().push(rule.id.clone());
        }
    }
    let allowed = |((from, to), services): ((&str, &str), _)| Allowed {
        from: from.to_owned(),
        to: to.to_owned(),
        services,
    };
    pairs.into_iter().map(allowed).collect()
}

#[cfg(test)]
mod tests;
