//! Rules that decide nothing because others always decide before them.

use std::collections::{BTreeMap, BTreeSet};

use segd_common::traffic::Direction;

use crate::policy::compile::grants::{Grant, Origin, deciding, grants, protocols};
use crate::policy::compile::prefixes::sweep;
use crate::policy::diagnostics::Diagnostics;
use crate::policy::model::{Policy, Rule};
use crate::policy::workload::Local;

/// What decides where a rule would, by number, for each rule that has not decided anything yet.
type Instead = BTreeMap<usize, BTreeSet<usize>>;

pub(super) fn warn(policy: &Policy, found: &mut Diagnostics) {
    for (n, winners) in shadowed(policy) {
        let Some(rule) = policy.rules.get(n) else { continue };
        let winners = winners.into_iter().filter_map(|n| policy.rules.get(n)).collect();
        report(policy, rule, winners, found);
    }
}

/// The numbers of rules that never decide, each with those that decide in its stead. A rule decides at both ends, and
/// for every workload that inherits it.
pub(crate) fn shadowed(policy: &Policy) -> impl Iterator<Item = (usize, BTreeSet<usize>)> {
    let grants = grants(policy, &[]);
    let mut instead: Instead = (0..policy.rules.len()).map(|n| (n, BTreeSet::new())).collect();
    let names = policy.zones.keys().chain(policy.workloads.keys());
    for local in names.filter_map(|name| Local::of(policy, name)) {
        for direction in Direction::ALL.iter().copied() {
            let mut sides: BTreeMap<&str, Vec<&Grant<'_>>> = BTreeMap::new();
            for grant in &grants {
                let (own, other) = grant.ends(direction);
                if local.in_rule(own) {
                    sides.entry(policy.zone_of(other)).or_default().push(grant);
                }
            }
            for side in sides.values() {
                decide(side, &mut instead);
            }
        }
    }
    instead.into_iter().filter(|(_, winners)| !winners.is_empty())
}

/// Lets the rules between a subject and a zone decide about every port.
fn decide(side: &[&Grant<'_>], instead: &mut Instead) {
    let number = |grant: &Grant<'_>| match grant.origin {
        Origin::Rule(n) => Some(n),
        Origin::Exception(_) => None,
    };
    let specs = || side.iter().flat_map(|g| &g.ports);
    for protocol in protocols(specs()) {
        let matching = |port| side.iter().copied().filter(move |g| g.names(protocol, port));
        let numbers = |port| matching(port).filter_map(number).collect::<Vec<_>>();
        for cell in sweep(protocol, specs().copied(), numbers) {
            let Some(winner) = deciding(matching(cell.first)).and_then(number) else { continue };
            instead.remove(&winner);
            for loser in cell.value {
                if let Some(winners) = instead.get_mut(&loser) {
                    winners.insert(winner);
                }
            }
        }
    }
}

fn report(policy: &Policy, rule: &Rule, mut winners: Vec<&Rule>, found: &mut Diagnostics) {
    let same_ends = |other: &Rule| other.from.value == rule.from.value && other.to.value == rule.to.value;
    if winners.iter().any(|w| same_ends(w)) {
        winners.retain(|w| same_ends(w));
    }
    let list = |text: &dyn Fn(&Rule) -> String, and: &str| {
        winners.iter().map(|w| text(w)).collect::<Vec<_>>().join(and)
    };
    let by = list(&|w| format!("rule `{}`", w.id), " or ");
    let places = list(&|w| format!("`{}` is at {}", w.id, policy.sources.file_line(w.place)), ", ");
    let message = format!("rule `{}` never decides: {by} allows the same", rule.id);
    found
        .warning(rule.place, message)
        .help(format!("remove one of them; {places} and lives as long or longer"));
}
