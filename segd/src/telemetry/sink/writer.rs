//! The thread of a sink: gathers records into batches, writes them, and tries again when that fails.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{io, thread, vec};

use super::pending::Pending;
use super::summaries::Summaries;
use super::{Detail, Output, Records, State, Written};
use crate::telemetry::record::FlowRecord;

/// A batch is written when it has this many bytes,
const BATCH: usize = 64 << 10;
/// or when its first record has waited for this long.
const GATHER: Duration = Duration::from_millis(50);
/// With this many bytes pending nothing more is taken from the queue, which then overflows countably.
const KEPT: usize = 256 << 10;
/// The thread shows at least this often that it is alive.
const BEAT: Duration = Duration::from_secs(1);
/// How long it waits before it looks whether there is room again.
const TICK: Duration = Duration::from_millis(50);
/// Waits between tries double from the first to the last.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// How long the thread waits at its end until the other side has what was written.
const FAREWELL: Duration = Duration::from_secs(1);

pub(super) struct Writer<O> {
    output: O,
    state: Arc<State>,
    /// Taken from the queue, but for its place there, and not looked at yet.
    backlog: vec::IntoIter<Arc<FlowRecord>>,
    summaries: Option<Summaries>,
    pending: Pending,
    /// Bytes that became pending since the last write.
    fresh: usize,
    retry: Option<Retry>,
}

#[derive(Clone, Copy)]
struct Retry {
    at: Instant,
    wait: Duration,
}

impl<O: Output> Writer<O> {
    pub(super) fn new(output: O, detail: Detail, state: Arc<State>) -> Self {
        let summaries = match detail {
            Detail::Each => None,
            Detail::Summary { window } => Some(Summaries::new(window)),
        };
        let (backlog, pending) = (Vec::new().into_iter(), Pending::default());
        Self { output, state, backlog, summaries, pending, fresh: 0, retry: None }
    }

