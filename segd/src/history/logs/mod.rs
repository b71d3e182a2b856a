//! Flow records in log files, one JSON object a line: of one host or of many, of gigabytes.
//!
//! One thread reads blocks of whole lines, the others parse them and add them up. Of a line only what a [`Summary`]
//! needs is parsed, without copying, and names are kept once.

mod bounded;
mod line;
mod problems;
mod records;
mod source;
mod sums;

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use jiff::Timestamp;

use super::Summary;
use crate::telemetry::Filter;
use crate::telemetry::filter::Facts;
use line::Line;
use problems::Found;
use source::{Block, Source};
use sums::Sums;

pub use problems::{LogError, LogErrors, What};
pub use records::records;

/// Conversations of an hour that are kept one by one, which needs about a gigabyte. Of groups that are too large the rest
/// is summed up as [`Peer::Others`](super::Peer::Others).
const MOST: usize = 2_000_000;

/// Which records are taken.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Those that happened then or later,
    pub since: Option<Timestamp>,
    /// but before this,
    pub until: Option<Timestamp>,
    /// and match.
    pub filter: Filter,
}

impl Wanted {
    /// Whether a record of this time may be wanted.
    pub(crate) fn is_in_time(&self, time: Timestamp) -> bool {
        self.since.is_none_or(|since| since <= time) && self.until.is_none_or(|until| time < until)
    }

    fn takes(&self, time: Timestamp, facts: &Facts<'_>) -> bool {
        self.is_in_time(time) && self.filter.admits(facts)
    }
}

/// What was read.
#[derive(Debug, Default)]
pub struct Read {
    /// Of the records that were wanted, sorted by hour and conversation.
    pub summaries: Vec<Summary>,
    /// Records that were read, wanted or not.
    pub records: u64,
    /// What a reader should know, in whole sentences; safe to print.
    pub notes: Vec<String>,
}

/// Sums up, hour by hour, the wanted records of log files. An input is a file, a directory (of which all `*.jsonl` are
/// read and what a sink rotated of them: `*.jsonl.1`, …), or `-`, standard input. `progress` is told now and then how
/// many bytes were read, and of how many if that is known.
///
/// # Errors
/// An input cannot be read, or a line in it is no flow record of a version that this one knows. All are read to the end
/// first, so that they can be told together.
pub fn summarise(
    inputs: &[PathBuf],
    wanted: &Wanted,
    progress: impl FnMut(u64, Option<u64>),
) -> Result<Read, LogErrors> {
    let mut found = Found::default();
    let source = Source::open(inputs, &mut found);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let (to, from) = sync_channel(2 * threads);
    let from = Mutex::new(from);
    let (sums, found) = thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| work(&from, wanted, MOST / threads))).collect();
        source.send_to(&to, progress, &mut found);
        drop(to);
        let mut sums = Sums::new(MOST);
        for worker in workers {
            match worker.join() {
                Ok((its_sums, its_found)) => {
                    sums.merge(its_sums);
                    found.merge(its_found);
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        (sums, found)
    });
    let (records, notes) = found.into_result(&source)?;
    Ok(Read { summaries: sums.into_summaries(), records, notes })
}

fn work(blocks: &Mutex<Receiver<Block>>, wanted: &Wanted, most: usize) -> (Sums, Found) {
    let (mut sums, mut found) = (Sums::new(most), Found::default());
    loop {
        let block = blocks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(block) = block else {
            return (sums, found);
        };
        for (line, bytes) in block.lines() {
            match Line::parse(bytes) {
                Ok(line) => {
                    found.records += 1;
                    if wanted.takes(line.time, &line.facts()) {
                        sums.add(&line);
                    }
                }
                Err(what) => found.add(block.file, line, what),
            }
        }
    }
}

#[cfg(test)]
mod tests;
