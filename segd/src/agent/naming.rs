//! What the names in zones stand for: looked up before a policy is loaded, and again by their time to live.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::core::{Core, lock};
use super::intent::Intent;
use super::priority;
use crate::config::NamesConfig;
use crate::control::api::NameStatus;
use crate::names::{Resolver, State, refresh};
use crate::policy::{Policy, Resolved};
use crate::state::{StateDir, StateError};

const FILE: &str = "names.json";

/// How long a load may wait for names that were not looked up yet. What comes later comes into force then.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How long a way back may.
pub(super) const LITTLE_PATIENCE: Duration = Duration::from_millis(500);

/// Between two rounds where something is always due.
const LEAST: Duration = Duration::from_secs(1);

/// Where nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// Names that nothing has any more and that are remembered all the same.
const PARKED: usize = 4096;

/// Looks names up and remembers what they stand for.
pub(super) struct Naming {
    resolver: Resolver,
    known: Mutex<Known>,
    file: StateDir,
    /// Other names are in force.
    news: Notify,
}

#[derive(Default)]
struct Known {
    state: State,
    /// Those of the policy that was read last, which may come into force yet.
    asked: Vec<String>,
    /// What a rollback may bring back.
    parked: State,
}

impl Known {
    fn follow<'n>(&mut self, names: impl Iterator<Item = &'n str>) {
        let mut all: Vec<&str> = names.collect();
        all.extend(self.asked.iter().map(String::as_str));
        let left = self.state.follow(all);
        if self.parked.len() > PARKED {
            self.parked = State::default();
        }
        self.parked.add(left);
        self.state.recall(&mut self.parked);
    }

    fn resolved(&self) -> Resolved {
        self.state.names().map(|(name, n)| (name.to_owned(), n.addresses.clone())).collect()
    }
}

impl Naming {
    /// With what a former agent knew.
    pub(super) fn load(config: &NamesConfig, file: &StateDir) -> Result<Self, StateError> {
        let known = Known { state: file.load(FILE)?.unwrap_or_default(), ..Known::default() };
        Ok(Self {
            resolver: Resolver::new(config),
            known: Mutex::new(known),
            file: file.clone(),
            news: Notify::new(),
        })
    }

    /// Looks the names of a policy up that is about to come into force, those of which nothing is known, and gives what
    /// is known of all. Blocks for so long at most, within a runtime of several threads.
    pub(super) fn for_policy(&self, policy: &Policy, patience: Duration) -> Resolved {
        let wanted: Vec<String> = policy.dns_names().map(str::to_owned).collect();
        let missing = {
            let mut known = lock(&self.known);
            let former: Vec<String> = known.state.names().map(|(name, _)| name.to_owned()).collect();
            known.asked = wanted;
            known.follow(former.iter().map(String::as_str));
            let nothing = |name: &String| known.state.get(name).is_none_or(|n| n.addresses.is_empty());
            known.asked.iter().any(nothing)
        };
        if missing {
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(async {
                    if !self.round(patience).await {
                        tracing::warn!("not every name in the zones could be looked up within {patience:?}");
                    }
                });
            });
        }
        lock(&self.known).resolved()
    }

    /// Looks up what is due, for so long at most. Tells whether there was enough time. What another round learns
    /// meanwhile is kept.
    async fn round(&self, limit: Duration) -> bool {
        let before = lock(&self.known).state.clone();
        let mut state = before.clone();
        let in_time = tokio::time::timeout(limit, refresh(&self.resolver, &mut state)).await.is_ok();
        if state == before {
            return in_time;
        }
        // Others may wait for the disk, and for what is known.
        priority::take_part();
        let mut known = lock(&self.known);
        known.state.adopt(state, &before);
        if let Err(error) = self.file.save(FILE, &known.state) {
            tracing::warn!("what names stand for would not outlive the agent: {error}");
        }
        in_time
    }

    /// What names stand for, with those of all that is meant to be in force.
    pub(super) fn hold(&self, intent: &Intent) -> Arc<Resolved> {
        let mut known = lock(&self.known);
        let former = intent.pending.as_ref().map(|p| &p.former.policy);
        let policies = former.into_iter().chain([&intent.stance.policy]);
        known.follow(policies.flat_map(|p| p.dns_names()));
        Arc::new(known.resolved())
    }

    /// To be called when something else is in force.
    pub(super) fn policy_changed(&self) {
        self.news.notify_one();
    }

    /// How the names of a policy stand.
    pub(super) fn status(&self, policy: &Policy) -> Vec<NameStatus> {
        let known = lock(&self.known);
        let zones = policy.zones.iter();
        let names = zones.flat_map(|(zone, z)| z.names.iter().map(move |name| (zone, &name.value)));
        names
            .map(|(zone, name)| {
                let found = known.state.get(name);
                NameStatus {
                    name: name.clone(),
                    zone: zone.clone(),
                    addresses: found.map(|n| n.addresses.clone()).unwrap_or_default(),
                    error: match found {
                        None => Some("not looked up yet".to_owned()),
                        Some(n) => n.failed.as_ref().map(|f| format!("{} (since {})", f.error, f.since)),
                    },
                }
            })
            .collect()
    }

    /// What a person should know of answers that were not taken as they came.
    pub(super) fn warnings(&self) -> Vec<String> {
        lock(&self.known).state.warnings()
    }

    fn wait(&self) -> Duration {
        let due = lock(&self.known).state.next_due();
        due.map_or(IDLE, |due| Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default())
            .clamp(LEAST, IDLE)
    }
}

/// Looks names up again when their time is over, and brings other addresses into force.
pub(super) async fn follow(core: Arc<Core>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(core.names.wait()) => {}
            () = core.names.news.notified() => continue,
            () = shutdown.cancelled() => return,
        }
        tokio::select! {
            _ = core.names.round(IDLE) => {}
            () = shutdown.cancelled() => return,
        }
        let now = core.in_force();
        if core.names.hold(&now.intent) == now.intent.around.names {
            continue;
        }
        match tokio::task::block_in_place(|| core.surround(|_, around| around.clone())) {
            Ok(generation) => {
                tracing::info!(generation = generation.0, "names in zones stand for other addresses");
            }
            Err(error) => tracing::error!("names stand for other addresses, but the former stay: {error}"),
        }
    }
}
