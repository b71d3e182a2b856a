//! The text of the files that a policy or a configuration came from, and places in it.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;

use sha2::{Digest, Sha256};

use crate::pages;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// As messages name it.
    pub name: String,
    /// Its contents.
    pub text: String,
}

/// Files in the order in which they are merged.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    files: Vec<SourceFile>,
    /// Of each file, the first byte of each line but the first.
    lines: OnceLock<Vec<Box<[u32]>>>,
    hash: OnceLock<String>,
    /// The texts were forgotten; under this number they are kept.
    kept_as: Option<u32>,
}

impl PartialEq for Sources {
    fn eq(&self, other: &Self) -> bool {
        self.files == other.files && self.hash() == other.hash()
    }
}

impl Eq for Sources {}

/// A range of bytes in one file of a [`Sources`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Index of the file.
    pub file: usize,
    /// First byte.
    pub start: usize,
    /// The byte after the last one.
    pub end: usize,
}

/// A value and where it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Where it is written.
    pub place: Place,
}

/// Bytes that take a millisecond to hash.
const LONG: usize = 1 << 20;

/// Files that cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system said no.
    #[error("cannot read {}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        error: io::Error,
    },
    /// No file whose name ends in `.toml`.
    #[error("{} holds no *.toml file; put the zone files there or name another directory", .0.display())]
    NoFiles(PathBuf),
    /// TOML is UTF-8.
    #[error("{} is not UTF-8 (byte {offset}); save it as UTF-8", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first byte that is not valid.
        offset: usize,
    },
}

