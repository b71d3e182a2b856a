//! What is to be watched after a change: by the zone files, or as a person asked for with it.

use std::time::Duration;

use super::super::changes::ChangeError;
use super::super::core::Core;
use crate::control::api::Caller;
use crate::control::changes::{GuardRequest, Safety};
use crate::policy::Policy;
use crate::policy::guard::{DEFAULT_PROBE_TIMEOUT, Guard, Probe};
use crate::rollout::guard::Limits;
use crate::rollout::probe;

/// What is to be watched after a change, with what the probe said before it.
#[derive(Clone, Debug)]
pub(in crate::agent) struct Plan {
    pub(super) limits: Limits,
    /// With the time that it may take.
    pub(super) probe: Option<(Probe, Duration)>,
    /// `None`: it was not run.
    pub(super) before: Option<Result<(), String>>,
    /// Asked for with the change, not by the zone files.
    pub(super) asked: bool,
}

impl Plan {
    /// Whether a person asked for it with the change.
    pub(in crate::agent) fn is_asked(&self) -> bool {
        self.asked
    }
}

/// The guards of the rollouts that hold on this host.
fn guards<'a>(policy: &'a Policy, host: &str) -> impl Iterator<Item = &'a Guard> {
    policy.rollouts.iter().filter_map(move |rollout| {
        let is_in = rollout.canary.as_ref().is_none_or(|c| c.membership(rollout, host).is_in());
        rollout.guard.as_ref().filter(|_| is_in).map(|guard| &guard.value)
    })
}

/// Of a request. A command runs as this process does, so only who is that already may name one.
fn asked(request: &GuardRequest, by: Caller) -> Result<Plan, ChangeError> {
    let probe: Option<Probe> = request.probe.as_deref().map(str::parse).transpose()?;
    if by.uid != 0 && matches!(probe, Some(Probe::Command(_))) {
        return Err(ChangeError::ProbeForbidden);
    }
    let limits = Limits {
        max_denied_per_minute: request.max_denied_per_minute,
        max_cut: request.max_cut,
        window: Duration::from_secs(request.window_s),
    };
    let probe = probe.map(|probe| (probe, DEFAULT_PROBE_TIMEOUT));
    Ok(Plan { limits, probe, before: None, asked: true })
}

/// The strictest of what the zone files want.
fn configured(policy: &Policy, host: &str) -> Option<Plan> {
    let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
    guards(policy, host).fold(None, |all: Option<Plan>, guard| {
        let probe = guard.probe.clone().map(|probe| (probe, guard.probe_timeout));
        let Some(Plan { limits, probe: first, .. }) = all else {
            let limits = Limits {
                max_denied_per_minute: guard.max_denied_per_minute,
                max_cut: guard.max_cut,
                window: guard.window,
            };
            return Some(Plan { limits, probe, before: None, asked: false });
        };
        let limits = Limits {
            max_denied_per_minute: least(limits.max_denied_per_minute, guard.max_denied_per_minute),
            max_cut: least(limits.max_cut, guard.max_cut),
            window: limits.window.max(guard.window),
        };
        Some(Plan { limits, probe: first.or(probe), before: None, asked: false })
    })
}

impl Core {
    /// What is to be watched when a policy comes into force: what was asked for, else what the zone files want. The
    /// probe is tried now, before it does; but not for a change that is only looked at.
    pub(in crate::agent) async fn plan_guard(
        &self,
        policy: &Policy,
        (safety, by): (&Safety, Caller),
    ) -> Result<Option<Plan>, ChangeError> {
        let plan = match &safety.guard {
            Some(request) => Some(asked(request, by)?),
            None => self.configured_guard(policy),
        };
        let Some(plan) = plan.filter(|_| !safety.dry_run) else { return Ok(None) };
        let before = match &plan.probe {
            Some((probe, limit)) => Some(probe::run(probe, *limit).await),
            None => None,
        };
        Ok(Some(Plan { before, ..plan }))
    }

    /// The guard of the zone files, whose probe is not run before.
    pub(super) fn configured_guard(&self, policy: &Policy) -> Option<Plan> {
        configured(policy, &self.maker.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Sources, load};

    fn request(probe: Option<&str>) -> GuardRequest {
        let probe = probe.map(str::to_owned);
        GuardRequest { max_denied_per_minute: Some(1), max_cut: None, probe, window_s: 60 }
    }

    #[test]
    fn only_root_has_a_command_run() {
        let member = Caller { uid: 1000, pid: Some(7) };
        let root = Caller { uid: 0, ..member };
        for (by, probe, allowed) in [
            (root, Some("/bin/true"), true),
            (member, Some("/bin/true"), false),
            (member, Some("tcp://127.0.0.1:5432"), true),
            (member, Some("http://127.0.0.1/health"), true),
            (member, None, true),
        ] {
            let plan = asked(&request(probe), by);
            assert_eq!(plan.is_ok(), allowed, "{by:?} {probe:?}");
            if let Err(error) = plan {
                assert!(error.to_string().contains("only root"), "{error}");
            }
        }
    }

    #[test]
    fn the_strictest_of_several_guards_holds() {
        let text = "[zone.a]\ncidrs = [\"10.0.0.0/8\"]\n\
                    [[rollout]]\nmode = \"monitor\"\nservices = [\"tcp/1\"]\n\
                    guard = { max_denied_per_minute = 20, window = \"10m\" }\n\
                    [[rollout]]\nmode = \"monitor\"\nservices = [\"tcp/2\"]\n\
                    guard = { max_denied_per_minute = 5, max_cut = 3, probe = \"tcp://127.0.0.1:1\", window = \"5m\" }\n\
                    [[rollout]]\nmode = \"monitor\"\ncanary = { hosts = [\"other\"] }\nguard = { max_cut = 0 }\n";
        let policy = load(Sources::from_texts([("z.toml", text)]), jiff::Timestamp::UNIX_EPOCH)
            .unwrap_or_else(|found| panic!("{}", found.render(false)));
        let plan = configured(&policy, "this").unwrap();
        let limits = plan.limits;
        assert_eq!((limits.max_denied_per_minute, limits.max_cut), (Some(5), Some(3)));
        assert_eq!(limits.window, Duration::from_secs(600));
        assert!(matches!(plan.probe, Some((Probe::Tcp(_, 1), _))) && !plan.asked);
        assert_eq!(configured(&policy, "other").unwrap().limits.max_cut, Some(0));
    }
}
