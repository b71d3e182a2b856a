//! How the agent's threads share the CPU with the host's own work (sched(7)).

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{Pid, gettid};
use rustix::fs::{Mode, OFlags, RawDir};

/// RLIMIT_NICE counts from nice value 20 downwards (getrlimit(2)).
const NICE_BASE: i32 = 20;

/// For how long others have the CPU before a change of the policy takes part like anybody else.
const PATIENCE: Duration = Duration::from_secs(1);

/// IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 4) of include/uapi/linux/ioprio.h: what a nice value of 0 stands for.
const BEST_EFFORT: libc::c_int = 2 << 13 | 4;

/// This process's threads.
const THREADS: &CStr = c"/proc/self/task";

/// When a thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Priority {
    /// As often as anybody else: SCHED_OTHER.
    Normal,
    /// When nobody else wants the CPU: SCHED_IDLE.
    Idle,
}

/// Gives a thread a priority, unless it has ended. Returns whether it has it.
pub(super) fn set(thread: Pid, priority: Priority) -> bool {
    let policy = match priority {
        Priority::Normal => libc::SCHED_OTHER,
        Priority::Idle => libc::SCHED_IDLE,
    };
    // SAFETY: an all-zero parameter is what both policies ask for.
    let parameter: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: sched_setscheduler(2) reads the parameter and keeps nothing.
    let result = unsafe { libc::sched_setscheduler(thread.as_raw(), policy, &raw const parameter) };
    match Errno::result(result) {
        Ok(_) => true,
        Err(Errno::ESRCH) => false,
        Err(error) => {
            tracing::warn!(%error, %thread, "cannot change the priority of a thread");
            false
        }
    }
}

/// Whether a thread may leave [`Priority::Idle`] again: for that RLIMIT_NICE has to allow its nice value (sched(7)).
pub(super) fn may_come_back() -> bool {
    // SAFETY: the call takes two numbers; 0 is the calling thread.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let needed = u64::try_from(NICE_BASE - nice).unwrap_or(u64::MAX);
    caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_NICE).unwrap_or(false)
        || getrlimit(Resource::RLIMIT_NICE).is_ok_and(|(soft, _)| soft >= needed)
}

/// From now on the calling thread is like anybody else's, and those that it starts: for who holds what others of the host
/// may wait for, as the disk's journal.
pub(super) fn take_part() {
    if is_idle(gettid()) {
        set(gettid(), Priority::Normal);
    }
}

/// Lets every thread take part that gives way, but not `followers`, which have a priority of their own. Allocates nothing: one of
/// those threads may hold the allocator's lock.
pub(super) fn hurry(followers: &[Pid]) {
    // Those that were started while the first ones were listed.
    for _ in 0..4 {
        match raise(followers) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => return untold(&error),
        }
    }
}

fn untold(error: &io::Error) {
    tracing::warn!(%error, "threads of the agent may go on giving way: they cannot be listed");
}

/// How many threads did not take part and now do.
fn raise(followers: &[Pid]) -> io::Result<usize> {
    let directory =
        rustix::fs::open(THREADS, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 2048];
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut raised = 0;
    while let Some(entry) = entries.next() {
        let Some(thread) = entry?.file_name().to_str().ok().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let thread = Pid::from_raw(thread);
        if !followers.contains(&thread) && is_idle(thread) && set(thread, Priority::Normal) {
            raised += 1;
        }
    }
    Ok(raised)
}

/// Has the calling thread, and those that it starts, read and write with this priority (ioprio_set(2)). Returns the former one.
fn set_disk_priority(priority: libc::c_int) -> libc::c_int {
    /// IOPRIO_WHO_PROCESS of include/uapi/linux/ioprio.h.
    const THREAD: libc::c_int = 1;
    // SAFETY: both calls take numbers; 0 is the calling thread.
    let (former, result) = unsafe {
        let former = libc::syscall(libc::SYS_ioprio_get, THREAD, 0);
        (former, libc::syscall(libc::SYS_ioprio_set, THREAD, 0, priority))
    };
    if let Err(error) = Errno::result(result) {
        tracing::debug!(%error, "cannot set with which priority the disk is used");
    }
    libc::c_int::try_from(former).unwrap_or(0).max(0)
}

