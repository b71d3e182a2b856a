//! Long lists of prefixes in kept zone files. A record keeps its zone files without them and says where they are: in
//! `N.lists`, to which record N added those that no record before it had. So the record of a small change is small,
//! whatever the size of the policy.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use serde::{Deserialize, Serialize};

use super::{HistoryError, Record, name};
use crate::policy::Sources;
use crate::policy::lift::{Digest, lists};
use crate::state::{StateDir, StateError, failed};

/// Shorter lists stay in the record, in bytes.
const LEAST: usize = 4096;

/// All of them stay if they have fewer bytes together.
const LITTLE: usize = 1 << 20;

/// A record refers to so many files at most; else its lists are written anew.
const PACKS: usize = 16;

/// Where a list of a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptList {
    /// The zone file that it is in, as an index.
    file: usize,
    /// Its first byte there.
    at: usize,
    /// The number of the file that keeps it.
    pack: u32,
    /// Its first byte there.
    start: u64,
    bytes: usize,
}

/// What is known of the lists that are kept.
#[derive(Debug, Default)]
pub(super) struct Texts {
    /// Pack and first byte of those of the last record.
    known: HashMap<Digest, (u32, u64)>,
    /// The packs that a record refers to.
    used: BTreeMap<u32, BTreeSet<u32>>,
}

/// Zone files without lists, as (name, text), and where the lists are.
type Kept = (Vec<(String, String)>, Vec<KeptList>);

impl Texts {
    /// Keeps the lists of zone files for a record that will be saved.
    pub(super) fn keep(
        &mut self,
        dir: &StateDir,
        record: u32,
        sources: &Sources,
    ) -> Result<Kept, HistoryError> {
        let files = sources.files();
        let found: Vec<Vec<_>> =
            files.iter().map(|f| lists(&f.text).filter(|r| r.len() >= LEAST).collect()).collect();
        let ranges = || {
            files.iter().zip(&found).enumerate().flat_map(|(n, (f, all))| {
                all.iter().filter_map(move |r| Some((n, r.start, f.text.get(r.clone())?)))
            })
        };
        if ranges().map(|(.., text)| text.len()).sum::<usize>() < LITTLE {
            let whole = files.iter().map(|f| (f.name.clone(), f.text.clone())).collect();
            self.used(record, &[]);
            return Ok((whole, Vec::new()));
        }
        // A pack of this number is of a record that did not come into force.
        let packs: BTreeSet<u32> = self.known.values().map(|(pack, _)| *pack).collect();
        let there = |pack: &u32| *pack != record && dir.path(&pack_name(*pack)).is_file();
        let there: BTreeSet<u32> = packs.into_iter().filter(there).collect();
        self.known.retain(|_, (pack, _)| there.contains(pack));
        let digests: Vec<Digest> = ranges().map(|(.., text)| Digest::of(text)).collect();
        let packs: BTreeSet<u32> =
            digests.iter().filter_map(|digest| self.known.get(digest)).map(|(pack, _)| *pack).collect();
        if packs.len() >= PACKS {
            self.known.clear();
        }
        let mut pack = Pack::new(dir, record);
        let (mut kept, mut known) = (Vec::new(), HashMap::new());
        for ((file, at, text), digest) in ranges().zip(digests) {
            let before = self.known.get(&digest).or_else(|| known.get(&digest)).copied();
            let (pack, start) = match before {
                Some(place) => place,
                None => (record, pack.add(text)?),
            };
            known.insert(digest, (pack, start));
            kept.push(KeptList { file, at, pack, start, bytes: text.len() });
        }
        pack.finish()?;
        self.known = known;
        self.used(record, &kept);
        let rest = files.iter().zip(&found).map(|(file, all)| {
            let (mut rest, mut done) = (String::new(), 0);
            for range in all {
                rest.push_str(file.text.get(done..range.start).unwrap_or_default());
                done = range.end;
            }
            rest.push_str(file.text.get(done..).unwrap_or_default());
            (file.name.clone(), rest)
        });
        Ok((rest.collect(), kept))
    }

    /// Notes what a record refers to.
    pub(super) fn used(&mut self, record: u32, lists: &[KeptList]) {
        self.used.insert(record, lists.iter().map(|list| list.pack).collect());
    }

