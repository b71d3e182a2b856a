//! Where flow records are written to. Each sink has a thread of its own and a bounded queue before it, so
//! that a slow disk, a receiver that hangs or one that is gone costs records, which are counted, and never holds
//! up anything else.

mod datagram;
pub mod file;
pub mod journald;
mod json;
mod pending;
pub mod stdout;
mod stream;
mod summaries;
pub mod syslog;
mod wait;
mod writer;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use nix::unistd::{Pid, gettid};
use segd_common::event::Kind;
use segd_common::traffic::Verdict;

use super::filter::Filter;
use super::record::FlowRecord;
pub(crate) use pending::Pending;
use writer::Writer;

/// Records that wait for a sink's thread before the next one is lost, unless the configuration says otherwise.
pub const QUEUE: usize = 8192;

/// Records that were made at a time.
type Records = Vec<Arc<FlowRecord>>;

/// A sink whose thread has not moved for this long is stuck in a system call: it counts as down.
const STUCK: Duration = Duration::from_secs(5);

/// What a sink takes, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Its name, the label of its metrics.
    pub name: String,
    /// The records that it takes.
    pub filter: Filter,
    /// How closely it tells of allowed flows.
    pub detail: Detail,
    /// Records that wait for its thread before the next one is lost. While the sink fails, up to 256 KiB of others
    /// that are encoded wait too.
    pub queue: usize,
}

#[cfg(test)]
impl Options {
    /// Everything, each.
    pub(crate) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), filter: Filter::default(), detail: Detail::Each, queue: QUEUE }
    }
}

/// How closely a sink tells of allowed flows. Denied and audited ones, and those that were cut, are told each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// A record for each turn of each flow.
    #[default]
    Each,
    /// One record of event `summary` for all flows of a conversation within a window.
    Summary {
        /// How long a window lasts, from its first record. It ends early with 4096 conversations.
        window: Duration,
    },
}

/// Where a sink's records go. Called by one thread; may block, but not for long: the agent waits two seconds for
/// it when it ends.
pub(crate) trait Output: Send + 'static {
    /// Appends a record as it is to be written: by default a line of JSON.
    fn encode(&self, record: &FlowRecord, to: &mut Vec<u8>) -> io::Result<()> {
        json::append(record, json::Escape::Tricky, to)?;
        to.push(b'\n');
        Ok(())
    }

    /// Writes what is pending. Called at least once a second, also with nothing, to see whether the output works.
    /// What it leaves is given to it again.
    fn write(&mut self, pending: &Pending) -> Written;
}

/// What became of pending records.
#[derive(Debug)]
pub(crate) struct Written {
    /// How many, from the front, need not be given again.
    done: usize,
    /// Records of the collector among them that were lost.
    lost: u64,
    /// What stopped it.
    result: io::Result<()>,
}

impl Written {
    #[cfg(test)]
    pub(crate) fn all(pending: &Pending) -> Self {
        Self { done: pending.len(), lost: 0, result: Ok(()) }
    }

    fn failed(done: usize, error: io::Error) -> Self {
        Self { done, lost: 0, result: Err(error) }
    }
}

/// The collector's end of a sink.
#[derive(Debug)]
pub struct Sink {
    filter: Filter,
    room: usize,
    queue: Mutex<Option<Sender<Records>>>,
    ended: Mutex<Receiver<()>>,
    /// Gathers for a while before it looks into the queue again, unless it is unparked.
    thread: Thread,
    state: Arc<State>,
}

/// How a sink fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkStatus {
    /// Its name, the label of its metrics.
    pub name: String,
    /// Its last write succeeded and its thread is moving.
    pub up: bool,
    /// Records that found its queue full.
    pub lost_queue: u64,
    /// Records that could not be written: they do not fit, or the agent ended.
    pub lost_write: u64,
    /// The last error while it is down.
    pub error: Option<String>,
}

/// Shared by a sink's two ends.
#[derive(Debug)]
pub(crate) struct State {
    name: String,
    began: Instant,
    tid: OnceLock<Pid>,
    /// Milliseconds since `began`.
    beat: AtomicU64,
    closing: AtomicBool,
    /// Records in the queue.
    queued: AtomicUsize,
    lost_queue: AtomicU64,
    lost_write: AtomicU64,
    error: Mutex<Option<String>>,
}

