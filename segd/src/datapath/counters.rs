//! Reads what the kernel counted. Independent of the agent's other handles, so a scrape never waits for a
//! policy change.

use std::path::Path;

use aya::maps::{HashMap, Map, MapData, PerCpuArray, PerCpuValues};
use segd_common::counter::{self, Counter, CounterKey, Loss, OVERFLOW};
use segd_common::flow::{CLOSED, Denial, DenialKey, Flow, FlowKey, OPENED, OwnedFlow};
use segd_common::schema;

use super::Error;
use super::sockets::kept::Kept;

type Flows = HashMap<MapData, FlowKey, OwnedFlow>;

/// Handles to the counting maps.
pub struct Counters {
    keys: HashMap<MapData, CounterKey, u32>,
    values: PerCpuArray<MapData, Counter>,
    losses: PerCpuArray<MapData, u64>,
    flows: [(&'static str, Flows); 2],
    denials: HashMap<MapData, DenialKey, Denial>,
    /// Of live sockets, whose flows carry what is not counted by labels yet.
    kept: Kept,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Its name.
    pub map: &'static str,
    /// Entries in it.
    pub entries: u64,
    /// Entries that it can hold.
    pub capacity: u64,
}

impl Counters {
    pub(super) fn open(maps: &Path, kept: Kept) -> Result<Self, Error> {
        let typed = |name: &'static str| {
            MapData::from_pin(maps.join(name)).and_then(Map::from_map_data).map_err(|e| Error::map(name, e))
        };
        let map = |name: &'static str| move |e| Error::map(name, e);
        let flows = |name: &'static str| Ok((name, HashMap::try_from(typed(name)?).map_err(map(name))?));
        Ok(Self {
            keys: HashMap::try_from(typed(schema::COUNTER_KEYS)?).map_err(map(schema::COUNTER_KEYS))?,
            values: PerCpuArray::try_from(typed(schema::COUNTERS)?).map_err(map(schema::COUNTERS))?,
            losses: PerCpuArray::try_from(typed(schema::LOSSES)?).map_err(map(schema::LOSSES))?,
            flows: [flows(schema::FLOWS_OUT)?, flows(schema::FLOWS_IN)?],
            denials: HashMap::try_from(typed(schema::DENIALS)?).map_err(map(schema::DENIALS))?,
            kept,
        })
    }

    /// Every counter, summed over the CPUs. What found no place of its own comes last, with no key.
    ///
    /// The programs count a packet of a socket's flow with the socket; here what live flows have carried is counted by
    /// their labels first, which takes a millisecond for ten thousand sockets.
    pub fn read(&self) -> Result<Vec<(Option<CounterKey>, Counter)>, Error> {
        self.kept.settle()?;
        let mut all = Vec::new();
        for entry in self.keys.iter() {
            let (key, place) = entry.map_err(|e| Error::map(schema::COUNTER_KEYS, e))?;
            all.push((Some(key), self.sum(place)?));
        }
        all.push((None, self.sum(OVERFLOW)?));
        Ok(all)
    }

    fn sum(&self, place: u32) -> Result<Counter, Error> {
        let parts = self.values.get(&place, 0).map_err(|e| Error::map(schema::COUNTERS, e))?;
        Ok(parts.iter().fold(Counter::default(), |sum, part| Counter {
            flows: sum.flows + part.flows,
            // A part may be below zero: see `count::settle` of the programs.
            packets: sum.packets.wrapping_add(part.packets),
            bytes: sum.bytes.wrapping_add(part.bytes),
            last: sum.last.max(part.last),
        }))
    }

    /// What the data path could not do, by [`Loss`](segd_common::counter::Loss).
    pub fn losses(&self) -> Result<[u64; counter::LOSSES as usize], Error> {
        let mut all = [0; counter::LOSSES as usize];
        for (index, total) in (0..).zip(&mut all) {
            let parts = self.losses.get(&index, 0).map_err(|e| Error::map(schema::LOSSES, e))?;
            *total = parts.iter().sum();
        }
        Ok(all)
    }

    /// How full the maps are that traffic fills.
    pub fn usage(&self) -> Result<Vec<Usage>, Error> {
        let entries = |name: &'static str, count: usize, capacity: u32| Usage {
            map: name,
            entries: count as u64,
            capacity: u64::from(capacity),
        };
        let mut all = vec![entries(schema::COUNTER_KEYS, self.keys.keys().count(), schema::COUNTER_PLACES)];
        for (name, flows) in &self.flows {
            // A table that changes while it is walked may start its walk again.
            let count = flows.keys().take(schema::FLOW_ENTRIES as usize).count();
            all.push(entries(name, count, schema::FLOW_ENTRIES));
        }
        Ok(all)
    }

