//! The policies that were in force, for `segd rollback`: one file each, `generations/N.json` in the state directory.
//! Long lists of prefixes in their zone files are kept apart and once, see [`texts`].

mod texts;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use texts::{KeptList, Texts};

use crate::control::api::ModeOverride;
use crate::policy::Sources;
use crate::state::{StateDir, StateError};

/// Policies that are kept.
pub const KEEP: usize = 10;

/// The directory in the state directory.
const DIR: &str = "generations";

/// A policy that came into force, with all that it takes to bring it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The generation that it first was.
    pub generation: u32,
    /// The record that it took the place of.
    #[serde(default)]
    pub previous: Option<u32>,
    /// When it came into force.
    pub made_at: Timestamp,
    /// User id of who asked for it; `None`: nobody, the agent did it by itself.
    pub by: Option<u32>,
    /// What it was made for, in words.
    pub why: String,
    /// The zone files as (name, text), in the order in which they are merged; in the file without `lists`.
    pub files: Vec<(String, String)>,
    /// What is kept apart; none in a record that was loaded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lists: Vec<KeptList>,
    /// [`Sources::hash`] of the files.
    pub hash: String,
    /// What `segd mode` had set, in the order in which it counts.
    pub overrides: Vec<ModeOverride>,
}

impl Record {
    /// Of zone files with this [`Sources::hash`], which [`History::save`] adds.
    #[must_use]
    pub fn new(
        generation: u32,
        made_at: Timestamp,
        by: Option<u32>,
        why: impl Into<String>,
        hash: String,
        overrides: Vec<ModeOverride>,
    ) -> Self {
        let why = why.into();
        let (files, lists) = (Vec::new(), Vec::new());
        Self { generation, previous: None, made_at, by, why, files, lists, hash, overrides }
    }

    /// The zone files.
    #[must_use]
    pub fn sources(&self) -> Sources {
        Sources::from_texts(self.files.iter().map(|(name, text)| (name.as_str(), text.as_str())))
    }
}

/// Why a former policy cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// A file cannot be used, or is no record.
    #[error(transparent)]
    State(#[from] StateError),
    /// It is not kept, or never was.
    #[error("generation {generation} is not kept; {}", kept(available))]
    Missing {
        /// What was asked for.
        generation: u32,
        /// What is kept, the newest first.
        available: Vec<u32>,
    },
    /// Its file is not what segd wrote.
    #[error("{} was changed since segd wrote it; it cannot be brought back", .0.display())]
    Altered(PathBuf),
}

fn kept(available: &[u32]) -> String {
    let list: Vec<String> = available.iter().map(ToString::to_string).collect();
    if list.is_empty() { "none is".to_owned() } else { format!("there are {}", list.join(", ")) }
}

/// What [`History::list`] finds.
#[derive(Debug, Default)]
pub struct Listing {
    /// The newest first.
    pub records: Vec<Record>,
    /// Files that cannot be used, each with its generation.
    pub damaged: Vec<(u32, HistoryError)>,
}

/// The former policies of a state directory.
#[derive(Debug)]
pub struct History {
    dir: StateDir,
    texts: Mutex<Texts>,
}

impl History {
    /// Makes the directory if there is none.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open(state_dir: &Path) -> Result<Self, HistoryError> {
        Ok(Self { dir: StateDir::open(&state_dir.join(DIR))?, texts: Mutex::default() })
    }

    /// Keeps a record with its zone files; one of the same generation is replaced. After a crash it is there as a whole
    /// or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, mut record: Record, sources: &Sources) -> Result<(), HistoryError> {
        let (files, lists) = self.texts().keep(&self.dir, record.generation, sources)?;
        (record.files, record.lists) = (files, lists);
        Ok(self.dir.save(&name(record.generation), &record)?)
    }

    /// Keeps a record with the zone files of another one, without reading them.
    ///
    /// # Errors
    /// It cannot be written, or the other one is not there.
    pub fn save_like(&self, mut record: Record, other: u32) -> Result<(), HistoryError> {
        let stored: Option<Record> = self.dir.load(&name(other))?;
        let Record { files, lists, hash, .. } = stored.ok_or_else(|| self.missing(other))?;
        if hash != record.hash {
            return Err(HistoryError::Altered(self.dir.path(&name(other))));
        }
        self.texts().used(record.generation, &lists);
        (record.files, record.lists) = (files, lists);
        Ok(self.dir.save(&name(record.generation), &record)?)
    }

    fn texts(&self) -> MutexGuard<'_, Texts> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missing(&self, generation: u32) -> HistoryError {
        match self.generations() {
            Ok(available) => HistoryError::Missing { generation, available },
            Err(error) => error,
        }
    }

    /// Generations that are kept, the newest first; whether their files are sound is not looked at.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn generations(&self) -> Result<Vec<u32>, HistoryError> {
        let mut all: Vec<u32> = self.dir.names()?.iter().filter_map(|name| generation(name)).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        Ok(all)
    }

    /// Everything that is kept, without the zone files.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> Result<Listing, HistoryError> {
        let mut listing = Listing::default();
        for generation in self.generations()? {
            match self.read(generation) {
                // There may be many.
                Ok(Some(record)) => listing.records.push(Record { files: Vec::new(), ..record }),
                Ok(None) => {}
                Err(error) => listing.damaged.push((generation, error)),
            }
        }
        Ok(listing)
    }

    /// One record.
    ///
    /// # Errors
    /// It is not there, or not as it was written.
    pub fn load(&self, generation: u32) -> Result<Record, HistoryError> {
        self.read(generation)?.ok_or_else(|| self.missing(generation))
    }

    fn read(&self, generation: u32) -> Result<Option<Record>, HistoryError> {
        let name = name(generation);
        let Some(mut record) = self.dir.load::<Record>(&name)? else { return Ok(None) };
        texts::put_back(&self.dir, &mut record)?;
        if record.generation != generation || record.sources().hash() != record.hash {
            return Err(HistoryError::Altered(self.dir.path(&name)));
        }
        Ok(Some(record))
    }

    /// Forgets one record, if it is there.
    ///
    /// # Errors
    /// Its file cannot be removed.
    pub fn remove(&self, generation: u32) -> Result<(), HistoryError> {
        Ok(self.dir.remove(&name(generation))?)
    }

    /// Forgets all but the newest `keep` and those in `protected`. Returns what it forgot.
    ///
    /// # Errors
    /// A file cannot be removed; the older ones are tried first.
    pub fn prune(&self, keep: usize, protected: &[u32]) -> Result<Vec<u32>, HistoryError> {
        let all = self.generations()?;
        let old = all.into_iter().skip(keep).filter(|generation| !protected.contains(generation));
        let old: Vec<u32> = old.collect::<Vec<_>>().into_iter().rev().collect();
        for generation in &old {
            self.dir.remove(&name(*generation))?;
        }
        let kept = self.generations()?;
        self.texts().prune(&self.dir, &kept)?;
        Ok(old)
    }
}

fn name(generation: u32) -> String {
    format!("{generation}.json")
}

fn generation(file: &str) -> Option<u32> {
    let number = file.strip_suffix(".json")?.parse().ok()?;
    // Not `+1.json` or `01.json`.
    (name(number) == file).then_some(number)
}

#[cfg(test)]
mod tests;
