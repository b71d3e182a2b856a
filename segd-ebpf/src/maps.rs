//! Every map. Names, keys and values are those of `segd_common::schema`, which says what each is for.

use core::ptr::null;

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, Stack};
use aya_ebpf::macros::btf_map;
use segd_common::addr::Addr;
use segd_common::counter::{self, Counter, CounterKey};
use segd_common::event::Event;
use segd_common::flow::{Budget, Denial, DenialKey, FlowKey, OwnedFlow};
use segd_common::id::{ServiceId, SubjectId};
use segd_common::schema::{
    ANCESTOR_ENTRIES, COUNTER_PLACES, DENIAL_ENTRIES, ENDED_CGROUPS, EVENT_BYTES, FLOW_ENTRIES, SEAT_BLOCK,
    SEAT_ENTRIES, SEED_ENTRIES, SLOTS,
};
use segd_common::socket::{Ancestors, Greeting, Owner, Seat, Seed, Socket};
use segd_common::table::{
    Active, FailsafeKey, Pattern, PeerZone, PolicyEntry, PolicyKey, ServiceKey, Subject,
};

use crate::cgroup::Search;
use crate::decided::Lately;

const N_SLOTS: usize = SLOTS as usize;
/// Inner maps are made by user space in the size that each policy needs.
const INNER: usize = 1;
/// What grows by itself takes memory only for what is in it.
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;
/// A value of an inner map: an array, for Linux 6.1 refuses to put a map without BTF, as user space makes them, in the
/// place of one whose value is a struct by its BTF (`timer_off` in `bpf_map_meta_equal`, kernel/bpf/map_in_map.c:
/// `btf_find_field` says ENOENT of a struct and EINVAL of anything else).
type Inner<T> = [T; 1];

type Flows = LruHashMap<FlowKey, OwnedFlow, { FLOW_ENTRIES as usize }>;

#[btf_map]
pub(crate) static ACTIVE: Array<Active, 1> = Array::new();
#[btf_map]
pub(crate) static HOSTS: ArrayOfMaps<HashMap<Addr, Inner<PeerZone>, INNER>, N_SLOTS> = ArrayOfMaps::new();
#[btf_map]
pub(crate) static PREFIXES4: ArrayOfMaps<LpmTrie<[u8; 4], Inner<PeerZone>, INNER>, N_SLOTS> =
    ArrayOfMaps::new();
#[btf_map]
pub(crate) static PREFIXES6: ArrayOfMaps<LpmTrie<[u8; 16], Inner<PeerZone>, INNER>, N_SLOTS> =
    ArrayOfMaps::new();
#[btf_map]
pub(crate) static POLICY: ArrayOfMaps<LpmTrie<PolicyKey, Inner<PolicyEntry>, INNER>, N_SLOTS> =
    ArrayOfMaps::new();
#[btf_map]
pub(crate) static SERVICES: ArrayOfMaps<LpmTrie<ServiceKey, Inner<ServiceId>, INNER>, N_SLOTS> =
    ArrayOfMaps::new();
#[btf_map]
pub(crate) static FAILSAFES: ArrayOfMaps<LpmTrie<FailsafeKey, u32, INNER>, N_SLOTS> = ArrayOfMaps::new();
#[btf_map]
pub(crate) static SEATS: Array<Seat, { SEAT_ENTRIES as usize }> = Array::new();
#[btf_map]
static SEAT_BLOCKS: Array<u32, { (SEAT_ENTRIES / SEAT_BLOCK) as usize }> = Array::new();
#[btf_map]
pub(crate) static GREETED: PerCpuArray<Greeting, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static SEEDS: HashMap<u64, Seed, { SEED_ENTRIES as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub(crate) static PATTERNS: ArrayOfMaps<HashMap<u32, Inner<Pattern>, INNER>, N_SLOTS> = ArrayOfMaps::new();
#[btf_map]
pub(crate) static WORKLOADS: ArrayOfMaps<HashMap<u64, Inner<Subject>, INNER, NO_PREALLOC>, N_SLOTS> =
    ArrayOfMaps::new();
#[btf_map]
pub(crate) static ENDED: LruHashMap<u64, SubjectId, { ENDED_CGROUPS as usize }> = LruHashMap::new();
#[btf_map]
pub(crate) static USERS: ArrayOfMaps<HashMap<u32, Inner<Subject>, INNER>, N_SLOTS> = ArrayOfMaps::new();
#[btf_map]
pub(crate) static ANCESTORS: LruHashMap<u64, Ancestors, { ANCESTOR_ENTRIES as usize }> = LruHashMap::new();
/// One that is never written: nobody.
#[btf_map]
pub(crate) static NOBODY: Array<Owner, 1> = Array::new();
#[btf_map]
pub(crate) static SEARCH: Array<Search, 1> = Array::new();
#[btf_map]
pub(crate) static DECIDED: Array<Lately, 1> = Array::new();
#[btf_map]
pub(crate) static FLOWS_OUT: Flows = Flows::new();
#[btf_map]
pub(crate) static FLOWS_IN: Flows = Flows::new();
#[btf_map]
pub(crate) static DENIALS: LruHashMap<DenialKey, Denial, { DENIAL_ENTRIES as usize }> = LruHashMap::new();
#[btf_map]
pub(crate) static COUNTER_KEYS: HashMap<CounterKey, u32, { COUNTER_PLACES as usize }> = HashMap::new();
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<Counter, { COUNTER_PLACES as usize }> = PerCpuArray::new();
#[btf_map]
pub(crate) static FREE_COUNTERS: Stack<u32, { COUNTER_PLACES as usize }> = Stack::new();
#[btf_map]
pub(crate) static BUDGET: PerCpuArray<Budget, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static LOSSES: PerCpuArray<u64, { counter::LOSSES as usize }> = PerCpuArray::new();
#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, { EVENT_BYTES as usize }> = RingBuf::new();

/// Socket-local storage that an accepted socket inherits from its listener (BPF_F_CLONE), which aya's
/// `SkStorage` cannot say.
#[repr(C)]
pub(crate) struct InheritedSkStorage<T> {
    r#type: *const [i32; 24],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; 513],
}

// SAFETY: nothing reads the pointers; they carry the map's definition in their types.
unsafe impl<T> Sync for InheritedSkStorage<T> {}

#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "SOCKETS")]
pub(crate) static SOCKETS: InheritedSkStorage<Socket> =
    InheritedSkStorage { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() };
