//! Names across files: each one that is used is defined, each rule's id is there once, and no two workloads are the
//! same sockets.

use std::collections::BTreeMap;

use crate::policy::builtin::{PEER_ZONES, is_built_in};
use crate::policy::diagnostics::suggest;
use crate::policy::model::{Policy, ServiceRef};
use crate::policy::source::Placed;
use crate::policy::walk::Walk;
use crate::policy::workload::Selector;

pub(super) fn check(walk: &mut Walk, policy: &Policy) {
    workloads(walk, policy);
    let mut ids = BTreeMap::new();
    for rule in &policy.rules {
        end(walk, policy, &rule.from);
        end(walk, policy, &rule.to);
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
        if let Some(subject) = &rollout.subject {
            end(walk, policy, subject);
        }
        for peer in rollout.peers.iter().flatten() {
            zone(walk, policy, peer);
        }
        services(walk, policy, rollout.services.as_deref().unwrap_or_default());
    }
    for test in &policy.tests {
        end(walk, policy, &test.from);
        end(walk, policy, &test.to);
        services(walk, policy, &test.allow);
        services(walk, policy, &test.deny);
    }
}

fn workloads(walk: &mut Walk, policy: &Policy) {
    let mut selectors = BTreeMap::new();
    for (name, workload) in &policy.workloads {
        if let Some(zone) = policy.zones.get(name) {
            let message = format!("`{name}` names both a workload and a zone");
            walk.found
                .conflict(workload.place, message, zone.place, "the zone is defined here")
                .help("rename one of them: rules name both kinds alike");
        }
        if is_built_in(&workload.zone.value) {
            let message = format!("no host is in the built-in zone `{}`", workload.zone.value);
            walk.found.error(workload.zone.place, message).help("name a zone of your own");
        } else {
            zone(walk, policy, &workload.zone);
        }
        if workload.selector == Selector::NOTHING {
            continue;
        }
        if let Some((other, place)) = selectors.get(&workload.selector) {
            let message = format!("workloads `{other}` and `{name}` are both the {}", workload.selector);
            walk.found
                .conflict(workload.place, message, *place, "the other one is here")
                .help("keep one of them; several rules may name it");
        } else {
            selectors.insert(&workload.selector, (name, workload.place));
        }
    }
}

/// A zone or a workload.
fn end(walk: &mut Walk, policy: &Policy, name: &Placed<String>) {
    let Placed { value, place } = name;
    let known = policy.zones.contains_key(value) || policy.workloads.contains_key(value);
    if value.is_empty() || known || is_built_in(value) {
        return;
    }
    let zones = policy.zones.keys().chain(policy.workloads.keys());
    let names = zones.map(String::as_str).chain(PEER_ZONES);
    let help = or_broken(walk, suggest(value, "zones and workloads", names));
    walk.found.error(*place, format!("unknown zone or workload `{value}`")).help = help;
}

fn zone(walk: &mut Walk, policy: &Policy, name: &Placed<String>) {
    let Placed { value, place } = name;
    if value.is_empty() || policy.zones.contains_key(value) || is_built_in(value) {
        return;
    }
    if let Some(workload) = policy.workloads.get(value) {
        walk.found
            .error(*place, format!("`{value}` is a workload, not a zone"))
            .help(format!("name its zone, `{}`: that is all that others see of it", workload.zone.value));
        return;
    }
    let known = policy.zones.keys().map(String::as_str).chain(PEER_ZONES);
    let help = or_broken(walk, suggest(value, "zones", known));
    walk.found.error(*place, format!("unknown zone `{value}`")).help = help;
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
