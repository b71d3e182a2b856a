//! `[history]`: how much of what flowed is kept.

use super::parse::{Value, table, unit};
use super::units;
use crate::policy::walk::Walk;

/// The least that is of use: what one hour can take.
const MIN_SIZE: u64 = 16 << 20;

/// `[history]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryConfig {
    /// Whether there is one at all.
    pub enabled: bool,
    /// Days; from 1 to 3650.
    pub days: u16,
    /// Bytes on disk; at least 16 MiB. The oldest hours go when it would be more.
    pub size: u64,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self { enabled: true, days: 30, size: 256 << 20 }
    }
}

pub(super) fn read(walk: &mut Walk, value: Value<'_>, history: &mut HistoryConfig) {
    let Some(section) = table(walk, "history", value, &["enabled", "days", "size"], &[]) else { return };
    if let Some(enabled) = section.boolean(walk, "enabled") {
        history.enabled = enabled;
    }
    if let Some(days) = section.integer(walk, "days", 1..3651) {
        history.days = u16::try_from(days).unwrap_or(history.days);
    }
    let forms = "write it like `256MiB` or `1GB`, at least 16MiB";
    let large_enough = |text: &str| units::size(text).filter(|size| *size >= MIN_SIZE);
    if let Some(size) = unit(walk, &section, "size", forms, large_enough) {
        history.size = size;
    }
}
