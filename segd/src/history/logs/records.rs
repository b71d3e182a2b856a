//! The records of log files themselves, in the order of their time.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use super::Wanted;
use super::line::Line;
use super::problems::{Found, LogErrors, What};
use super::source::{self, MAX_LINE, Source};
use crate::telemetry::FlowRecord;

/// Hands out the wanted records of log files, those of several files by their time. Inputs, errors and the notes that it
/// returns are as those of [`summarise`](super::summarise).
///
/// # Errors
/// See [`LogErrors`]; what could be read was handed out then.
pub fn records(
    inputs: &[PathBuf],
    wanted: &Wanted,
    mut take: impl FnMut(FlowRecord),
) -> Result<Vec<String>, LogErrors> {
    let mut found = Found::default();
    let source = Source::open(inputs, &mut found);
    let mut files: Vec<_> =
        source.files().filter_map(|(n, path)| Reader::open(n, path, &mut found)).collect();
    let mut heads: Vec<_> = files.iter_mut().map(|file| file.next(wanted, &mut found)).collect();
    loop {
        let times = heads.iter().enumerate().filter_map(|(n, head)| Some((head.as_ref()?.time, n)));
        let Some((_, next)) = times.min() else { break };
        let (Some(file), Some(head)) = (files.get_mut(next), heads.get_mut(next)) else { break };
        if let Some(record) = std::mem::replace(head, file.next(wanted, &mut found)) {
            take(record);
        }
    }
    found.into_result(&source).map(|(_, notes)| notes)
}

struct Reader {
    /// Its number.
    file: usize,
    input: BufReader<Box<dyn std::io::Read>>,
    /// The number of the line that was read last.
    line: usize,
    bytes: Vec<u8>,
}

impl Reader {
    fn open(file: usize, path: &Path, found: &mut Found) -> Option<Self> {
        if found.has(file) {
            return None;
        }
        match source::open(path) {
            Ok(input) => Some(Self {
                file,
                input: BufReader::with_capacity(1 << 16, input),
                line: 0,
                bytes: Vec::new(),
            }),
            Err(error) => {
                found.add(file, 0, What::Io(error));
                None
            }
        }
    }

    fn next(&mut self, wanted: &Wanted, found: &mut Found) -> Option<FlowRecord> {
        loop {
            self.bytes.clear();
            self.line += 1;
            let what = match self.input.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut self.bytes) {
                Ok(0) => return None,
                Ok(MAX_LINE) => What::TooLong,
                Err(error) => What::Io(error),
                Ok(_) => match take(self.bytes.trim_ascii(), wanted) {
                    Ok(None) => continue,
                    Ok(Some(record)) => return Some(record),
                    Err(what) => what,
                },
            };
            let ends = matches!(what, What::TooLong | What::Io(_));
            found.add(self.file, self.line, what);
            if ends {
                return None;
            }
        }
    }
}

/// The record that a line holds, if there is one and it is wanted.
fn take(line: &[u8], wanted: &Wanted) -> Result<Option<FlowRecord>, What> {
    if line.is_empty() {
        return Ok(None);
    }
    let glance = Line::parse(line)?;
    if !wanted.takes(glance.time, &glance.facts()) {
        return Ok(None);
    }
    serde_json::from_slice(line).map(Some).map_err(|error| What::NoRecord(super::line::in_its_line(&error)))
}