    /// Removes what no record refers to.
    pub(super) fn prune(&mut self, dir: &StateDir, records: &[u32]) -> Result<(), HistoryError> {
        let names = dir.names()?;
        let packs: Vec<u32> = names.iter().filter_map(|name| pack_number(name)).collect();
        self.used.retain(|record, _| records.contains(record));
        if packs.is_empty() {
            return Ok(());
        }
        for record in records {
            if self.used.contains_key(record) {
                continue;
            }
            match dir.load::<Record>(&name(*record)) {
                Ok(Some(stored)) => self.used(*record, &stored.lists),
                Ok(None) => {}
                // Nobody knows what it refers to.
                Err(_) => return Ok(()),
            }
        }
        for pack in packs {
            if !self.used.values().any(|used| used.contains(&pack)) {
                self.known.retain(|_, (known, _)| *known != pack);
                dir.remove(&pack_name(pack))?;
            }
        }
        Ok(())
    }
}

/// Puts the lists of a record back into its zone files.
pub(super) fn put_back(dir: &StateDir, record: &mut Record) -> Result<(), HistoryError> {
    let mut lists = std::mem::take(&mut record.lists);
    lists.sort_by_key(|list| (list.file, list.at));
    for (number, (_, text)) in record.files.iter_mut().enumerate() {
        let own: Vec<&KeptList> = lists.iter().filter(|list| list.file == number).collect();
        if own.is_empty() {
            continue;
        }
        let bytes: usize = own.iter().map(|list| list.bytes).sum();
        let rest = std::mem::take(text).into_bytes();
        let mut whole = Vec::with_capacity(rest.len() + bytes);
        let mut rest = rest.as_slice();
        for list in own {
            let path = dir.path(&pack_name(list.pack));
            let altered = || HistoryError::Altered(path.clone());
            let before = list.at.checked_sub(whole.len()).ok_or_else(altered)?;
            let (before, after) = rest.split_at_checked(before).ok_or_else(altered)?;
            whole.extend_from_slice(before);
            rest = after;
            let file = File::open(&path).map_err(failed("read", &path))?;
            let length = file.metadata().map_err(failed("read", &path))?.len();
            if list.start.saturating_add(list.bytes as u64) > length {
                return Err(altered());
            }
            let start = whole.len();
            whole.resize(start + list.bytes, 0);
            let place = whole.get_mut(start..).unwrap_or_default();
            file.read_exact_at(place, list.start).map_err(failed("read", &path))?;
        }
        whole.extend_from_slice(rest);
        let path = dir.path(&name(record.generation));
        *text = String::from_utf8(whole).map_err(|_| HistoryError::Altered(path))?;
    }
    Ok(())
}

/// A file of lists that is being written, once there is a first one.
struct Pack<'a> {
    dir: &'a StateDir,
    number: u32,
    file: Option<BufWriter<File>>,
    length: u64,
}

impl<'a> Pack<'a> {
    fn new(dir: &'a StateDir, number: u32) -> Self {
        Self { dir, number, file: None, length: 0 }
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> StateError {
        let path = self.dir.path(&pack_name(self.number));
        move |source| StateError::Io { action, path, source }
    }

    /// Returns its first byte.
    fn add(&mut self, text: &str) -> Result<u64, StateError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let mut options = File::options();
                options.write(true).create(true).truncate(true).mode(0o640).custom_flags(libc::O_NOFOLLOW);
                let path = self.dir.path(&pack_name(self.number));
                BufWriter::with_capacity(1 << 16, options.open(path).map_err(self.failed("write"))?)
            }
        };
        let file = self.file.insert(file);
        let written = file.write_all(text.as_bytes());
        written.map_err(self.failed("write"))?;
        let start = self.length;
        self.length += text.len() as u64;
        Ok(start)
    }

    fn finish(mut self) -> Result<(), StateError> {
        match self.file.take() {
            Some(file) => {
                let file = file.into_inner().map_err(io::IntoInnerError::into_error);
                file.and_then(|file| file.sync_all()).map_err(self.failed("write"))
            }
            None => Ok(()),
        }
    }
}

fn pack_name(number: u32) -> String {
    format!("{number}.lists")
}

fn pack_number(file: &str) -> Option<u32> {
    let number = file.strip_suffix(".lists")?.parse().ok()?;
    (pack_name(number) == file).then_some(number)
}
