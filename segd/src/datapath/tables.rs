//! The policy tables in the kernel: slots of which one is in force, and one more may wait to follow it. A new
//! generation is built in maps of its own, put into an idle slot, and comes into force by one store.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, Map, MapData};
use segd_common::addr::Addr;
use segd_common::id::Generation;
use segd_common::schema;
use segd_common::table::{
    Active, FAILSAFE, GenerationInfo, HAS_DEADLINE, HAS_USERS, HAS_WORKLOADS, KEEP_REVOKED, Pattern,
    PeerZone, PolicyEntry, Subject,
};

use super::large::{Entry, Large};
use super::slots::{self, Filled, Kind, Slots};
use super::{Error, cgroups, host};
use crate::policy::Compiled;

/// What holds again if nobody says in time that a new policy shall stay.
#[derive(Clone, Copy, Debug)]
pub struct Fallback<'a> {
    /// The former policy, compiled anew, so that it knows what has changed beside it.
    pub compiled: &'a Compiled,
    /// From when on, in nanoseconds of CLOCK_BOOTTIME; not 0.
    pub deadline: u64,
}

/// What the kernel judges by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce {
    /// The generation in force now: past its deadline that is its fallback.
    pub generation: Generation,
    /// What follows it by itself.
    pub pending: Option<Pending>,
}

/// A deadline that has not passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Nanoseconds of CLOCK_BOOTTIME.
    pub deadline: u64,
    /// What holds from then on.
    pub fallback: Generation,
}

/// Length in bits, address in network order, and where it belongs.
type Prefix4 = (u8, [u8; 4], PeerZone);
/// As [`Prefix4`].
type Prefix6 = (u8, [u8; 16], PeerZone);

impl Entry for (Addr, PeerZone) {
    type Key = Addr;
    type MapKey = Addr;
    type Value = PeerZone;

    fn key(&self) -> Addr {
        self.0
    }

    fn pair(&self) -> (Addr, PeerZone) {
        *self
    }
}

impl<const N: usize> Entry for (u8, [u8; N], PeerZone)
where
    Key<[u8; N]>: aya::Pod,
{
    type Key = (u8, [u8; N]);
    type MapKey = Key<[u8; N]>;
    type Value = PeerZone;

    fn key(&self) -> (u8, [u8; N]) {
        (self.0, self.1)
    }

    fn pair(&self) -> (Key<[u8; N]>, PeerZone) {
        (Key::new(self.0.into(), self.1), self.2)
    }
}

/// The tables of all slots.
pub(super) struct Tables {
    current: Current,
    hosts: Large<(Addr, PeerZone)>,
    prefixes4: Large<Prefix4>,
    prefixes6: Large<Prefix6>,
    policy: Slots,
    services: Slots,
    failsafes: Slots,
    patterns: Slots,
    workloads: Slots,
    users: Slots,
    /// The cgroup whose tree is judged.
    cgroup: PathBuf,
    clock: Clock,
    /// The last number that was given, if the kernel has forgotten it.
    given: Generation,
    /// The slots in use since the last swap, while the others are not cleared up.
    swapped: Option<Vec<u32>>,
}

/// Which slot is in force: a handle to the table that says so.
pub(super) struct Current(Array<MapData, Active>);

impl Current {
    pub(super) fn new(active: Map) -> Result<Self, Error> {
        Array::try_from(active).map(Self).map_err(|e| Error::map(schema::ACTIVE, e))
    }

    fn read(&self) -> Result<Active, Error> {
        self.0.get(&0, 0).map_err(|e| Error::map(schema::ACTIVE, e))
    }

    /// What [`Active`] says of changes holds for the caller.
    fn write(&mut self, active: &Active) -> Result<(), Error> {
        self.0.set(0, active, 0).map_err(|e| Error::map(schema::ACTIVE, e))
    }

