//! What the agent shows of itself: on the control socket, on the metrics page, on `/readyz`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard, PoisonError};

use jiff::Timestamp;
use segd_common::counter::{Counter, CounterKey, Loss};
use segd_common::id::Generation;
use segd_common::traffic::{Mode, Verdict};

use super::core::{Core, InForce, InstallError};
use crate::control::Agent;
use crate::control::api::{
    Applied, Caller, ControlError, ErrorBody, FlowCounts, HookStatus, HostStatus, ModeOutcome, ModeRequest,
    PolicyStatus, SinkState, StageLoss, Status,
};
use crate::datapath::{self, Counters};
use crate::policy;
use crate::rollout::modes::{self, ModeError};
use crate::telemetry::Collector;
use crate::telemetry::exporter::Readiness;
use crate::telemetry::metrics::{MapUse, RuleInfo, Snapshot, Source, SourceError};

/// The agent as its servers see it.
pub(super) struct Handle {
    core: Arc<Core>,
    metrics: SocketAddr,
}

impl Handle {
    pub(super) fn new(core: Arc<Core>, metrics: SocketAddr) -> Self {
        Self { core, metrics }
    }

    fn counters(&self) -> MutexGuard<'_, Counters> {
        self.core.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn policy_status(&self, now: &InForce) -> PolicyStatus {
        PolicyStatus {
            dir: self.core.config.policy_dir.clone(),
            hash: now.policy.hash(),
            loaded_at: now.loaded_at,
            rules: now.policy.rules.len() as u64,
            zones: now.policy.zones.len() as u64,
        }
    }

    fn outcome(&self, generation: Generation) -> ModeOutcome {
        let now = self.core.in_force();
        ModeOutcome {
            generation: generation.0,
            modes: modes::entries(&now.policy, &now.zone, &now.overrides),
            overrides: now.overrides.clone(),
            warnings: self.missing_hooks().into_iter().collect(),
        }
    }

    /// A warning if programs are missing where they were attached.
    fn missing_hooks(&self) -> Option<String> {
        let attached = self.core.datapath().attached();
        let missing: Vec<&str> = attached.iter().filter(|a| a.program_id.is_none()).map(|a| a.hook).collect();
        let all = attached.len();
        match missing.len() {
            0 => None,
            n if n == all => Some(format!(
                "no program is attached at any of the {all} hooks: nothing is judged; restart segd to attach them"
            )),
            n => Some(format!(
                "no program is attached at {n} of {all} hooks ({}): traffic may pass unjudged; restart segd to attach them",
                missing.join(", ")
            )),
        }
    }
}

/// Why the mode was not changed.
enum Refused {
    Mode(ModeError),
    Install(InstallError),
}

impl From<InstallError> for Refused {
    fn from(error: InstallError) -> Self {
        Self::Install(error)
    }
}

fn body(error: &impl ToString, help: Option<&str>) -> ErrorBody {
    ErrorBody { error: error.to_string(), help: help.map(str::to_owned) }
}

impl From<InstallError> for ControlError {
    fn from(error: InstallError) -> Self {
        let stays = Some("the former policy stays in force");
        match error {
            InstallError::Read(_) | InstallError::Policy(_) | InstallError::HostZone(_) => {
                Self::Invalid(body(&error, stays))
            }
            _ => Self::Failed(body(&error, stays)),
        }
    }
}

