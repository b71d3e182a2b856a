//! Flow records in log files, one JSON object a line.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{Conversation, Summary};
use crate::telemetry::FlowRecord;

/// A log file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file itself.
    #[error("cannot read {}: {error}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// One of its lines.
    #[error("{}:{line}: not a flow record of segd: {error}", path.display())]
    Line {
        /// In which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        error: serde_json::Error,
    },
}

/// Sums up, hour by hour, the records of log files that `wanted` takes.
///
/// # Errors
/// A file cannot be read, or a line in it is no flow record.
pub fn summarise(files: &[PathBuf], wanted: impl Fn(&FlowRecord) -> bool) -> Result<Vec<Summary>, LogError> {
    let mut sums: HashMap<(Timestamp, Conversation), Summary> = HashMap::new();
    for path in files {
        read(path, |record| {
            if wanted(&record) {
                let one = Summary::of(&record);
                sums.entry((one.hour, one.of.clone())).and_modify(|sum| sum.add(&one)).or_insert(one);
            }
        })?;
    }
    let mut sums: Vec<_> = sums.into_values().collect();
    sums.sort_unstable_by(|a, b| (a.hour, &a.of).cmp(&(b.hour, &b.of)));
    Ok(sums)
}

fn read(path: &Path, mut take: impl FnMut(FlowRecord)) -> Result<(), LogError> {
    let io = |error| LogError::Io { path: path.to_owned(), error };
    for (index, line) in BufReader::new(File::open(path).map_err(io)?).split(b'\n').enumerate() {
        let line = line.map_err(io)?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let record = serde_json::from_slice(&line).map_err(|error| LogError::Line {
            path: path.to_owned(),
            line: index + 1,
            error,
        })?;
        take(record);
    }
    Ok(())
}
