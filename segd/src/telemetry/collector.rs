//! From the kernel's events to everybody who wants flow records.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use nix::unistd::Pid;
use segd_common::event::Event;
use segd_common::socket::Owner;
use tokio::sync::broadcast::{self, error::RecvError};

use super::clock::BootClock;
use super::filter::Filter;
use super::process::{ProcessInfo, ProcessLookup};
use super::record::{Context, FlowRecord, Process};
use super::sink::{Sink, SinkStatus};
use crate::history::Recorder;

/// Records that [`Collector::subscribe`] can look back on.
pub const HISTORY: usize = 4096;

/// Records that a live reader may fall behind before it loses some.
const LAG: usize = 4096;

/// Without [`Collector::tick`] for this long, the collector is not [alive](Collector::alive).
const ALIVE: Duration = Duration::from_secs(10);

/// Makes a record of every event and offers it to the recent history, to live readers and to the sinks. What
/// one of them does not take in time is lost to that one only, and counted.
pub struct Collector {
    context: ArcSwap<Context>,
    processes: Box<dyn ProcessLookup>,
    sinks: Vec<Sink>,
    recorder: Option<Arc<Recorder>>,
    history: Mutex<VecDeque<Arc<FlowRecord>>>,
    live: broadcast::Sender<Arc<FlowRecord>>,
    clock_offset_ns: AtomicI64,
    began: Instant,
    /// Milliseconds since `began`.
    ticked: AtomicU64,
    lost_decode: AtomicU64,
    lost_stream: Arc<AtomicU64>,
}

impl Collector {
    /// With sinks that were started.
    #[must_use]
    pub fn new(context: Context, processes: Box<dyn ProcessLookup>, sinks: Vec<Sink>) -> Self {
        Self {
            context: ArcSwap::from_pointee(context),
            processes,
            sinks,
            recorder: None,
            history: Mutex::new(VecDeque::with_capacity(HISTORY)),
            live: broadcast::Sender::new(LAG),
            clock_offset_ns: AtomicI64::new(BootClock::now().offset_ns),
            began: Instant::now(),
            ticked: AtomicU64::new(0),
            lost_decode: AtomicU64::new(0),
            lost_stream: Arc::default(),
        }
    }

    /// The same, with a recorder of what flowed.
    #[must_use]
    pub fn with_recorder(self, recorder: Option<Arc<Recorder>>) -> Self {
        Self { recorder, ..self }
    }

    /// What flowed before, if it is recorded.
    #[must_use]
    pub fn recorder(&self) -> Option<&Arc<Recorder>> {
        self.recorder.as_ref()
    }

    /// Takes the names of a newly loaded policy. To be called before its first event can come.
    pub fn set_context(&self, context: Context) {
        self.context.store(Arc::new(context));
    }

    /// The names in use.
    #[must_use]
    pub fn context(&self) -> Arc<Context> {
        self.context.load_full()
    }

    /// The kernel's clock as of the last tick.
    #[must_use]
    pub fn clock(&self) -> BootClock {
        BootClock { offset_ns: self.clock_offset_ns.load(Ordering::Relaxed) }
    }

    /// To be called about once a second by the task that calls [`Collector::take`]: reads the clocks and
    /// shows that the task lives.
    pub fn tick(&self) {
        self.clock_offset_ns.store(BootClock::now().offset_ns, Ordering::Relaxed);
        self.ticked.store(self.elapsed_ms(), Ordering::Relaxed);
    }

    /// Whether the last tick was within ten seconds.
    #[must_use]
    pub fn alive(&self) -> bool {
        let still = self.elapsed_ms().saturating_sub(self.ticked.load(Ordering::Relaxed));
        u128::from(still) <= ALIVE.as_millis()
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes one event, as [`Batch::take`].
    pub fn take(&self, event: &Event) {
        self.batch().take(event);
    }

    /// Takes events that are handed on together when the batch is dropped. Waits for nobody but, for microseconds, for a
    /// reader that copies the history.
    pub fn batch(&self) -> Batch<'_> {
        Batch { collector: self, records: Vec::new() }
    }

    /// What an event says, in names; `None` if this version cannot read it.
    #[must_use]
    pub fn record(&self, event: &Event) -> Option<FlowRecord> {
        FlowRecord::from_event(event, &self.context.load(), self.clock(), self.processes.as_ref()).ok()
    }

    /// What is known of the maker of a socket.
    #[must_use]
    pub fn process(&self, owner: &Owner) -> Option<Process> {
        Process::of(owner, self.processes.as_ref())
    }

