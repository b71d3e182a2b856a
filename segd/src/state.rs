//! The state directory: what the agent must know again after a restart. Each file is replaced as a whole.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The agent's directory for what outlives it.
#[derive(Clone, Debug)]
pub(crate) struct StateDir(PathBuf);

/// Why something is not kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory or a file in it cannot be used.
    #[error("cannot {action} {}: {source}; segd keeps its state there: make it writable, or give another --state-dir", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A file is damaged.
    #[error("{} is damaged: {source}; move it away to start without it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

impl StateError {
    /// Whether more privilege would help.
    pub(crate) fn is_permission(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    move |source| StateError::Io { action, path: path.to_owned(), source }
}

impl StateDir {
    /// Opens the directory, makes it if it is missing, and makes sure that files can be written there.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(path)
            .map_err(failed("make the state directory", path))?;
        let dir = Self(path.to_owned());
        let probe = dir.0.join(".probe");
        write(&probe, b"").map_err(failed("write to the state directory", path))?;
        match fs::remove_file(&probe) {
            // By another who opens it at the same time.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(dir),
            other => other.map(|()| dir).map_err(failed("remove", &probe)),
        }
    }

    /// What was saved under a name; `None` if nothing was.
    pub(crate) fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let path = self.0.join(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed("read", &path)(e)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|source| StateError::Damaged { path, source })
    }

    /// Saves under a name. After a crash at any moment the file holds the old value or the new one.
    pub(crate) fn save<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let path = self.0.join(name);
        let hidden = self.0.join(format!(".{name}.new"));
        let text = serde_json::to_vec_pretty(value)
            .map_err(|source| StateError::Damaged { path: path.clone(), source })?;
        write(&hidden, &text).map_err(failed("write", &hidden))?;
        fs::rename(&hidden, &path).map_err(failed("replace", &path))?;
        self.sync()
    }

    /// Names of the files.
    pub(crate) fn names(&self) -> Result<Vec<String>, StateError> {
        let list = || -> io::Result<Vec<String>> {
            let entries = fs::read_dir(&self.0)?.collect::<io::Result<Vec<_>>>()?;
            Ok(entries.iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
        };
        list().map_err(failed("list", &self.0))
    }

    /// Removes a file.
    pub(crate) fn remove(&self, name: &str) -> Result<(), StateError> {
        let path = self.0.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Makes lasting which files there are.
    pub(crate) fn sync(&self) -> Result<(), StateError> {
        File::open(&self.0).and_then(|dir| dir.sync_all()).map_err(failed("sync", &self.0))
    }

    /// Where a file of that name is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// Replaces what a file holds; a link is not followed.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o640).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("a/b")).unwrap();
        assert_eq!(state.load::<Vec<u32>>("x.json").unwrap(), None);
        state.save("x.json", &[1, 2]).unwrap();
        state.save("x.json", &[3]).unwrap();
        assert_eq!(state.load::<Vec<u32>>("x.json").unwrap(), Some(vec![3]));
        fs::write(dir.path().join("a/b/x.json"), "[3").unwrap();
        let error = state.load::<Vec<u32>>("x.json").unwrap_err().to_string();
        assert!(error.contains("is damaged") && error.contains("move it away"), "{error}");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_told_before_anything_else() {
        let error = StateDir::open(Path::new("/proc/segd")).unwrap_err().to_string();
        assert!(error.contains("--state-dir"), "{error}");
    }
}
