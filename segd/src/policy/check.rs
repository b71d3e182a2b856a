//! What is right in form and yet probably wrong: tests that fail, rules that never decide, names that
//! nothing uses, rules that allow more than anyone needs.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use segd_common::traffic::{Direction, Reason, Verdict, protocol};
use serde::Serialize;

use super::builtin::is_built_in;
use super::compile::prefixes::sweep;
use super::compile::rules::{between, deciding, names};
use super::diagnostics::Diagnostics;
use super::ends::{Ends, Question};
use super::failsafe::Failsafe;
use super::locate::representative;
use super::model::{Policy, Rule, ServiceRef, Test};
use super::ports::PortSpec;
use super::source::{Place, Placed};

/// Runs the `[[test]]`s (a failing one is an error) and collects warnings.
///
/// A test asks whether both ends allow, whatever their mode: what monitor mode lets pass is not allowed.
/// Failsafes count, as the kernel lets them pass.
#[must_use]
pub fn check(policy: &Policy, failsafes: &[Failsafe], now: Timestamp) -> Diagnostics {
    let mut found = Diagnostics::new(std::sync::Arc::clone(&policy.sources));
    for case in test_cases(policy, failsafes, now) {
        if let Some(why) = case.failure {
            let TestCase { port, from, to, wanted, .. } = case;
            found.error(
                case.source,
                format!("test failed: `{port}` from `{from}` to `{to}` must be {wanted}, {why}"),
            );
        }
    }
    shadowed(policy, &mut found);
    broad(policy, &mut found);
    unused(policy, &mut found);
    found.sort();
    found
}

/// One port of a `[[test]]`, and how it came out.
#[derive(Clone, Debug, Serialize)]
pub struct TestCase {
    /// Where it is written, as `file:line`.
    pub place: String,
    /// Who begins.
    pub from: String,
    /// With whom.
    pub to: String,
    /// For what.
    pub port: PortSpec,
    /// `allowed` or `denied`.
    pub wanted: &'static str,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    #[serde(skip)]
    source: Place,
}

/// Runs the `[[test]]`s, in the order of the files.
#[must_use]
pub fn test_cases(policy: &Policy, failsafes: &[Failsafe], now: Timestamp) -> Vec<TestCase> {
    let mut ends = Ends::new(policy, &[], failsafes, now);
    let mut cases = Vec::new();
    for test in &policy.tests {
        for (wanted, services) in [(true, &test.allow), (false, &test.deny)] {
            for service in services {
                cases.extend(policy.ports(&service.value).iter().map(|spec| TestCase {
                    place: policy.sources.file_line(service.place),
                    from: test.from.value.clone(),
                    to: test.to.value.clone(),
                    port: *spec,
                    wanted: if wanted { "allowed" } else { "denied" },
                    failure: ask(policy, test, spec, wanted, &mut ends).err(),
                    source: service.place,
                }));
            }
        }
    }
    cases
}

