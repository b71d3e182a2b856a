//! What nothing uses, and what allows more than anyone needs.

use std::collections::BTreeSet;

use segd_common::traffic::protocol;

use crate::policy::builtin::is_built_in;
use crate::policy::diagnostics::Diagnostics;
use crate::policy::model::{Policy, ServiceRef};
use crate::policy::source::Placed;

/// Rules that allow all that there is of something.
pub(super) fn broad(policy: &Policy, found: &mut Diagnostics) {
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

/// Services that nothing names, and zones and workloads that no rule names.
pub(super) fn unused(policy: &Policy, found: &mut Diagnostics) {
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
    for (name, workload) in policy.workloads.iter().filter(|(_, w)| !w.inherit) {
        if !policy.rules.iter().any(|r| r.from.value == *name || r.to.value == *name) {
            let message = format!("no rule names workload `{name}`, and it inherits none");
            let help =
                "it may talk to no other host once it is enforced; add [[allow]] rules, or let it inherit";
            found.warning(workload.place, message).help(help);
        }
    }
}
