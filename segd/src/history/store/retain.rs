//! What is too old or too much goes, and the file shrinks.

use std::fs;

use jiff::Timestamp;
use rusqlite::Connection;

use super::{HistoryError, Store, with_suffix};
use crate::history::fold::hour_number;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::history) struct Retention {
    /// Whole hours.
    pub(in crate::history) hours: i64,
    /// Bytes of the database with its write-ahead log.
    pub(in crate::history) size: u64,
}

/// Of the size limit so much is left to the write-ahead log: what it is cut to, and the largest write.
const LOG: u64 = 8 << 20;

/// Pages that are free when the oldest hours were removed: one of so many parts.
const ROOM: u64 = 32;

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::history) struct Extent {
    pub(in crate::history) bytes: u64,
    pub(in crate::history) rows: u64,
    /// Hours since 1970.
    pub(in crate::history) oldest: Option<i64>,
}

impl Store {
    /// Removes the hours that are too old, then the oldest ones until the file is small enough; not the present one.
    pub(in crate::history) fn retain(
        &mut self,
        now: Timestamp,
        retention: Retention,
    ) -> Result<(), HistoryError> {
        let oldest = hour_number(now).saturating_sub(retention.hours);
        let rules = now.as_second().saturating_sub(retention.hours.saturating_mul(3600));
        // What they know may be removed.
        self.conversations.clear();
        self.names.clear();
        retain(&mut self.db, hour_number(now), (oldest, rules), retention.size)
            .map_err(HistoryError::of(&self.path))
    }

    /// Whether the file is larger than it may be.
    pub(in crate::history) fn is_too_large(&self, retention: Retention) -> Result<bool, HistoryError> {
        let pages = pages(&self.db).map_err(HistoryError::of(&self.path))?;
        Ok(pages.all > most(retention.size))
    }

    pub(in crate::history) fn extent(&self) -> Result<Extent, HistoryError> {
        let (rows, oldest) = self
            .db
            .query_row("SELECT coalesce(sum(rows), 0), min(hour) FROM hour", [], |row| {
                Ok((row.get::<_, i64>(0)?, row.get(1)?))
            })
            .map_err(HistoryError::of(&self.path))?;
        let size = |suffix| fs::metadata(with_suffix(&self.path, suffix)).map_or(0, |file| file.len());
        Ok(Extent { bytes: size("") + size("-wal"), rows: u64::try_from(rows).unwrap_or_default(), oldest })
    }
}

struct Pages {
    all: u64,
    used: u64,
}

/// Bytes of the file, and of the pages in it that hold something.
fn pages(db: &Connection) -> rusqlite::Result<Pages> {
    let pragma = |name: &str| db.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    let (size, count, free) = (pragma("page_size")?, pragma("page_count")?, pragma("freelist_count")?);
    let bytes = |pages: i64| u64::try_from(pages.saturating_mul(size)).unwrap_or_default();
    Ok(Pages { all: bytes(count), used: bytes(count - free) })
}

/// Bytes that the file itself may have.
fn most(size: u64) -> u64 {
    size.saturating_sub(LOG).max(size / 2)
}

fn retain(db: &mut Connection, now: i64, (oldest, rules): (i64, i64), size: u64) -> rusqlite::Result<()> {
    let most = most(size);
    let mut removed = false;
    loop {
        let first: Option<i64> = db.query_row("SELECT min(hour) FROM hour", [], |row| row.get(0))?;
        let Some(first) = first.filter(|first| *first < now) else { break };
        let used = pages(db)?.used;
        let target = if removed { most - most / ROOM } else { most };
        if first >= oldest && used <= target {
            break;
        }
        let step = db.transaction()?;
        step.execute("DELETE FROM flow WHERE hour = ?", [first])?;
        step.execute("DELETE FROM sketch WHERE hour = ?", [first])?;
        step.execute("DELETE FROM hour WHERE hour = ?", [first])?;
        step.commit()?;
        removed |= first >= oldest;
        let next: Option<i64> = db.query_row("SELECT min(hour) FROM hour", [], |row| row.get(0))?;
        if next.is_some_and(|next| next < oldest) {
            continue;
        }
        // What only removed hours used.
        let step = db.transaction()?;
        for table in ["conversation", "name"] {
            step.execute(&format!("DELETE FROM {table} WHERE hour < ?"), [next.unwrap_or(now)])?;
        }
        step.commit()?;
    }
    db.execute("DELETE FROM rule WHERE gone < ?", [rules])?;
    let free = pages(db)?;
    if free.all > free.used {
        let mut vacuum = db.prepare("PRAGMA incremental_vacuum")?;
        let mut freed = vacuum.query([])?;
        while freed.next()?.is_some() {}
        drop(freed);
        drop(vacuum);
        // Fails to do all of it while somebody reads; then the next one does.
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    }
    Ok(())
}
