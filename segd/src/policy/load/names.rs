//! Names across files: each one that is used is defined, each rule's id is there once.

use std::collections::BTreeMap;

use crate::policy::builtin::{PEER_ZONES, is_built_in};
use crate::policy::diagnostics::suggest;
use crate::policy::model::{Policy, ServiceRef};
use crate::policy::source::Placed;
use crate::policy::walk::Walk;

pub(super) fn check(walk: &mut Walk, policy: &Policy) {
    let mut ids = BTreeMap::new();
    for rule in &policy.rules {
        zone(walk, policy, &rule.from);
        zone(walk, policy, &rule.to);
        services(walk, policy, &rule.services);
        if rule.id.is_empty() {
            continue;
        }
        if let Some(first) = ids.get(&rule.id) {
            let message = format!("rule id `{}` is used twice", rule.id);
            walk.found
                .conflict(rule.place, message, *first, "first used here")
                .help("give each rule an id of its own: counters hang on it");
        } else {
            ids.insert(&rule.id, rule.place);
        }
    }
    for rollout in &policy.rollouts {
        for name in rollout.subject.iter().chain(rollout.peers.iter().flatten()) {
            zone(walk, policy, name);
        }
        services(walk, policy, rollout.services.as_deref().unwrap_or_default());
    }
    for test in &policy.tests {
        zone(walk, policy, &test.from);
        zone(walk, policy, &test.to);
        services(walk, policy, &test.allow);
        services(walk, policy, &test.deny);
    }
}

fn zone(walk: &mut Walk, policy: &Policy, name: &Placed<String>) {
    let Placed { value, place } = name;
    if value.is_empty() {
        return;
    }
    if !policy.zones.contains_key(value) && !is_built_in(value) {
        let known = policy.zones.keys().map(String::as_str).chain(PEER_ZONES);
        let help = or_broken(walk, suggest(value, "zones", known));
        walk.found.error(*place, format!("unknown zone `{value}`")).help = help;
    }
}

fn services(walk: &mut Walk, policy: &Policy, refs: &[Placed<ServiceRef>]) {
    for Placed { value, place } in refs {
        let ServiceRef::Named(name) = value else { continue };
        if !policy.services.contains_key(name) {
            let known = policy.services.keys().map(String::as_str);
            let define = || format!("define [service.{name}], or write ports, as `tcp/8443`");
            let help = or_broken(walk, Some(suggest(name, "services", known).unwrap_or_else(define)));
            walk.found.error(*place, format!("unknown service `{name}`")).help = help;
        }
    }
}

/// The name may be defined where a syntax error keeps it from being read.
fn or_broken(walk: &Walk, help: Option<String>) -> Option<String> {
    if walk.broken.is_empty() {
        return help;
    }
    let fix = format!("correct {} first, where it may be defined", walk.broken.join(", "));
    Some(help.map_or_else(|| fix.clone(), |help| format!("{help} Or {fix}")))
}
