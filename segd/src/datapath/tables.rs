//! The policy tables in the kernel: two slots, of which one is in force. A new generation is built in maps of
//! its own, put into the idle slot, and comes into force by one store.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::fd::AsFd as _;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, ArrayOfMaps, Map, MapData};
use aya_obj::generated::bpf_map_type::{self, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LPM_TRIE};
use segd_common::id::Generation;
use segd_common::schema;
use segd_common::table::{FAILSAFE, GenerationInfo, PolicyEntry, PolicyKey};

use super::{Error, host, sys};
use crate::policy::Compiled;

/// BPF_F_NO_PREALLOC, which tries demand.
const NO_PREALLOC: u32 = 1;

/// The tables of both slots.
pub(super) struct Tables {
    active: Array<MapData, u32>,
    generations: Array<MapData, GenerationInfo>,
    hosts: Slots,
    prefixes4: Slots,
    prefixes6: Slots,
    policy: Slots,
    services: Slots,
    failsafes: Slots,
}

/// One table in both slots. A table that a new generation leaves as it was is put into the other slot as it
/// is: what costs is what changes.
struct Slots {
    name: &'static str,
    kind: bpf_map_type,
    outer: ArrayOfMaps<MapData, MapData>,
    /// The map put in last, with a digest of its entries. Not known of a former agent's.
    last: Option<(u64, MapData)>,
}

impl Tables {
    pub(super) fn take(bpf: &mut Ebpf) -> Result<Self, Error> {
        let mut take = |name: &'static str| bpf.take_map(name).ok_or(Error::Object { what: name });
        Ok(Self {
            active: array(take(schema::ACTIVE)?, schema::ACTIVE)?,
            generations: array(take(schema::GENERATIONS)?, schema::GENERATIONS)?,
            hosts: Slots::new(take(schema::HOSTS)?, schema::HOSTS, BPF_MAP_TYPE_HASH)?,
            prefixes4: Slots::new(take(schema::PREFIXES4)?, schema::PREFIXES4, BPF_MAP_TYPE_LPM_TRIE)?,
            prefixes6: Slots::new(take(schema::PREFIXES6)?, schema::PREFIXES6, BPF_MAP_TYPE_LPM_TRIE)?,
            policy: Slots::new(take(schema::POLICY)?, schema::POLICY, BPF_MAP_TYPE_LPM_TRIE)?,
            services: Slots::new(take(schema::SERVICES)?, schema::SERVICES, BPF_MAP_TYPE_LPM_TRIE)?,
            failsafes: Slots::new(take(schema::FAILSAFES)?, schema::FAILSAFES, BPF_MAP_TYPE_LPM_TRIE)?,
        })
    }

    /// The generation in force.
    pub(super) fn in_force(&self) -> Result<GenerationInfo, Error> {
        let slot = self.active.get(&0, 0).map_err(|e| Error::map(schema::ACTIVE, e))?;
        self.generations.get(&slot, 0).map_err(|e| Error::map(schema::GENERATIONS, e))
    }

    /// Builds a generation beside the one in force, then lets it come into force. Until that last store
    /// nothing has changed; after it the whole generation holds.
    pub(super) fn swap(&mut self, compiled: &Compiled) -> Result<Generation, Error> {
        let slot = self.active.get(&0, 0).map_err(|e| Error::map(schema::ACTIVE, e))?;
        let idle = (slot + 1) % schema::SLOTS;
        let number = self.in_force()?.generation.0.checked_add(1).ok_or(Error::Generations)?;
        let policy = expiring_at_boottime(&compiled.policy);

        let hosts = compiled.hosts.iter().map(|(addr, zone)| (*addr, *zone));
        self.hosts.fill(idle, hosts)?;
        let v4 = compiled.prefixes4.iter().map(|(len, net, zone)| (Key::new(u32::from(*len), *net), *zone));
        self.prefixes4.fill(idle, v4)?;
        let v6 = compiled.prefixes6.iter().map(|(len, net, zone)| (Key::new(u32::from(*len), *net), *zone));
        self.prefixes6.fill(idle, v6)?;
        self.policy.fill(idle, policy.into_iter())?;
        let services = compiled.services.iter().map(|(len, key, service)| (Key::new(*len, *key), *service));
        self.services.fill(idle, services)?;
        let failsafes = compiled.failsafes.iter().map(|(len, key)| (Key::new(*len, *key), FAILSAFE));
        self.failsafes.fill(idle, failsafes)?;

        let info = GenerationInfo {
            generation: Generation(number),
            host: compiled.host,
            ..GenerationInfo::default()
        };
        self.generations.set(idle, info, 0).map_err(|e| Error::map(schema::GENERATIONS, e))?;
        self.active.set(0, idle, 0).map_err(|e| Error::map(schema::ACTIVE, e))?;
        self.fence(idle)?;
        Ok(info.generation)
    }

