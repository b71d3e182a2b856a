//! The threads that follow flows leave the CPU to the host's own work: they run when it is idle (SCHED_IDLE, sched(7)), as
//! long as they get enough of it. When they do not, they take part like anybody else: so a lock that one of them holds is
//! not held for longer than it takes to see that.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{Pid, gettid};
use tokio_util::sync::CancellationToken;

use super::priority::{self, Priority, may_come_back};

/// How often the threads are looked at while nothing happens.
const LOOK: Duration = Duration::from_millis(500);
/// While events come: the ring buffer holds half a second of as many as two CPUs make.
const LOOK_BUSY: Duration = Duration::from_millis(100);
/// Between two looks at a reader that may be late.
const STEP: Duration = Duration::from_millis(25);
/// For how long nobody must have been late before they leave the CPU to others again.
const CALM: Duration = Duration::from_secs(60);
/// How long somebody waits at most for what happened until now.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether the thread that reads events runs when it wants to.
#[derive(Debug)]
pub(super) struct Pulse {
    /// How often it has read all that there was.
    reads: AtomicU64,
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
            reads: AtomicU64::new(0),
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
        self.reads.fetch_add(1, Ordering::Relaxed);
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

    /// It ends.
    pub(super) fn end(&self) {
        self.thread.store(0, Ordering::Relaxed);
    }

    /// The thread, while it reads.
    pub(super) fn thread(&self) -> Option<Pid> {
        Some(self.thread.load(Ordering::Relaxed)).filter(|id| *id != 0).map(Pid::from_raw)
    }

    fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

/// Lets `followers`, of whom the reader of events is one, run when nobody else wants the CPU, and like anybody else for a minute
/// after the reader was late, and at the end. `events`: can be read while there are any.
///
/// # Errors
/// Nothing can be waited for: then they run like anybody else.
pub(super) async fn watch(
    pulse: Arc<Pulse>,
    events: OwnedFd,
    followers: impl Fn() -> Vec<Pid> + Send + 'static,
    shutdown: CancellationToken,
) -> io::Result<()> {
    if !may_come_back() {
        tracing::info!("flows are followed at normal priority: no CAP_SYS_NICE, and RLIMIT_NICE is below 20");
        return Ok(());
    }
    let looking = move |stop: &EventFd| {
        let result = look(&pulse, events.as_fd(), stop.as_fd(), &followers);
        schedule(&followers, false);
        result
    };
    until(shutdown, looking).await
}

/// Has a thread do `work`, which is to end soon after what it is given can be read: that is from `shutdown` on.
pub(super) async fn until(
    shutdown: CancellationToken,
    work: impl FnOnce(&EventFd) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
    let told = Arc::clone(&stop);
    let mut working = tokio::task::spawn_blocking(move || work(&told));
    tokio::select! {
        ended = &mut working => return ended.map_err(io::Error::other)?,
        () = shutdown.cancelled() => stop.write(1)?,
    };
    working.await.map_err(io::Error::other)?
}

/// Until `stop`.
fn look(
    pulse: &Pulse,
    events: BorrowedFd<'_>,
    stop: BorrowedFd<'_>,
    followers: &impl Fn() -> Vec<Pid>,
) -> io::Result<()> {
    let mut late = None::<Instant>;
    loop {
        schedule(followers, late.is_none());
        if wait(stop, [events], LOOK)? {
            return Ok(());
        }
        if stays_late(pulse, events, stop)? {
            if late.is_none() {
                tracing::debug!("this host is busy: flows are followed at normal priority");
            }
            late = Some(Instant::now());
        }
        late = late.filter(|late| late.elapsed() < CALM);
        if wait(stop, [], LOOK_BUSY)? {
            return Ok(());
        }
    }
}

/// Whether the reader of events leaves them where they are while this thread runs as it should, four times in a row. After a stop
/// of the process or of the whole machine everything is late, and has to run first.
fn stays_late(pulse: &Pulse, events: BorrowedFd<'_>, stop: BorrowedFd<'_>) -> io::Result<bool> {
    let reads = pulse.reads();
    let mut in_a_row = 0;
    for _ in 0..16 {
        if !wait(events, [], Duration::ZERO)? || pulse.reads() != reads {
            return Ok(false);
        }
        if in_a_row == 4 {
            return Ok(true);
        }
        let slept = Instant::now();
        if wait(stop, [], STEP)? {
            return Ok(false);
        }
        in_a_row = if slept.elapsed() > 3 * STEP { 0 } else { in_a_row + 1 };
    }
    // Not even this thread runs when it should.
    Ok(true)
}

/// Waits until the first or one of the others can be read, at most for `time`. Returns whether the first can.
pub(super) fn wait<'a>(
    first: BorrowedFd<'a>,
    others: impl IntoIterator<Item = BorrowedFd<'a>>,
    time: Duration,
) -> io::Result<bool> {
    let mut fds: Vec<PollFd<'_>> =
        std::iter::once(first).chain(others).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    match poll(&mut fds, PollTimeout::try_from(time).map_err(io::Error::other)?) {
        Ok(_) | Err(Errno::EINTR) => Ok(fds.first().and_then(PollFd::any).unwrap_or(false)),
        Err(error) => Err(error.into()),
    }
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

    #[test]
    fn late_is_who_leaves_events_where_they_are() {
        let [events, stop] = [1, 0].map(|count| EventFd::from_value(count).unwrap());
        let pulse = Pulse::new();
        let late = || stays_late(&pulse, events.as_fd(), stop.as_fd()).unwrap();
        assert!(late());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(2 * STEP);
                pulse.answer(0);
            });
            assert!(!late(), "it has read, and more have come");
        });
        events.read().unwrap();
        assert!(!late(), "there are none");
    }

    #[tokio::test]
    async fn work_ends_at_the_shutdown_or_is_told_of_when_it_fails() {
        let shutdown = CancellationToken::new();
        let working = tokio::spawn(until(shutdown.clone(), |stop| Ok(stop.read().map(|_| ())?)));
        shutdown.cancel();
        working.await.unwrap().unwrap();
        let failed = until(CancellationToken::new(), |_| Err(io::ErrorKind::BrokenPipe.into())).await;
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_thread_leaves_the_cpu_to_others_until_the_reader_is_late_and_at_the_end() {
        if !may_come_back() {
            return;
        }
        let (other, _stop) = thread_of_its_own();
        // SAFETY: the call takes a number.
        let policy = move || unsafe { libc::sched_getscheduler(other.as_raw()) };
        let events = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
        let watched = events.as_fd().try_clone_to_owned().unwrap();
        let shutdown = CancellationToken::new();
        let watching =
            tokio::spawn(watch(Arc::new(Pulse::new()), watched, move || vec![other], shutdown.clone()));
        let becomes = async |wanted| {
            while policy() != wanted {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        becomes(libc::SCHED_IDLE).await;
        events.write(1).unwrap();
        becomes(libc::SCHED_OTHER).await;
        shutdown.cancel();
        watching.await.unwrap().unwrap();
        assert_eq!(policy(), libc::SCHED_OTHER);
    }
}
