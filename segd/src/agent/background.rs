//! The threads that follow flows leave the CPU to the host's own work: they run when it is idle (SCHED_IDLE, sched(7)), as
//! long as they get enough of it. When they do not, they take part like anybody else: so a lock that one of them holds is
//! not held for longer than it takes to see that.

use std::io;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{Pid, gettid};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::priority::{self, Priority, may_come_back};

/// How much later than it asked for the reader of events may run.
const LATE: Duration = Duration::from_millis(100);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Between two looks at who is late.
const STEP: Duration = Duration::from_millis(25);
/// For how long nobody must have been late before they leave the CPU to others again.
const CALM: Duration = Duration::from_secs(60);
/// How long somebody waits at most for what happened until now.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether the thread that reads events runs when it wants to.
#[derive(Debug)]
pub(super) struct Pulse {
    began: Instant,
    /// Milliseconds since `began` at which it will have run again; 0: nothing is expected of it.
    due: AtomicU64,
    thread: AtomicI32,
    /// Ends its rest.
    alarm: OnceLock<EventFd>,
    asked: AtomicU64,
    answered: Mutex<u64>,
    has_answered: Condvar,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            due: AtomicU64::new(0),
            thread: AtomicI32::new(0),
            alarm: OnceLock::new(),
            asked: AtomicU64::new(0),
            answered: Mutex::new(0),
            has_answered: Condvar::new(),
        }
    }

    /// Called by the thread itself, which from now on says what it does. Returns what is to end its rest.
    pub(super) fn begin(&self) -> io::Result<&EventFd> {
        let alarm = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        self.thread.store(gettid().as_raw(), Ordering::Relaxed);
        Ok(self.alarm.get_or_init(|| alarm))
    }

    /// How often somebody has asked it to catch up.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// It has read all that there was when it had been asked so often.
    pub(super) fn answer(&self, asked: u64) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = asked;
        self.has_answered.notify_all();
    }

    /// Waits until it has read all that there is now, for a second at most. It does so at normal priority, until the next
    /// look whether it need.
    pub(super) fn catch_up(&self) {
        let (Some(thread), Some(alarm)) = (self.thread(), self.alarm.get()) else {
            return;
        };
        if may_come_back() {
            priority::set(thread, Priority::Normal);
        }
        let ticket = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        if let Err(error) = alarm.write(1) {
            tracing::warn!(%error, "the reader of events cannot be woken");
        }
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.has_answered.wait_timeout_while(answered, PATIENCE, |answered| *answered < ticket);
        if waited.is_ok_and(|(_, waited)| waited.timed_out()) {
            tracing::warn!(
                "what happened in the last moments is not known: the reader of events does not keep up"
            );
        }
    }

    /// It will be heard of within that time, unless it does not get the CPU.
    pub(super) fn within(&self, time: Duration) {
        self.due.store(self.now() + millis(time + LATE), Ordering::Relaxed);
    }

    /// It ends.
    pub(super) fn end(&self) {
        self.due.store(0, Ordering::Relaxed);
        self.thread.store(0, Ordering::Relaxed);
    }

    /// The thread, while it reads.
    pub(super) fn thread(&self) -> Option<Pid> {
        Some(self.thread.load(Ordering::Relaxed)).filter(|id| *id != 0).map(Pid::from_raw)
    }

    fn is_late(&self) -> bool {
        let due = self.due.load(Ordering::Relaxed);
        due != 0 && self.now() > due
    }

    fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Lets `followers`, of whom the reader of events is one, run when nobody else wants the CPU, and like anybody else for a minute after the
/// reader came late, and at the end.
pub(super) async fn watch(pulse: Arc<Pulse>, followers: impl Fn() -> Vec<Pid>, shutdown: CancellationToken) {
    if !may_come_back() {
        tracing::info!("flows are followed at normal priority: no CAP_SYS_NICE, and RLIMIT_NICE is below 20");
        return;
    }
    let mut every = tokio::time::interval(LOOK);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut late = None::<Instant>;
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = shutdown.cancelled() => break,
        }
        if pulse.is_late() && stays_late(&pulse).await {
            if late.is_none() {
                tracing::debug!("this host is busy: flows are followed at normal priority");
            }
            late = Some(Instant::now());
        }
        late = late.filter(|late| late.elapsed() < CALM);
        schedule(&followers, late.is_none());
    }
    schedule(&followers, false);
}

