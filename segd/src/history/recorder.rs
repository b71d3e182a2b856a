//! The agent's end of the history: takes flow records as they come, never waits, and lets a thread of its own add them up
//! and write.

mod keeper;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::unistd::{Pid, gettid};
use serde::{Deserialize, Serialize};

use super::fold::Limits;
use super::store::{FILE, HistoryError, Reader, Retention};
use super::summary::Summary;
use crate::config::HistoryConfig;
use crate::telemetry::FlowRecord;
use keeper::Keeper;

/// Records that wait for the thread before the next one is lost.
const QUEUE: usize = 16_384;

/// What was added up is written at least so often.
const FLUSH: Duration = Duration::from_secs(5);

/// Records are left to gather for so long, unless a reader waits or the queue fills.
const GATHER: Duration = Duration::from_millis(50);

/// Or when so many rows have changed.
const BATCH: usize = 4096;

/// For a reader that wants to see what was just recorded.
const PATIENCE: Duration = Duration::from_secs(10);

/// Records the history of one agent.
#[derive(Debug)]
pub struct Recorder {
    /// There until the file may be opened.
    waits: Mutex<Option<Sender<()>>>,
    queue: Mutex<Option<Sender<Message>>>,
    ended: Mutex<Receiver<()>>,
    /// To be unparked where what is queued must not wait.
    thread: Thread,
    shared: Arc<Shared>,
}

/// How the history fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryStatus {
    /// Its last write succeeded.
    pub up: bool,
    /// The last error while it is down.
    pub error: Option<String>,
    /// The file.
    pub path: PathBuf,
    /// Its size with its write-ahead log.
    pub bytes: u64,
    /// The size that it may have.
    pub max_bytes: u64,
    /// Summaries in it.
    pub rows: u64,
    /// When the first hour in it began; `None`: it is empty.
    pub oldest: Option<Timestamp>,
    /// Records that it did not take.
    pub lost: u64,
}

enum Message {
    Records(Vec<Arc<FlowRecord>>),
    /// The rules in force from now on.
    Rules(Vec<Arc<str>>, Timestamp),
    Flush(SyncSender<Result<(), HistoryError>>),
}

#[derive(Debug)]
struct Shared {
    queued: AtomicUsize,
    tid: OnceLock<Pid>,
    status: Mutex<HistoryStatus>,
}

