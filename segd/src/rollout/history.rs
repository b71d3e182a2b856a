//! The policies that were in force, for `segd rollback`: one file each, `generations/N.json` in the state directory.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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
    /// The zone files as (name, text), in the order in which they are merged.
    pub files: Vec<(String, String)>,
    /// [`Sources::hash`] of the files.
    pub hash: String,
    /// What `segd mode` had set, in the order in which it counts.
    pub overrides: Vec<ModeOverride>,
}

impl Record {
    /// Of zone files.
    #[must_use]
    pub fn new(
        generation: u32,
        made_at: Timestamp,
        by: Option<u32>,
        why: impl Into<String>,
        sources: &Sources,
        overrides: Vec<ModeOverride>,
    ) -> Self {
        let files = sources.files().iter().map(|file| (file.name.clone(), file.text.clone())).collect();
        Self {
            generation,
            previous: None,
            made_at,
            by,
            why: why.into(),
            files,
            hash: sources.hash(),
            overrides,
        }
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
#[derive(Clone, Debug)]
pub struct History {
    dir: StateDir,
}

impl History {
    /// Makes the directory if there is none.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open(state_dir: &Path) -> Result<Self, HistoryError> {
        Ok(Self { dir: StateDir::open(&state_dir.join(DIR))? })
    }

    /// Keeps a record; one of the same generation is replaced. After a crash it is there as a whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, record: &Record) -> Result<(), HistoryError> {
        Ok(self.dir.save(&name(record.generation), record)?)
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

    /// Everything that is kept.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> Result<Listing, HistoryError> {
        let mut listing = Listing::default();
        for generation in self.generations()? {
            match self.read(generation) {
                Ok(Some(record)) => listing.records.push(record),
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
        match self.read(generation)? {
            Some(record) => Ok(record),
            None => Err(HistoryError::Missing { generation, available: self.generations()? }),
        }
    }

    fn read(&self, generation: u32) -> Result<Option<Record>, HistoryError> {
        let name = name(generation);
        let Some(record) = self.dir.load::<Record>(&name)? else { return Ok(None) };
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
mod tests {
    use std::fs;

    use segd_common::traffic::Mode;

    use super::*;

    fn record(generation: u32) -> Record {
        let text = format!("# {generation} ü\n");
        let sources = Sources::from_texts([("/etc/segd/zones/a.toml", text.as_str()), ("b.toml", "")]);
        let overrides = vec![ModeOverride {
            mode: Mode::Enforce,
            subject: Some("orders".into()),
            service: None,
            direction: None,
            set_by: 0,
            set_at: Timestamp::UNIX_EPOCH,
        }];
        Record::new(generation, Timestamp::UNIX_EPOCH, Some(1000), "apply", &sources, overrides)
    }

    #[test]
    fn what_was_saved_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path()).unwrap();
        for generation in [9, 10, 7] {
            history.save(&record(generation)).unwrap();
        }
        assert_eq!(history.load(10).unwrap(), record(10));
        assert_eq!(history.load(10).unwrap().sources().files()[0].text, "# 10 ü\n");
        let listing = history.list().unwrap();
        assert_eq!(listing.records, [record(10), record(9), record(7)]);
        assert!(listing.damaged.is_empty());
        assert_eq!(history.load(8).unwrap_err().to_string(), "generation 8 is not kept; there are 10, 9, 7");
    }

    #[test]
    fn damage_is_told_and_costs_only_what_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path()).unwrap();
        for generation in 1..=4 {
            history.save(&record(generation)).unwrap();
        }
        let at = |name: &str| dir.path().join("generations").join(name);
        fs::write(at("1.json"), "{").unwrap();
        let changed = fs::read_to_string(at("2.json")).unwrap().replace("# 2", "# 3");
        fs::write(at("2.json"), changed).unwrap();
        fs::copy(at("3.json"), at("5.json")).unwrap();
        for stranger in [".6.json.new", "06.json", "x.json", "7.txt"] {
            fs::write(at(stranger), "").unwrap();
        }
        let listing = history.list().unwrap();
        assert_eq!(listing.records, [record(4), record(3)]);
        let damaged: Vec<_> = listing.damaged.iter().map(|(n, error)| format!("{n} {error}")).collect();
        assert!(damaged[0].starts_with("5 ") && damaged[0].contains("5.json was changed"), "{damaged:?}");
        assert!(damaged[1].starts_with("2 ") && damaged[1].contains("2.json was changed"), "{damaged:?}");
        assert!(damaged[2].starts_with("1 ") && damaged[2].contains("is damaged"), "{damaged:?}");
        assert_eq!(damaged.len(), 3);
        assert!(history.load(1).is_err() && history.load(2).is_err());
    }

    #[test]
    fn the_newest_and_the_protected_stay() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path()).unwrap();
        assert_eq!(history.prune(KEEP, &[]).unwrap(), [0; 0]);
        for generation in 1..=14 {
            history.save(&record(generation)).unwrap();
        }
        assert_eq!(history.prune(KEEP, &[2, 14, 99]).unwrap(), [1, 3, 4]);
        assert_eq!(history.generations().unwrap(), [14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 2]);
        assert_eq!(history.prune(KEEP, &[]).unwrap(), [2]);
    }
}
