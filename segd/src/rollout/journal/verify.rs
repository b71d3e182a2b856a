//! Holds the journal against its own hashes and its head. Reads only, takes no lock, and keeps one line in memory.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use super::{FILE, HEAD, Head, Line, MAX_LINE, chain};
use crate::state::{StateError, failed};

/// Flaws that are listed; further ones are counted.
const MAX_FOUND: usize = 100;

/// A sound journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Number of lines.
    pub lines: u64,
    /// Time of the first line.
    pub first_time: Option<Timestamp>,
    /// The last line.
    pub last: Option<Head>,
    /// What `journal.head` says: the last line or, after a crash, the one before it.
    pub head: Option<Head>,
    /// Bytes after the last line: one that is being written just now or that a crash cut short. The next append puts
    /// the latter aside.
    pub torn: u64,
}

/// A flaw and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Line of the file, counted from 1; 0: before the first line.
    pub line: u64,
    /// What is wrong there.
    pub what: Flaw,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// What can be wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Not a line of a journal.
    #[error("this is no line of a journal ({0})")]
    NotALine(String),
    /// Longer than [`MAX_LINE`].
    #[error("longer than {MAX_LINE} bytes, so segd did not write it")]
    TooLong,
    /// Its hash is not of what it says.
    #[error("its hash does not fit: it was edited")]
    Edited,
    /// Numbers are left out in front of it.
    #[error("number {seq} follows number {after}: what was between them was removed or moved")]
    Missing {
        /// Its number.
        seq: u64,
        /// The number before it.
        after: u64,
    },
    /// Its number was there before.
    #[error("number {seq} follows number {after}: it was moved or inserted")]
    OutOfOrder {
        /// Its number.
        seq: u64,
        /// The highest number before it.
        after: u64,
    },
    /// Its `prev` is another line's hash.
    #[error("it was not written after the line before it: one of the two was replaced")]
    Unchained,
    /// The journal once went on.
    #[error(
        "the journal was cut: it ends with number {last}, and {HEAD} says that number {head} was written"
    )]
    Cut {
        /// The last number that is there.
        last: u64,
        /// The last number that was written.
        head: u64,
    },
    /// The head names a line that is not there.
    #[error("{HEAD} names another line number {0}: one of the two was replaced")]
    HeadDiffers(u64),
    /// More than one line follows the head.
    #[error(
        "number {last} is the last, but {HEAD} says that it is {head}: lines were added, or the head is an old one"
    )]
    HeadBehind {
        /// The last number that is there.
        last: u64,
        /// The last number that was written.
        head: u64,
    },
    /// The head is gone.
    #[error("{HEAD} is gone: whether lines are missing after this one cannot be known")]
    HeadMissing,
    /// The head cannot be read.
    #[error("{HEAD} is damaged ({0}): whether lines are missing after this one cannot be known")]
    HeadDamaged(String),
}

/// The journal is not sound, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// What is wrong, in the order of the lines.
    #[error("{}", list(found, *more))]
    Broken {
        /// The first hundred.
        found: Vec<Broken>,
        /// How many more.
        more: u64,
    },
    /// A file cannot be read.
    #[error(transparent)]
    Io(StateError),
}

fn list(found: &[Broken], more: u64) -> String {
    let mut lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    lines.extend((more > 0).then(|| format!("{more} further flaws")));
    lines.join("\n")
}

/// A line as it is visited.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'l> {
    /// The line.
    pub line: &'l Line,
    /// Whether it is what was written, where it was written.
    pub sound: bool,
}

/// What was read so far.
#[derive(Default)]
struct Walk {
    found: Vec<Broken>,
    more: u64,
    /// Lines of the file.
    number: u64,
    first_time: Option<Timestamp>,
    /// The line with the highest number, and the one before it.
    last: Option<Head>,
    /// Lines since then that could not be read.
    unreadable: u64,
    /// Whether the line that the head names was met.
    head_met: bool,
}

