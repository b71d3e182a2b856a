//! Allowed flows of a window, told as one record a conversation.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use segd_common::event::Kind;
use segd_common::traffic::Verdict;

use crate::history::Conversation;
use crate::history::summary::hour_of;
use crate::telemetry::record::{FlowRecord, InOut};

/// A window ends early when it holds this many conversations.
const MOST: usize = 4096;

/// The window that is under way.
#[derive(Debug)]
pub(super) struct Summaries {
    window: Duration,
    /// When it ends; `None` while nothing is in it.
    ends: Option<Instant>,
    /// By hour too, so that a sum over hours is the same as without summaries.
    sums: HashMap<(Timestamp, Conversation), Sum>,
}

#[derive(Debug)]
struct Sum {
    record: FlowRecord,
    weight: u64,
}

impl Summaries {
    pub(super) fn new(window: Duration) -> Self {
        Self { window, ends: None, sums: HashMap::new() }
    }

    /// Whether a record may be told in sum: what was denied or audited, and what was cut, is told each time.
    pub(super) fn takes(record: &FlowRecord) -> bool {
        record.verdict == Verdict::Allowed && matches!(record.event, Kind::Open | Kind::Close)
    }

    pub(super) fn add(&mut self, record: &FlowRecord) {
        self.ends.get_or_insert_with(|| Instant::now() + self.window);
        match self.sums.entry((hour_of(record.time), Conversation::of(record))) {
            Entry::Occupied(mut sum) => sum.get_mut().add(record),
            Entry::Vacant(place) => {
                place.insert(Sum::of(record));
            }
        }
    }

    /// How long until the window is over; `None` while nothing is in it.
    pub(super) fn left(&self) -> Option<Duration> {
        let left = self.ends?.saturating_duration_since(Instant::now());
        Some(if self.sums.len() < MOST { left } else { Duration::ZERO })
    }

    /// Ends the window: its records, oldest first, each with the number of records that it stands for.
    pub(super) fn drain(&mut self) -> Vec<(FlowRecord, u64)> {
        self.ends = None;
        let mut told: Vec<_> = self.sums.drain().map(|(_, sum)| (sum.record, sum.weight)).collect();
        told.sort_by_key(|(record, _)| record.since);
        told
    }
}

impl Sum {
    fn of(first: &FlowRecord) -> Self {
        let mut record = FlowRecord {
            event: Kind::Summary,
            since: Some(first.time),
            count: 0,
            packets: InOut::NONE,
            bytes: InOut::NONE,
            duration_ms: None,
            rtt_us: None,
            retransmits: None,
            ..first.clone()
        };
        record.src.port = 0;
        let mut sum = Self { record, weight: 0 };
        sum.add(first);
        sum
    }

    fn add(&mut self, one: &FlowRecord) {
        self.weight += 1;
        let sum = &mut self.record;
        if one.event == Kind::Open {
            sum.count = sum.count.saturating_add(one.count);
        } else {
            sum.packets.add(one.packets);
            sum.bytes.add(one.bytes);
        }
        sum.since = sum.since.min(Some(one.time));
        sum.time = sum.time.max(one.time);
        sum.generation = sum.generation.max(one.generation);
        if let (Some(sum), Some(one)) = (&mut sum.process, &one.process)
            && sum.pid != one.pid
        {
            sum.pid = 0;
        }
    }
}
