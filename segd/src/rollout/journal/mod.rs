//! The journal: who changed what, when and why, in `journal.jsonl` of the state directory.
//!
//! One JSON object a line, only ever appended to. Each line carries the SHA-256 of the line before it (`prev`) and
//! its own (`hash`, over its bytes without `hash`), so a line that was edited, removed, moved or inserted breaks the
//! chain there. `journal.head` holds number and hash of the last line and is replaced after each append, so a cut
//! tail is found too. A line is on the disk before the head names it; a crash between the two leaves the head one
//! line behind, which is sound. Whoever is root can write both files anew as a whole: against that, copy
//! the hash that `segd audit --verify` prints to another host now and then.
//!
//! Several processes may append (the agent, `segd detach`): `journal.lock` keeps them apart. Nothing is rotated, as a
//! chain with its beginning gone proves little and the file stays small: a change is made by a person or a timer, and
//! a thousand changes are about half a megabyte. To begin a new chain, stop the agent and move `journal.jsonl` and
//! `journal.head` away together.

mod chain;
mod files;
#[cfg(test)]
mod tests;
mod verify;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use chain::{Action, Entry, Line, command_of};
use files::{Files, Guard};
pub use verify::{Broken, Flaw, Verified, VerifyError, Visit, verify};

use crate::state::StateError;

/// Name of the journal in the state directory.
pub const FILE: &str = "journal.jsonl";
/// Name of the file that says where the journal ends.
const HEAD: &str = "journal.head";

/// Bytes of a line, its newline included. The details of a longer one are cut.
pub const MAX_LINE: usize = 64 << 10;

/// Number and hash of a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Number of the line; the first is 1.
    pub seq: u64,
    /// Its hash: SHA-256 in hex.
    pub hash: String,
}

/// Why nothing is journaled.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The files cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Another process holds the lock.
    #[error("another process has held {} for {} seconds; end it", path.display(), files::PATIENCE.as_secs())]
    Locked {
        /// The lock.
        path: std::path::PathBuf,
    },
}

/// What was wrong with the journal when it was opened.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Somebody changed it.
    #[error("{FILE}, {0}")]
    Broken(Broken),
    /// More flaws than are listed.
    #[error("{FILE} has {0} further flaws")]
    More(u64),
    /// A crash left the last line torn; it was put aside and the journal says so.
    #[error(
        "the last line of {FILE} was not written to its end; what there was of it ({bytes} bytes) is in {file}"
    )]
    Torn {
        /// In the state directory.
        file: String,
        /// Its length.
        bytes: u64,
    },
}

/// The journal of a state directory.
#[derive(Debug)]
pub struct Journal {
    files: Files,
    /// The last line that this process knows of.
    known: Mutex<Option<Head>>,
}

impl Journal {
    /// Opens the journal, makes it if there is none, and verifies all of it. A torn last line is put aside. Whatever
    /// else is wrong is told, to be journaled as [`Action::Tamper`], and left alone: the next line continues from
    /// where the chain was known to end, so that [`verify`] goes on finding the gap. Only a lost head is made anew.
    ///
    /// # Errors
    /// The directory or a file in it cannot be used.
    pub fn open(dir: &Path) -> Result<(Self, Vec<Problem>), JournalError> {
        let journal = Self { files: Files::open(dir)?, known: Mutex::default() };
        let guard = journal.files.lock()?;
        let mut problems = Vec::new();
        match verify(dir, |_| ()) {
            Ok(_) => {}
            Err(VerifyError::Broken { found, more }) => {
                problems.extend(found.into_iter().map(Problem::Broken));
                problems.extend((more > 0).then_some(Problem::More(more)));
            }
            Err(VerifyError::Io(error)) => return Err(error.into()),
        }
        problems.extend(journal.mend(&guard, Timestamp::now())?);
        drop(guard);
        Ok((journal, problems))
    }

    /// Adds a line; when this returns it is on the disk. Blocks for that long, and for at most five seconds while
    /// another process appends.
    ///
    /// # Errors
    /// It is not in the journal: the disk is full, say, or a stopped process holds the lock.
    pub fn append(&self, entry: Entry) -> Result<Line, JournalError> {
        self.append_at(entry, Timestamp::now())
    }

    fn append_at(&self, entry: Entry, now: Timestamp) -> Result<Line, JournalError> {
        let guard = self.files.lock()?;
        self.mend(&guard, now)?;
        self.write(&guard, entry, now)
    }

    /// Puts a torn last line aside and journals it. What a crash interrupts here is done again.
    fn mend(&self, guard: &Guard<'_>, now: Timestamp) -> Result<Option<Problem>, JournalError> {
        let Some(bytes) = guard.put_torn_aside()? else { return Ok(None) };
        let file = files::torn_name(self.position(guard)?.0);
        let entry = Entry {
            reason: Some("the last line was not written to its end and was put aside".to_owned()),
            details: serde_json::json!({ "file": file, "bytes": bytes }),
            ..Entry::new(Action::Recover)
        };
        self.write(guard, entry, now)?;
        guard.name_torn(&file)?;
        Ok(Some(Problem::Torn { file, bytes }))
    }

    fn write(&self, guard: &Guard<'_>, entry: Entry, now: Timestamp) -> Result<Line, JournalError> {
        let (seq, prev) = self.position(guard)?;
        let (line, text) = chain::seal(entry, seq, now, prev);
        guard.append(text.as_bytes())?;
        let head = Head { seq: line.seq, hash: line.hash.clone() };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(head.clone());
        if let Err(error) = guard.set_head(&head) {
            // The line is there, and a head that is one behind is sound; the next append tries again first.
            tracing::warn!("{error}");
        }
        Ok(line)
    }

    /// Number and `prev` of the next line. The head wins over a file that ends before it. Brings a head that is one
    /// line behind up to date, so that it never falls further behind.
    fn position(&self, guard: &Guard<'_>) -> Result<(u64, String), JournalError> {
        let last = guard.last()?;
        let stored = guard.head();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let end = [stored.clone(), known, last]
            .into_iter()
            .flatten()
            .reduce(|a, b| if b.seq > a.seq { b } else { a });
        let Some(end) = end else { return Ok((1, chain::NO_HASH.to_owned())) };
        if stored.is_none_or(|stored| stored.seq < end.seq) {
            guard.set_head(&end)?;
        }
        Ok((end.seq.saturating_add(1), end.hash))
    }
}