impl Agent for Handle {
    fn status(&self) -> Status {
        let core = &self.core;
        let now = core.in_force();
        let mut warnings = now.warnings.clone();
        let mut note =
            |what: &str, error: datapath::Error| warnings.push(format!("cannot read {what}: {error}"));
        let generation = core.generation().unwrap_or_else(|e| {
            note("the generation", e);
            Generation::NONE
        });
        let counters = self.counters().read().unwrap_or_else(|e| {
            note("the counters", e);
            Vec::new()
        });
        let losses = self.counters().losses().unwrap_or_else(|e| {
            note("the losses", e);
            Default::default()
        });
        let hooks: Vec<HookStatus> = core
            .datapath()
            .attached()
            .into_iter()
            .map(|a| HookStatus {
                hook: a.hook.to_owned(),
                attached: a.program_id.is_some(),
                program_id: a.program_id,
                link_id: a.link_id,
            })
            .collect();
        warnings.extend(self.missing_hooks());
        let kernel = Loss::STAGES.map(|(stage, loss)| (stage.to_owned(), losses[loss as usize]));
        let lost = kernel.into_iter().chain(core.collector.lost());
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: core.started,
            host: HostStatus {
                name: core.host.to_string(),
                zone: Some(now.zone.clone()),
                addresses: now.addresses.clone(),
            },
            generation: generation.0,
            policy: Some(self.policy_status(&now)),
            modes: modes::entries(&now.policy, &now.zone, &now.overrides),
            overrides: now.overrides.clone(),
            hooks,
            flows: sum(&counters),
            lost: lost.map(|(stage, lost)| StageLoss { stage, lost }).collect(),
            sinks: core
                .collector
                .sinks()
                .into_iter()
                .map(|s| SinkState { name: s.name, up: s.up, error: s.error })
                .collect(),
            metrics: Some(self.metrics.to_string()),
            warnings,
        }
    }

    async fn set_mode(&self, request: ModeRequest, caller: Caller) -> Result<ModeOutcome, ControlError> {
        let changed = tokio::task::block_in_place(|| {
            self.core.override_modes(|policy, old| {
                modes::set(policy, old, &request, caller, Timestamp::now()).map_err(Refused::Mode)
            })
        });
        match changed {
            Ok(generation) => {
                tracing::info!(
                    generation = generation.0,
                    uid = caller.uid,
                    mode = request.mode.map_or("as in the zone files", Mode::name),
                    subject = request.subject,
                    service = request.service,
                    "mode set"
                );
                Ok(self.outcome(generation))
            }
            Err(Refused::Mode(error)) => Err(ControlError::Invalid(body(&error, None))),
            Err(Refused::Install(error)) => Err(error.into()),
        }
    }

    async fn apply(&self, caller: Caller) -> Result<Applied, ControlError> {
        let generation = tokio::task::block_in_place(|| self.core.load())?;
        tracing::info!(generation = generation.0, uid = caller.uid, "loaded the zone files anew");
        let now = self.core.in_force();
        Ok(Applied {
            generation: generation.0,
            policy: self.policy_status(&now),
            warnings: now.warnings.iter().cloned().chain(self.missing_hooks()).collect(),
        })
    }

    fn hub(&self) -> &Collector {
        &self.core.collector
    }
}

fn sum(counters: &[(Option<CounterKey>, Counter)]) -> FlowCounts {
    let of = |verdict: Verdict| {
        let of_verdict = counters.iter().filter(|(key, _)| key.is_some_and(|k| k.verdict == verdict as u8));
        of_verdict.map(|(_, c)| c.flows).sum()
    };
    FlowCounts { allowed: of(Verdict::Allowed), audited: of(Verdict::Audited), denied: of(Verdict::Denied) }
}

impl Source for Handle {
    fn snapshot(&self) -> Result<Snapshot, SourceError> {
        let failed = |e: datapath::Error| SourceError(Box::new(e));
        let now = self.core.in_force();
        let counters = self.counters();
        let mut overflow = Counter::default();
        let mut keyed = Vec::new();
        for (key, counter) in counters.read().map_err(failed)? {
            match key {
                Some(key) => keyed.push((key, counter)),
                None => overflow = counter,
            }
        }
        let losses = counters.losses().map_err(failed)?;
        let used = counters.usage().map_err(failed)?;
        drop(counters);
        let mut hooks = BTreeMap::new();
        let (attached, generation) = {
            let datapath = self.core.datapath();
            (datapath.attached(), datapath.generation().map_err(failed)?)
        };
        for a in attached {
            *hooks.entry(a.hook.to_owned()).or_insert(0) += u64::from(a.program_id.is_some());
        }
        let overrides = modes::for_compiler(&now.overrides);
        let enforcing =
            policy::compile::enforcing(&now.policy, policy::Host::in_zone(&now.zone, &[]), &overrides);
        let rule = |r: &policy::model::Rule| RuleInfo {
            id: r.id.clone(),
            owner: r.owner.clone().unwrap_or_default(),
            expires: r.expires,
        };
        Ok(Snapshot {
            counters: keyed,
            overflow,
            losses,
            maps: used
                .into_iter()
                .map(|u| MapUse {
                    name: u.map.to_lowercase(),
                    entries: Some(u.entries),
                    capacity: u.capacity,
                })
                .collect(),
            hooks: hooks.into_iter().collect(),
            generation: generation.0,
            policy_hash: Some(now.policy.hash()),
            apply_seconds: Some(now.apply_seconds),
            enforcing: enforcing
                .into_iter()
                .map(|e| (e.subject, e.direction, e.service, e.enforcing))
                .collect(),
            rules: now.policy.rules.iter().map(rule).collect(),
        })
    }
}

impl Readiness for Handle {
    fn ready(&self) -> Result<(), String> {
        let generation = self.core.generation().map_err(|e| e.to_string())?;
        if generation == Generation::NONE {
            return Err("no policy is in force".to_owned());
        }
        let attached = self.core.datapath().attached();
        match attached.iter().find(|a| a.program_id.is_none()) {
            Some(a) => Err(format!("no program is attached at {}", a.hook)),
            None => Ok(()),
        }
    }
}
