//! The thread of a sink: gathers records into batches, writes them, and tries again when that fails.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::{Output, Records, State};
use crate::telemetry::record::FlowRecord;

/// A batch is written when it has this many bytes,
const BATCH: usize = 64 << 10;
/// or when its first record has waited for this long.
const GATHER: Duration = Duration::from_millis(50);
/// Bytes that are kept while writing fails; more records are lost.
const KEPT: usize = 256 << 10;
/// The thread shows at least this often that it is alive.
const BEAT: Duration = Duration::from_secs(1);
/// Waits between tries double from the first to the last.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

pub(super) struct Writer<O> {
    output: O,
    state: Arc<State>,
    lines: Vec<u8>,
    retry: Option<Retry>,
}

#[derive(Clone, Copy)]
struct Retry {
    at: Instant,
    wait: Duration,
}

impl<O: Output> Writer<O> {
    pub(super) fn new(output: O, state: Arc<State>) -> Self {
        Self { output, state, lines: Vec::new(), retry: None }
    }

    /// Until the queue's other end is gone.
    pub(super) fn run(mut self, queue: &Receiver<Records>) {
        // Says at once whether the output works at all.
        self.write();
        loop {
            self.state.moves();
            match queue.recv_timeout(self.patience()) {
                Ok(records) => self.gather(&records, queue),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.retry.is_none_or(|retry| retry.at <= Instant::now()) {
                self.write();
            }
        }
        self.write();
        let left = self.lines.iter().filter(|b| **b == b'\n').count();
        self.state.lost_write.fetch_add(left as u64, Ordering::Relaxed);
    }

    fn patience(&self) -> Duration {
        match self.retry {
            None => BEAT,
            Some(retry) => retry.at.saturating_duration_since(Instant::now()).min(BEAT),
        }
    }

    fn gather(&mut self, first: &Records, queue: &Receiver<Records>) {
        let until = Instant::now() + GATHER;
        self.add_all(first);
        while self.retry.is_some() || self.lines.len() < BATCH {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.state.closing.load(Ordering::Relaxed) {
                return;
            }
            match queue.recv_timeout(left) {
                Ok(records) => self.add_all(&records),
                Err(_) => return,
            }
        }
    }

    fn add_all(&mut self, records: &Records) {
        self.state.queued.fetch_sub(records.len(), Ordering::Relaxed);
        for record in records {
            self.add(record);
            if self.lines.len() >= BATCH && self.retry.is_none() {
                self.write();
            }
        }
    }

    fn add(&mut self, record: &FlowRecord) {
        let before = self.lines.len();
        let written = before < KEPT && serde_json::to_writer(&mut self.lines, record).is_ok();
        if written && self.lines.len() < KEPT {
            self.lines.push(b'\n');
        } else {
            self.lines.truncate(before);
            self.state.lost_write.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn write(&mut self) {
        let (written, result) = self.output.write_lines(&self.lines);
        self.lines.drain(..written);
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

    use super::super::{Sink, lock};
    use super::*;
    use crate::telemetry::filter::Filter;
    use crate::telemetry::record::tests::{denied, event, record};
    use segd_common::event::Kind;

    fn until(what: &str, mut done: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !done() {
            assert!(Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(5));
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
        fn write_lines(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
            let mut memory = lock(&self.0);
            if memory.1 {
                return (0, Err(io::ErrorKind::StorageFull.into()));
            }
            memory.0.extend(lines);
            (lines.len(), Ok(()))
        }
    }

    #[test]
    fn takes_what_it_wants_within_a_second_and_flushes_when_closed() {
        let memory = Memory::default();
        let mut filter = Filter::default();
        filter.set("verdict", "denied").unwrap();
        let sink = Sink::start("memory", filter, memory.clone()).unwrap();
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
        let sink = Sink::start("memory", Filter::default(), memory.clone()).unwrap();
        memory.break_it(true);
        let denied = Arc::new(record(&denied()));
        let mut sent = 0;
        until("records are lost", || {
            for _ in 0..100 {
                sink.offer(std::slice::from_ref(&denied));
                sent += 1;
            }
            sink.status().lost_write > 0
        });
        let status = sink.status();
        assert!(!status.up && status.error.is_some(), "{status:?}");
        memory.break_it(false);
        until("recovers by itself", || sink.status().up);
        assert!(sink.close(Duration::from_secs(5)));
        let status = sink.status();
        assert_eq!(memory.lines() as u64 + status.lost_write + status.lost_queue, sent);
        assert!(status.lost_write > 0 && memory.lines() > 100, "{status:?}");
    }

    #[test]
    fn what_cannot_be_written_at_the_end_is_counted() {
        let memory = Memory::default();
        memory.break_it(true);
        let sink = Sink::start("memory", Filter::default(), memory.clone()).unwrap();
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
        fn write_lines(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
            let _ = self.0.send(());
            let _ = self.1.recv();
            (lines.len(), Ok(()))
        }
    }

    #[test]
    fn a_stuck_output_holds_nobody_up() {
        let ((at, entered), (go, wait)) = (channel(), channel());
        let sink = Sink::start("stuck", Filter::default(), Stuck(at, wait)).unwrap();
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
