//! Takes the labs of this process away when it is told to end by SIGINT, SIGTERM or SIGHUP.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError, RwLock, RwLockReadGuard};
use std::thread;

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use nix::unistd::pipe2;

use crate::leftovers;

static LABS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
/// Read by who builds part of a lab; written once, for good, by who takes all labs away.
static BUILDING: RwLock<()> = RwLock::new(());
/// The end of a pipe into which the signal handler writes the signal's number.
static PIPE: AtomicI32 = AtomicI32::new(-1);

/// From now on lab `id` is removed on a signal.
pub(crate) fn register(id: &str) -> Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| result = listen());
    labs().insert(id.to_owned());
    result
}

/// Lab `id` is gone.
pub(crate) fn forget(id: &str) {
    labs().remove(id);
}

/// While the guard lives nothing is taken away, so nothing is added to a lab that is gone already.
pub(crate) fn building() -> RwLockReadGuard<'static, ()> {
    BUILDING.read().unwrap_or_else(PoisonError::into_inner)
}

fn labs() -> MutexGuard<'static, BTreeSet<String>> {
    LABS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen() -> Result<()> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe for signals")?;
    PIPE.store(writer.into_raw_fd(), Ordering::SeqCst);
    let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only loads an atomic and calls write(2), both async-signal-safe.
        unsafe { sigaction(signal, &action) }.context("cannot handle signals")?;
    }
    let mut reader = File::from(reader);
    thread::Builder::new().name("lab-signals".into()).spawn(move || {
        let mut byte = [0];
        if reader.read_exact(&mut byte).is_ok() {
            end(i32::from(byte[0]));
        }
    })?;
    Ok(())
}

extern "C" fn on_signal(signal: i32) {
    let byte = signal.to_le_bytes();
    let fd = PIPE.load(Ordering::SeqCst).as_raw_fd();
    // SAFETY: `byte` outlives the call; write(2) is async-signal-safe and a bad descriptor only gives EBADF.
    unsafe { libc::write(fd, byte.as_ptr().cast(), 1) };
}

/// Removes every lab of this process and lets the signal do what it would have done.
fn end(signal: i32) {
    let _nothing_is_built_any_more = BUILDING.write().unwrap_or_else(PoisonError::into_inner);
    for id in labs().iter() {
        if let Err(fault) = leftovers::remove(id) {
            eprintln!("{fault:#}");
        }
    }
    if let Ok(signal) = Signal::try_from(signal) {
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: the default action runs no code of this process.
        let _ = unsafe { sigaction(signal, &default) };
        let _ = raise(signal);
    }
    std::process::exit(1);
}
