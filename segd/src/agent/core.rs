//! The agent's state and the one way in which a policy comes into force.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use segd_common::id::{Generation, RuleId};

use super::state::{StateDir, StateError};
use crate::config::Config;
use crate::control::api::ModeOverride;
use crate::datapath::{self, Counters, Datapath};
use crate::policy::ids::{REGISTRY_FILE, Registry};
use crate::policy::source::ReadError;
use crate::policy::{self, CompileError, Diagnostics, Host, HostZoneError, Policy, Resolved, Sources};
use crate::rollout::modes;
use crate::telemetry::Collector;
use crate::telemetry::record::Context;

/// The file of the overrides in the state directory.
const MODES_FILE: &str = "modes.json";

/// Why a policy does not come into force. The former one stays.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The zone files cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What they say is wrong.
    #[error("{}", .0.render(false))]
    Policy(Diagnostics),
    /// The host is in no zone, or in several.
    #[error(transparent)]
    HostZone(#[from] HostZoneError),
    /// The tables cannot be made.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// What must outlive a restart cannot be saved.
    #[error(transparent)]
    State(#[from] StateError),
    /// The kernel does not take them.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
}

/// Everything that a generation was made of.
#[derive(Clone)]
pub(super) struct InForce {
    pub(super) policy: Arc<Policy>,
    pub(super) overrides: Vec<ModeOverride>,
    pub(super) registry: Arc<Registry>,
    pub(super) zone: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) loaded_at: Timestamp,
    /// Of the last change.
    pub(super) apply_seconds: f64,
    pub(super) warnings: Vec<String>,
}

/// A policy that was read and found right, for a host that was found in one zone.
pub(super) struct Draft {
    pub(super) policy: Arc<Policy>,
    pub(super) zone: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) loaded_at: Timestamp,
    pub(super) warnings: Vec<String>,
}

/// The agent.
pub(super) struct Core {
    pub(super) config: Config,
    pub(super) host: Arc<str>,
    pub(super) started: Timestamp,
    state: StateDir,
    pub(super) collector: Arc<Collector>,
    pub(super) counters: Mutex<Counters>,
    datapath: Mutex<Datapath>,
    /// Held by whoever makes the next generation.
    turn: Mutex<()>,
    /// Whether the numbers in a former agent's counters had lost their names.
    pub(super) fresh_counters: bool,
    in_force: ArcSwap<InForce>,
}

/// Reads and checks the zone files and finds the host's zone.
///
/// # Errors
/// Every error of the files at once, or why the host has no one zone.
pub(super) fn draft(config: &Config, addresses: Vec<IpAddr>) -> Result<Draft, InstallError> {
    let now = Timestamp::now();
    let sources = Sources::read_dir(&config.policy_dir)?;
    let policy = policy::load(sources, now).map_err(InstallError::Policy)?;
    let found = policy::check(&policy, &config.failsafes, &Resolved::new(), now);
    if found.errors() > 0 {
        return Err(InstallError::Policy(found));
    }
    let zone = policy::host_zone(&policy, config.host.zone.as_deref(), &addresses, &Resolved::new())?;
    let warnings = found.items().iter().map(|w| format!("{}:{}: {}", w.file, w.line, w.message)).collect();
    Ok(Draft { policy: Arc::new(policy), zone, addresses, loaded_at: now, warnings })
}

/// The names for flow records.
fn context(config: &Config, host: &Arc<str>, policy: &Policy, registry: &Arc<Registry>) -> Context {
    let mut numbers = Registry::clone(registry);
    let owners: HashMap<RuleId, String> = policy
        .rules
        .iter()
        .filter_map(|rule| Some((numbers.rule(&rule.id).ok()?, rule.owner.clone()?)))
        .collect();
    let labels: Arc<BTreeMap<String, String>> = Arc::new(config.host.labels.clone());
    Context { host: Arc::clone(host), labels, registry: Arc::clone(registry), rule_owners: owners }
}

/// What the state directory remembers.
pub(super) struct Remembered {
    pub(super) registry: Option<Registry>,
    pub(super) overrides: Vec<ModeOverride>,
}

impl Remembered {
    pub(super) fn load(state: &StateDir) -> Result<Self, StateError> {
        Ok(Self {
            registry: state.load(REGISTRY_FILE)?,
            overrides: state.load(MODES_FILE)?.unwrap_or_default(),
        })
    }
}

impl Core {
    /// Brings a draft into force in a data path that is loaded but not attached.
    pub(super) fn new(
        config: Config,
        host: Arc<str>,
        state: StateDir,
        remembered: Remembered,
        draft: Draft,
        mut datapath: Datapath,
        collector: impl FnOnce(Context) -> Collector,
    ) -> Result<Self, InstallError> {
        let fresh_counters = remembered.registry.is_none();
        let registry = remembered.registry.unwrap_or_default();
        let empty = Context {
            host: Arc::clone(&host),
            labels: Arc::default(),
            registry: Arc::new(registry.clone()),
            rule_owners: HashMap::new(),
        };
        let collector = Arc::new(collector(empty));
        let overrides = remembered.overrides;
        let made = make(&config, &host, &state, &collector, &mut datapath, &draft, &overrides, registry);
        let (made, counters) = match made.and_then(|made| Ok((made, datapath.counters()?))) {
            Ok(parts) => parts,
            Err(error) => {
                datapath.abandon()?;
                return Err(error);
            }
        };
        Ok(Self {
            fresh_counters,
            started: Timestamp::now(),
            config,
            host,
            state,
            collector,
            counters: Mutex::new(counters),
            datapath: Mutex::new(datapath),
            turn: Mutex::default(),
            in_force: ArcSwap::from_pointee(made),
        })
    }