/// Whether the reader of events does not run while this task does, four times in a row. After a stop of the process or of the
/// whole machine everything is late, and has to run first.
async fn stays_late(pulse: &Pulse) -> bool {
    let mut in_a_row = 0;
    for _ in 0..16 {
        let slept = Instant::now();
        tokio::time::sleep(STEP).await;
        if !pulse.is_late() {
            return false;
        }
        in_a_row = if slept.elapsed() > 3 * STEP { 0 } else { in_a_row + 1 };
        if in_a_row == 4 {
            return true;
        }
    }
    // Not even this task runs when it should.
    true
}

/// Sets it anew each time, as threads come later than the first look.
fn schedule(followers: &impl Fn() -> Vec<Pid>, idle: bool) {
    let priority = if idle { Priority::Idle } else { Priority::Normal };
    for thread in followers() {
        priority::set(thread, priority);
    }
}

#[cfg(test)]
mod tests {
    use super::super::priority::tests::thread_of_its_own;
    use super::*;

    #[test]
    fn late_is_who_was_not_heard_of_in_time() {
        let pulse =
            Pulse { began: Instant::now().checked_sub(Duration::from_secs(10)).unwrap(), ..Pulse::new() };
        assert!(!pulse.is_late(), "nothing is expected yet");
        pulse.within(Duration::from_secs(1));
        assert!(!pulse.is_late());
        pulse.due.store(9000, Ordering::Relaxed);
        assert!(pulse.is_late());
        pulse.end();
        assert!(!pulse.is_late());
    }

    #[test]
    fn who_catches_up_has_read_what_was_there_before() {
        let pulse = Arc::new(Pulse::new());
        pulse.catch_up();
        let events = Arc::new(AtomicU64::new(0));
        let (begun, ready) = std::sync::mpsc::channel();
        let (reader, written) = (Arc::clone(&pulse), Arc::clone(&events));
        let thread = std::thread::spawn(move || {
            let alarm = reader.begin().unwrap();
            begun.send(()).unwrap();
            let mut read = Vec::new();
            loop {
                let asked = reader.asked();
                read.push(written.load(Ordering::SeqCst));
                reader.answer(asked);
                if asked == 50 {
                    return read;
                }
                if alarm.read().is_err() {
                    std::thread::yield_now();
                }
            }
        });
        ready.recv().unwrap();
        for event in 1..=50 {
            events.store(event, Ordering::SeqCst);
            pulse.catch_up();
            assert_eq!(*pulse.answered.lock().unwrap(), event);
        }
        let read = thread.join().unwrap();
        assert!((1..=50).all(|event| read.contains(&event)), "{read:?}");
    }

    #[tokio::test]
    async fn who_runs_again_in_time_is_not_late() {
        let pulse = Arc::new(Pulse {
            began: Instant::now().checked_sub(Duration::from_secs(10)).unwrap(),
            ..Pulse::new()
        });
        pulse.due.store(1, Ordering::Relaxed);
        assert!(pulse.is_late() && stays_late(&pulse).await);
        let reader = Arc::clone(&pulse);
        tokio::spawn(async move { reader.within(Duration::from_secs(3600)) });
        assert!(pulse.is_late() && !stays_late(&pulse).await);
    }

    #[tokio::test]
    async fn a_thread_leaves_the_cpu_to_others_until_the_reader_is_late_and_at_the_end() {
        if !may_come_back() {
            return;
        }
        let (other, _stop) = thread_of_its_own();
        // SAFETY: the call takes a number.
        let policy = move || unsafe { libc::sched_getscheduler(other.as_raw()) };
        let pulse = Arc::new(Pulse::new());
        let shutdown = CancellationToken::new();
        let watching = tokio::spawn(watch(Arc::clone(&pulse), move || vec![other], shutdown.clone()));
        let becomes = async |wanted| {
            while policy() != wanted {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        becomes(libc::SCHED_IDLE).await;
        pulse.due.store(1, Ordering::Relaxed);
        becomes(libc::SCHED_OTHER).await;
        shutdown.cancel();
        watching.await.unwrap();
        assert_eq!(policy(), libc::SCHED_OTHER);
    }
}
