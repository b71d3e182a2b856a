//! From what is meant to what the kernel holds.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use jiff::Timestamp;
use segd_common::id::{Generation, RuleId};

use super::InstallError;
use super::intent::{Around, Intent, Stance};
use super::priority;
use super::standing::{Announced, PendingStanding, Standing, Standings};
use crate::config::{Config, OnRevoke};
use crate::datapath::{Datapath, Fallback};
use crate::policy::ids::{REGISTRY_FILE, Registry};
use crate::policy::{self, Compiled, Host};
use crate::rollout::history::{History, HistoryError, KEEP, Record};
use crate::rollout::modes;
use crate::state::{StateDir, StateError};
use crate::telemetry::Collector;
use crate::telemetry::record::Context;

/// Everything that a generation was made of, and what came of it.
#[derive(Clone, Debug)]
pub(super) struct InForce {
    pub(super) intent: Intent,
    /// Its number.
    pub(super) generation: Generation,
    /// As the kernel holds it.
    pub(super) compiled: Arc<Compiled>,
    /// The host's.
    pub(super) zone: String,
    pub(super) registry: Arc<Registry>,
    /// Of the last change.
    pub(super) apply_seconds: f64,
    pub(super) warnings: Vec<String>,
}

/// What the kernel will hold, ready to be put there.
pub(super) struct Prepared {
    /// The registry on disk does not have all of `registry`.
    has_new_names: bool,
    pub(super) intent: Intent,
    pub(super) zone: String,
    pub(super) registry: Registry,
    pub(super) compiled: Compiled,
    former: Option<Compiled>,
    warnings: Vec<String>,
    began: Instant,
}

/// What making a generation takes beside the kernel.
pub(super) struct Maker {
    pub(super) config: Config,
    pub(super) host: Arc<str>,
    pub(super) state: StateDir,
    pub(super) history: History,
}

/// Texts of more bytes are not kept in memory once they are in the history.
pub(super) const LARGE_TEXTS: usize = 1 << 20;

const NOT_KEPT: &str = "the change comes into force, but the next agent will not know of it";

impl Maker {
    /// Compiles. Changes nothing.
    pub(super) fn prepare(&self, intent: Intent, known: &Registry) -> Result<Prepared, InstallError> {
        let began = Instant::now();
        let mut registry = known.clone();
        let mut warnings = intent.stance.warnings.clone();
        let (zone, compiled) = self.compile(&intent, &intent.stance, &mut registry, &mut warnings)?;
        let former = match &intent.pending {
            None => None,
            Some(pending) => Some(self.compile(&intent, &pending.former, &mut registry, &mut Vec::new())?.1),
        };
        let has_new_names = registry != *known;
        Ok(Prepared { has_new_names, intent, zone, registry, compiled, former, warnings, began })
    }

    fn compile(
        &self,
        intent: &Intent,
        stance: &Stance,
        registry: &mut Registry,
        warnings: &mut Vec<String>,
    ) -> Result<(String, Compiled), InstallError> {
        let around = &intent.around;
        let configured = self.config.host.zone.as_deref();
        let zone = policy::host_zone(&stance.policy, configured, &around.addresses, &around.names)?;
        let at = self.local(&zone, stance, around);
        let overrides = modes::for_compiler(&stance.overrides);
        let compiled = policy::compile(&stance.policy, at, &overrides, &self.config.failsafes, registry)?;
        let claimed = policy::conflicts(&stance.policy, &around.names);
        warnings.extend(claimed.iter().map(ToString::to_string));
        warnings.extend(policy::exceptions::stale(&stance.policy, &around.exceptions));
        Ok((zone, compiled))
    }

    /// What a policy is compiled for.
    pub(super) fn local<'a>(&'a self, zone: &'a str, stance: &'a Stance, around: &'a Around) -> Host<'a> {
        Host {
            zone,
            addresses: &around.addresses,
            name: &self.host,
            names: &around.names,
            users: &stance.users,
            exceptions: &around.exceptions,
            keep_revoked: self.config.on_revoke == OnRevoke::Keep,
        }
    }

