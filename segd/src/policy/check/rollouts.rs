//! Canaries that leave nobody out, or nobody in, and guards with nothing to do.

use segd_common::traffic::Mode;

use crate::policy::diagnostics::Diagnostics;
use crate::policy::model::Policy;

pub(super) fn warn(policy: &Policy, found: &mut Diagnostics) {
    for canary in policy.rollouts.iter().filter_map(|rollout| rollout.canary.as_ref()) {
        match canary.percent {
            Some(0) if canary.hosts.is_empty() => {
                found
                    .warning(canary.place, "no host is in this canary: `percent` is 0")
                    .help("the entry does nothing yet; begin with `percent = 1` or a host by name");
            }
            Some(100) => {
                found
                    .warning(canary.place, "every host is in this canary: `percent` is 100")
                    .help("leave `percent` out once the rollout is done");
            }
            _ => {}
        }
    }
    let idle = policy.rollouts.iter().filter(|rollout| rollout.mode == Mode::Monitor);
    for guard in idle.filter_map(|rollout| rollout.guard.as_ref()) {
        found
            .warning(guard.place, "the guard never acts: nothing is denied in monitor mode")
            .help("put it into the entry that enforces");
    }
}
