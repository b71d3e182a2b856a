//! Reading the history, beside the agent or without one.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};

use super::rows::Rows;
use super::rules::{self, RuleFacts};
use super::{HistoryError, PATIENCE, schema, with_suffix};
use crate::history::fold::hour_number;
use crate::history::summary::Summary;

/// From when to when. Hours are not cut: a summary is in it if its first and last record say so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// What was seen then or later.
    pub since: Option<Timestamp>,
    /// What was seen before.
    pub until: Option<Timestamp>,
}

impl Range {
    /// Whether something of a summary may lie in it.
    #[must_use]
    pub fn has(&self, summary: &Summary) -> bool {
        self.since.is_none_or(|since| summary.last >= since)
            && self.until.is_none_or(|until| summary.first < until)
    }

    fn rows(&self) -> Rows {
        let since = self.since.map_or(i64::MIN, hour_number);
        let until = self.until.map_or(i64::MAX, |until| hour_number(until).saturating_add(1));
        Rows::between(since, until)
    }
}

/// Reads the history of a state directory.
#[derive(Debug)]
pub struct Reader {
    db: Connection,
    path: PathBuf,
}

impl Reader {
    /// Opens the file to read it, whether or not an agent writes to it.
    ///
    /// # Errors
    /// There is no such file, it may not be read, it is damaged, or a later version of segd wrote it.
    pub fn open(path: &Path) -> Result<Self, HistoryError> {
        match fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(HistoryError::None(path.to_owned()));
            }
            found => found.map_err(HistoryError::io("read", path))?,
        };
        let this = Self::connect(path, false)?;
        match schema::version(&this.db, path) {
            Err(HistoryError::Database { .. }) if no_log(path) => {
                // Whoever may not write to the directory cannot make the files that connections share. Without a
                // write-ahead log nobody has written since.
                let this = Self::connect(path, true)?;
                schema::version(&this.db, path)?;
                Ok(this)
            }
            version => version.map(|_| this),
        }
    }

    fn connect(path: &Path, immutable: bool) -> Result<Self, HistoryError> {
        let failed = HistoryError::of(path);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = if immutable {
            let name: String = form_urlencoded::byte_serialize(path.as_os_str().as_encoded_bytes()).collect();
            // In a URI's path a space is %20, not a plus sign.
            let uri = format!("file:{}?immutable=1", name.replace('+', "%20"));
            Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)
        } else {
            Connection::open_with_flags(path, flags)
        };
        let db = db.map_err(&failed)?;
        db.busy_timeout(PATIENCE).map_err(&failed)?;
        Ok(Self { db, path: path.to_owned() })
    }

    /// Hands on every summary of a range, by hours, until `take` breaks. In memory are a thousand of them at a time.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn each(
        &self,
        range: Range,
        mut take: impl FnMut(Summary) -> ControlFlow<()>,
    ) -> Result<(), HistoryError> {
        let mut rows = range.rows();
        while let Some(page) = rows.page(&self.db).map_err(HistoryError::of(&self.path))? {
            for summary in page.into_iter().map(Summary::from).filter(|summary| range.has(summary)) {
                if take(summary).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Every summary of a range, sorted by hour and conversation.
    ///
    /// # Errors
    /// As [`Reader::each`].
    pub fn summaries(&self, range: Range) -> Result<Vec<Summary>, HistoryError> {
        let mut all = Vec::new();
        self.each(range, |summary| {
            all.push(summary);
            ControlFlow::Continue(())
        })?;
        all.sort_unstable_by(|a, b| (a.hour, &a.of).cmp(&(b.hour, &b.of)));
        Ok(all)
    }

    /// What is known of the rules that are or were in force, by id.
    ///
    /// # Errors
    /// As [`Reader::each`].
    pub fn rules(&self) -> Result<Vec<RuleFacts>, HistoryError> {
        rules::read(&self.db).map_err(HistoryError::of(&self.path))
    }
}

/// Whether everything that was written is in the file itself.
fn no_log(path: &Path) -> bool {
    fs::metadata(with_suffix(path, "-wal")).map_or(true, |log| log.len() == 0)
}
