//! The threads that follow flows leave the CPU to the host's own work: they run when it is idle (SCHED_IDLE, sched(7)), as
//! long as they get enough of it. When they do not, they take part like anybody else: so a lock that one of them holds is
//! not held for longer than it takes to see that.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{Pid, gettid};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How much later than it asked for the reader of events may run.
const LATE: Duration = Duration::from_millis(100);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// For how long nobody must have been late before they leave the CPU to others again.
const CALM: Duration = Duration::from_secs(60);
/// RLIMIT_NICE of nice value 0, which a thread needs to leave SCHED_IDLE (sched(7)).
const NICE_0: u64 = 20;

/// Whether the thread that reads events runs when it wants to.
#[derive(Debug)]
pub(super) struct Pulse {
    began: Instant,
    /// Milliseconds since `began` at which it will have run again; 0: nothing is expected of it.
    due: AtomicU64,
    thread: AtomicI32,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), due: AtomicU64::new(0), thread: AtomicI32::new(0) }
    }

    /// Called by the thread itself, which from now on says what it does.
    pub(super) fn begin(&self) {
        self.thread.store(gettid().as_raw(), Ordering::Relaxed);
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

    fn thread(&self) -> Option<Pid> {
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

/// Lets the reader of events and `others` run when nobody else wants the CPU, and like anybody else for a minute after the
/// reader came late, and at the end.
pub(super) async fn watch(pulse: Arc<Pulse>, others: impl Fn() -> Vec<Pid>, shutdown: CancellationToken) {
    if !may_come_back() {
        tracing::info!("flows are followed at normal priority: no CAP_SYS_NICE, and RLIMIT_NICE is below 20");
        return;
    }
    let mut every = tokio::time::interval(LOOK);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut late, mut looked) = (None::<Instant>, Instant::now());
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = shutdown.cancelled() => break,
        }
        // Who comes late to look was stopped, or the whole machine was, and so was the reader.
        let stopped = looked.elapsed() > 2 * LOOK;
        looked = Instant::now();
        if pulse.is_late() && !stopped {
            if late.is_none() {
                tracing::debug!("this host is busy: flows are followed at normal priority");
            }
            late = Some(Instant::now());
        }
        late = late.filter(|late| late.elapsed() < CALM);
        schedule(&pulse, &others, late.is_none());
    }
    schedule(&pulse, &others, false);
}

/// Sets it anew each time, as threads come later than the first look.
fn schedule(pulse: &Pulse, others: &impl Fn() -> Vec<Pid>, idle: bool) {
    let policy = if idle { libc::SCHED_IDLE } else { libc::SCHED_OTHER };
    for thread in others().into_iter().chain(pulse.thread()) {
        // SAFETY: an all-zero parameter is what both policies ask for.
        let parameter: libc::sched_param = unsafe { std::mem::zeroed() };
        // SAFETY: sched_setscheduler(2) reads the parameter and keeps nothing.
        let result = unsafe { libc::sched_setscheduler(thread.as_raw(), policy, &raw const parameter) };
        match Errno::result(result) {
            // It has ended.
            Ok(_) | Err(Errno::ESRCH) => {}
            Err(error) => tracing::warn!(%error, %thread, "cannot change the priority of a thread"),
        }
    }
}

fn may_come_back() -> bool {
    caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_NICE).unwrap_or(false)
        || getrlimit(Resource::RLIMIT_NICE).is_ok_and(|(soft, _)| soft >= NICE_0)
}

#[cfg(test)]
mod tests {
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

    #[tokio::test]
    async fn a_thread_leaves_the_cpu_to_others_until_the_reader_is_late_and_at_the_end() {
        if !may_come_back() {
            return;
        }
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            tell.send(gettid()).unwrap();
            let _ = stopped.recv();
        });
        let other = told.recv().unwrap();
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
        drop(stop);
        thread.join().unwrap();
    }
}
