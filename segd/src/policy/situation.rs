//! What holds beside the zone files when a question about them is asked.

use jiff::Timestamp;

use super::failsafe::Failsafe;
use super::model::{Exception, Override};
use super::resolved::{NO_NAMES, Resolved};

/// What an answer depends on beside the zone files.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// Modes set at run time.
    pub overrides: &'a [Override],
    /// Rules added at run time.
    pub exceptions: &'a [Exception],
    /// What no policy can cut.
    pub failsafes: &'a [Failsafe],
    /// The name of the host whose canaries count.
    pub host: &'a str,
    /// What the names in zones stand for.
    pub names: &'a Resolved,
    /// The instant asked about.
    pub now: Timestamp,
}

impl<'a> Situation<'a> {
    /// Nothing but the zone files and failsafes, at a host without a name.
    #[must_use]
    pub fn of_files(failsafes: &'a [Failsafe], now: Timestamp) -> Self {
        Self { overrides: &[], exceptions: &[], failsafes, host: "", names: &NO_NAMES, now }
    }
}