    /// Until the queue's other end is gone.
    pub(super) fn run(mut self, queue: &Receiver<Records>) {
        // Says at once whether the output works at all.
        self.write();
        loop {
            self.state.moves();
            if self.backlog.len() > 0 {
                if self.state.closing.load(Ordering::Relaxed) && self.retry.is_some() {
                    break;
                }
                thread::sleep(TICK);
            } else {
                match queue.recv_timeout(self.patience()) {
                    Ok(records) => self.backlog = records.into_iter(),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            self.gather(queue);
            self.end_window_if_due();
            if self.retry.is_none_or(|retry| retry.at <= Instant::now()) {
                self.write();
            }
        }
        self.end(queue);
    }

    fn patience(&self) -> Duration {
        let retry = self.retry.map(|retry| retry.at.saturating_duration_since(Instant::now()));
        let window = self.summaries.as_ref().and_then(Summaries::left).filter(|_| !self.is_full());
        [retry, window].into_iter().flatten().fold(BEAT, Duration::min)
    }

    fn is_full(&self) -> bool {
        self.pending.bytes().len() >= KEPT
    }

    fn gather(&mut self, queue: &Receiver<Records>) {
        let until = Instant::now() + GATHER;
        while self.backlog.len() > 0 {
            self.take_backlog();
            let left = until.saturating_duration_since(Instant::now());
            let enough = self.retry.is_none() && self.fresh >= BATCH;
            let closing = self.state.closing.load(Ordering::Relaxed);
            if self.backlog.len() > 0 || enough || closing || left.is_zero() || self.is_full() {
                return;
            }
            // Not woken by every batch, only when the queue fills or ends.
            let records = queue.try_recv().or_else(|_| {
                thread::park_timeout(left);
                queue.try_recv()
            });
            self.backlog = records.unwrap_or_default().into_iter();
        }
    }

    fn take_backlog(&mut self) {
        while !self.is_full()
            && let Some(record) = self.backlog.next()
        {
            self.state.queued.fetch_sub(1, Ordering::Relaxed);
            match &mut self.summaries {
                Some(summaries) if Summaries::takes(&record) => summaries.add(&record),
                _ => self.push(&record, 1),
            }
            self.end_window_if_due();
            if self.fresh >= BATCH && self.retry.is_none() {
                self.write();
            }
        }
    }

    fn end_window_if_due(&mut self) {
        let due = self.summaries.as_ref().and_then(Summaries::left).is_some_and(|left| left.is_zero());
        if due && !self.is_full() {
            self.end_window();
        }
    }

    fn end_window(&mut self) {
        let told = self.summaries.as_mut().map(Summaries::drain).unwrap_or_default();
        for (record, weight) in told {
            self.push(&record, weight);
        }
    }

    fn push(&mut self, record: &FlowRecord, weight: u64) {
        let before = self.pending.bytes().len();
        match self.pending.push(weight, |to| self.output.encode(record, to)) {
            Ok(()) => self.fresh += self.pending.bytes().len() - before,
            Err(_) => self.lose(weight),
        }
    }

    fn lose(&self, weight: u64) {
        self.state.lost_write.fetch_add(weight, Ordering::Relaxed);
    }

    fn write(&mut self) {
        let Written { done, lost, result } = self.output.write(&self.pending);
        self.fresh = 0;
        self.pending.remove(done);
        self.lose(lost);
        match result {
            Ok(()) => {
                self.retry = None;
                self.state.works();
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &io::Error) {
        let wait = self.retry.map_or(FIRST_RETRY, |retry| (retry.wait * 2).min(LAST_RETRY));
        self.retry = Some(Retry { at: Instant::now() + wait, wait });
        self.state.fails(error);
    }

    /// Writes what is pending for the last time, and counts what is left.
    fn end(mut self, queue: &Receiver<Records>) {
        self.end_window();
        let until = Instant::now() + FAREWELL;
        loop {
            self.write();
            if self.pending.is_empty() || self.retry.is_some() || Instant::now() >= until {
                break;
            }
            thread::sleep(TICK / 5);
        }
        let queued = self.backlog.len() + queue.try_iter().map(|records| records.len()).sum::<usize>();
        self.state.queued.fetch_sub(queued, Ordering::Relaxed);
        self.lose(self.pending.weight() + queued as u64);
    }
}

/// Writes all of `bytes`, or as much as goes. Returns how many and what stopped it.
pub(super) fn write_some(to: &mut impl io::Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut done = 0;
    while done < bytes.len() {
        match to.write(&bytes[done..]) {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}

/// Bytes of the whole lines that `bytes` begins with.
pub(super) fn whole_lines(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Sender, channel};

    use super::super::{Options, Sink, lock};
    use super::*;
    use crate::telemetry::filter::Filter;
    use crate::telemetry::record::tests::{denied, event, record};
    use segd_common::event::Kind;

    fn until(what: &str, mut done: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !done() {
            assert!(Instant::now() < end, "{what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<(Vec<u8>, bool)>>);

    impl Memory {
        fn break_it(&self, broken: bool) {
            lock(&self.0).1 = broken;
        }
        fn lines(&self) -> usize {
            lock(&self.0).0.iter().filter(|b| **b == b'\n').count()
        }
    }

    impl Output for Memory {
        fn write(&mut self, pending: &Pending) -> Written {
            let mut memory = lock(&self.0);
            if memory.1 {
                return Written::failed(0, io::ErrorKind::StorageFull.into());
            }
            memory.0.extend(pending.bytes());
            Written::all(pending)
        }
    }

    #[test]
    fn takes_what_it_wants_within_a_second_and_flushes_when_closed() {
        let memory = Memory::default();
        let mut filter = Filter::default();
        filter.set("verdict", "denied").unwrap();
        let options = Options { filter, ..Options::named("memory") };
        let sink = Sink::start(options, memory.clone()).unwrap();
        let (denied, opened) = (Arc::new(record(&denied())), Arc::new(record(&event(Kind::Open))));
        sink.offer(std::slice::from_ref(&denied));
        sink.offer(std::slice::from_ref(&opened));
        until("written without being closed", || memory.lines() == 1);
        for _ in 0..1000 {
            sink.offer(std::slice::from_ref(&denied));
        }
        assert!(sink.close(Duration::from_secs(5)));
        assert_eq!(memory.lines(), 1001);
        let text = String::from_utf8(lock(&memory.0).0.clone()).unwrap();
        for line in text.lines() {
            assert_eq!(serde_json::from_str::<FlowRecord>(line).unwrap(), *denied);
        }
    }

    #[test]
    fn a_failing_output_loses_countably_and_recovers() {
        let memory = Memory::default();
        let options = Options { queue: 150, ..Options::named("memory") };
        let sink = Sink::start(options, memory.clone()).unwrap();
        memory.break_it(true);
        let denied = Arc::new(record(&denied()));
        let mut sent = 0;
        until("records are lost", || {
            for _ in 0..100 {
                sink.offer(std::slice::from_ref(&denied));
                sent += 1;
            }
            let status = sink.status();
            status.lost_queue > 0 && !status.up
        });
        let status = sink.status();
        assert!(!status.up && status.error.is_some(), "{status:?}");
        memory.break_it(false);
        until("recovers by itself", || sink.status().up);
        assert!(sink.close(Duration::from_secs(5)));
        let status = sink.status();
        assert_eq!((memory.lines() as u64 + status.lost_queue, status.lost_write), (sent, 0));
        assert!(status.lost_queue > 0 && memory.lines() > 100, "{status:?}");
    }

    #[test]
    fn what_cannot_be_written_at_the_end_is_counted() {
        let memory = Memory::default();
        memory.break_it(true);
        let sink = Sink::start(Options::named("memory"), memory.clone()).unwrap();
        let denied = Arc::new(record(&denied()));
        for _ in 0..10 {
            sink.offer(std::slice::from_ref(&denied));
        }
        assert!(sink.close(Duration::from_secs(5)));
        assert_eq!((sink.status().lost_write, memory.lines()), (10, 0));
        sink.offer(std::slice::from_ref(&denied));
        assert_eq!(sink.status().lost_queue, 1, "after the end");
    }

    struct Stuck(Sender<()>, Receiver<()>);

    impl Output for Stuck {
        fn write(&mut self, pending: &Pending) -> Written {
            let _ = self.0.send(());
            let _ = self.1.recv();
            Written::all(pending)
        }
    }

    #[test]
    fn a_stuck_output_holds_nobody_up() {
        let ((at, entered), (go, wait)) = (channel(), channel());
        let sink = Sink::start(Options::named("stuck"), Stuck(at, wait)).unwrap();
        entered.recv().unwrap();
        let denied = Arc::new(record(&denied()));
        let began = Instant::now();
        for _ in 0..super::super::QUEUE + 50 {
            sink.offer(std::slice::from_ref(&denied));
        }
        assert_eq!(sink.status().lost_queue, 50);
        assert!(!sink.close(Duration::from_millis(100)), "does not end in time");
        assert!(began.elapsed() < Duration::from_secs(2));
        drop(go);
        assert!(sink.close(Duration::from_secs(5)));
    }

    #[test]
    fn lines() {
        for (text, want) in [("", 0), ("a", 0), ("a\n", 2), ("a\nb", 2), ("a\nb\n", 4)] {
            assert_eq!(whole_lines(text.as_bytes()), want, "{text:?}");
        }
    }
}
