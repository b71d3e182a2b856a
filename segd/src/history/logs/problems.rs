//! What is wrong with log files: all of it is looked for, some of it is told.

use std::io;
use std::path::PathBuf;

use super::source::Source;
use crate::telemetry::record::SCHEMA;
use crate::telemetry::text::printable;

/// Problems that are told one by one.
const TOLD: usize = 10;

/// What is wrong with a line, or with a file.
#[derive(Debug, thiserror::Error)]
pub enum What {
    /// The file itself.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A directory without logs.
    #[error("there is no log file (*.jsonl) in this directory")]
    Empty,
    /// A line that is no record.
    #[error("not a flow record of segd: {}", printable(.0))]
    NoRecord(String),
    /// A record of a later segd.
    #[error(
        "a record of schema {0}, which this segd does not know (it knows {SCHEMA}): read it with the segd that wrote it"
    )]
    Schema(u64),
    /// A line that is longer than any record.
    #[error("not a flow record of segd: the line is longer than 16 MiB")]
    TooLong,
    /// A line that ends before its record does. No error: so they look while they are written, and after a crash.
    #[error("cut short: being written, or by a crash; left out")]
    Torn,
}

/// What is wrong, and where.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {what}", printable(&path.display().to_string()), if *line == 0 { String::new() } else { format!(":{line}") })]
pub struct LogError {
    /// In which file.
    pub path: PathBuf,
    /// In which line, from 1; 0: the file as a whole.
    pub line: usize,
    /// What.
    pub what: What,
}

/// Log files could not be read as a whole.
#[derive(Debug, thiserror::Error)]
#[error("{}{}", lines(.first), more(*.further))]
pub struct LogErrors {
    /// The first ones.
    pub first: Vec<LogError>,
    /// How many there are beyond.
    pub further: u64,
}

fn lines(errors: &[LogError]) -> String {
    errors.iter().map(LogError::to_string).collect::<Vec<_>>().join("\n")
}

fn more(further: u64) -> String {
    if further == 0 { String::new() } else { format!("\nand {further} more") }
}

/// What was come upon in reading.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Lines that are records.
    pub(super) records: u64,
    errors: Places,
    torn: Places,
}

/// In the order of files and lines, as each thread comes upon them.
#[derive(Debug, Default)]
struct Places {
    first: Vec<(usize, usize, What)>,
    number: u64,
}

impl Places {
    fn add(&mut self, file: usize, line: usize, what: What) {
        self.number += 1;
        if self.first.len() < TOLD {
            self.first.push((file, line, what));
        }
    }

    fn merge(&mut self, other: Self) {
        self.number += other.number;
        self.first.extend(other.first);
        self.first.sort_by_key(|(file, line, _)| (*file, *line));
        self.first.truncate(TOLD);
    }

    fn told(self, source: &Source) -> (Vec<LogError>, u64) {
        let further = self.number - self.first.len() as u64;
        let told = |(file, line, what)| LogError { path: source.path(file).to_owned(), line, what };
        (self.first.into_iter().map(told).collect(), further)
    }
}

impl Found {
    pub(super) fn add(&mut self, file: usize, line: usize, what: What) {
        match what {
            What::Torn => self.torn.add(file, line, what),
            _ => self.errors.add(file, line, what),
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.records += other.records;
        self.errors.merge(other.errors);
        self.torn.merge(other.torn);
    }

    /// Whether something is wrong with a file as a whole.
    pub(super) fn has(&self, file: usize) -> bool {
        self.errors.first.iter().any(|(f, line, _)| (*f, *line) == (file, 0))
    }

    /// The number of records and what to note.
    pub(super) fn into_result(self, source: &Source) -> Result<(u64, Vec<String>), LogErrors> {
        if self.errors.number > 0 {
            let (first, further) = self.errors.told(source);
            return Err(LogErrors { first, further });
        }
        let (torn, further) = self.torn.told(source);
        let mut notes: Vec<_> = torn.iter().map(LogError::to_string).collect();
        if further > 0 {
            notes.push(format!("and {further} more lines cut short"));
        }
        Ok((self.records, notes))
    }
}
