//! Waiting for a condition, with a deadline and a message.

use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Calls `condition` every 10 ms until it gives a value, and returns that value.
///
/// # Errors
/// When `timeout` passes first; the message says what was waited for.
pub fn wait_for<T>(what: &str, timeout: Duration, mut condition: impl FnMut() -> Option<T>) -> Result<T> {
    let timeout = patience(timeout);
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {timeout:?} in vain for {what}");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// How long to wait on this machine for what takes at most `timeout` on an ordinary one: as many times longer as the
/// whole number in `SEGD_SLOWNESS` says, which `cargo xtask vm` sets in its emulated machines.
pub(crate) fn patience(timeout: Duration) -> Duration {
    static SLOWNESS: LazyLock<u32> =
        LazyLock::new(|| std::env::var("SEGD_SLOWNESS").ok().and_then(|text| text.parse().ok()).unwrap_or(1));
    timeout * *SLOWNESS
}