    pub(super) fn in_force(&self) -> Arc<InForce> {
        self.in_force.load_full()
    }

    pub(super) fn datapath(&self) -> MutexGuard<'_, Datapath> {
        self.datapath.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The generation in force, asked of the kernel.
    pub(super) fn generation(&self) -> Result<Generation, datapath::Error> {
        self.datapath().generation()
    }

    /// Brings the same policy into force once more, so that every flow is decided again. Blocks.
    pub(super) fn load_again(&self) {
        let addresses = self.in_force().addresses.clone();
        if let Err(error) = self.move_to(addresses) {
            tracing::error!("cannot have every flow decided again: {error}");
        }
    }

    /// Loads the zone files anew. Blocks.
    pub(super) fn load(&self) -> Result<Generation, InstallError> {
        self.change(|now| {
            let draft = draft(&self.config, now.addresses.clone())?;
            Ok((draft, now.overrides.clone()))
        })
    }

    /// Follows a change of the host's addresses. Blocks.
    pub(super) fn move_to(&self, addresses: Vec<IpAddr>) -> Result<Generation, InstallError> {
        self.change(|now| {
            let zone = policy::host_zone(
                &now.policy,
                self.config.host.zone.as_deref(),
                &addresses,
                &Resolved::new(),
            )?;
            Ok((Draft { zone, addresses, ..Draft::of(now) }, now.overrides.clone()))
        })
    }

    /// Changes the overrides. Blocks.
    pub(super) fn override_modes<E: From<InstallError>>(
        &self,
        change: impl FnOnce(&Policy, &[ModeOverride]) -> Result<Vec<ModeOverride>, E>,
    ) -> Result<Generation, E> {
        self.change(|now| Ok((Draft::of(now), change(&now.policy, &now.overrides)?)))
    }

    /// The one way to another generation. Changes come one after the other, each made of what the one before
    /// brought into force.
    fn change<E: From<InstallError>>(
        &self,
        next: impl FnOnce(&InForce) -> Result<(Draft, Vec<ModeOverride>), E>,
    ) -> Result<Generation, E> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.in_force();
        let (draft, overrides) = next(&now)?;
        let mut datapath = self.datapath();
        let made = make(
            &self.config,
            &self.host,
            &self.state,
            &self.collector,
            &mut datapath,
            &draft,
            &overrides,
            Registry::clone(&now.registry),
        )?;
        self.in_force.store(Arc::new(made));
        datapath.generation().map_err(|e| InstallError::Datapath(e).into())
    }
}

impl Draft {
    /// What is in force, to be brought into force again with changes.
    fn of(now: &InForce) -> Self {
        Self {
            policy: Arc::clone(&now.policy),
            zone: now.zone.clone(),
            addresses: now.addresses.clone(),
            loaded_at: now.loaded_at,
            warnings: now.warnings.clone(),
        }
    }
}

/// Compiles, saves, and lets the kernel swap. What must be known after a restart is on disk before the kernel
/// changes; if the kernel then refuses, the former overrides are put back.
#[expect(clippy::too_many_arguments, reason = "the parts of a core that may not exist yet")]
fn make(
    config: &Config,
    host: &Arc<str>,
    state: &StateDir,
    collector: &Collector,
    datapath: &mut Datapath,
    draft: &Draft,
    overrides: &[ModeOverride],
    mut registry: Registry,
) -> Result<InForce, InstallError> {
    let began = Instant::now();
    let before = registry.clone();
    let at = Host::in_zone(&draft.zone, &draft.addresses);
    let for_compiler = modes::for_compiler(overrides);
    let compiled = policy::compile(&draft.policy, at, &for_compiler, &config.failsafes, &mut registry)?;
    if registry != before || state.load::<Registry>(REGISTRY_FILE)?.is_none() {
        state.save(REGISTRY_FILE, &registry)?;
    }
    let former: Option<Vec<ModeOverride>> = state.load(MODES_FILE)?;
    if former.as_deref() != Some(overrides) {
        state.save(MODES_FILE, &overrides)?;
    }
    let registry = Arc::new(registry);
    collector.set_context(context(config, host, &draft.policy, &registry));
    if let Err(error) = datapath.apply(&compiled, None) {
        state.save(MODES_FILE, &former.unwrap_or_default())?;
        return Err(error.into());
    }
    Ok(InForce {
        policy: Arc::clone(&draft.policy),
        overrides: overrides.to_vec(),
        registry,
        zone: draft.zone.clone(),
        addresses: draft.addresses.clone(),
        loaded_at: draft.loaded_at,
        apply_seconds: began.elapsed().as_secs_f64(),
        warnings: draft.warnings.clone(),
    })
}
