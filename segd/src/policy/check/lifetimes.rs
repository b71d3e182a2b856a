//! What has ended or soon will, and workloads that nobody answers for.

use jiff::{SignedDuration, Timestamp};

use crate::policy::diagnostics::Diagnostics;
use crate::policy::model::Policy;

/// How long before its end something is reported.
const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

pub(super) fn warn(policy: &Policy, now: Timestamp, found: &mut Diagnostics) {
    for rule in &policy.rules {
        match ending(rule.expires, now) {
            Some(when @ When::Past(_)) => {
                let message = format!("rule `{}` {when}: it matches no longer", rule.id);
                found.warning(rule.place, message).help("remove the rule, or give it a later date");
            }
            Some(when) => {
                let message = format!("rule `{}` {when}", rule.id);
                found.warning(rule.place, message).help("give it a later date if it is still needed");
            }
            None => {}
        }
    }
    for (name, workload) in &policy.workloads {
        match ending(workload.expires, now) {
            Some(when @ When::Past(_)) => {
                let message =
                    format!("workload `{name}` {when}: it is denied everything but failsafe traffic");
                found
                    .warning(workload.place, message)
                    .help("give it a later date, or remove it when it runs nowhere any more");
            }
            Some(when) => {
                let message = format!("workload `{name}` {when}; then it is denied everything");
                found.warning(workload.place, message).help("give it a later date if it is still needed");
            }
            None => {}
        }
        let missing: Vec<&str> = [("owner", &workload.owner), ("purpose", &workload.purpose)]
            .into_iter()
            .filter(|(_, text)| text.is_none())
            .map(|(key, _)| key)
            .collect();
        if !missing.is_empty() {
            let message = format!("workload `{name}` has no {}", missing.join(" and no "));
            let help = "say who answers for it and what it is for: reviews ask that of each identity";
            found.warning(workload.place, message).help(help);
        }
    }
}

enum When {
    Past(Timestamp),
    Soon(Timestamp, i64),
}

impl std::fmt::Display for When {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Past(end) => write!(f, "expired at {end}"),
            Self::Soon(end, 0) => write!(f, "expires within a day, at {end}"),
            Self::Soon(end, 1) => write!(f, "expires in 1 day, at {end}"),
            Self::Soon(end, days) => write!(f, "expires in {days} days, at {end}"),
        }
    }
}

fn ending(end: Option<Timestamp>, now: Timestamp) -> Option<When> {
    let end = end?;
    let left = end.duration_since(now);
    if left <= SignedDuration::ZERO {
        return Some(When::Past(end));
    }
    (left <= SOON).then(|| When::Soon(end, left.as_hours() / 24))
}