    /// Program and unit of the maker of a socket. Answers at once.
    #[must_use]
    pub fn process_info(&self, owner: &Owner) -> ProcessInfo {
        self.processes.look_up(owner)
    }

    /// The last `last` records of the history that match, then every later one that matches.
    #[must_use]
    pub fn subscribe(&self, filter: Filter, last: usize) -> Subscription {
        let history = self.history();
        let mut past: VecDeque<_> =
            history.iter().rev().filter(|r| filter.matches(r)).take(last).cloned().collect();
        past.make_contiguous().reverse();
        Subscription { past, live: self.live.subscribe(), filter, lost: Arc::clone(&self.lost_stream) }
    }

    /// Forgets the oldest record if there is no room for one more than `waiting` ones. Before the new one is made, which
    /// can have its memory: to free many and allocate many in turn costs the allocator several times as much.
    fn make_room(&self, waiting: usize) {
        let mut history = self.history();
        let oldest = if history.len() + waiting >= HISTORY { history.pop_front() } else { None };
        drop(history);
        drop(oldest);
    }

    fn history(&self) -> MutexGuard<'_, VecDeque<Arc<FlowRecord>>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records lost in user space since the start, by stage: `decode` (an event that could not be read),
    /// `stream` (a live reader was too slow), `sink:NAME` (its queue was full), `sink:NAME:write` (what it could not
    /// write at all), `history` (its queue was full, or it could not be written for an hour).
    #[must_use]
    pub fn lost(&self) -> Vec<(String, u64)> {
        let mut lost = vec![
            ("decode".to_owned(), self.lost_decode.load(Ordering::Relaxed)),
            ("stream".to_owned(), self.lost_stream.load(Ordering::Relaxed)),
        ];
        for sink in self.sinks() {
            lost.push((format!("sink:{}", sink.name), sink.lost_queue));
            lost.push((format!("sink:{}:write", sink.name), sink.lost_write));
        }
        lost.extend(self.recorder.iter().map(|recorder| ("history".to_owned(), recorder.status().lost)));
        lost
    }

    /// How the sinks fare.
    #[must_use]
    pub fn sinks(&self) -> Vec<SinkStatus> {
        self.sinks.iter().map(Sink::status).collect()
    }

    /// The threads of the sinks and of the recorder that have begun.
    pub(crate) fn threads(&self) -> Vec<Pid> {
        let recorder = self.recorder.as_ref().and_then(|recorder| recorder.tid());
        self.sinks.iter().filter_map(Sink::tid).chain(recorder).collect()
    }

    /// Lets the sinks, all at once, and then the recorder write what is queued, for at most `patience` each. Blocks. Later
    /// events reach no sink.
    pub fn close_sinks(&self, patience: Duration) {
        self.sinks.iter().for_each(Sink::begin_close);
        let until = Instant::now() + patience;
        for sink in &self.sinks {
            if !sink.close(until.saturating_duration_since(Instant::now())) {
                let name = sink.status().name;
                tracing::warn!(sink = name, "the sink did not end in time; its last records may be lost");
            }
        }
        if self.recorder.as_ref().is_some_and(|recorder| !recorder.close(patience)) {
            tracing::warn!("the flow history did not end in time; its last records may be lost");
        }
    }
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collector").field("sinks", &self.sinks).finish_non_exhaustive()
    }
}

/// Events on their way to everybody who wants them.
#[derive(Debug)]
pub struct Batch<'a> {
    collector: &'a Collector,
    records: Vec<Arc<FlowRecord>>,
}

impl Batch<'_> {
    /// Takes an event of the ring buffer.
    pub fn take(&mut self, event: &Event) {
        self.collector.make_room(self.records.len());
        let Collector { context, processes, lost_decode, .. } = self.collector;
        let record =
            FlowRecord::from_event(event, &context.load(), self.collector.clock(), processes.as_ref());
        match record {
            Ok(record) => self.records.push(Arc::new(record)),
            Err(error) => {
                if lost_decode.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::error!(%error, "cannot read an event");
                }
            }
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if self.records.is_empty() {
            return;
        }
        let Collector { sinks, recorder, live, .. } = self.collector;
        for sink in sinks {
            sink.offer(&self.records);
        }
        if let Some(recorder) = recorder {
            recorder.offer(&self.records);
        }
        let mut history = self.collector.history();
        // Under the same lock, so that a new subscriber neither misses a record nor sees it twice.
        if live.receiver_count() > 0 {
            for record in &self.records {
                // Fails when nobody listens any more.
                let _ = live.send(Arc::clone(record));
            }
        }
        let over = (history.len() + self.records.len()).saturating_sub(HISTORY);
        let forgotten = over.min(history.len());
        history.drain(..forgotten);
        history.extend(self.records.drain(..).skip(over - forgotten));
    }
}