/// Compares each port of `spec` with what is wanted; the error says what came out instead.
fn ask(
    policy: &Policy,
    test: &Test,
    spec: &PortSpec,
    wanted: bool,
    ends: &mut Ends<'_>,
) -> Result<(), String> {
    let none = |zone: &str| format!("but no address is left in `{zone}` by longer prefixes of other zones");
    let client = representative(policy, &test.from.value).ok_or_else(|| none(&test.from.value))?;
    let server = representative(policy, &test.to.value).ok_or_else(|| none(&test.to.value))?;
    for port in ends.samples(spec) {
        let at = PortSpec { first: port, last: port, ..*spec };
        let mut allowed_by = Vec::new();
        let mut denied_by = None;
        for (zone, peer, direction) in
            [(&test.from, server, Direction::Outbound), (&test.to, client, Direction::Inbound)]
        {
            let no_packets = spec.protocol == protocol::RAW && direction == Direction::Inbound;
            if is_built_in(&zone.value) || no_packets {
                continue;
            }
            let question =
                Question { zone: &zone.value, own: None, direction, peer, protocol: spec.protocol, port };
            let decision = ends.decide(&question).map_err(|e| format!("but {e}"))?;
            if decision.verdict == Verdict::Allowed {
                allowed_by.push(match ends.registry().rule_name(decision.rule) {
                    Some(rule) if decision.reason == Reason::Rule => format!("{direction} by rule `{rule}`"),
                    _ => format!("{direction} as {}", decision.reason),
                });
            } else {
                denied_by = denied_by.or(Some((direction, &zone.value)));
            }
        }
        let (at, whole) = (at.to_string(), spec.to_string());
        let shown = if at == whole { String::new() } else { format!(" (seen at `{at}`)") };
        match denied_by {
            Some((direction, zone)) if wanted => {
                return Err(format!("but no rule allows it {direction} at the hosts of `{zone}`{shown}"));
            }
            None if !wanted => {
                return Err(format!("but it is allowed: {}{shown}", allowed_by.join(", ")));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Rules that decide nothing because others always decide before them.
fn shadowed(policy: &Policy, found: &mut Diagnostics) {
    let pairs: BTreeSet<(&str, &str)> =
        policy.rules.iter().map(|r| (r.from.value.as_str(), r.to.value.as_str())).collect();
    for (from, to) in pairs {
        let rules = between(policy, from, to);
        // What decides where the rule would, for each rule that has not decided anything yet.
        let mut instead: BTreeMap<usize, Option<&Rule>> = rules.iter().map(|(n, _)| (*n, None)).collect();
        let specs = || rules.iter().flat_map(|(_, r)| policy.all_ports(&r.services));
        let protocols: BTreeSet<u8> = specs().map(|s| s.protocol).collect();
        for protocol in protocols {
            let matching =
                |port| rules.iter().copied().filter(move |(_, r)| names(policy, r, protocol, port));
            for cell in sweep(protocol, specs(), |port| matching(port).map(|(n, _)| n).collect::<Vec<_>>()) {
                let Some((winner, rule)) = deciding(matching(cell.first)) else { continue };
                instead.remove(&winner);
                for loser in cell.value {
                    if let Some(entry) = instead.get_mut(&loser) {
                        *entry = Some(rule);
                    }
                }
            }
        }
        for (n, winner) in instead {
            let (Some(rule), Some(winner)) = (policy.rules.get(n), winner) else { continue };
            let place = policy.sources.file_line(winner.place);
            let message = format!("rule `{}` never decides: rule `{}` allows the same", rule.id, winner.id);
            found.warning(rule.place, message).help(format!(
                "remove one of them; `{}` is at {place} and lives as long or longer",
                winner.id
            ));
        }
    }
}

fn broad(policy: &Policy, found: &mut Diagnostics) {
    for rule in &policy.rules {
        if is_built_in(&rule.from.value) && is_built_in(&rule.to.value) {
            let message = format!("rule `{}` never decides: no host is in a built-in zone", rule.id);
            found.warning(rule.place, message).help("name a zone of your own at one end");
        }
        for (zone, what) in [(&rule.from, "from"), (&rule.to, "to")] {
            if zone.value == "unknown" {
                let message = format!("rule `{}` allows {what} every address that no zone claims", rule.id);
                found.warning(zone.place, message).help("define a zone for the addresses that are meant");
            }
        }
        for service in &rule.services {
            let all = policy
                .ports(&service.value)
                .iter()
                .find(|spec| spec.is_whole() && matches!(spec.protocol, protocol::TCP | protocol::UDP));
            if let Some(spec) = all {
                let message = format!("rule `{}` allows every port: `{spec}`", rule.id);
                found.warning(service.place, message).help("name the ports that are needed");
            }
        }
    }
}

/// Services that nothing names and zones that no rule names.
fn unused(policy: &Policy, found: &mut Diagnostics) {
    let named =
        |list: &[Placed<ServiceRef>]| -> Vec<String> { list.iter().map(|s| s.value.to_string()).collect() };
    let mut used: BTreeSet<String> = BTreeSet::new();
    for rule in &policy.rules {
        used.extend(named(&rule.services));
    }
    for rollout in &policy.rollouts {
        used.extend(named(rollout.services.as_deref().unwrap_or_default()));
    }
    for test in &policy.tests {
        used.extend(named(&test.allow));
        used.extend(named(&test.deny));
    }
    for (name, service) in policy.services.iter().filter(|(name, _)| !used.contains(*name)) {
        let message = format!("nothing uses service `{name}`");
        found
            .warning(service.place, message)
            .help("it still labels its ports; remove it if that is not wanted");
    }
    for (name, zone) in &policy.zones {
        if !policy.rules.iter().any(|r| r.from.value == *name || r.to.value == *name) {
            let message = format!("no rule names zone `{name}`");
            let help = "its hosts may talk to no other host once they enforce; add [[allow]] rules";
            found.warning(zone.place, message).help(help);
        }
    }
}
