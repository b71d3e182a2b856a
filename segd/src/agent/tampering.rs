//! What others do to segd while it runs: hooks that are gone, another generation than the agent's in force.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::core::{Change, Core};
use crate::rollout::journal::Action;

const EVERY: Duration = Duration::from_secs(5);

/// What was found since the agent started.
#[derive(Default)]
pub(super) struct Tampering {
    hooks: Kind,
    generation: Kind,
}

#[derive(Default)]
struct Kind {
    times: AtomicU64,
    /// It is so now, and was told.
    told: AtomicBool,
}

impl Kind {
    /// Whether this is news.
    fn see(&self, is_so: bool) -> bool {
        let news = is_so && !self.told.swap(is_so, Ordering::Relaxed);
        if !is_so {
            self.told.store(false, Ordering::Relaxed);
        }
        self.times.fetch_add(u64::from(news), Ordering::Relaxed);
        news
    }
}

impl Tampering {
    /// Times since the agent started, by kind.
    pub(super) fn counts(&self) -> [(&'static str, u64); 2] {
        [("hooks", &self.hooks), ("generation", &self.generation)]
            .map(|(name, kind)| (name, kind.times.load(Ordering::Relaxed)))
    }

    /// Whether the last look found all as it should be, by kind.
    pub(super) fn intact(&self) -> [(&'static str, bool); 2] {
        [("hooks", &self.hooks), ("generation", &self.generation)]
            .map(|(name, kind)| (name, !kind.told.load(Ordering::Relaxed)))
    }
}

impl Core {
    fn look_for_tampering(&self) {
        let missing: Vec<&str> = {
            let attached = self.observer.attached();
            attached.iter().filter(|a| a.program_id.is_none()).map(|a| a.hook).collect()
        };
        if self.tampering.hooks.see(!missing.is_empty()) {
            let what = format!("no program of segd is attached at {}", missing.join(", "));
            tracing::error!("{what}; restart segd to attach them");
            self.note(&Change::own(Action::Tamper).because(what));
        }
        let other = self.other_generation();
        let is_news = self.tampering.generation.see(other.is_some());
        if let Some((wanted, is)) = other.filter(|_| is_news) {
            let what = format!("generation {} is in force, not {}", is.0, wanted.0);
            tracing::error!("{what}: somebody else writes to segd's tables");
            self.note(&Change::own(Action::Tamper).because(what));
        }
    }
}

/// Looks every few seconds.
pub(super) async fn watch(core: Arc<Core>, shutdown: CancellationToken) {
    let mut every = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            _ = every.tick() => tokio::task::block_in_place(|| core.look_for_tampering()),
            () = shutdown.cancelled() => return,
        }
    }
}
