//! The journal's files: the lock, the end of the file, what a crash left of a line, the head.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::{FILE, HEAD, Head, JournalError, MAX_LINE, chain};
use crate::state::{StateDir, StateError, failed};

/// How long to wait for another process that appends.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Only its owner may open it: whoever can read the journal must not be able to hold up who writes it.
const LOCK: &str = "journal.lock";
/// What was put aside and is not journaled yet.
const TORN: &str = "journal.torn";

/// Where a torn line is once line `seq` tells of it.
pub(super) fn torn_name(seq: u64) -> String {
    format!("{TORN}-{seq}")
}

#[derive(Debug)]
pub(super) struct Files {
    dir: StateDir,
}

/// The files, while no other process or thread appends.
#[derive(Debug)]
pub(super) struct Guard<'f> {
    dir: &'f StateDir,
    file: File,
    path: PathBuf,
    /// Released when it is closed.
    _lock: File,
}

/// Where the file ends.
struct Tail {
    /// Behind the last newline.
    whole: u64,
    /// What is behind that.
    torn: Vec<u8>,
    last: Option<Head>,
}

fn open(path: &Path, mode: u32) -> Result<File, StateError> {
    let mut options = File::options();
    options.read(true).append(true).create(true).mode(mode).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path).map_err(failed("open", path))?;
    if !file.metadata().map_err(failed("read", path))?.is_file() {
        return Err(failed("use", path)(io::Error::other("it is not a regular file")));
    }
    Ok(file)
}

impl Files {
    pub(super) fn open(dir: &Path) -> Result<Self, StateError> {
        Ok(Self { dir: StateDir::open(dir)? })
    }

    /// Opens the journal anew, as it may have been moved away.
    pub(super) fn lock(&self) -> Result<Guard<'_>, JournalError> {
        let path = self.dir.path(LOCK);
        let lock = open(&path, 0o600)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error).into()),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                    return Err(JournalError::Locked { path });
                }
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(5)),
            }
        }
        let path = self.dir.path(FILE);
        let is_new = !path.exists();
        let file = open(&path, 0o640)?;
        if is_new {
            self.dir.sync()?;
        }
        Ok(Guard { dir: &self.dir, file, path, _lock: lock })
    }
}

impl Guard<'_> {
    fn tail(&self) -> Result<Tail, StateError> {
        let (length, window) = self.window().map_err(failed("read", &self.path))?;
        let start = length - window.len() as u64;
        let Some(end) = window.iter().rposition(|b| *b == b'\n') else {
            // Longer than any line: nothing that segd wrote. It is ended and left for `verify` to find.
            let torn = if start == 0 { window } else { Vec::new() };
            return Ok(Tail { whole: start, torn, last: None });
        };
        let begin = window[..end].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let last = chain::unseal(&window[begin..end]).ok();
        Ok(Tail {
            whole: start + end as u64 + 1,
            torn: window[end + 1..].to_vec(),
            last: last.map(|(line, _)| Head { seq: line.seq, hash: line.hash }),
        })
    }

    /// Length of the file, and its last bytes: enough for a whole line and a torn one.
    fn window(&self) -> io::Result<(u64, Vec<u8>)> {
        let length = self.file.metadata()?.len();
        let most = 2 * MAX_LINE as u64;
        let mut window = vec![0; usize::try_from(length.min(most)).unwrap_or(0)];
        let start = length - window.len() as u64;
        self.file.read_exact_at(&mut window, start)?;
        Ok((length, window))
    }

    /// The last whole line, if it can be read.
    pub(super) fn last(&self) -> Result<Option<Head>, StateError> {
        Ok(self.tail()?.last)
    }

    /// What the head file says; a damaged one says nothing.
    pub(super) fn head(&self) -> Option<Head> {
        self.dir.load(HEAD).ok().flatten()
    }

    pub(super) fn set_head(&self, head: &Head) -> Result<(), StateError> {
        self.dir.save(HEAD, head)
    }

    /// Writes a line to the disk, all of it or nothing.
    pub(super) fn append(&self, line: &[u8]) -> Result<(), StateError> {
        let before = self.file.metadata().map_err(failed("read", &self.path))?.len();
        let written = (&self.file).write_all(line).and_then(|()| self.file.sync_all());
        if written.is_err() {
            // If that fails too, the next append puts aside what is there of the line.
            let _ = self.file.set_len(before);
        }
        written.map_err(failed("append to", &self.path))
    }

    /// Moves what is behind the last newline to [`TORN`]. Returns that file's length if it is there, be it from a
    /// former crash in the middle of this.
    pub(super) fn put_torn_aside(&self) -> Result<Option<u64>, StateError> {
        let Tail { whole, torn, .. } = self.tail()?;
        let path = self.dir.path(TORN);
        if torn.is_empty() {
            return match fs::symlink_metadata(&path) {
                Ok(found) => Ok(Some(found.len())),
                Err(_) => self.end_foreign_line().map(|()| None),
            };
        }
        let mut aside = open(&path, 0o640)?;
        aside.write_all(&torn).and_then(|()| aside.sync_all()).map_err(failed("write", &path))?;
        self.dir.sync()?;
        let cut = self.file.set_len(whole).and_then(|()| self.file.sync_all());
        cut.map_err(failed("cut a torn line from", &self.path))?;
        Ok(Some(aside.metadata().map_err(failed("read", &path))?.len()))
    }

    /// A line must begin on a line of its own, whatever somebody else wrote before it.
    fn end_foreign_line(&self) -> Result<(), StateError> {
        let (_, window) = self.window().map_err(failed("read", &self.path))?;
        if window.last().is_some_and(|b| *b != b'\n') {
            self.append(b"\n")?;
        }
        Ok(())
    }

    /// Gives what was put aside the name that the journal tells.
    pub(super) fn name_torn(&self, name: &str) -> Result<(), StateError> {
        let path = self.dir.path(name);
        fs::rename(self.dir.path(TORN), &path).map_err(failed("name", &path))?;
        self.dir.sync()
    }
}