    /// Waits until no program still runs that read the former slot's number: the kernel ends an update of an
    /// outer map only then (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c).
    fn fence(&mut self, slot: u32) -> Result<(), Error> {
        let Some((_, map)) = &self.services.last else {
            return Ok(());
        };
        self.services.outer.set(slot, map, 0).map_err(|e| Error::map(schema::SERVICES, e))
    }
}

fn array<V: aya::Pod>(map: Map, name: &'static str) -> Result<Array<MapData, V>, Error> {
    Array::try_from(map).map_err(|e| Error::map(name, e))
}

impl Slots {
    fn new(map: Map, name: &'static str, kind: bpf_map_type) -> Result<Self, Error> {
        let outer = ArrayOfMaps::try_from(map).map_err(|e| Error::map(name, e))?;
        Ok(Self { name, kind, outer, last: None })
    }

    /// Puts a table of these entries into a slot that is not in force.
    fn fill<K: aya::Pod, V: aya::Pod>(
        &mut self,
        slot: u32,
        entries: impl Iterator<Item = (K, V)>,
    ) -> Result<(), Error> {
        let (keys, values): (Vec<K>, Vec<V>) = entries.unzip();
        let digest = digest(&keys, &values);
        let map = match self.last.take() {
            Some((last, map)) if last == digest => map,
            _ => self.build(&keys, &values)?,
        };
        self.outer.set(slot, &map, 0).map_err(|e| Error::map(self.name, e))?;
        self.last = Some((digest, map));
        Ok(())
    }

    fn build<K: aya::Pod, V: aya::Pod>(&self, keys: &[K], values: &[V]) -> Result<MapData, Error> {
        let entries = keys.len();
        let too_large = |_| Error::TooLarge { table: self.name, entries };
        let size = u32::try_from(entries.max(1)).map_err(too_large)?;
        let key = u32::try_from(size_of::<K>()).map_err(too_large)?;
        let value = u32::try_from(size_of::<V>()).map_err(too_large)?;
        let flags = if self.kind == BPF_MAP_TYPE_LPM_TRIE { NO_PREALLOC } else { 0 };
        let definition = aya_obj::Map::new_from_params(self.kind as u32, key, value, size, flags);
        let map = MapData::create(definition, self.name, None).map_err(|e| Error::map(self.name, e))?;
        sys::map_update_batch(map.fd().as_fd(), keys, values).map_err(|source| Error::Fill {
            table: self.name,
            entries,
            source,
        })?;
        Ok(map)
    }
}

fn digest<K: aya::Pod, V: aya::Pod>(keys: &[K], values: &[V]) -> u64 {
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

/// The kernel measures expiry on CLOCK_BOOTTIME.
fn expiring_at_boottime(policy: &[(u32, PolicyKey, PolicyEntry)]) -> Vec<(Key<PolicyKey>, PolicyEntry)> {
    let offset = host::boot_to_unix_ns();
    policy
        .iter()
        .map(|(len, key, entry)| {
            let expires = match entry.expires {
                0 => 0,
                // An instant before the boot is past.
                unix => unix.saturating_add_signed(-offset).max(1),
            };
            (Key::new(*len, *key), PolicyEntry { expires, ..*entry })
        })
        .collect()
}