/// Verifies the journal in a state directory and hands each line that can be read to `visit`. No journal is a sound
/// one of no lines. It may be appended to meanwhile.
///
/// # Errors
/// Every flaw, or a file cannot be read.
pub fn verify(dir: &Path, mut visit: impl FnMut(Visit<'_>)) -> Result<Verified, VerifyError> {
    let path = dir.join(FILE);
    // Lines are on the disk before the head names them. So what the head says before the file is read must be in it,
    // and what it says afterwards is at most one line behind.
    let before = head(dir).map_err(VerifyError::Io)?;
    let mut walk = Walk::default();
    let torn = match File::open(&path) {
        Ok(file) => walk.file(file, before.as_ref().ok().and_then(Option::as_ref), &mut visit),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    };
    let torn = torn.map_err(|error| VerifyError::Io(failed("read", &path)(error)))?;
    let after = head(dir).map_err(VerifyError::Io)?;
    walk.heads(&before, &after);
    if !walk.found.is_empty() {
        return Err(VerifyError::Broken { found: walk.found, more: walk.more });
    }
    let head = after.ok().flatten();
    Ok(Verified { lines: walk.number, first_time: walk.first_time, last: walk.last, head, torn })
}

/// The head; in the inner result, what is wrong with its text.
fn head(dir: &Path) -> Result<Result<Option<Head>, String>, StateError> {
    let path = dir.join(HEAD);
    match fs::read(&path) {
        Ok(text) => Ok(serde_json::from_slice(&text).map(Some).map_err(|error| error.to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ok(None)),
        Err(error) => Err(failed("read", &path)(error)),
    }
}

impl Walk {
    fn broken(&mut self, what: Flaw) {
        if self.found.len() < MAX_FOUND {
            self.found.push(Broken { line: self.number, what });
        } else {
            self.more += 1;
        }
    }

    /// Reads all lines. Returns the number of bytes after the last newline.
    fn file(
        &mut self,
        file: File,
        head: Option<&Head>,
        visit: &mut impl FnMut(Visit<'_>),
    ) -> io::Result<u64> {
        let mut reader = BufReader::with_capacity(MAX_LINE, file);
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let length = (&mut reader).take(MAX_LINE as u64).read_until(b'\n', &mut bytes)?;
            if bytes.pop_if(|last| *last == b'\n').is_some() {
                self.number += 1;
                self.line(&bytes, head, visit);
            } else if length == MAX_LINE {
                self.number += 1;
                self.broken(Flaw::TooLong);
                self.unreadable += 1;
                reader.skip_until(b'\n')?;
            } else {
                return Ok(length as u64);
            }
        }
    }

    fn line(&mut self, bytes: &[u8], head: Option<&Head>, visit: &mut impl FnMut(Visit<'_>)) {
        let (line, intact) = match chain::unseal(bytes) {
            Ok(found) => found,
            Err(error) => {
                self.broken(Flaw::NotALine(error.to_string()));
                self.unreadable += 1;
                return;
            }
        };
        if !intact {
            self.broken(Flaw::Edited);
        }
        self.first_time.get_or_insert(line.time);
        let after = self.last.as_ref().map_or(0, |last| last.seq);
        let prev = self.last.as_ref().map_or(chain::NO_HASH, |last| &last.hash);
        let next = after.saturating_add(1);
        let flaw = if line.seq <= after {
            Some(Flaw::OutOfOrder { seq: line.seq, after })
        } else if line.seq == next && line.prev == prev {
            None
        } else if self.unreadable > 0 && line.seq == next.saturating_add(self.unreadable) {
            // It follows what could not be read, which was told.
            None
        } else if line.seq == next {
            Some(Flaw::Unchained)
        } else {
            Some(Flaw::Missing { seq: line.seq, after })
        };
        visit(Visit { line: &line, sound: intact && flaw.is_none() });
        let moved = matches!(flaw, Some(Flaw::OutOfOrder { .. }));
        flaw.into_iter().for_each(|flaw| self.broken(flaw));
        if moved {
            return;
        }
        self.unreadable = 0;
        self.head_met |= head.is_some_and(|head| head.seq == line.seq && head.hash == line.hash);
        self.last = Some(Head { seq: line.seq, hash: line.hash });
    }

    /// Holds the end of the file against the head before and after it was read.
    fn heads(&mut self, before: &Result<Option<Head>, String>, after: &Result<Option<Head>, String>) {
        let last = self.last.as_ref().map_or(0, |last| last.seq);
        let (before, after) = match (before, after) {
            (Ok(before), Ok(after)) => (before, after),
            (Err(error), _) | (_, Err(error)) => return self.broken(Flaw::HeadDamaged(error.clone())),
        };
        let flaw = match (before, after) {
            (None, None) if last > 1 => Some(Flaw::HeadMissing),
            (Some(_), None) => Some(Flaw::HeadMissing),
            (Some(head), _) if head.seq > last => Some(Flaw::Cut { last, head: head.seq }),
            (Some(head), _) if !self.head_met => Some(Flaw::HeadDiffers(head.seq)),
            (_, Some(head)) if head.seq.saturating_add(1) < last => {
                Some(Flaw::HeadBehind { last, head: head.seq })
            }
            _ => None,
        };
        flaw.into_iter().for_each(|flaw| self.broken(flaw));
    }
}
