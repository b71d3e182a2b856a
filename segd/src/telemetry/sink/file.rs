//! Flow records in a file that is rotated by size and age.
//!
//! Own code because the crates for it do not tell of failures, which is what matters here: `file-rotate` 0.8
//! drops what it writes to a file that it could not open and panics if a directory is missing, `rolling-file`
//! 0.2 cannot set the file's mode and knows no age across restarts, `logroller` 0.1 rotates by size or age
//! but not both.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::pending::Pending;
use super::writer::{whole_lines, write_some};
use super::{Options, Output, Sink, Written};

/// Mode of a new log file: the owner writes, the group reads.
const FILE_MODE: u32 = 0o640;
/// Mode of a new parent directory.
const DIRECTORY_MODE: u32 = 0o750;

/// Where to write and when to begin a new file.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// Absolute. Missing parent directories are created. Old files are this name with `.1` (the youngest) to
    /// `.KEEP`.
    pub path: PathBuf,
    /// A file that would grow beyond this many bytes is put aside.
    pub size: u64,
    /// A file older than this is put aside.
    pub age: Option<Duration>,
    /// Number of old files to keep.
    pub keep: u32,
}

/// Why a file sink cannot start.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A relative path, or one that leads through `..`.
    #[error("`{}` is no path for a log file: give an absolute path to a file, without `..`", .0.display())]
    Path(PathBuf),
    /// The file cannot be written for a reason that does not go away by itself.
    #[error("cannot write flow records to {}: {source}; give the sink another `path` or make this one writable", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No thread could be started.
    #[error("cannot start a thread for a sink: {0}")]
    Thread(io::Error),
}

/// Starts a sink that writes to a file. A full disk is no error: the sink starts down and tries again.
///
/// # Errors
/// See [`FileError`].
pub fn start(options: Options, file: FileOptions) -> Result<Sink, FileError> {
    let path = file.path.clone();
    let named = path.file_name().is_some() && !path.as_os_str().as_encoded_bytes().ends_with(b"/");
    if !path.is_absolute() || !named || path.components().any(|c| c == Component::ParentDir) {
        return Err(FileError::Path(path));
    }
    let mut file = RotatedFile { options: file, open: None, rotation_failed: false };
    match file.current() {
        Ok(_) => {}
        Err(error) if passes_by_itself(&error) => {}
        Err(source) => return Err(FileError::Open { path, source }),
    }
    Sink::start(options, file).map_err(FileError::Thread)
}

fn passes_by_itself(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ResourceBusy, StaleNetworkFileHandle, StorageFull, TimedOut};
    matches!(error.kind(), StorageFull | QuotaExceeded | ResourceBusy | StaleNetworkFileHandle | TimedOut)
}

struct RotatedFile {
    options: FileOptions,
    open: Option<Open>,
    rotation_failed: bool,
}

struct Open {
    file: File,
    identity: (u64, u64),
    length: u64,
    born: SystemTime,
}

impl RotatedFile {
    /// The open file; opened anew if it is not the one that has the name now.
    fn current(&mut self) -> io::Result<&mut Open> {
        let path = &self.options.path;
        let open = match self.open.take() {
            Some(open) if fs::symlink_metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == open.identity) => {
                open
            }
            _ => Open::at(path)?,
        };
        Ok(self.open.insert(open))
    }

    fn is_due(&self, open: &Open, more: usize) -> bool {
        let too_long = open.length.saturating_add(more as u64) > self.options.size;
        let too_old =
            self.options.age.is_some_and(|age| open.born.elapsed().is_ok_and(|elapsed| elapsed >= age));
        open.length > 0 && (too_long || too_old)
    }

    fn rotate_if_due(&mut self, more: usize) {
        if !self.open.as_ref().is_some_and(|open| self.is_due(open, more)) {
            return;
        }
        match self.rotate() {
            Ok(()) => {
                self.open = None;
                self.rotation_failed = false;
            }
            // Rather a long file than a lost record.
            Err(error) if !self.rotation_failed => {
                self.rotation_failed = true;
                let path = self.options.path.display();
                tracing::warn!(%error, "cannot rotate {path}; it grows until that works");
            }
            Err(_) => {}
        }
    }

    fn rotate(&self) -> io::Result<()> {
        let keep = self.options.keep;
        for n in (keep + 1..).take_while(|n| self.old(*n).exists()) {
            fs::remove_file(self.old(n))?;
        }
        if keep == 0 {
            return fs::remove_file(&self.options.path);
        }
        for n in (0..keep).rev() {
            match fs::rename(self.old(n), self.old(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn old(&self, n: u32) -> PathBuf {
        if n == 0 {
            return self.options.path.clone();
        }
        let mut name = self.options.path.clone().into_os_string();
        name.push(format!(".{n}"));
        name.into()
    }
}

impl RotatedFile {
    /// Returns how many bytes of whole lines were written, and what stopped it.
    fn write_lines(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        if let Err(error) = self.current() {
            return (0, Err(error));
        }
        self.rotate_if_due(lines.len());
        let open = match &mut self.open {
            Some(open) => Ok(open),
            None => self.current(),
        };
        let (whole, result) = match open {
            Ok(open) => open.write_lines(lines),
            Err(error) => (0, Err(error)),
        };
        if result.is_err() {
            self.open = None;
        }
        (whole, result)
    }
}

impl Output for RotatedFile {
    fn write(&mut self, pending: &Pending) -> Written {
        let (bytes, result) = self.write_lines(pending.bytes());
        Written { done: pending.whole(bytes).0, lost: 0, result }
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(parent)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(FILE_MODE)
            // Not through a symbolic link, and without waiting if it is a pipe.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let born = metadata.created().or_else(|_| metadata.modified())?;
        let length = metadata.len() + end_last_line(&mut file, metadata.len())?;
        Ok(Self { file, identity: (metadata.dev(), metadata.ino()), length, born })
    }

    fn write_lines(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        let (done, result) = write_some(&mut self.file, lines);
        let whole = whole_lines(&lines[..done]);
        self.length += whole as u64;
        if done > whole {
            // Nothing else to do if it fails: the next opening ends the torn line.
            let _ = self.file.set_len(self.length);
        }
        (whole, result)
    }
}

/// Ends a line that a crash left torn. Returns the number of bytes added.
fn end_last_line(file: &mut File, length: u64) -> io::Result<u64> {
    if length == 0 {
        return Ok(0);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    if last == *b"\n" {
        return Ok(0);
    }
    file.write_all(b"\n")?;
    Ok(1)
}

#[cfg(test)]
mod tests;
