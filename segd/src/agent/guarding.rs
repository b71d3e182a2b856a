//! The guard over the last change: feeds a [`Watch`] with what the kernel tells and what the probe says, and brings
//! the former policy back on a breach. It is armed before the change comes into force, and what it knows is on disk by
//! then, so that it goes on when the agent was killed.

mod kept;
mod plan;

use std::collections::HashSet;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use segd_common::event::{Event, Kind};
use segd_common::id::Generation;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::changes::ChangeError;
use super::core::{Change, Core, lock};
use super::intent::{Intent, Stance};
use super::maker::InForce;
use crate::control::changes::GuardStatus;
use crate::datapath::host;
use crate::rollout::guard::{Breach, Offender, Watch};
use crate::rollout::journal::Action;
use crate::rollout::probe;
use crate::rollout::seen::Key;
use crate::telemetry::Batch;
use crate::telemetry::record::{FlowRecord, Process};
use kept::Kept;
pub(super) use plan::Plan;

/// Between two probes, and between two attempts to bring a policy back.
const EVERY: Duration = Duration::from_secs(2);

/// The guard, if there is one.
#[derive(Default)]
pub(super) struct Guarding {
    running: Mutex<Option<Running>>,
    /// A breach was found, or there is another guard.
    news: Notify,
    rollbacks: AtomicU64,
}

struct Running {
    kept: Kept,
    watch: Watch,
    /// Just before the change. Nanoseconds of CLOCK_BOOTTIME.
    since: u64,
    /// What flowed before the change, as it was decided then and as the change decides it.
    flowing: HashSet<Key>,
    probe_error: Option<String>,
    /// Stays until the former policy is back.
    breach: Option<Breach>,
    /// Why that is not.
    trouble: Option<String>,
}

impl Running {
    /// Of a guard that began at an instant of CLOCK_BOOTTIME, in nanoseconds.
    fn new(kept: Kept, since: u64) -> Self {
        let watch = Watch::new(kept.limits(), since);
        let flowing = kept.flowing();
        Self { kept, watch, since, flowing, probe_error: None, breach: None, trouble: None }
    }

    fn probed_before(&mut self, result: Result<(), String>) -> Option<String> {
        self.watch.probed_before(result).err()
    }
}

/// A guard that was armed for a change that is not made yet.
pub(super) struct Armed {
    /// The one in whose place it is.
    replaced: Option<Running>,
    /// What a person should know.
    pub(super) warnings: Vec<String>,
}

/// What a probe said, and for the guard of which generation it was run.
type Probed = (u32, Result<(), String>);

impl Guarding {
    /// How the guard stands.
    pub(super) fn status(&self) -> Option<GuardStatus> {
        let mut running = lock(&self.running);
        let running = running.as_mut()?;
        let (denied, cut) = running.watch.counts(host::boottime_ns());
        let kept = &running.kept;
        Some(GuardStatus {
            until: kept.until,
            former: kept.former,
            denied,
            max_denied_per_minute: kept.max_denied_per_minute,
            cut,
            max_cut: kept.max_cut,
            probe: kept.probe.as_ref().map(ToString::to_string),
            probe_error: running.probe_error.clone(),
        })
    }

    /// What a person should know of it.
    pub(super) fn warning(&self) -> Option<String> {
        lock(&self.running).as_ref()?.trouble.clone()
    }

    /// Rollbacks since the agent started.
    pub(super) fn rollbacks(&self) -> u64 {
        self.rollbacks.load(Ordering::Relaxed)
    }

    /// The policy that a breach brings back.
    pub(super) fn former(&self) -> Option<u32> {
        lock(&self.running).as_ref().map(|running| running.kept.former)
    }

    fn probing(&self) -> Option<Pin<Box<dyn Future<Output = Probed> + Send>>> {
        let running = lock(&self.running);
        let kept = &running.as_ref()?.kept;
        let (probe, generation) = (kept.probe.clone()?, kept.generation);
        let limit = Duration::from_millis(kept.probe_timeout_ms);
        Some(Box::pin(async move { (generation, probe::run(&probe, limit).await) }))
    }

    fn probed(&self, (generation, result): Probed) {
        let mut running = lock(&self.running);
        // Not what a former guard's probe says.
        let Some(running) = running.as_mut().filter(|r| r.kept.generation == generation) else { return };
        running.probe_error = result.clone().err();
        let breach = running.watch.probe(host::boottime_ns(), result);
        running.breach = running.breach.take().or(breach);
    }

    fn is_over(&self) -> bool {
        let running = lock(&self.running);
        running.as_ref().is_some_and(|r| r.breach.is_none() && host::boottime_ns() >= r.watch.ends_at())
    }