impl Sources {
    /// Every `*.toml` directly in `dir`, sorted by name; hidden files are left out.
    pub fn read_dir(dir: &Path) -> Result<Self, ReadError> {
        let io = |error| ReadError::Io { path: dir.to_owned(), error };
        let mut paths = Vec::new();
        for entry in fs::read_dir(dir).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
            if !hidden && path.extension().is_some_and(|e| e == "toml") {
                paths.push(path);
            }
        }
        if paths.is_empty() {
            return Err(ReadError::NoFiles(dir.to_owned()));
        }
        paths.sort();
        let files = paths.iter().map(|p| read(p)).collect::<Result<_, _>>()?;
        Ok(Self::of(files))
    }

    fn of(files: Vec<SourceFile>) -> Self {
        Self { files, ..Self::default() }
    }

    /// One file.
    pub fn read_file(path: &Path) -> Result<Self, ReadError> {
        Ok(Self::of(vec![read(path)?]))
    }

    /// Texts that are already in memory, as (name, text), in the order in which they are merged.
    pub fn from_texts<N: Into<String>, T: Into<String>>(texts: impl IntoIterator<Item = (N, T)>) -> Self {
        let file = |(name, text): (N, T)| SourceFile { name: name.into(), text: text.into() };
        Self::of(texts.into_iter().map(file).collect())
    }

    /// Bytes of all texts.
    #[must_use]
    pub fn size(&self) -> usize {
        self.files.iter().map(|file| file.text.len()).sum()
    }

    /// The same without the texts, which may be large: lines and the hash are still known, columns are not. `kept_as`:
    /// a number by which the caller finds the texts again.
    #[must_use]
    pub fn without_texts(&self, kept_as: u32) -> Self {
        let name = |f: &SourceFile| SourceFile { name: f.name.clone(), text: String::new() };
        let (lines, hash) = (self.lines().to_vec().into(), self.hash().into());
        Self { files: self.files.iter().map(name).collect(), lines, hash, kept_as: Some(kept_as) }
    }

    /// The number of [`Self::without_texts`]; `None`: the texts are here.
    #[must_use]
    pub fn kept_as(&self) -> Option<u32> {
        self.kept_as
    }

    /// The files.
    #[must_use]
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// Name of the file that a place is in.
    #[must_use]
    pub fn name(&self, place: Place) -> &str {
        self.files.get(place.file).map_or("", |f| &f.name)
    }

    /// Line and column (in characters) of a place's first byte, both counted from 1.
    #[must_use]
    pub fn line_column(&self, place: Place) -> (usize, usize) {
        let text = self.files.get(place.file).map_or("", |f| &f.text);
        let lines = self.lines().get(place.file).map_or(&[][..], |lines| lines);
        let line = lines.partition_point(|start| *start as usize <= place.start);
        let start = line.checked_sub(1).and_then(|n| lines.get(n)).map_or(0, |start| *start as usize);
        let before = text.get(start..text.floor_char_boundary(place.start)).unwrap_or("");
        (line + 1, before.chars().count() + 1)
    }

    fn lines(&self) -> &[Box<[u32]>] {
        let of = |file: &SourceFile| {
            let ends = memchr::memchr_iter(b'\n', file.text.as_bytes());
            ends.map(|n| u32::try_from(n + 1).unwrap_or(u32::MAX)).collect()
        };
        self.lines.get_or_init(|| self.files.iter().map(of).collect())
    }

    /// A place as `file:line`.
    #[must_use]
    pub fn file_line(&self, place: Place) -> String {
        format!("{}:{}", self.name(place), self.line_column(place).0)
    }

    /// Has a thread work out the hash of long texts; [`Self::hash`] waits for it.
    pub(crate) fn hash_meanwhile(self: &Arc<Self>) {
        let sources = Arc::clone(self);
        if self.size() >= LONG {
            // Without a thread whoever needs it does it.
            let _ = thread::Builder::new().name("hash".to_owned()).spawn(move || sources.hash());
        }
    }

    /// SHA-256, in hex, of what the files hold. Their order counts, their names do not.
    #[must_use]
    pub fn hash(&self) -> String {
        let hash = || {
            let mut hash = Sha256::new();
            for file in &self.files {
                hash.update(u64::try_from(file.text.len()).unwrap_or(u64::MAX).to_be_bytes());
                hash.update(&file.text);
            }
            hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
        };
        self.hash.get_or_init(hash).clone()
    }
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    // With room to find that it ends there.
    let mut bytes = pages::vec_with_capacity(length.saturating_add(64));
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read(path: &Path) -> Result<SourceFile, ReadError> {
    let bytes = contents(path).map_err(|error| ReadError::Io { path: path.to_owned(), error })?;
    let text = String::from_utf8(bytes)
        .map_err(|e| ReadError::NotUtf8 { path: path.to_owned(), offset: e.utf8_error().valid_up_to() })?;
    Ok(SourceFile { name: path.display().to_string(), text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one_and_in_characters() {
        let sources = Sources::from_texts([("a.toml", "x = 1\ny = \"ü\" z\n")]);
        let at = |start| sources.line_column(Place { file: 0, start, end: start });
        assert_eq!(at(0), (1, 1));
        assert_eq!(at(6), (2, 1));
        assert_eq!(at(14), (2, 8));
        assert_eq!(at(999), (3, 1));
        let bare = sources.without_texts(7);
        assert_eq!(bare.line_column(Place { file: 0, start: 14, end: 14 }), (2, 1));
        assert_eq!((bare.hash(), bare.kept_as(), bare.size()), (sources.hash(), Some(7), 0));
        assert_eq!(sources.file_line(Place { file: 0, start: 7, end: 8 }), "a.toml:2");
    }

    #[test]
    fn the_hash_depends_on_what_the_files_hold_and_nothing_else() {
        let hash = |texts: &[(&str, &str)]| Sources::from_texts(texts.iter().copied()).hash();
        assert_eq!(hash(&[("a", "x"), ("b", "y")]), hash(&[("c", "x"), ("d", "y")]));
        assert_ne!(hash(&[("a", "x"), ("b", "y")]), hash(&[("a", "xy"), ("b", "")]));
        assert_eq!(hash(&[]), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn reads_the_toml_files_of_a_directory_by_name() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Sources::read_dir(dir.path()), Err(ReadError::NoFiles(_))));
        for (name, text) in [("b.toml", "b = 1"), ("a.toml", "a = 1"), (".c.toml", "?"), ("d.txt", "?")] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let sources = Sources::read_dir(dir.path()).unwrap();
        let texts: Vec<_> = sources.files().iter().map(|f| f.text.as_str()).collect();
        assert_eq!(texts, ["a = 1", "b = 1"]);
        fs::write(dir.path().join("c.toml"), b"x = \"\xff\"").unwrap();
        assert!(matches!(Sources::read_dir(dir.path()), Err(ReadError::NotUtf8 { offset: 5, .. })));
        assert!(matches!(Sources::read_dir(&dir.path().join("none")), Err(ReadError::Io { .. })));
    }
}
