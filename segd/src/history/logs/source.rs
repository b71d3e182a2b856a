//! Log files as blocks of whole lines.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;

use super::problems::{Found, What};

/// Bytes of a block, unless one line is longer.
const BLOCK: usize = 1 << 20;

/// Bytes of a line. Beyond, it is not of a log of segd.
pub(super) const MAX_LINE: usize = 1 << 24;

/// The files to read.
#[derive(Debug)]
pub(super) struct Source {
    paths: Vec<PathBuf>,
    /// Bytes of all of them together, if known.
    size: Option<u64>,
}

/// Whole lines of one file; the last one of the file may lack its end.
#[derive(Debug)]
pub(super) struct Block {
    /// Its number among the source's paths.
    pub(super) file: usize,
    /// Number of the first line in the file, from 1.
    first: usize,
    bytes: Vec<u8>,
}

impl Source {
    /// The files that the inputs stand for.
    pub(super) fn open(inputs: &[PathBuf], found: &mut Found) -> Self {
        let mut source = Self { paths: Vec::new(), size: Some(0) };
        for input in inputs {
            if input.as_os_str() == "-" {
                source.add(input.clone(), None);
                continue;
            }
            match fs::metadata(input) {
                Ok(metadata) if metadata.is_dir() => match logs_in(input) {
                    Ok(logs) if logs.is_empty() => source.fail(input, found, What::Empty),
                    Ok(logs) => logs.into_iter().for_each(|(path, size)| source.add(path, Some(size))),
                    Err(error) => source.fail(input, found, What::Io(error)),
                },
                Ok(metadata) => source.add(input.clone(), metadata.is_file().then_some(metadata.len())),
                Err(error) => source.fail(input, found, What::Io(error)),
            }
        }
        source
    }

    fn add(&mut self, path: PathBuf, size: Option<u64>) {
        self.paths.push(path);
        self.size = self.size.zip(size).map(|(sum, more)| sum + more);
    }

    /// An input without anything to read.
    fn fail(&mut self, path: &Path, found: &mut Found, what: What) {
        found.add(self.paths.len(), 0, what);
        self.paths.push(path.to_owned());
    }

    /// All files with their numbers.
    pub(super) fn files(&self) -> impl Iterator<Item = (usize, &Path)> {
        self.paths.iter().map(PathBuf::as_path).enumerate()
    }

    /// The path of a file by its number.
    pub(super) fn path(&self, file: usize) -> &Path {
        self.paths.get(file).map_or(Path::new("?"), PathBuf::as_path)
    }

    /// Sends all blocks, until the other end is gone.
    pub(super) fn send_to(
        &self,
        to: &SyncSender<Block>,
        mut progress: impl FnMut(u64, Option<u64>),
        found: &mut Found,
    ) {
        let mut done = 0;
        for (file, path) in self.paths.iter().enumerate() {
            if found.has(file) {
                continue;
            }
            let send = |block: Block| {
                done += block.bytes.len() as u64;
                progress(done, self.size);
                to.send(block).is_ok()
            };
            if let Err((line, what)) = read(file, path, send) {
                found.add(file, line, what);
            }
        }
    }
}

/// A file or standard input, to be read.
pub(super) fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    Ok(if path.as_os_str() == "-" { Box::new(io::stdin().lock()) } else { Box::new(File::open(path)?) })
}

/// Reads to the end of the file, or until `send` says that nobody wants more.
fn read(file: usize, path: &Path, mut send: impl FnMut(Block) -> bool) -> Result<(), (usize, What)> {
    let mut input = open(path).map_err(|error| (0, What::Io(error)))?;
    let (mut rest, mut first) = (Vec::new(), 1);
    loop {
        let mut bytes = std::mem::take(&mut rest);
        let more = BLOCK.max(2 * bytes.len()) - bytes.len();
        let taken = input.by_ref().take(more as u64).read_to_end(&mut bytes);
        let at_end = taken.map_err(|error| (first, What::Io(error)))? < more;
        if !at_end {
            match memchr::memrchr(b'\n', &bytes) {
                Some(end) => rest.extend_from_slice(&bytes[end + 1..]),
                None if bytes.len() < MAX_LINE => {
                    rest = bytes;
                    continue;
                }
                None => return Err((first, What::TooLong)),
            }
            bytes.truncate(bytes.len() - rest.len());
        }
        let lines = memchr::memchr_iter(b'\n', &bytes).count();
        if !send(Block { file, first, bytes }) || at_end {
            return Ok(());
        }
        first += lines;
    }
}

impl Block {
    /// Its lines with their numbers, without those that are empty.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let lines = self.bytes.split(|byte| *byte == b'\n').enumerate();
        lines.map(|(n, line)| (self.first + n, line.trim_ascii())).filter(|(_, line)| !line.is_empty())
    }
}

/// The log files in a directory with their sizes, by name; of a rotated one the oldest first.
fn logs_in(directory: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let Some((log, age)) = path.file_name().and_then(rotated) else {
            continue;
        };
        let metadata = fs::metadata(&path)?;
        if metadata.is_file() {
            logs.push(((log, std::cmp::Reverse(age)), (path, metadata.len())));
        }
    }
    logs.sort_unstable();
    Ok(logs.into_iter().map(|(_, log)| log).collect())
}

/// The name of a log without the number that a sink adds when it rotates, and that number; 0: without.
fn rotated(name: &OsStr) -> Option<(String, u32)> {
    let name = name.to_str()?;
    match name.rsplit_once('.')? {
        (_, "jsonl") => Some((name.to_owned(), 0)),
        (log, age) if log.ends_with(".jsonl") => Some((log.to_owned(), age.parse().ok()?)),
        _ => None,
    }
}