    /// Lets the kernel swap. What must be known after a restart is on disk before the kernel changes. The caller
    /// settles what is announced then, once it is journaled.
    ///
    /// On an error the former generation is in force and the disk says so.
    pub(super) fn install(
        &self,
        prepared: Prepared,
        origin: Origin<'_>,
        standings: &mut Standings,
        collector: &Collector,
        datapath: &mut Datapath,
    ) -> Result<(InForce, Generation), InstallError> {
        let next = datapath.next_generation(prepared.former.is_some())?;
        let Prepared { has_new_names, zone, compiled, former, warnings, began, mut intent, registry } =
            prepared;
        let mut new = Vec::new();
        let waiting = intent.pending.as_mut().map(|p| (&mut p.former, next.0.saturating_sub(1)));
        for (stance, number) in waiting.into_iter().chain([(&mut intent.stance, next.0)]) {
            if stance.record == 0 {
                stance.record = number;
                new.push(number);
            }
        }
        let former_context = collector.context();
        let registry = Arc::new(registry);
        collector.set_context(self.context(&intent.stance, &registry));
        let fallback = intent.pending.as_ref().zip(former.as_ref());
        let fallback =
            fallback.map(|(pending, compiled)| Fallback { compiled, deadline: pending.deadline_ns });
        let names = (has_new_names || standings.now.is_none()).then_some(&*registry);
        let announced = standing(&intent, next, origin.change.clone());
        let kept = || self.keep_all((names, &intent, &new), &origin, (&mut *standings, announced));
        // The disk takes as long as the tables.
        let applied = thread::scope(|scope| {
            let keeping = scope.spawn(|| {
                priority::take_part();
                kept()
            });
            datapath.apply_once(&compiled, fallback, || {
                keeping.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        });
        match applied {
            Ok(generation) => {
                let Intent { stance, pending, .. } = &mut intent;
                for stance in [stance].into_iter().chain(pending.as_mut().map(|p| &mut p.former)) {
                    self.forget_texts(stance);
                }
                let in_force = InForce {
                    generation,
                    compiled: Arc::new(compiled),
                    zone,
                    registry,
                    apply_seconds: began.elapsed().as_secs_f64(),
                    warnings,
                    intent,
                };
                Ok((in_force, generation))
            }
            Err(error) => {
                collector.set_context(Context::clone(&former_context));
                if standings.is_announced(next)
                    && let Err(error) = standings.settle(&self.state, false)
                {
                    // The kernel tells the next agent that it did not come to this.
                    tracing::warn!("{error}");
                }
                for number in new {
                    if let Err(error) = self.history.remove(number) {
                        tracing::warn!("a policy that did not come into force stays in the history: {error}");
                    }
                }
                Err(error)
            }
        }
    }

    /// Puts on disk what must be there before the kernel changes: names that are new, the stances of new records, and
    /// last what is announced.
    fn keep_all(
        &self,
        (names, intent, new): (Option<&Registry>, &Intent, &[u32]),
        origin: &Origin<'_>,
        (standings, announced): (&mut Standings, Standing),
    ) -> Result<(), InstallError> {
        if let Some(registry) = names {
            origin.keep(self.state.save(REGISTRY_FILE, registry))?;
        }
        let stances = intent.pending.as_ref().map(|p| &p.former).into_iter().chain([&intent.stance]);
        for stance in stances.filter(|stance| new.contains(&stance.record)) {
            match self.keep(stance, origin) {
                Err(error) if origin.way_out => tracing::error!("{NOT_KEPT}: {error}"),
                saved => saved?,
            }
        }
        Ok(origin.keep(standings.announce(&self.state, announced))?)
    }

    /// Puts a stance into the history.
    fn keep(&self, stance: &Stance, origin: &Origin<'_>) -> Result<(), HistoryError> {
        let sources = &stance.policy.sources;
        let (now, overrides) = (Timestamp::now(), stance.overrides.clone());
        let mut record = Record::new(stance.record, now, origin.by, origin.why, sources.hash(), overrides);
        record.previous = stance.previous;
        match sources.kept_as() {
            Some(other) => self.history.save_like(record, other),
            None => self.history.save(record, sources),
        }
    }

    /// Forgets texts that are in the history.
    fn forget_texts(&self, stance: &mut Stance) {
        let large = stance.policy.sources.size() > LARGE_TEXTS;
        let kept = || self.history.generations().is_ok_and(|all| all.contains(&stance.record));
        if large && kept() {
            let record = stance.record;
            if let Some(policy) = Arc::get_mut(&mut stance.policy) {
                policy.sources = Arc::new(policy.sources.without_texts(record));
            }
        }
    }

    /// Forgets old policies; not one that a deadline or a guard (`guarded`) may bring back.
    pub(super) fn prune(&self, intent: &Intent, guarded: Option<u32>) {
        let pending = intent.pending.as_ref().map(|p| p.former.record);
        let protected: Vec<u32> = pending.into_iter().chain(guarded).chain([intent.stance.record]).collect();
        if let Err(error) = self.history.prune(KEEP, &protected) {
            tracing::warn!("old policies cannot be removed: {error}");
        }
    }

    /// The names for flow records.
    pub(super) fn context(&self, stance: &Stance, registry: &Arc<Registry>) -> Context {
        let mut numbers = Registry::clone(registry);
        let rules = stance.policy.rules.iter();
        let rule_owners: HashMap<RuleId, Arc<str>> = rules
            .filter_map(|rule| Some((numbers.rule(&rule.id).ok()?, rule.owner.as_deref()?.into())))
            .collect();
        let workloads = stance.policy.workloads.keys();
        let workloads = workloads.filter_map(|name| Some(numbers.zone(name).ok()?.into())).collect();
        let labels: Arc<BTreeMap<String, String>> = Arc::new(self.config.host.labels.clone());
        Context {
            host: Arc::clone(&self.host),
            labels,
            registry: Arc::clone(registry),
            rule_owners,
            workloads,
        }
    }
}

/// Where a stance comes from, for the history and the journal.
#[derive(Clone, Debug)]
pub(super) struct Origin<'a> {
    pub(super) by: Option<u32>,
    pub(super) why: &'a str,
    /// None where nothing is journaled.
    pub(super) change: Option<Announced>,
    /// Whether it is a way out: then it comes into force although it cannot be kept for the next agent.
    pub(super) way_out: bool,
}

impl Origin<'_> {
    fn keep(&self, result: Result<(), StateError>) -> Result<(), StateError> {
        match result {
            Err(error) if self.way_out => {
                tracing::error!("{NOT_KEPT}: {error}");
                Ok(())
            }
            result => result,
        }
    }
}

fn standing(intent: &Intent, next: Generation, change: Option<Announced>) -> Standing {
    Standing {
        generation: next.0,
        record: intent.stance.record,
        pending: intent.pending.as_ref().map(|p| PendingStanding {
            generation: next.0.saturating_sub(1),
            record: p.former.record,
            deadline: p.deadline,
            since: p.since,
            by: p.by,
        }),
        held: intent.held.clone(),
        exceptions: intent.around.exceptions.clone(),
        change,
    }
}