/// A reader's place in the stream of records.
#[derive(Debug)]
pub struct Subscription {
    past: VecDeque<Arc<FlowRecord>>,
    live: broadcast::Receiver<Arc<FlowRecord>>,
    filter: Filter,
    lost: Arc<AtomicU64>,
}

/// What a reader gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A record that matches.
    Record(Arc<FlowRecord>),
    /// The reader was too slow for so many records, matching or not.
    Lost(u64),
}

impl Subscription {
    /// The next record of the past; `None` when only later ones are left.
    pub fn next_past(&mut self) -> Option<Arc<FlowRecord>> {
        self.past.pop_front()
    }

    /// The next record, waiting for one; `None` when the collector is gone.
    pub async fn next(&mut self) -> Option<Item> {
        if let Some(record) = self.next_past() {
            return Some(Item::Record(record));
        }
        loop {
            match self.live.recv().await {
                Ok(record) if self.filter.matches(&record) => return Some(Item::Record(record)),
                Ok(_) => {}
                Err(RecvError::Lagged(n)) => {
                    self.lost.fetch_add(n, Ordering::Relaxed);
                    return Some(Item::Lost(n));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use segd_common::event::Kind;

    use super::*;
    use crate::telemetry::process::NoProcesses;
    use crate::telemetry::record::tests::{context, denied, event};

    fn collector() -> Collector {
        Collector::new(context(), Box::new(NoProcesses), Vec::new())
    }

    fn numbered(n: u64) -> Event {
        Event { count: n, ..event(Kind::Open) }
    }

    fn count(item: Option<Item>) -> u64 {
        match item {
            Some(Item::Record(record)) => record.count,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn history_then_live_without_gap_or_repeat() {
        let collector = Arc::new(collector());
        let taker = Arc::clone(&collector);
        let task = std::thread::spawn(move || {
            for n in 0..20_000 {
                taker.take(&numbered(n));
            }
        });
        for _ in 0..20 {
            let mut reader = collector.subscribe(Filter::default(), 100);
            let mut before = None;
            for _ in 0..50.min(reader.past.len()) {
                let n = count(reader.next().await);
                assert!(before.is_none_or(|b| b + 1 == n), "{before:?} {n}");
                before = Some(n);
            }
        }
        task.join().unwrap();
        let mut reader = collector.subscribe(Filter::default(), 2);
        collector.take(&numbered(7));
        assert_eq!([count(reader.next().await), count(reader.next().await)], [19_998, 19_999]);
        assert!(reader.next_past().is_none());
        assert_eq!(count(reader.next().await), 7);
        assert_eq!(collector.history().len(), HISTORY);
        assert_eq!(collector.subscribe(Filter::default(), usize::MAX).past.len(), HISTORY);
    }

    #[tokio::test]
    async fn a_slow_reader_learns_what_it_lost() {
        let collector = collector();
        let mut reader = collector.subscribe(Filter::default(), 0);
        for n in 0..LAG as u64 + 10 {
            collector.take(&numbered(n));
        }
        assert_eq!(reader.next().await, Some(Item::Lost(10)));
        assert_eq!(count(reader.next().await), 10);
        assert_eq!(collector.lost(), [("decode".to_owned(), 0), ("stream".to_owned(), 10)]);
    }

    #[tokio::test]
    async fn a_filter_counts_only_what_matches_as_the_last() {
        let collector = collector();
        for n in 0..10 {
            collector.take(&numbered(n));
        }
        collector.take(&denied());
        let mut filter = Filter::default();
        filter.set("verdict", "allowed").unwrap();
        let mut reader = collector.subscribe(filter, 1);
        collector.take(&denied());
        collector.take(&numbered(11));
        assert_eq!([count(reader.next().await), count(reader.next().await)], [9, 11]);
    }

    #[test]
    fn unreadable_events_are_counted_and_contexts_replaced() {
        let collector = collector();
        collector.take(&Event { kind: 77, ..denied() });
        assert_eq!(collector.lost()[0], ("decode".to_owned(), 1));
        collector.set_context(Context { host: "renamed".into(), ..context() });
        collector.take(&denied());
        let last = collector.subscribe(Filter::default(), 1).next_past().unwrap();
        assert_eq!(&*last.host, "renamed");
        assert!(collector.alive());
    }
}
