//! What `/metrics` shows: the kernel's counters, read when they are asked for.
//!
//! Labels are zones, services and rule ids, never addresses or processes. If the kernel cannot be read, the
//! page still shows what user space knows, leaves the rest out (so that it goes stale instead of wrong) and
//! counts the failure in `segd_scrape_errors_total`.

mod family;
pub(crate) mod kernel;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use prometheus::core::Desc;
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, Registry, TextEncoder};
use segd_common::counter::{Counter, CounterKey, LOSSES};
use segd_common::traffic::Direction;

use super::collector::Collector;
use family::Families;

/// Number of counters of losses in the kernel.
pub const LOSS_COUNT: usize = LOSSES as usize;

/// Content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Where the kernel's numbers come from.
pub trait Source: Send + Sync + 'static {
    /// The numbers as they are now. May block for as long as reading a few maps takes.
    ///
    /// # Errors
    /// A map or link could not be read.
    fn snapshot(&self) -> Result<Snapshot, SourceError>;
}

/// The kernel's numbers could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the kernel's counters: {0}")]
pub struct SourceError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// The state of the data path at one instant.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counters, summed over the CPUs.
    pub counters: Vec<(CounterKey, Counter)>,
    /// What found no place of its own ([`segd_common::counter::OVERFLOW`]), summed over the CPUs.
    pub overflow: Counter,
    /// By [`segd_common::counter::Loss`], summed over the CPUs.
    pub losses: [u64; LOSS_COUNT],
    /// Maps that can fill up.
    pub maps: Vec<MapUse>,
    /// Hook and number of programs attached to it.
    pub hooks: Vec<(String, u64)>,
    /// The generation in force; 0: none.
    pub generation: u32,
    /// Hash of the policy in force.
    pub policy_hash: Option<String>,
    /// Seconds that the last load took.
    pub apply_seconds: Option<f64>,
    /// Subject, direction, service, and whether the default there is to deny.
    pub enforcing: Vec<(String, Direction, String, bool)>,
    /// Rules of the policy in force.
    pub rules: Vec<RuleInfo>,
    /// How safely it came into force.
    pub rollout: RolloutInfo,
    /// Whether the kernel holds what the agent put there, by what was looked at.
    pub selfchecks: Vec<(&'static str, bool)>,
}

/// What limits, watches or overrides the policy in force.
#[derive(Clone, Debug, Default)]
pub struct RolloutInfo {
    /// When the former policy returns unless somebody confirms the one in force.
    pub confirm_deadline: Option<Timestamp>,
    /// Whether a guard watches the last change.
    pub guarded: bool,
    /// Changes that a guard undid since the agent started.
    pub guard_rollbacks: u64,
    /// Whether the zone files on disk are held back.
    pub held: bool,
    /// Exceptions that hold.
    pub exceptions: Vec<RuleInfo>,
    /// What others did to segd since the agent started, by kind.
    pub tampers: Vec<(&'static str, u64)>,
}

/// How full a map is.
#[derive(Clone, Debug)]
pub struct MapUse {
    /// Its name.
    pub name: String,
    /// Entries in it, if they can be counted.
    pub entries: Option<u64>,
    /// Entries that it can hold.
    pub capacity: u64,
}

/// A rule of the policy.
#[derive(Clone, Debug)]
pub struct RuleInfo {
    /// Its id.
    pub id: String,
    /// Its owner; empty for none.
    pub owner: String,
    /// From when on it no longer matches.
    pub expires: Option<Timestamp>,
}

/// Everything that `/metrics` shows.
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Of a data path and its collector.
    ///
    /// # Errors
    /// A metric's name or label is not valid. A test holds that none is.
    pub fn new(source: Arc<dyn Source>, collector: Arc<Collector>) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let descriptions = family::descriptions()?;
        let errors = AtomicU64::new(0);
        registry.register(Box::new(Scrape { source, collector, descriptions, errors }))?;
        Ok(Self { registry })
    }

    /// All metrics in the text format of Prometheus, version 0.0.4. May block as [`Source::snapshot`].
    ///
    /// # Errors
    /// The encoder refused them.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut page = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut page)?;
        Ok(page)
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

struct Scrape {
    source: Arc<dyn Source>,
    collector: Arc<Collector>,
    descriptions: Vec<Desc>,
    errors: AtomicU64,
}

impl prometheus::core::Collector for Scrape {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Families::new();
        let snapshot = self.source.snapshot();
        families.add("segd_selfcheck_ok", &["counters"], flag(snapshot.is_ok()));
        families.add("segd_selfcheck_ok", &["events"], flag(self.collector.alive()));
        match snapshot {
            Ok(snapshot) => {
                let context = self.collector.context();
                kernel::fill(&mut families, &snapshot, &context.registry, self.collector.clock());
            }
            Err(error) => {
                self.errors.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, "metrics are incomplete");
            }
        }
        self.user_space(&mut families);
        families.finish()
    }
}

impl Scrape {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    fn user_space(&self, families: &mut Families) {
        for (stage, lost) in self.collector.lost() {
            families.add("segd_lost_events_total", &[&stage], lost as f64);
        }
        for sink in self.collector.sinks() {
            families.add("segd_sink_up", &[&sink.name], flag(sink.up));
        }
        if let Some(history) = self.collector.recorder().map(|recorder| recorder.status()) {
            families.add("segd_history_up", &[], f64::from(u8::from(history.up)));
            families.add("segd_history_bytes", &[], history.bytes as f64);
            families.add("segd_history_max_bytes", &[], history.max_bytes as f64);
            families.add("segd_history_rows", &[], history.rows as f64);
            if let Some(oldest) = history.oldest {
                let oldest = oldest.as_duration().as_secs_f64();
                families.add("segd_history_oldest_timestamp_seconds", &[], oldest);
            }
        }
        families.add("segd_scrape_errors_total", &[], self.errors.load(Ordering::Relaxed) as f64);
        families.add("segd_build_info", &[env!("CARGO_PKG_VERSION")], 1.0);
    }
}

fn flag(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

#[cfg(test)]
pub(crate) mod tests;
