//! Where flow records are written to. Each sink has a thread of its own and a bounded queue before it, so
//! that a slow or full disk costs records, which are counted, and never holds up anything else.

pub mod file;
pub mod stdout;
mod writer;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use super::filter::Filter;
use super::record::FlowRecord;
use writer::Writer;

/// Records that wait for a sink's thread before the next one is lost.
const QUEUE: usize = 8192;

/// Records that were made at a time.
type Records = Vec<Arc<FlowRecord>>;

/// A sink whose thread has not moved for this long is stuck in a system call: it counts as down.
const STUCK: Duration = Duration::from_secs(5);

/// Takes lines of text. Called by one thread; may block.
pub(crate) trait Output: Send + 'static {
    /// Writes `lines`, each of which ends with `\n`. Returns how many bytes of whole lines were written, and
    /// the error that stopped it. What was written of a line that is not whole must not be joined to a later
    /// one.
    fn write_lines(&mut self, lines: &[u8]) -> (usize, io::Result<()>);
}

/// The collector's end of a sink.
#[derive(Debug)]
pub struct Sink {
    filter: Filter,
    queue: Mutex<Option<Sender<Records>>>,
    ended: Mutex<Receiver<()>>,
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
    /// Records that could not be written in time.
    pub lost_write: u64,
    /// The last error while it is down.
    pub error: Option<String>,
}

/// Shared by a sink's two ends.
#[derive(Debug)]
pub(crate) struct State {
    name: String,
    began: Instant,
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
    /// Starts the thread of a sink that takes what `filter` matches.
    ///
    /// # Errors
    /// No thread could be started.
    pub(crate) fn start(name: &str, filter: Filter, output: impl Output) -> io::Result<Self> {
        let state = Arc::new(State::new(name));
        let (queue, records) = mpsc::channel();
        let (running, ended) = mpsc::channel::<()>();
        let writer = Writer::new(output, Arc::clone(&state));
        // Detached: a thread stuck in a system call must not keep the agent from ending.
        thread::Builder::new().name(format!("sink-{name}")).spawn(move || {
            writer.run(&records);
            drop(running);
        })?;
        Ok(Self { filter, queue: Mutex::new(Some(queue)), ended: Mutex::new(ended), state })
    }

    /// Queues the records that the sink wants, as far as it has room. Never blocks.
    pub(crate) fn offer(&self, records: &[Arc<FlowRecord>]) {
        let mut wanted: Records = records.iter().filter(|r| self.filter.matches(r)).cloned().collect();
        if wanted.is_empty() {
            return;
        }
        // Only here does it grow, and there is one who offers at a time, or a few that may exceed it a little.
        let room = QUEUE.saturating_sub(self.state.queued.load(Ordering::Relaxed));
        let mut lost = wanted.len().saturating_sub(room);
        wanted.truncate(room);
        let taken = wanted.len();
        self.state.queued.fetch_add(taken, Ordering::Relaxed);
        let sent = lock(&self.queue).as_ref().is_some_and(|queue| queue.send(wanted).is_ok());
        if !sent {
            self.state.queued.fetch_sub(taken, Ordering::Relaxed);
            lost += taken;
        }
        self.state.lost_queue.fetch_add(lost as u64, Ordering::Relaxed);
    }

    /// Takes no more records, writes what is queued and waits for that at most `patience`. Returns whether
    /// the thread ended in time; it counts as lost itself what it could not write.
    pub fn close(&self, patience: Duration) -> bool {
        self.state.closing.store(true, Ordering::Relaxed);
        drop(lock(&self.queue).take());
        matches!(lock(&self.ended).recv_timeout(patience), Err(RecvTimeoutError::Disconnected))
    }

    /// How it fares now.
    #[must_use]
    pub fn status(&self) -> SinkStatus {
        self.state.status()
    }
}

impl State {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            began: Instant::now(),
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
            let lost = self.lost_write.load(Ordering::Relaxed);
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
