//! SIGINT, SIGTERM and SIGHUP: remembered, and passed on to the child that is being waited for, so that every
//! command ends by the ordinary way through its clean-up.

use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static HAPPENED: AtomicBool = AtomicBool::new(false);
/// The process id of the child that is being waited for; 0: none.
static CHILD: AtomicI32 = AtomicI32::new(0);

/// Handles the signals from now on. Children start with the default handling.
pub(crate) fn listen() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler uses atomics and kill(2) only, which are async-signal-safe.
        unsafe { sigaction(signal, &action) }.context("cannot handle signals")?;
    }
    Ok(())
}

extern "C" fn on_signal(_: i32) {
    HAPPENED.store(true, Ordering::SeqCst);
    let child = CHILD.load(Ordering::SeqCst);
    if child > 0 {
        // SAFETY: kill(2) takes numbers only; the child was not waited for yet, so its id is its own.
        unsafe { libc::kill(child, libc::SIGTERM) };
    }
}

/// Whether one of the signals came.
pub(crate) fn happened() -> bool {
    HAPPENED.load(Ordering::SeqCst)
}

/// # Errors
/// When one of the signals came.
pub(crate) fn check() -> Result<()> {
    if happened() {
        bail!("interrupted");
    }
    Ok(())
}

/// While it lives, a signal ends this child too. Drop it before the child is waited for.
pub(crate) struct Forward;

impl Forward {
    pub(crate) fn to(child: &Child) -> Self {
        let pid = i32::try_from(child.id()).unwrap_or(0);
        CHILD.store(pid, Ordering::SeqCst);
        if happened() && pid > 0 {
            // SAFETY: as in the handler, which ran a moment too early to know the child.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
        Self
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        CHILD.store(0, Ordering::SeqCst);
    }
}
