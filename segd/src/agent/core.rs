//! The agent's state and the one way in which it changes.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use nix::unistd::Pid;
use segd_common::id::Generation;

use super::background::Pulse;
use super::breaks::{Effects, seen_so_far};
use super::guarding::{Guarding, Plan};
use super::intent::{Around, Intent};
use super::maker::{InForce, LARGE_TEXTS, Maker, Origin, Prepared};
use super::memory;
use super::naming::Naming;
use super::priority::{self, GivingWay};
use super::revoke::Revoker;
use super::standing::{Announced, Recovered, Standings};
use super::tampering::Tampering;
use super::{InstallError, StartError};
use crate::config::Config;
use crate::control::api::Caller;
use crate::control::changes::Break;
use crate::datapath::{self, Counters, Datapath, Observer};
use crate::policy::ids::{REGISTRY_FILE, Registry};
use crate::rollout::journal::{self, Action, Entry, Journal, Problem};
use crate::rollout::seen::{Key, Seen, Sighting};
use crate::state::StateDir;
use crate::telemetry::Collector;
use crate::telemetry::record::Context;

/// The agent.
pub(super) struct Core {
    pub(super) started: Timestamp,
    pub(super) maker: Maker,
    pub(super) collector: Arc<Collector>,
    pub(super) revoker: Revoker,
    pub(super) counters: Mutex<Counters>,
    /// What flowed since the start, as far as the reader of events is.
    pub(super) seen: Seen,
    /// The reader's.
    pub(super) pulse: Arc<Pulse>,
    pub(super) names: Naming,
    /// What is watched after a change.
    pub(super) guarding: Guarding,
    pub(super) tampering: Tampering,
    /// Looks into the kernel beside whoever changes what is there.
    pub(super) observer: Observer,
    datapath: Mutex<Datapath>,
    /// Held by whoever makes the next generation.
    turn: Mutex<Turn>,
    /// Whether the numbers in a former agent's counters had lost their names.
    pub(super) fresh_counters: bool,
    in_force: ArcSwap<InForce>,
}

struct Turn {
    standings: Standings,
    journal: Journal,
}

/// Who changes what is in force, and how.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) action: Action,
    pub(super) by: Option<Caller>,
    pub(super) reason: Option<String>,
    pub(super) details: serde_json::Value,
    /// What to do if traffic would break.
    pub(super) care: Care,
    /// As [`Origin::way_out`].
    pub(super) way_out: bool,
    /// What is watched after it.
    pub(super) guard: Option<Plan>,
}

/// What to do if traffic would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// Do not even look.
    None,
    /// Change nothing then.
    Refuse,
    /// Change it anyway, and tell.
    Force,
    /// Only look.
    DryRun,
}

impl Change {
    /// By the agent itself, whatever traffic says.
    pub(super) fn own(action: Action) -> Self {
        Self {
            action,
            by: None,
            reason: None,
            details: serde_json::Value::Null,
            care: Care::None,
            way_out: matches!(action, Action::Rollback | Action::Guard | Action::Expire),
            guard: None,
        }
    }

    fn announced(&self) -> Announced {
        Announced {
            action: self.action,
            uid: self.by.map(|c| c.uid),
            pid: self.by.and_then(|c| c.pid),
            reason: self.reason.clone(),
            details: self.details.clone(),
        }
    }

    pub(super) fn because(self, reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..self }
    }
}

/// What came of a change.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub(super) changed: bool,
    /// In force now.
    pub(super) generation: Generation,
    /// Empty unless it was looked for.
    pub(super) breaks: Vec<Break>,
    /// What a person should know of it.
    pub(super) warnings: Vec<String>,
}

/// What the state directory remembers.
pub(super) struct Remembered {
    pub(super) registry: Option<Registry>,
    pub(super) standings: Standings,
    pub(super) journal: Journal,
}