    /// What the programs judge by now.
    pub(super) fn in_force(&self) -> Result<InForce, Error> {
        let active = self.read()?;
        let last = last(&active);
        let Some((fallback, deadline)) = fallback(&active) else {
            return Ok(InForce { generation: last.generation, pending: None });
        };
        let fallback = info(&active, fallback).generation;
        if host::boottime_ns() >= deadline {
            return Ok(InForce { generation: fallback, pending: None });
        }
        Ok(InForce { generation: last.generation, pending: Some(Pending { deadline, fallback }) })
    }

    /// Whether the policy in force, or what follows it by itself, knows workloads by cgroup.
    pub(super) fn has_workloads(&self) -> Result<bool, Error> {
        let active = self.read()?;
        let after = fallback(&active).map_or(0, |(slot, _)| info(&active, slot).flags);
        Ok((last(&active).flags | after) & HAS_WORKLOADS != 0)
    }
}

/// What a slot says; of one that there is not, that nothing is in it.
fn info(active: &Active, slot: u32) -> GenerationInfo {
    active.infos.get(slot as usize).copied().unwrap_or_default()
}

/// What the slot says that was brought into force last. It is in force unless its deadline passed.
fn last(active: &Active) -> GenerationInfo {
    info(active, active.slot)
}

/// The slot that follows the one brought into force last by itself, and from when on.
fn fallback(active: &Active) -> Option<(u32, u64)> {
    let last = last(active);
    let deadline = active.deadlines.get(active.slot as usize).copied().unwrap_or_default();
    (last.flags & HAS_DEADLINE != 0).then_some((last.fallback.into(), deadline))
}

/// From the wall clock, on which policies expire, to CLOCK_BOOTTIME, on which the kernel measures.
#[derive(Default)]
struct Clock {
    offset: i64,
}

/// Nanoseconds by which the two clocks may drift before instants are converted anew. Tables with instants in them
/// stay the same for as long as they are not.
const DRIFT: u64 = 5_000_000;

impl Clock {
    fn read(&mut self) {
        let offset = host::boot_to_unix_ns();
        if offset.abs_diff(self.offset) > DRIFT {
            self.offset = offset;
        }
    }

    /// 0 stands for never on both.
    fn boottime(&self, unix: u64) -> u64 {
        // An instant before the boot is past.
        if unix == 0 { 0 } else { unix.saturating_add_signed(-self.offset).max(1) }
    }
}

impl Tables {
    pub(super) fn take(bpf: &mut Ebpf, cgroup: PathBuf) -> Result<Self, Error> {
        let mut take = |name: &'static str| bpf.take_map(name).ok_or(Error::Object { what: name });
        let current = Current::new(take(schema::ACTIVE)?)?;
        let hosts = Large::new(take(schema::HOSTS)?, schema::HOSTS, Kind::Hash)?;
        let prefixes4 = Large::new(take(schema::PREFIXES4)?, schema::PREFIXES4, Kind::Trie)?;
        let prefixes6 = Large::new(take(schema::PREFIXES6)?, schema::PREFIXES6, Kind::Trie)?;
        let mut slots = |name, kind| Slots::new(take(name)?, name, kind);
        Ok(Self {
            current,
            hosts,
            prefixes4,
            prefixes6,
            policy: slots(schema::POLICY, Kind::Trie)?,
            services: slots(schema::SERVICES, Kind::Trie)?,
            failsafes: slots(schema::FAILSAFES, Kind::Trie)?,
            patterns: slots(schema::PATTERNS, Kind::Hash)?,
            workloads: slots(schema::WORKLOADS, Kind::Growing)?,
            users: slots(schema::USERS, Kind::Hash)?,
            cgroup,
            clock: Clock::default(),
            given: Generation::NONE,
            swapped: None,
        })
    }

    fn all(&mut self) -> [&mut Slots; 9] {
        [
            &mut self.hosts.slots,
            &mut self.prefixes4.slots,
            &mut self.prefixes6.slots,
            &mut self.policy,
            &mut self.services,
            &mut self.failsafes,
            &mut self.patterns,
            &mut self.workloads,
            &mut self.users,
        ]
    }

    /// The number that the next [`swap`](Self::swap) gives.
    pub(super) fn next(&self, with_fallback: bool) -> Result<Generation, Error> {
        let last = last(&self.current.read()?);
        let step = if with_fallback { 2 } else { 1 };
        last.generation.0.max(self.given.0).checked_add(step).map(Generation).ok_or(Error::Generations)
    }

