//! Tests that this machine cannot run say so; they never pass in silence.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::thread;

/// Says that the calling test is skipped and why, on standard error past the test harness's capture, and in the
/// file that `cargo xtask test` names in `SEGD_SKIPS` (it fails when all tests of a file were skipped).
pub fn skip(reason: &str) {
    let thread = thread::current();
    let line = format!("SKIPPED {}: {reason}\n", thread.name().unwrap_or("a test"));
    // A write to a closed standard error or to a file that is gone must not fail the test.
    let _ = io::stderr().lock().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("SEGD_SKIPS")
        && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path)
    {
        let _ = file.write_all(line.as_bytes());
    }
}
