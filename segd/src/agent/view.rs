//! What the agent shows of itself: on the control socket, on the metrics page, on `/readyz`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard, PoisonError};

use jiff::Timestamp;
use segd_common::counter::{Counter, CounterKey, Loss};
use segd_common::id::Generation;
use segd_common::traffic::Verdict;

use super::core::Core;
use super::intent::Stance;
use super::maker::InForce;
use super::requests;
use crate::control::api::{
    CanaryStatus, FlowCounts, HookStatus, HostStatus, PolicyStatus, SinkState, StageLoss, Status,
};
use crate::datapath::{self, Counters};
use crate::policy;
use crate::policy::model::Exception;
use crate::rollout::modes;
use crate::telemetry::exporter::Readiness;
use crate::telemetry::metrics::kernel::rule_hits;
use crate::telemetry::metrics::{MapUse, RolloutInfo, RuleInfo, Snapshot, Source, SourceError};

/// The agent as its servers see it.
pub(super) struct Handle {
    pub(super) core: Arc<Core>,
    metrics: SocketAddr,
}

impl Handle {
    pub(super) fn new(core: Arc<Core>, metrics: SocketAddr) -> Self {
        Self { core, metrics }
    }

    fn counters(&self) -> MutexGuard<'_, Counters> {
        self.core.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn policy_status(&self, now: &InForce) -> PolicyStatus {
        let stance = &now.intent.stance;
        PolicyStatus {
            record: stance.record,
            held: now.intent.held.as_ref().map(|held| held.why.clone()),
            dir: self.core.config().policy_dir.clone(),
            hash: stance.policy.hash(),
            loaded_at: stance.loaded_at,
            rules: stance.policy.rules.len() as u64,
            zones: stance.policy.zones.len() as u64,
        }
    }

    /// A warning if programs are missing where they were attached.
    pub(super) fn missing_hooks(&self) -> Option<String> {
        let attached = self.core.observer.attached();
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

impl Handle {
    fn canaries(&self, stance: &Stance) -> Vec<CanaryStatus> {
        policy::canary::canaries(&stance.policy, &self.core.maker.host)
            .into_iter()
            .map(|c| {
                let limit = if c.peers.is_empty() {
                    String::new()
                } else {
                    format!(", for traffic with {}", c.peers.join(", "))
                };
                CanaryStatus { rollout: c.place, included: c.is_in, why: format!("{}{limit}", c.why) }
            })
            .collect()
    }

    /// What `segd status` shows.
    pub(super) fn show(&self) -> Status {
        let core = &self.core;
        let now = core.in_force();
        let intent = &now.intent;
        let stance = &intent.stance;
        let mut warnings = now.warnings.clone();
        warnings.extend(intent.held.as_ref().map(|held| {
            let dir = core.config().policy_dir.display();
            format!("the zone files in {dir} are not in force: {}; `segd apply` loads them", held.why)
        }));
        warnings.extend(core.names.warnings());
        warnings.extend(core.guarding.warning());
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
            .observer
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
                name: core.maker.host.to_string(),
                zone: Some(now.zone.clone()),
                addresses: intent.around.addresses.clone(),
            },
            generation: generation.0,
            policy: Some(self.policy_status(&now)),
            pending: intent.pending.as_ref().map(requests::pending_status),
            guard: core.guarding.status(),
            canaries: self.canaries(stance),
            exceptions: intent.around.exceptions.clone(),
            names: core.names.status(&stance.policy),
            modes: modes::entries(&stance.policy, &now.zone, &core.maker.host, &stance.overrides),
            overrides: stance.overrides.clone(),
            hooks,
            flows: sum(&counters),
            lost: lost.map(|(stage, lost)| StageLoss { stage, lost }).collect(),
            sinks: core
                .collector
                .sinks()
                .into_iter()
                .map(|s| SinkState {
                    lost: s.lost_queue + s.lost_write,
                    name: s.name,
                    up: s.up,
                    error: s.error,
                })
                .collect(),
            history: core.collector.recorder().map(|recorder| recorder.status()),
            metrics: Some(self.metrics.to_string()),
            warnings,
        }
    }
}

impl Handle {
    /// Flows that each rule allowed since the counters began, and when the last one did; nothing while the kernel cannot
    /// be read.
    pub(super) fn hits(&self) -> Vec<(Arc<str>, u64, Option<Timestamp>)> {
        let (in_force, clock) = (self.core.in_force(), self.core.collector.clock());
        let counters = self.counters().read().unwrap_or_else(|error| {
            tracing::warn!(%error, "what rules allowed is told by the history alone");
            Vec::new()
        });
        let keyed = counters.iter().filter_map(|(key, counter)| Some((key.as_ref()?, counter)));
        let hit =
            |(rule, sum): (_, Counter)| (rule, sum.flows, (sum.last != 0).then(|| clock.wall(sum.last)));
        rule_hits(keyed, &in_force.registry).into_iter().map(hit).collect()
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
        let generation = self.core.generation().map_err(failed)?;
        for a in self.core.observer.attached() {
            *hooks.entry(a.hook.to_owned()).or_insert(0) += u64::from(a.program_id.is_some());
        }
        let stance = &now.intent.stance;
        let overrides = modes::for_compiler(&stance.overrides);
        let host = self.core.maker.local(&now.zone, stance, &now.intent.around);
        let enforcing = policy::compile::enforcing(&stance.policy, host, &overrides);
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
            policy_hash: Some(stance.policy.hash()),
            apply_seconds: Some(now.apply_seconds),
            enforcing: enforcing
                .into_iter()
                .map(|e| (e.subject, e.direction, e.service, e.enforcing))
                .collect(),
            rules: stance.policy.rules.iter().map(rule).collect(),
            rollout: self.rollout(&now),
            selfchecks: self.core.tampering.intact().into(),
        })
    }
}

impl Handle {
    fn rollout(&self, now: &InForce) -> RolloutInfo {
        let exception =
            |e: &Exception| RuleInfo { id: e.id.clone(), owner: e.owner.clone(), expires: Some(e.expires) };
        RolloutInfo {
            confirm_deadline: now.intent.pending.as_ref().map(|p| p.deadline),
            guarded: self.core.guarding.status().is_some(),
            guard_rollbacks: self.core.guarding.rollbacks(),
            held: now.intent.held.is_some(),
            exceptions: now.intent.around.exceptions.iter().map(exception).collect(),
            tampers: self.core.tampering.counts().into(),
        }
    }
}

impl Readiness for Handle {
    fn ready(&self) -> Result<(), String> {
        let generation = self.core.generation().map_err(|e| e.to_string())?;
        if generation == Generation::NONE {
            return Err("no policy is in force".to_owned());
        }
        let attached = self.core.observer.attached();
        match attached.iter().find(|a| a.program_id.is_none()) {
            Some(a) => Err(format!("no program is attached at {}", a.hook)),
            None => Ok(()),
        }
    }
}
