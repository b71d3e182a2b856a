//! One table of the policy in every generation slot: a map of its own for each, or one for several that are the same.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use aya::maps::{ArrayOfMaps, Map, MapData, MapError};
use aya_obj::generated::bpf_map_type::{self, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LPM_TRIE};
use segd_common::schema;

use super::{Error, sys};

/// BPF_F_NO_PREALLOC.
const NO_PREALLOC: u32 = 1;

/// How a table's maps are made.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Hash,
    /// One whose entries take memory one by one, and come later.
    Growing,
    Trie,
}

impl Kind {
    const fn number(self) -> bpf_map_type {
        match self {
            Self::Hash | Self::Growing => BPF_MAP_TYPE_HASH,
            Self::Trie => BPF_MAP_TYPE_LPM_TRIE,
        }
    }

    const fn flags(self) -> u32 {
        match self {
            Self::Hash => 0,
            Self::Growing | Self::Trie => NO_PREALLOC,
        }
    }
}

/// A map with a digest of what it was made of.
pub(super) struct Filled {
    digest: u64,
    pub(super) map: MapData,
}

/// Makes the maps of one table.
#[derive(Clone, Copy)]
pub(super) struct Maker {
    name: &'static str,
    kind: Kind,
}

impl Maker {
    /// Entries are put into the kernel so many at a time, so that no second list of all of them is made.
    const BATCH: usize = 65_536;

    /// A map of these entries with room for so many.
    pub(super) fn build_with_room<K: aya::Pod, V: aya::Pod>(
        self,
        room: usize,
        mut entries: impl Iterator<Item = (K, V)>,
    ) -> Result<Filled, Error> {
        let map = create::<K, V>(self.kind, self.name, room)?;
        loop {
            let (keys, values): (Vec<K>, Vec<V>) = entries.by_ref().take(Self::BATCH).unzip();
            if keys.is_empty() {
                return Ok(Filled { digest: 0, map });
            }
            fill(&map, self.name, &keys, &values)?;
        }
    }
}

/// What a slot holds.
#[derive(Clone)]
enum Held {
    /// What a former agent put there.
    Unknown,
    Nothing,
    Map(Arc<Filled>),
}

/// One table in every slot. A table that a new generation leaves as it was is shared: what costs is what changes, and
/// above all the change of a slot, for which the kernel waits until no program runs that might use what was there
/// (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c).
pub(super) struct Slots {
    pub(super) name: &'static str,
    kind: Kind,
    outer: ArrayOfMaps<MapData, MapData>,
    /// Of `outer`, which has no way to empty a slot.
    fd: OwnedFd,
    held: [Held; schema::SLOTS as usize],
    /// To be put by [`Slots::commit`].
    planned: Vec<(u32, Arc<Filled>)>,
    /// The slots that programs may read, first the one in force.
    read: Vec<u32>,
    /// What the next generation is likely to hold, if not what the one in force does.
    pub(super) spare: Option<Arc<Filled>>,
}

impl Slots {
    pub(super) fn new(map: Map, name: &'static str, kind: Kind) -> Result<Self, Error> {
        let Map::ArrayOfMaps(data) = &map else {
            return Err(Error::Object { what: name });
        };
        let io = |e| Error::map(name, MapError::IoError(e));
        let fd = data.fd().as_fd().try_clone_to_owned().map_err(io)?;
        let outer = ArrayOfMaps::try_from(map).map_err(|e| Error::map(name, e))?;
        let held = [const { Held::Unknown }; schema::SLOTS as usize];
        let (planned, read) = (Vec::new(), Vec::new());
        Ok(Self { name, kind, outer, fd, held, planned, read, spare: None })
    }

    /// Makes a table of these entries for a slot, unless another slot has the same.
    pub(super) fn plan<K: aya::Pod, V: aya::Pod>(
        &mut self,
        slot: u32,
        entries: impl Iterator<Item = (K, V)>,
    ) -> Result<(), Error> {
        let (keys, values): (Vec<K>, Vec<V>) = entries.unzip();
        let make = |kind, name| build(kind, name, keys.len(), &keys, &values);
        self.plan_of(slot, digest(&keys, &values), make)
    }

    /// Makes an empty table with room for so many entries for a slot, unless another slot has one of the same digest.
    pub(super) fn plan_growing<K: aya::Pod, V: aya::Pod>(
        &mut self,
        slot: u32,
        digest: u64,
        room: u32,
    ) -> Result<Arc<Filled>, Error> {
        self.plan_of(slot, digest, |kind, name| build::<K, V>(kind, name, room as usize, &[], &[]))?;
        self.planned.last().map(|(_, filled)| Arc::clone(filled)).ok_or(Error::Object { what: self.name })
    }