    /// The flows in the flow tables that are not over, with a packet since `after`, in nanoseconds of CLOCK_BOOTTIME.
    #[must_use]
    pub fn live_flows(&self, after: u64) -> Vec<OwnedFlow> {
        let all = self.flows.iter().flat_map(|(_, flows)| {
            // A table that changes while it is walked may start its walk again.
            flows.iter().take(schema::FLOW_ENTRIES as usize).filter_map(Result::ok)
        });
        let is_live = |flow: &Flow| flow.seen >= after && flow.flags & (OPENED | CLOSED) == OPENED;
        all.map(|(_, owned)| owned).filter(|owned| is_live(&owned.flow)).collect()
    }

    /// Takes the flows out of the flow tables whose last packet is older than `before`, in nanoseconds of
    /// CLOCK_BOOTTIME.
    pub fn take_idle(&mut self, before: u64) -> Vec<OwnedFlow> {
        let mut ended = Vec::new();
        let all = |flows: &Flows| {
            let all = flows.iter().take(schema::FLOW_ENTRIES as usize).filter_map(Result::ok);
            all.filter(|(_, owned)| owned.flow.seen < before).map(|(key, _)| key).collect::<Vec<_>>()
        };
        let idle = [all(&self.flows[0].1), all(&self.flows[1].1)];
        // What sockets have carried of them since they last told the tables.
        if idle.iter().any(|keys| !keys.is_empty())
            && let Err(error) = self.kept.settle()
        {
            tracing::warn!(%error, "the last packets of silent flows are not counted yet");
        }
        for ((_, flows), idle) in self.flows.iter_mut().zip(idle) {
            for key in idle {
                // It may have come to life again, or the kernel may have evicted it.
                let Ok(owned) = flows.get(&key, 0) else { continue };
                if owned.flow.seen < before && flows.remove(&key).is_ok() {
                    ended.push(owned);
                }
            }
        }
        ended
    }

    /// Takes the joined denials that no event told of, of keys that were silent since `before`, in nanoseconds of
    /// CLOCK_BOOTTIME, and counts them as told.
    ///
    /// # Errors
    /// If the count cannot be written; then nothing is taken.
    pub fn take_untold(&mut self, before: u64) -> Result<Vec<Denial>, Error> {
        let all = self.denials.iter().take(schema::DENIAL_ENTRIES as usize).filter_map(Result::ok);
        let silent: Vec<DenialKey> =
            all.filter(|(_, d)| d.untold > 0 && d.told < before).map(|(key, _)| key).collect();
        let mut taken = Vec::new();
        for key in silent {
            let Ok(denial) = self.denials.get(&key, 0) else { continue };
            if denial.untold > 0 && self.denials.remove(&key).is_ok() {
                taken.push(denial);
            }
        }
        let told = taken.iter().map(|d| d.untold).sum();
        self.add_told(told)?;
        Ok(taken)
    }

    fn add_told(&mut self, told: u64) -> Result<(), Error> {
        let failed = |e| Error::map(schema::LOSSES, e);
        let place = Loss::ToldByAgent as u32;
        let mut parts: Vec<u64> = self.losses.get(&place, 0).map_err(failed)?.to_vec();
        if let Some(first) = parts.first_mut().filter(|_| told > 0) {
            *first += told;
            let parts = PerCpuValues::try_from(parts).map_err(|e| failed(e.into()))?;
            self.losses.set(place, parts, 0).map_err(failed)?;
        }
        Ok(())
    }
}