impl Sink {
    /// Starts the thread of a sink.
    ///
    /// # Errors
    /// No thread could be started.
    pub(crate) fn start(options: Options, output: impl Output) -> io::Result<Self> {
        let Options { name, filter, detail, queue: room } = options;
        let state = Arc::new(State::new(&name));
        let (queue, records) = mpsc::channel();
        let (running, ended) = mpsc::channel::<()>();
        let writer = Writer::new(output, detail, Arc::clone(&state));
        let theirs = Arc::clone(&state);
        // Detached: a thread stuck in a system call must not keep the agent from ending.
        let thread = thread::Builder::new().name(format!("sink-{name}")).spawn(move || {
            theirs.tid.get_or_init(gettid);
            writer.run(&records);
            drop(running);
        })?;
        let (thread, queue, ended) = (thread.thread().clone(), Mutex::new(Some(queue)), Mutex::new(ended));
        Ok(Self { filter, room, queue, ended, thread, state })
    }

    /// Queues the records that the sink wants, as far as it has room. Never blocks.
    pub(crate) fn offer(&self, records: &[Arc<FlowRecord>]) {
        let mut wanted: Records = records.iter().filter(|r| self.filter.matches(r)).cloned().collect();
        if wanted.is_empty() {
            return;
        }
        // Only here does it grow, and there is one who offers at a time, or a few that may exceed it a little.
        let queued = self.state.queued.load(Ordering::Relaxed);
        let room = self.room.saturating_sub(queued);
        let mut lost = wanted.len().saturating_sub(room);
        wanted.truncate(room);
        let taken = wanted.len();
        self.state.queued.fetch_add(taken, Ordering::Relaxed);
        let sent = lock(&self.queue).as_ref().is_some_and(|queue| queue.send(wanted).is_ok());
        if !sent {
            self.state.queued.fetch_sub(taken, Ordering::Relaxed);
            lost += taken;
        } else if queued + taken > self.room / 2 {
            self.thread.unpark();
        }
        self.state.lost_queue.fetch_add(lost as u64, Ordering::Relaxed);
    }

    /// Takes no more records, and lets the thread write what is queued and end.
    pub(crate) fn begin_close(&self) {
        self.state.closing.store(true, Ordering::Relaxed);
        drop(lock(&self.queue).take());
        self.thread.unpark();
    }

    /// As [`Sink::begin_close`], and waits for that at most `patience`. Returns whether the thread ended in time; it
    /// counts as lost itself what it could not write.
    pub fn close(&self, patience: Duration) -> bool {
        self.begin_close();
        matches!(lock(&self.ended).recv_timeout(patience), Err(RecvTimeoutError::Disconnected))
    }

    /// How it fares now.
    #[must_use]
    pub fn status(&self) -> SinkStatus {
        self.state.status()
    }

    /// The id of its thread, if that has begun.
    pub(crate) fn tid(&self) -> Option<Pid> {
        self.state.tid.get().copied()
    }
}

impl State {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            began: Instant::now(),
            tid: OnceLock::new(),
            beat: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
            lost_queue: AtomicU64::new(0),
            lost_write: AtomicU64::new(0),
            error: Mutex::new(None),
        }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Called by the writer at least once a second.
    fn moves(&self) {
        self.beat.store(self.elapsed_ms(), Ordering::Relaxed);
    }

    fn fails(&self, error: &io::Error) {
        if lock(&self.error).replace(error.to_string()).is_none() {
            tracing::warn!(sink = self.name, %error, "cannot write flow records; trying again until it works");
        }
    }

    fn works(&self) {
        if lock(&self.error).take().is_some() {
            let lost = self.lost_write.load(Ordering::Relaxed) + self.lost_queue.load(Ordering::Relaxed);
            tracing::info!(sink = self.name, lost, "writing flow records again");
        }
    }

    fn status(&self) -> SinkStatus {
        let still = self.elapsed_ms().saturating_sub(self.beat.load(Ordering::Relaxed));
        let stuck = u128::from(still) > STUCK.as_millis();
        let error = lock(&self.error)
            .clone()
            .or_else(|| stuck.then(|| format!("no write has come to an end for {} seconds", still / 1000)));
        SinkStatus {
            name: self.name.clone(),
            up: error.is_none(),
            lost_queue: self.lost_queue.load(Ordering::Relaxed),
            lost_write: self.lost_write.load(Ordering::Relaxed),
            error,
        }
    }
}

/// Severity of a record, RFC 5424 section 6.2.1; the journal's PRIORITY.
fn severity(record: &FlowRecord) -> u8 {
    match record.verdict {
        Verdict::Denied => 4,
        Verdict::Audited => 5,
        Verdict::Allowed if record.event == Kind::Revoke => 4,
        Verdict::Allowed => 6,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