    fn set(&self, next: Option<Running>) -> Option<Running> {
        let former = std::mem::replace(&mut *lock(&self.running), next);
        self.news.notify_one();
        former
    }
}

impl Core {
    /// Begins to watch a change that comes into force in a moment, as this generation. `flowing`: what flows before it.
    pub(super) fn arm(
        &self,
        plan: &Plan,
        (now, next): (&InForce, &Intent),
        generation: Generation,
        flowing: &HashSet<Key>,
    ) -> Option<Armed> {
        // A stance that is in no history yet gets the number of its generation.
        let record = |stance: &Stance, generation: u32| match stance.record {
            0 => generation,
            record => record,
        };
        let new = record(&next.stance, generation.0);
        let former = match &next.pending {
            Some(pending) => record(&pending.former, generation.0.saturating_sub(1)),
            None => now.intent.stance.record,
        };
        if former == new {
            return None;
        }
        let mut running =
            Running::new(Kept::new(plan, (former, new, generation), flowing), host::boottime_ns());
        let mut warnings: Vec<String> =
            plan.before.clone().and_then(|before| running.probed_before(before)).into_iter().collect();
        let kept = running.kept.clone();
        let replaced = self.guarding.set(Some(running));
        let all: Vec<&Kept> = replaced.iter().map(|r| &r.kept).chain([&kept]).collect();
        if let Err(error) = Kept::save(&self.maker.state, &all) {
            warnings.push(format!("the guard would not outlive the agent: {error}"));
        }
        Some(Armed { replaced, warnings })
    }

    /// Takes a guard back whose change did not come into force.
    pub(super) fn disarm(&self, armed: Armed) {
        let all: Vec<&Kept> = armed.replaced.iter().map(|r| &r.kept).collect();
        if let Err(error) = Kept::save(&self.maker.state, &all) {
            tracing::warn!("{error}");
        }
        self.guarding.set(armed.replaced);
    }

    /// Ends a guard that watches another policy than the one in force. Returns why it ended.
    pub(super) fn end_stale_guard(&self) -> Option<String> {
        let record = self.in_force().intent.stance.record;
        let watched = lock(&self.guarding.running).as_ref().map(|r| r.kept.record)?;
        (watched != record).then(|| {
            self.unguard();
            format!("policy {record} came into force in place of policy {watched}, which was watched")
        })
    }

    /// Goes on with the guard of a former agent, or begins one if this start has loaded other zone files. To be called
    /// once, at the start. `replaced`: the policy that stood before, and when, just before the start, in nanoseconds of
    /// CLOCK_BOOTTIME.
    pub(super) fn resume_guard(&self, replaced: Option<(u32, u64)>) {
        let now = self.in_force();
        let record = now.intent.stance.record;
        let kept = Kept::load(&self.maker.state, record).unwrap_or_else(|error| {
            tracing::error!("no guard is resumed: {error}");
            None
        });
        let running = match (kept, replaced) {
            (Some(kept), _) if kept.until > Timestamp::now() => {
                let age = Duration::try_from(Timestamp::now().duration_since(kept.since)).unwrap_or_default();
                let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
                let heeded = kept.probe_heeded;
                let mut running = Running::new(kept, host::boottime_ns().saturating_sub(age));
                if heeded {
                    running.probed_before(Ok(()));
                }
                tracing::info!(until = %running.kept.until, "goes on guarding the last change");
                Some(running)
            }
            (None, Some((former, since))) if former != record => {
                let plan = self.configured_guard(&now.intent.stance.policy);
                plan.map(|plan| {
                    let flowing = self.seen_until_now().into_iter().map(|(key, _)| key).collect();
                    Running::new(Kept::new(&plan, (former, record, now.generation), &flowing), since)
                })
            }
            _ => None,
        };
        let all: Vec<&Kept> = running.iter().map(|r| &r.kept).collect();
        if let Err(error) = Kept::save(&self.maker.state, &all) {
            tracing::warn!("the guard would not outlive the agent: {error}");
        }
        self.guarding.set(running);
        self.maker.prune(&now.intent, self.guarding.former());
    }

    /// Ends the guard.
    fn unguard(&self) {
        self.guarding.set(None);
        if let Err(error) = Kept::save(&self.maker.state, &[]) {
            tracing::warn!("{error}");
        }
    }

    /// Hands an event of the kernel to everybody who wants it.
    pub(super) fn take(&self, event: &Event, batch: &mut Batch<'_>) {
        if self.revoker.notice(event) {
            self.tell(event, batch);
        }
    }