fn is_idle(thread: Pid) -> bool {
    policy_of(thread) == libc::SCHED_IDLE
}

fn policy_of(thread: Pid) -> libc::c_int {
    // SAFETY: the call takes a number.
    unsafe { libc::sched_getscheduler(thread.as_raw()) }
}

/// As long as there is one, its thread and those that this one starts run when nobody else wants the CPU, for a second at most.
/// What they compile and load takes tens of milliseconds of CPU, and a server's answers need not wait for it.
#[must_use]
pub(super) struct GivingWay {
    followers: Vec<Pid>,
    /// Its thread's priority at the disk before.
    disk: libc::c_int,
    /// Ends the wait of who looks at the time.
    _end: Sender<()>,
}

impl GivingWay {
    /// `None` if these threads could not take part again, or somebody else gave them a policy. `followers`: as for [`hurry`].
    pub(super) fn begin(followers: Vec<Pid>) -> Option<Self> {
        if !may_come_back() || policy_of(gettid()) != libc::SCHED_OTHER {
            return None;
        }
        let (end, ended) = mpsc::channel();
        let others = followers.clone();
        let watch = move || {
            if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                hurry(&others);
            }
        };
        // Before it leaves the CPU to others, as a thread begins with the priority of who starts it.
        if let Err(error) = thread::Builder::new().name("patience".to_owned()).spawn(watch) {
            tracing::debug!(%error, "nobody would look at the time: gives no way");
            return None;
        }
        // By itself that would follow SCHED_IDLE, which is for seconds where the disk is busy.
        let disk = set_disk_priority(BEST_EFFORT);
        set(gettid(), Priority::Idle);
        Some(Self { followers, disk, _end: end })
    }
}

impl Drop for GivingWay {
    fn drop(&mut self) {
        set(gettid(), Priority::Normal);
        set_disk_priority(self.disk);
        // Whatever it started that has not ended.
        if let Err(error) = raise(&self.followers) {
            untold(&error);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::mpsc::Receiver;

    use super::*;

    /// A thread that lives until its sender is dropped.
    pub(in crate::agent) fn thread_of_its_own() -> (Pid, Sender<()>) {
        let (stop, stopped): (_, Receiver<()>) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            tell.send(gettid()).unwrap();
            let _ = stopped.recv();
        });
        (told.recv().unwrap(), stop)
    }

    /// As a test's own thread may be used for the next one.
    fn on_another_thread(test: fn()) {
        if !may_come_back() {
            eprintln!("skipped: needs CAP_SYS_NICE");
            return;
        }
        thread::spawn(test).join().unwrap();
    }

    #[test]
    fn who_gives_way_and_whom_it_starts_do_so_until_the_end_or_until_time_is_short() {
        on_another_thread(|| {
            let (before, _stop) = thread_of_its_own();
            let (follower, _stop) = thread_of_its_own();
            set(follower, Priority::Idle);
            let way = GivingWay::begin(vec![follower]).unwrap();
            let (started, _stop) = thread_of_its_own();
            assert!(is_idle(gettid()) && is_idle(started) && !is_idle(before));
            hurry(&[follower]);
            assert!(!is_idle(gettid()) && !is_idle(started) && is_idle(follower));

            set(gettid(), Priority::Idle);
            let (started, _stop) = thread_of_its_own();
            drop(way);
            assert!(!is_idle(gettid()) && !is_idle(started) && is_idle(follower));

            let way = GivingWay::begin(vec![follower]).unwrap();
            let (started, _stop) = thread_of_its_own();
            while is_idle(gettid()) || is_idle(started) {
                thread::sleep(Duration::from_millis(10));
            }
            assert!(is_idle(follower));
            drop(way);
        });
    }

    #[test]
    fn who_takes_part_does_so_alone() {
        on_another_thread(|| {
            let (other, _stop) = thread_of_its_own();
            set(other, Priority::Idle);
            set(gettid(), Priority::Idle);
            take_part();
            let (started, _stop) = thread_of_its_own();
            assert!(!is_idle(gettid()) && !is_idle(started));
        });
    }
}