    fn plan_of(
        &mut self,
        slot: u32,
        digest: u64,
        build: impl FnOnce(Kind, &'static str) -> Result<MapData, Error>,
    ) -> Result<(), Error> {
        let held =
            self.held.iter().filter_map(|held| if let Held::Map(map) = held { Some(map) } else { None });
        let known = held.chain(self.planned.iter().map(|(_, map)| map)).find(|map| map.digest == digest);
        let filled = match known {
            Some(filled) => Arc::clone(filled),
            None => Arc::new(Filled { digest, map: build(self.kind, self.name)? }),
        };
        self.planned.push((slot, filled));
        Ok(())
    }

    /// What makes its maps.
    pub(super) fn maker(&self) -> Maker {
        Maker { name: self.name, kind: self.kind }
    }

    /// Has a map put into a slot that was made elsewhere.
    pub(super) fn plan_map(&mut self, slot: u32, filled: Arc<Filled>) {
        self.planned.push((slot, filled));
    }

    /// Whether programs may read this map, or are to. Any other may be changed, though a slot has it.
    pub(super) fn reads(&self, filled: &Arc<Filled>) -> bool {
        self.read.iter().any(|slot| self.has(*slot, filled))
            || self.planned.iter().any(|(_, map)| Arc::ptr_eq(map, filled))
    }

    /// Whether a slot has this map.
    pub(super) fn has(&self, slot: u32, filled: &Arc<Filled>) -> bool {
        let held = self.held.get(slot as usize);
        matches!(held, Some(Held::Map(map)) if Arc::ptr_eq(map, filled))
    }

    /// Says which slots programs may read from now on beside others (`all`), or alone; first the one in force.
    pub(super) fn read(&mut self, slots: &[u32], all: bool) {
        let others = std::mem::take(&mut self.read).into_iter().filter(|slot| all && !slots.contains(slot));
        self.read = slots.iter().copied().chain(others).collect();
    }

    /// Puts what was planned into its slots.
    pub(super) fn commit(&mut self) -> Result<(), Error> {
        for (slot, filled) in std::mem::take(&mut self.planned) {
            self.put(slot, filled)?;
        }
        Ok(())
    }

    fn put(&mut self, slot: u32, filled: Arc<Filled>) -> Result<(), Error> {
        let Some(held) = self.held.get_mut(slot as usize) else { return Ok(()) };
        if matches!(held, Held::Map(there) if Arc::ptr_eq(there, &filled)) {
            return Ok(());
        }
        // Whatever the slot holds if this fails.
        *held = Held::Unknown;
        self.outer.set(slot, &filled.map, 0).map_err(|e| Error::map(self.name, e))?;
        *held = Held::Map(filled);
        Ok(())
    }

    /// Forgets what was planned.
    pub(super) fn abandon(&mut self) {
        self.planned.clear();
    }

    /// Waits until no program runs any more that was running: puts into a slot what it holds.
    pub(super) fn wait(&mut self, slot: u32) -> Result<(), Error> {
        let Some(Held::Map(filled)) = self.held.get(slot as usize) else {
            return Ok(());
        };
        self.outer.set(slot, &filled.map, 0).map_err(|e| Error::map(self.name, e))
    }

    /// Empties the slots that are not read and hold a map that none of the others does. But `next`, which the next
    /// generation will be put into, gets what that is likely to hold, so that it need not wait for it.
    pub(super) fn tidy(&mut self, next: Option<u32>) -> Result<(), Error> {
        let map = |slot: &u32| match self.held.get(*slot as usize) {
            Some(Held::Map(map)) => Some(Arc::clone(map)),
            _ => None,
        };
        let read: Vec<Arc<Filled>> = self.read.iter().filter_map(map).collect();
        let likely = self.spare.take().or_else(|| self.read.first().and_then(map));
        if let Some((next, likely)) = next.zip(likely) {
            self.put(next, likely)?;
        }
        for (slot, held) in (0..).zip(&mut self.held) {
            let keeps = match held {
                Held::Nothing => true,
                Held::Map(map) => read.iter().any(|read| Arc::ptr_eq(read, map)),
                Held::Unknown => false,
            };
            if keeps || next == Some(slot) || self.read.contains(&slot) {
                continue;
            }
            match sys::map_delete(self.fd.as_fd(), &slot) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::map(self.name, MapError::IoError(e)));
                }
                _ => *held = Held::Nothing,
            }
        }
        Ok(())
    }
}

fn build<K: aya::Pod, V: aya::Pod>(
    kind: Kind,
    name: &'static str,
    room: usize,
    keys: &[K],
    values: &[V],
) -> Result<MapData, Error> {
    let map = create::<K, V>(kind, name, room)?;
    fill(&map, name, keys, values)?;
    Ok(map)
}

fn create<K, V>(kind: Kind, name: &'static str, room: usize) -> Result<MapData, Error> {
    let too_large = |_| Error::TooLarge { table: name, entries: room };
    let size = u32::try_from(room.max(1)).map_err(too_large)?;
    let key = u32::try_from(size_of::<K>()).map_err(too_large)?;
    let value = u32::try_from(size_of::<V>()).map_err(too_large)?;
    let definition = aya_obj::Map::new_from_params(kind.number() as u32, key, value, size, kind.flags());
    MapData::create(definition, name, None).map_err(|e| Error::map(name, e))
}

fn fill<K: aya::Pod, V: aya::Pod>(
    map: &MapData,
    name: &'static str,
    keys: &[K],
    values: &[V],
) -> Result<(), Error> {
    let entries = keys.len();
    let failed = |source| Error::Fill { table: name, entries, source };
    sys::map_update_batch(map.fd().as_fd(), keys, values).map_err(failed)
}

/// A digest of a table's entries.
pub(super) fn digest<K: aya::Pod, V: aya::Pod>(keys: &[K], values: &[V]) -> u64 {
    let mut hasher = DefaultHasher::new();
    keys.len().hash(&mut hasher);
    hasher.write(bytes_of(keys));
    hasher.write(bytes_of(values));
    hasher.finish()
}

fn bytes_of<T: aya::Pod>(items: &[T]) -> &[u8] {
    // SAFETY: `Pod` promises plain data without padding, so every byte is initialised.
    unsafe { std::slice::from_raw_parts(items.as_ptr().cast(), size_of_val(items)) }
}