impl Remembered {
    pub(super) fn load(state: &StateDir, dir: &Path) -> Result<Self, StartError> {
        let (journal, problems) = Journal::open(dir)?;
        for problem in &problems {
            tracing::error!("the journal: {problem}");
            if let Problem::Broken(_) | Problem::More(_) = problem {
                let reason = Some(problem.to_string());
                journal.append(Entry { reason, ..Entry::new(Action::Tamper) })?;
            }
        }
        Ok(Self { registry: state.load(REGISTRY_FILE)?, standings: Standings::load(state)?, journal })
    }

    /// What came into force and is not in the journal, as the agent ended in between.
    pub(super) fn recovered(&self, dir: &Path, kernel: Generation) -> Option<Recovered> {
        let recovered = self.standings.unsettled(kernel)?;
        let mut journaled = false;
        // What is wrong with the journal was told when it was opened.
        let _ = journal::verify(dir, |line| journaled |= line.line.after == Some(recovered.after));
        (!journaled).then_some(recovered)
    }
}

/// Whether it takes much memory to make, or did.
fn is_large(intent: &Intent) -> bool {
    let sources = &intent.stance.policy.sources;
    sources.kept_as().is_some() || sources.size() > LARGE_TEXTS
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    /// Brings an intent into force in a data path that is loaded but not attached.
    pub(super) fn new(
        maker: Maker,
        remembered: Remembered,
        (intent, why): (Intent, &str),
        names: Naming,
        mut datapath: Datapath,
        collector: impl FnOnce(Context) -> Collector,
    ) -> Result<Self, InstallError> {
        let Remembered { registry, mut standings, journal } = remembered;
        let fresh_counters = registry.is_none();
        let registry = registry.unwrap_or_default();
        let collector = Arc::new(collector(maker.context(&intent.stance, &Arc::new(registry.clone()))));
        let origin = Origin { by: None, why, change: None, way_out: false };
        let observer = datapath.observer();
        let made = maker.prepare(intent, &registry).and_then(|prepared| {
            let counters = datapath.counters()?;
            let seen = seen_so_far(&observer, &counters, &collector);
            let made = maker.install(prepared, origin, &mut standings, &collector, &mut datapath)?;
            Ok((made.0, counters, seen))
        });
        let (made, counters, seen) = match made {
            Ok(parts) => parts,
            Err(error) => {
                datapath.abandon()?;
                return Err(error);
            }
        };
        tell_rules(&collector, &made);
        Ok(Self {
            fresh_counters,
            started: Timestamp::now(),
            revoker: Revoker::new(maker.config.on_revoke),
            maker,
            collector,
            counters: Mutex::new(counters),
            seen,
            pulse: Arc::new(Pulse::new()),
            names,
            guarding: Guarding::default(),
            tampering: Tampering::default(),
            observer,
            datapath: Mutex::new(datapath),
            turn: Mutex::new(Turn { standings, journal }),
            in_force: ArcSwap::from_pointee(made),
        })
    }

    /// What flowed since the start.
    pub(super) fn seen_until_now(&self) -> Vec<(Key, Sighting)> {
        self.pulse.catch_up();
        self.seen.snapshot()
    }

    /// The threads that follow flows.
    pub(super) fn followers(&self) -> Vec<Pid> {
        self.collector.threads().into_iter().chain(self.pulse.thread()).collect()
    }

    /// Lets the host's own work have the CPU, where nothing depends on when something is done.
    pub(super) fn give_way(&self) -> Option<GivingWay> {
        GivingWay::begin(self.followers())
    }

    pub(super) fn config(&self) -> &Config {
        &self.maker.config
    }

    pub(super) fn in_force(&self) -> Arc<InForce> {
        self.in_force.load_full()
    }

    pub(super) fn datapath(&self) -> MutexGuard<'_, Datapath> {
        lock(&self.datapath)
    }

    /// The generation in force, asked of the kernel.
    pub(super) fn generation(&self) -> Result<Generation, datapath::Error> {
        Ok(self.observer.in_force()?.generation)
    }

    /// The generation that this agent put in force, and another one that is, if another one is.
    pub(super) fn other_generation(&self) -> Option<(Generation, Generation)> {
        let turn = lock(&self.turn);
        let is = self.generation().ok()?;
        let standing = turn.standings.now.as_ref()?;
        let fallback = standing.pending.as_ref().map(|p| p.generation);
        let known = is.0 == standing.generation || Some(is.0) == fallback;
        (!known).then_some((Generation(standing.generation), is))
    }

    /// Writes what is no change of a generation into the journal.
    pub(super) fn note(&self, change: &Change) {
        let turn = lock(&self.turn);
        write(&turn.journal, change, None, None);
    }

    /// Brings the same into force once more, so that every flow is decided again. Blocks.
    pub(super) fn load_again(&self) {
        if let Err(error) = self.surround(|_, around| around.clone()) {
            tracing::error!("cannot have every flow decided again: {error}");
        }
    }

    /// Follows a change of the host's addresses. Blocks.
    pub(super) fn move_to(&self, addresses: Vec<IpAddr>) -> Result<Generation, InstallError> {
        self.surround(|_, around| Around { addresses, ..around.clone() })
    }

    /// Brings what people chose into force in other surroundings. Not a change for the journal. Blocks.
    pub(super) fn surround(
        &self,
        next: impl FnOnce(&InForce, &Around) -> Around,
    ) -> Result<Generation, InstallError> {
        let way = self.give_way();
        let mut turn = lock(&self.turn);
        let now = self.in_force();
        let around = next(&now, &now.intent.around);
        let intent = self.named(Intent { around, ..now.intent.clone() });
        let prepared = self.maker.prepare(intent, &now.registry)?;
        let origin = Origin { by: None, why: "", change: None, way_out: false };
        let generation = self.install(&mut turn, prepared, origin)?;
        drop(way);
        self.settle(&mut turn);
        Ok(generation)
    }

    /// The one way in which people, guards and deadlines change what is in force. Changes come one after the
    /// other, each made of what the one before brought into force; each is journaled. Blocks.
    pub(super) fn change<E: From<InstallError>>(
        &self,
        change: &Change,
        next: impl FnOnce(&InForce) -> Result<Intent, E>,
    ) -> Result<Done, E> {
        let way = if change.action == Action::Load {
            self.give_way()
        } else {
            // Whoever has the turn may give way. Those who follow flows do again in a moment.
            priority::hurry(&[]);
            None
        };
        let looks = change.care != Care::None || change.guard.is_some();
        let (live, made) = thread::scope(|scope| {
            // Beside all else: who waits for this one does not wait for the sockets to be listed.
            let live = looks.then(|| scope.spawn(|| self.live()));
            let made = self.made(next);
            (live.map(|live| live.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))), made)
        });
        let live = live.transpose()?;
        let (mut turn, now, before, prepared) = made?;
        let effects = live.map(|live| self.effects(&live, &prepared)).transpose()?.unwrap_or_default();
        let Effects { mut breaks, mut flowing, unruled } = effects;
        if change.care == Care::None {
            breaks.clear();
        }
        if change.care == Care::DryRun || (change.care == Care::Refuse && !breaks.is_empty()) {
            return Ok(Done { changed: false, generation: before, breaks, warnings: Vec::new() });
        }
        let origin = Origin {
            by: change.by.map(|c| c.uid),
            why: change.action.name(),
            change: Some(change.announced()),
            way_out: change.way_out,
        };
        let armed = match &change.guard {
            None => None,
            Some(plan) => {
                // What was shown and is wanted all the same, unless the guard was asked for with it.
                if change.care == Care::Force && !plan.is_asked() {
                    flowing.retain(|key| !unruled.contains(key));
                }
                // A guard is kept on the disk.
                priority::take_part();
                let pending = prepared.intent.pending.is_some();
                let next = self.datapath().next_generation(pending).map_err(InstallError::from)?;
                self.arm(plan, (&now, &prepared.intent), next, &flowing)
            }
        };
        let large = is_large(&now.intent) || is_large(&prepared.intent);
        let generation = match self.install(&mut turn, prepared, origin) {
            Ok(generation) => generation,
            Err(error) => {
                if let Some(armed) = armed {
                    self.disarm(armed);
                }
                return Err(error.into());
            }
        };
        drop(way);
        write(&turn.journal, change, Some(before), Some(generation));
        self.settle(&mut turn);
        if let Some(why) = self.end_stale_guard()
            && change.action != Action::Guard
        {
            write(&turn.journal, &Change::own(Action::GuardEnd).because(why), None, Some(generation));
        }
        let warnings = armed.map(|armed| armed.warnings).unwrap_or_default();
        if large {
            drop(now);
            memory::give_back();
        }
        Ok(Done { changed: true, generation, breaks, warnings })
    }

    /// What a change makes, in its turn, of what is in force, whose generation comes before it.
    fn made<E: From<InstallError>>(
        &self,
        next: impl FnOnce(&InForce) -> Result<Intent, E>,
    ) -> Result<(MutexGuard<'_, Turn>, Arc<InForce>, Generation, Prepared), E> {
        let turn = lock(&self.turn);
        let now = self.in_force();
        let before = self.generation().map_err(InstallError::from)?;
        let intent = self.named(next(&now)?);
        let prepared = self.maker.prepare(intent, &now.registry)?;
        Ok((turn, now, before, prepared))
    }

    /// With what the names in all its zones stand for, also in those that it goes back to.
    fn named(&self, intent: Intent) -> Intent {
        let names = self.names.hold(&intent);
        Intent { around: Around { names, ..intent.around }, ..intent }
    }

    fn install(
        &self,
        turn: &mut Turn,
        prepared: Prepared,
        origin: Origin<'_>,
    ) -> Result<Generation, InstallError> {
        let mut datapath = self.datapath();
        let standings = &mut turn.standings;
        let (made, generation) =
            self.maker.install(prepared, origin, standings, &self.collector, &mut datapath)?;
        priority::take_part();
        self.maker.prune(&made.intent, self.guarding.former());
        tell_rules(&self.collector, &made);
        self.in_force.store(Arc::new(made));
        self.revoker.policy_changed();
        self.names.policy_changed();
        Ok(generation)
    }

    fn settle(&self, turn: &mut Turn) {
        if let Err(error) = turn.standings.settle(&self.maker.state, true) {
            // What was announced tells the same to the next agent.
            tracing::warn!("{error}");
        }
    }

    /// Writes how the agent began into the journal, and first what the former one had no time for.
    pub(super) fn note_start(&self, recovered: Option<&Recovered>, notes: &[String]) {
        let turn = &mut *lock(&self.turn);
        if let Some(Recovered { before, after, change }) = recovered {
            let why = "the agent ended after this came into force and before it was journaled";
            let told = Change {
                by: change.uid.map(|uid| Caller { uid, pid: change.pid }),
                details: serde_json::json!({ "change": change }),
                ..Change::own(Action::Recover).because(why)
            };
            write(&turn.journal, &told, before.map(Generation), Some(Generation(*after)));
        }
        let mut change = Change::own(Action::Start);
        let record = self.in_force().intent.stance.record;
        change.details =
            serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "policy": record, "notes": notes });
        let generation = self.generation().ok();
        write(&turn.journal, &change, None, generation);
        self.settle(turn);
    }
}

/// Lets the history know since when which rules are in force.
fn tell_rules(collector: &Collector, now: &InForce) {
    if let Some(recorder) = collector.recorder() {
        let exceptions = now.intent.around.exceptions.iter().map(|exception| &exception.id);
        let rules = now.intent.stance.policy.rules.iter().map(|rule| &rule.id).chain(exceptions);
        recorder.rules_in_force(rules.map(|id| id.as_str().into()));
    }
}

/// A journal that cannot be written must not keep a host in a state that its operator wants to leave.
fn write(journal: &Journal, change: &Change, before: Option<Generation>, after: Option<Generation>) {
    let mut entry = Entry {
        before: before.map(|g| g.0),
        after: after.map(|g| g.0),
        reason: change.reason.clone(),
        details: change.details.clone(),
        ..Entry::new(change.action)
    };
    if let Some(caller) = change.by {
        entry = entry.by(caller.uid, caller.pid);
    }
    if let Err(error) = journal.append(entry) {
        tracing::error!("not journaled: {error}");
    }
}
