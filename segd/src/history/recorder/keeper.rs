//! What the recorder's thread does: adds up, writes, and begins anew when the file is damaged.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use segd_common::traffic::Verdict;

use super::HistoryStatus;
use crate::history::fold::{Fold, Limits, hour_number, hour_start};
use crate::history::store::{self, Extent, HistoryError, Retention, RuleNews, Store};
use crate::history::summary::Summary;

/// Peers of so many former hours are preferred to new ones.
const KNOWN_HOURS: i64 = 24;

pub(super) struct Keeper {
    path: PathBuf,
    retention: Retention,
    store: Option<Store>,
    fold: Fold,
    news: RuleNews,
    /// The rules in force, and since when, for a file that knows none.
    rules: Option<(HashSet<Arc<str>>, Timestamp)>,
    extent: Extent,
    error: Option<String>,
    /// Flows of records that could not be written before they had to be forgotten.
    lost: u64,
}

impl Keeper {
    pub(super) fn new(path: PathBuf, limits: Limits, retention: Retention) -> Self {
        Self {
            path,
            retention,
            store: None,
            fold: Fold::new(limits),
            news: RuleNews::default(),
            rules: None,
            extent: Extent::default(),
            error: None,
            lost: 0,
        }
    }

    /// Opens the file, sets it aside if it is damaged, and removes what is too old.
    pub(super) fn open(&mut self) {
        let result = self.try_open().map(drop);
        self.note(&result);
    }

    fn try_open(&mut self) -> Result<&mut Store, HistoryError> {
        if self.store.is_none() {
            let opened = Store::open(&self.path).and_then(|store| store.check().map(|()| store));
            let mut store = match opened {
                Err(error) if error.is_damage() => {
                    self.set_aside(&error)?;
                    Store::open(&self.path)?
                }
                opened => opened?,
            };
            let now = Timestamp::now();
            store.retain(now, self.retention)?;
            let fold = &mut self.fold;
            let since = hour_number(now) - KNOWN_HOURS;
            store.each_peer(since, |hour, of, peer| fold.remember(hour, of, peer))?;
            let mut written = Vec::new();
            for hour in fold.unrestored() {
                written.push((hour, store.load_hour(hour)?));
            }
            written.into_iter().for_each(|(hour, rows)| fold.restore(hour, rows));
            self.extent = store.extent()?;
            self.store = Some(store);
        }
        let path = &self.path;
        self.store.as_mut().ok_or_else(|| HistoryError::None(path.clone()))
    }

    /// A file that cannot be read must not keep the agent from recording.
    fn set_aside(&mut self, error: &HistoryError) -> Result<(), HistoryError> {
        self.store = None;
        let aside = store::set_aside(&self.path)?;
        tracing::warn!("{error}; it was moved to {} and a new history begun", aside.display());
        self.fold.lost();
        self.news.in_force.clone_from(&self.rules);
        Ok(())
    }

    pub(super) fn add(&mut self, one: Summary) {
        if let Some(rule) = one.of.rule.as_ref().filter(|_| one.of.verdict == Verdict::Allowed) {
            self.news.hit(rule, one.flows, one.first, one.last);
        }
        let hour = hour_number(one.hour);
        if !self.fold.holds(hour) {
            self.begin(hour);
        }
        self.fold.add(one);
    }

    fn begin(&mut self, hour: i64) {
        if self.fold.ends_next().is_some() {
            // What cannot be written is lost now.
            let _ = self.write();
        }
        self.lost += self.fold.begin(hour);
        let result = self.go_on_with(hour);
        self.note(&result);
    }

    fn go_on_with(&mut self, hour: i64) -> Result<(), HistoryError> {
        let Some(store) = &mut self.store else { return self.try_open().map(drop) };
        let read = store.retain(Timestamp::now(), self.retention).and_then(|()| store.load_hour(hour));
        match read {
            Ok(rows) => {
                self.fold.restore(hour, rows);
                Ok(())
            }
            Err(error) if error.is_damage() => self.set_aside(&error),
            Err(error) => {
                // Reads it when it can be opened again.
                self.store = None;
                Err(error)
            }
        }
    }

    pub(super) fn rules_in_force(&mut self, rules: Vec<Arc<str>>, now: Timestamp) {
        self.rules = Some((rules.into_iter().collect(), now));
        self.news.in_force.clone_from(&self.rules);
    }