impl Recorder {
    /// Begins to record into a state directory. What is wrong with the file there shows in the status only. The file is
    /// opened when [`open`](Self::open) says so, as that takes time which a start has not.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn start(state_dir: &Path, config: &HistoryConfig) -> io::Result<Self> {
        Self::with_limits(state_dir, config, Limits::default())
    }

    fn with_limits(state_dir: &Path, config: &HistoryConfig, limits: Limits) -> io::Result<Self> {
        let path = state_dir.join(FILE);
        let retention = Retention { hours: i64::from(config.days) * 24, size: config.size };
        let status = HistoryStatus {
            up: true,
            error: None,
            path: path.clone(),
            bytes: 0,
            max_bytes: config.size,
            rows: 0,
            oldest: None,
            lost: 0,
        };
        let shared = Arc::new(Shared {
            queued: AtomicUsize::new(0),
            tid: OnceLock::new(),
            status: Mutex::new(status),
        });
        let (queue, messages) = mpsc::channel();
        let (running, ended) = mpsc::channel::<()>();
        let (waits, opening) = mpsc::channel::<()>();
        let theirs = Arc::clone(&shared);
        // Detached: a thread stuck in a system call must not keep the agent from ending.
        let thread = thread::Builder::new().name("history".to_owned()).spawn(move || {
            theirs.tid.get_or_init(gettid);
            let mut keeper = Keeper::new(path, limits, retention);
            // Until its other end is gone.
            let _ = opening.recv();
            run(&mut keeper, &messages, &theirs);
            drop(keeper);
            drop(running);
        })?;
        Ok(Self {
            waits: Mutex::new(Some(waits)),
            queue: Mutex::new(Some(queue)),
            ended: Mutex::new(ended),
            thread: thread.thread().clone(),
            shared,
        })
    }

    /// Lets the file be opened. Never blocks.
    pub fn open(&self) {
        drop(lock(&self.waits).take());
    }

    /// Queues records as far as there is room. Never blocks.
    pub fn offer(&self, records: &[Arc<FlowRecord>]) {
        let queued = self.shared.queued.load(Ordering::Relaxed);
        let room = QUEUE.saturating_sub(queued);
        let taken = records.len().min(room);
        let mut lost = records.len() - taken;
        if let Some(records) = records.get(..taken).filter(|records| !records.is_empty()) {
            self.shared.queued.fetch_add(taken, Ordering::Relaxed);
            if !self.send(Message::Records(records.to_vec())) {
                self.shared.queued.fetch_sub(taken, Ordering::Relaxed);
                lost += taken;
            } else if queued + taken > QUEUE / 2 {
                self.thread.unpark();
            }
        }
        if lost > 0 {
            self.shared.status().lost += lost as u64;
        }
    }

    /// Tells which rules are in force from now on. Never blocks.
    pub fn rules_in_force(&self, rules: impl IntoIterator<Item = Arc<str>>) {
        self.send(Message::Rules(rules.into_iter().collect(), Timestamp::now()));
    }

    /// Writes what was recorded so far, and opens it. Blocks.
    ///
    /// # Errors
    /// It cannot be written or read.
    pub fn reader(&self) -> Result<Reader, HistoryError> {
        self.open();
        let path = self.status().path;
        let stuck = |reason: &str| HistoryError::Stuck { path: path.clone(), reason: reason.to_owned() };
        let (reply, answer) = mpsc::sync_channel(1);
        if !self.send(Message::Flush(reply)) {
            return Err(stuck("the agent is ending"));
        }
        self.thread.unpark();
        answer.recv_timeout(PATIENCE).map_err(|_| stuck("it does not answer in time"))??;
        Reader::open(&path)
    }

    /// How it fares now.
    #[must_use]
    pub fn status(&self) -> HistoryStatus {
        self.shared.status().clone()
    }

    /// The id of its thread, if that has begun.
    pub(crate) fn tid(&self) -> Option<Pid> {
        self.shared.tid.get().copied()
    }

    /// Takes no more, writes what it has and waits for that at most `patience`. Returns whether it ended in time.
    pub fn close(&self, patience: Duration) -> bool {
        self.open();
        drop(lock(&self.queue).take());
        self.thread.unpark();
        matches!(lock(&self.ended).recv_timeout(patience), Err(RecvTimeoutError::Disconnected))
    }

    fn send(&self, message: Message) -> bool {
        lock(&self.queue).as_ref().is_some_and(|queue| queue.send(message).is_ok())
    }
}

impl Shared {
    fn status(&self) -> MutexGuard<'_, HistoryStatus> {
        lock(&self.status)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Until the queue's other end is gone.
fn run(keeper: &mut Keeper, messages: &Receiver<Message>, shared: &Shared) {
    keeper.open();
    keeper.tell(&mut shared.status());
    let mut written = Instant::now();
    let mut more_come = false;
    loop {
        let message = messages.try_recv().or_else(|_| {
            if more_come {
                thread::park_timeout(GATHER);
            }
            messages.recv_timeout(FLUSH.saturating_sub(written.elapsed()))
        });
        more_come = matches!(message, Ok(Message::Records(_)));
        let mut reply = None;
        let mut ended = false;
        match message {
            Ok(Message::Records(records)) => {
                shared.queued.fetch_sub(records.len(), Ordering::Relaxed);
                Summary::of_runs(&records).for_each(|one| keeper.add(one));
            }
            Ok(Message::Rules(rules, now)) => keeper.rules_in_force(rules, now),
            Ok(Message::Flush(to)) => reply = Some(to),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => ended = true,
        }
        let due = written.elapsed() >= FLUSH || keeper.pending() >= BATCH && keeper.is_up();
        if due || ended || reply.is_some() {
            let result = keeper.write();
            keeper.tell(&mut shared.status());
            written = Instant::now();
            if let Some(reply) = reply {
                // Whoever asked may have gone.
                let _ = reply.send(result);
            }
        }
        if ended {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