    /// The same for one that the revoker knows of.
    pub(super) fn tell(&self, event: &Event, batch: &mut Batch<'_>) {
        self.seen.take(event, |owner| self.collector.process_info(owner));
        if let Some(kind @ (Kind::Deny | Kind::Revoke)) = Kind::from_byte(event.kind) {
            self.watch_event(kind, event);
        }
        batch.take(event);
    }

    fn watch_event(&self, kind: Kind, event: &Event) {
        let mut running = lock(&self.guarding.running);
        let Some(running) = running.as_mut() else { return };
        let Some(key) = Key::of(&event.flow) else { return };
        let is_cut = kind == Kind::Revoke;
        let concerns = if is_cut {
            event.time >= running.since
        } else {
            event.flow.generation.0 >= running.kept.generation && running.flowing.contains(&key)
        };
        if !concerns {
            return;
        }
        // A record of several denials names no process; who had such flows before the change is as good to know.
        let before = || self.collector.process(&self.seen.sighting(&key)?.owner);
        let offender = match self.collector.record(event) {
            Some(record) => offender(&record, before),
            None => return,
        };
        let breach = if is_cut {
            running.watch.cut(event.time, event.count, offender)
        } else {
            running.watch.denied(event.time, event.count, &key, offender)
        };
        if let Some(breach) = breach {
            running.breach = Some(breach);
            self.guarding.news.notify_one();
        }
    }

    /// Brings the former policy back if the guard found a breach; if that fails, the next call tries again. Blocks.
    fn heed(&self) {
        let found = {
            let running = lock(&self.guarding.running);
            running.as_ref().and_then(|r| Some((r.breach.clone()?, r.kept.record, r.kept.former)))
        };
        let Some((breach, record, former)) = found else { return };
        let mut change = Change::own(Action::Guard).because(breach.cause.to_string());
        change.details = serde_json::to_value(&breach).unwrap_or_default();
        let why = format!("the guard turned policy {record} away: {}", breach.cause);
        let done = self.change(&change, |now| {
            if now.intent.stance.record != record {
                return Err(ChangeError::NothingPending);
            }
            let waiting = now.intent.pending.as_ref().map(|p| &p.former).filter(|p| p.record == former);
            let former: Stance = match waiting {
                Some(former) => former.clone(),
                None => self.former(former)?,
            };
            Ok(now.intent.back_to(former, self.files_hash(now), why.clone()))
        });
        match done {
            Ok(done) => {
                self.guarding.rollbacks.fetch_add(1, Ordering::Relaxed);
                tracing::error!(generation = done.generation.0, "{why}; policy {former} is back");
            }
            // Somebody changed it meanwhile.
            Err(ChangeError::NothingPending) => drop(self.end_stale_guard()),
            Err(error) => {
                let trouble = format!("{why}; but policy {former} cannot be brought back: {error}");
                let mut running = lock(&self.guarding.running);
                let Some(running) = running.as_mut().filter(|r| r.kept.record == record) else { return };
                if running.trouble.as_ref() != Some(&trouble) {
                    tracing::error!("{trouble}; that is tried again every {EVERY:?}");
                }
                running.trouble = Some(trouble);
            }
        }
    }
}

fn offender(record: &FlowRecord, before: impl FnOnce() -> Option<Process>) -> Offender {
    let (src, dst) = (&record.src, &record.dst);
    let process = record.process.clone().or_else(before).map(|p| match &p.unit {
        Some(unit) => format!("{} ({unit})", p.comm),
        None => p.comm.to_string(),
    });
    let (protocol, port) = (&record.protocol, dst.port);
    let flow = format!("{} {} -> {} {} {protocol}/{port}", src.zone, src.ip, dst.zone, dst.ip);
    Offender { flow, process }
}

/// Probes, heeds breaches, and ends the guard when its time is over.
pub(super) async fn watch(core: Arc<Core>, shutdown: CancellationToken) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut probe: Option<Pin<Box<dyn Future<Output = Probed> + Send>>> = None;
    loop {
        let probed = async {
            match &mut probe {
                Some(probe) => probe.await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = core.guarding.news.notified() => {}
            result = probed => {
                probe = None;
                core.guarding.probed(result);
            }
            _ = every.tick() => {
                if probe.is_none() {
                    probe = core.guarding.probing();
                }
            }
        }
        if core.guarding.is_over() {
            tracing::info!("the guard's time is over; nothing is wrong");
            core.unguard();
        }
        if lock(&core.guarding.running).as_ref().is_some_and(|running| running.breach.is_some()) {
            tokio::task::block_in_place(|| core.heed());
        }
    }
}
