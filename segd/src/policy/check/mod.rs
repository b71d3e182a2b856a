//! What is right in form and yet probably wrong: tests that fail, rules that never decide, names that
//! nothing uses, rules that allow more than anyone needs.

mod lifetimes;
mod rollouts;
mod shadowed;
mod usage;

pub(crate) use shadowed::shadowed;

use jiff::Timestamp;
use segd_common::traffic::{Direction, Reason, Verdict, protocol};
use serde::Serialize;

use crate::policy::claims::{Conflict, conflicts};
use crate::policy::diagnostics::Diagnostics;
use crate::policy::ends::{Ends, Question};
use crate::policy::failsafe::Failsafe;
use crate::policy::locate::{Atlas, with_stand_ins};
use crate::policy::model::{Policy, Test};
use crate::policy::ports::PortSpec;
use crate::policy::resolved::Resolved;
use crate::policy::situation::Situation;
use crate::policy::source::Place;
use crate::policy::workload::Local;

/// Runs the `[[test]]`s (a failing one is an error) and collects warnings.
///
/// A test asks whether both ends allow, whatever their mode: what monitor mode lets pass is not allowed.
/// Failsafes count, as the kernel lets them pass. For an address that two zones claim by what their `names` stand for,
/// see [`claims`].
#[must_use]
pub fn check(policy: &Policy, failsafes: &[Failsafe], names: &Resolved, now: Timestamp) -> Diagnostics {
    let mut found = Diagnostics::new(std::sync::Arc::clone(&policy.sources));
    for case in test_cases(policy, failsafes, names, now) {
        if let Some(why) = case.failure {
            let TestCase { port, from, to, wanted, .. } = case;
            found.error(
                case.source,
                format!("test failed: `{port}` from `{from}` to `{to}` must be {wanted}, {why}"),
            );
        }
    }
    shadowed::warn(policy, &mut found);
    usage::broad(policy, &mut found);
    usage::unused(policy, &mut found);
    rollouts::warn(policy, &mut found);
    lifetimes::warn(policy, now, &mut found);
    found.sort();
    found
}

/// The addresses that two zones claim by what their `names` stand for: errors for whoever writes zone files. At run
/// time the earlier owner keeps such an address.
#[must_use]
pub fn claims(policy: &Policy, names: &Resolved) -> Diagnostics {
    let mut found = Diagnostics::new(std::sync::Arc::clone(&policy.sources));
    for conflict in conflicts(policy, names) {
        let Conflict { address, kept_by, refused } = &conflict;
        let message = format!(
            "zones `{}` and `{}` both claim {address}, by {} and {}",
            kept_by.zone, refused.zone, kept_by.by, refused.by
        );
        let what = format!("zone `{}` has it by this", kept_by.zone);
        found.conflict(refused.at, message, kept_by.at, &what).help("leave it in one zone");
    }
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

impl TestCase {
    /// Whether both are about the same traffic.
    pub(crate) fn asks_the_same(&self, other: &Self) -> bool {
        (&self.from, &self.to, self.port, self.wanted) == (&other.from, &other.to, other.port, other.wanted)
    }
}

/// Runs the `[[test]]`s, in the order of the files.
#[must_use]
pub fn test_cases(
    policy: &Policy,
    failsafes: &[Failsafe],
    names: &Resolved,
    now: Timestamp,
) -> Vec<TestCase> {
    let names = &with_stand_ins(policy, names);
    let atlas = Atlas::new(policy, names);
    let mut ends = Ends::new(policy, Situation { names, ..Situation::of_files(failsafes, now) });
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
                    failure: ask(policy, &atlas, test, spec, wanted, &mut ends).err(),
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
    atlas: &Atlas<'_>,
    test: &Test,
    spec: &PortSpec,
    wanted: bool,
    ends: &mut Ends<'_>,
) -> Result<(), String> {
    let none = |zone: &str| format!("but no address is left in `{zone}` by longer prefixes of other zones");
    let of_end = |end: &str| {
        let zone = policy.zone_of(end);
        atlas.representative(zone).ok_or_else(|| none(zone))
    };
    let (client, server) = (of_end(&test.from.value)?, of_end(&test.to.value)?);
    for port in ends.samples(spec) {
        let at = PortSpec { first: port, last: port, ..*spec };
        let mut allowed_by = Vec::new();
        let mut denied = None;
        for (end, peer, direction) in
            [(&test.from, server, Direction::Outbound), (&test.to, client, Direction::Inbound)]
        {
            let no_packets = spec.protocol == protocol::RAW && direction == Direction::Inbound;
            let Some(local) = Local::of(policy, &end.value).filter(|_| !no_packets) else { continue };
            let question = Question { local, own: None, direction, peer, protocol: spec.protocol, port };
            let decision = ends.decide(&question).map_err(|e| format!("but {e}"))?;
            if decision.verdict == Verdict::Allowed {
                allowed_by.push(match ends.registry().rule_name(decision.rule) {
                    Some(rule) if decision.reason == Reason::Rule => format!("{direction} by rule `{rule}`"),
                    _ => format!("{direction} as {}", decision.reason),
                });
            } else if decision.reason == Reason::WorkloadExpired {
                denied = denied.or(Some(format!("but the workload `{}` has expired", end.value)));
            } else {
                let at_its_hosts =
                    if local.name == local.zone { "at the hosts of" } else { "at the workload" };
                let why = format!("but no rule allows it {direction} {at_its_hosts} `{}`", end.value);
                denied = denied.or(Some(why));
            }
        }
        let (at, whole) = (at.to_string(), spec.to_string());
        let shown = if at == whole { String::new() } else { format!(" (seen at `{at}`)") };
        match denied {
            Some(why) if wanted => return Err(format!("{why}{shown}")),
            None if !wanted => {
                return Err(format!("but it is allowed: {}{shown}", allowed_by.join(", ")));
            }
            _ => {}
        }
    }
    Ok(())
}