    /// Rows that wait to be written.
    pub(super) fn pending(&self) -> usize {
        self.fold.pending()
    }

    pub(super) fn is_up(&self) -> bool {
        self.error.is_none()
    }

    /// Writes what has changed. Of a file that turns out to be damaged nothing is used any more.
    pub(super) fn write(&mut self) -> Result<(), HistoryError> {
        let mut result = self.try_write();
        if let Err(error) = &result
            && error.is_damage()
        {
            result = self.set_aside(error).and_then(|()| self.try_write());
        }
        self.note(&result);
        result
    }

    fn try_write(&mut self) -> Result<(), HistoryError> {
        self.try_open()?;
        let Some(store) = &mut self.store else { return Ok(()) };
        if self.fold.pending() > 0 || !self.news.is_empty() {
            store.write(&self.fold, &self.news)?;
            self.fold.written();
            self.news = RuleNews::default();
        }
        if store.is_too_large(self.retention)? {
            store.retain(Timestamp::now(), self.retention)?;
        }
        self.extent = store.extent()?;
        Ok(())
    }

    /// Logs the first of several failures, and the end of them.
    fn note(&mut self, result: &Result<(), HistoryError>) {
        match result {
            Ok(()) if self.error.take().is_some() => tracing::info!("the flow history is written again"),
            Ok(()) => {}
            Err(error) => {
                let error = error.to_string();
                if self.error.is_none() {
                    tracing::warn!("{error}; trying again until it works");
                }
                self.error = Some(error);
            }
        }
    }

    /// Brings a status up to date.
    pub(super) fn tell(&mut self, status: &mut HistoryStatus) {
        let Extent { bytes, rows, oldest } = self.extent;
        status.up = self.error.is_none();
        status.error.clone_from(&self.error);
        (status.bytes, status.rows) = (bytes, rows);
        status.oldest = oldest.map(hour_start);
        status.lost += std::mem::take(&mut self.lost);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use segd_common::event::Kind;
    use tempfile::TempDir;

    use super::*;
    use crate::history::store::{FILE, Range, Reader};
    use crate::telemetry::FlowRecord;
    use crate::telemetry::record::tests::{event, record};

    fn keeper(dir: &TempDir) -> Keeper {
        let retention = Retention { hours: 24, size: 256 << 20 };
        let mut keeper = Keeper::new(dir.path().join(FILE), Limits::default(), retention);
        keeper.open();
        keeper
    }

    fn now() -> Summary {
        Summary::of(&FlowRecord { time: Timestamp::now(), ..record(&event(Kind::Open)) })
    }

    fn flows(dir: &TempDir) -> u64 {
        let all = Reader::open(&dir.path().join(FILE)).unwrap().summaries(Range::default()).unwrap();
        all.iter().map(|summary| summary.flows).sum()
    }

    #[test]
    fn a_file_that_could_not_be_used_for_a_while_counts_nothing_twice() {
        let dir = TempDir::new().unwrap();
        let mut keeper = keeper(&dir);
        keeper.add(now());
        keeper.write().unwrap();
        // As when an hour began on a full disk.
        keeper.store = None;
        keeper.add(now());
        keeper.write().unwrap();
        assert_eq!(flows(&dir), 2);
    }

    #[test]
    fn rows_that_segd_never_writes_are_damage_and_the_new_file_knows_the_rules() {
        let dir = TempDir::new().unwrap();
        let mut first = keeper(&dir);
        first.rules_in_force(vec!["unused".into()], Timestamp::now());
        first.add(now());
        first.write().unwrap();
        let db = rusqlite::Connection::open(dir.path().join(FILE)).unwrap();
        db.execute("UPDATE name SET text = 'never' WHERE text = 'allowed'", []).unwrap();
        drop(db);
        first.store = None;
        first.add(now());
        first.write().unwrap();
        assert!(fs::exists(dir.path().join("history.db.damaged")).unwrap());
        assert_eq!(flows(&dir), 2, "what is in memory is written again");
        let rules = Reader::open(&dir.path().join(FILE)).unwrap().rules().unwrap();
        assert!(rules.iter().any(|rule| rule.rule == "unused" && rule.gone.is_none()), "{rules:?}");
    }
}