    /// Numbers up to this one were given before.
    pub(super) fn go_on_from(&mut self, given: Generation) {
        self.given = self.given.max(given);
    }

    /// Builds a generation beside the one in force, and what it falls back to, then lets it come into force. Until
    /// that last store nothing has changed; after it the whole generation holds. [`clear_up`](Self::clear_up) is for
    /// afterwards.
    ///
    /// `watch` is called when the tables are there that new cgroups are put into, `ready` before that store; if one fails,
    /// nothing changes.
    pub(super) fn swap<E: From<Error>>(
        &mut self,
        compiled: &Compiled,
        fallback: Option<Fallback<'_>>,
        watch: impl FnOnce() -> Result<(), Error>,
        ready: impl FnOnce() -> Result<(), E>,
    ) -> Result<Generation, E> {
        self.clear_up();
        let swapped = self.build(compiled, fallback, watch).map_err(E::from);
        let swapped = swapped.and_then(|(active, built)| {
            ready()?;
            self.current.write(&active)?;
            Ok(built)
        });
        if swapped.is_err() {
            self.all().into_iter().for_each(Slots::abandon);
        }
        let (generation, used) = swapped?;
        self.swapped = Some(used);
        Ok(generation)
    }

    /// Lets go of what the last swap left unused.
    pub(super) fn clear_up(&mut self) {
        let cleared = self.swapped.take().map_or(Ok(()), |used| self.clear(&used));
        // The new generation is in force, whatever becomes of the old maps.
        if let Err(error) = cleared {
            tracing::warn!("the tables of a former policy stay in memory: {error}");
        }
    }

    /// Returns what is to be written for it to come into force, the generation and the slots that will be in use.
    fn build(
        &mut self,
        compiled: &Compiled,
        fallback: Option<Fallback<'_>>,
        watch: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(Active, (Generation, Vec<u32>)), Error> {
        self.clock.read();
        let mut active = self.current.read()?;
        let generation = self.next(fallback.is_some())?;
        let used: Vec<u32> = [Some(active.slot), self::fallback(&active).map(|(slot, _)| slot)]
            .into_iter()
            .flatten()
            .collect();
        let mut idle = idle(&used);
        let mut next_idle = || idle.next().ok_or(Error::Object { what: "slots" });

        let slot = next_idle()?;
        let mut info = GenerationInfo { generation, ..info_of(compiled) };
        let mut until = 0;
        let mut slots = vec![slot];
        let mut watched = Vec::new();
        // First, so that the large tables are held against those of the new generation from then on.
        if let Some(Fallback { compiled, deadline }) = fallback {
            let slot = next_idle()?;
            watched.push(self.plan(slot, compiled)?);
            slots.push(slot);
            let generation = Generation(generation.0 - 1);
            set(&mut active, slot, GenerationInfo { generation, ..info_of(compiled) }, 0)?;
            until = deadline;
            info.flags |= HAS_DEADLINE;
            info.fallback = u8::try_from(slot).unwrap_or(0);
        }
        watched.push(self.plan(slot, compiled)?);
        set(&mut active, slot, info, until)?;
        self.current.write(&active)?;
        self.at_once(Slots::commit)?;
        watch()?;
        // From here on the programs put each new cgroup into these tables; those that are there come now.
        for (patterns, workloads) in watched.iter().filter(|(patterns, _)| !patterns.is_empty()) {
            cgroups::fill(&workloads.map, &self.cgroup, patterns)?;
        }
        active.slot = slot;
        Ok((active, (generation, slots)))
    }

    /// Makes the tables of a policy for a slot. Returns its patterns and the table of the cgroups that match them.
    fn plan(&mut self, slot: u32, compiled: &Compiled) -> Result<(Vec<Pattern>, Arc<Filled>), Error> {
        let clock = &self.clock;
        let subject = |s: Subject| Subject { expires: clock.boottime(s.expires), ..s };
        let policy = compiled.policy.iter().map(|(len, key, entry)| {
            let expires = clock.boottime(entry.expires);
            (Key::new(*len, *key), PolicyEntry { expires, ..*entry })
        });
        self.policy.plan(slot, policy)?;
        let patterns = compiled.patterns.iter().map(|p| Pattern { subject: subject(p.subject), ..*p });
        let patterns: Vec<Pattern> = patterns.collect();
        if patterns.len() > schema::MAX_PATTERNS as usize {
            return Err(Error::TooLarge { table: schema::PATTERNS, entries: patterns.len() });
        }
        self.users.plan(slot, compiled.users.iter().map(|(uid, s)| (*uid, subject(*s))))?;
        self.patterns.plan(slot, (0_u32..).zip(patterns.iter().copied()))?;
        let digest = slots::digest::<u32, Pattern>(&[], &patterns);
        let room = if patterns.is_empty() { 1 } else { schema::WORKLOAD_CGROUPS };
        let workloads = self.workloads.plan_growing::<u64, Subject>(slot, digest, room)?;

        self.hosts.plan(slot, &compiled.hosts)?;
        self.prefixes4.plan(slot, &compiled.prefixes4)?;
        self.prefixes6.plan(slot, &compiled.prefixes6)?;
        let services = compiled.services.iter().map(|(len, key, service)| (Key::new(*len, *key), *service));
        self.services.plan(slot, services)?;
        let failsafes = compiled.failsafes.iter().map(|(len, key)| (Key::new(*len, *key), FAILSAFE));
        self.failsafes.plan(slot, failsafes)?;
        Ok((patterns, workloads))
    }

    /// Waits until no program still runs that read a former slot's number, then prepares the slot that the next
    /// generation will be put into and empties the others.
    fn clear(&mut self, used: &[u32]) -> Result<(), Error> {
        self.all().into_iter().for_each(|table| table.read(used, true));
        if let Some(slot) = used.first() {
            self.services.wait(*slot)?;
        }
        self.all().into_iter().for_each(|table| table.read(used, false));
        self.hosts.keep_spare();
        self.prefixes4.keep_spare();
        self.prefixes6.keep_spare();
        let next = idle(used).next();
        self.at_once(|table| table.tidy(next))
    }

    /// Does the same to every table, all at once: for each change of a slot the kernel waits for the programs that
    /// run, and one such wait serves all who begin to wait before it.
    fn at_once(&mut self, work: impl Fn(&mut Slots) -> Result<(), Error> + Sync) -> Result<(), Error> {
        let work = &work;
        thread::scope(|scope| {
            let started = self.all().map(|table| {
                let name = table.name;
                (name, thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, move || work(table)))
            });
            started.into_iter().try_for_each(|(name, thread)| {
                let failed = |e| Error::map(name, aya::maps::MapError::IoError(e));
                let panicked = |_| failed(std::io::Error::other("the thread that filled it panicked"));
                thread.map_err(failed)?.join().unwrap_or_else(|e| Err(panicked(e)))
            })
        })
    }
}

/// The slots that are not used, in the order in which they are taken.
fn idle(used: &[u32]) -> impl Iterator<Item = u32> {
    (0..schema::SLOTS).filter(|slot| !used.contains(slot))
}

/// Says what is in a slot that is not in force.
fn set(active: &mut Active, slot: u32, info: GenerationInfo, deadline: u64) -> Result<(), Error> {
    let places = active.infos.get_mut(slot as usize).zip(active.deadlines.get_mut(slot as usize));
    let (place, until) = places.ok_or(Error::Object { what: "slots" })?;
    (*place, *until) = (info, deadline);
    Ok(())
}

fn info_of(compiled: &Compiled) -> GenerationInfo {
    let flag = |is: bool, flag: u8| if is { flag } else { 0 };
    GenerationInfo {
        host: compiled.host,
        flags: flag(compiled.keep_revoked, KEEP_REVOKED)
            | flag(!compiled.patterns.is_empty(), HAS_WORKLOADS)
            | flag(!compiled.users.is_empty(), HAS_USERS),
        ..GenerationInfo::default()
    }
}
