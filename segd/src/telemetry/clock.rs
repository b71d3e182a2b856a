//! From the kernel's clock to the wall's.

use jiff::Timestamp;

use crate::datapath::host;

/// How far CLOCK_REALTIME is ahead of CLOCK_BOOTTIME, in nanoseconds. It changes when the wall clock is set,
/// so take it anew now and then.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BootClock {
    /// Nanoseconds to add to CLOCK_BOOTTIME.
    pub offset_ns: i64,
}

impl BootClock {
    /// Reads both clocks.
    #[must_use]
    pub fn now() -> Self {
        Self { offset_ns: host::boot_to_unix_ns() }
    }

    /// The wall time of `boottime_ns`, cut to microseconds.
    #[must_use]
    pub fn wall(self, boottime_ns: u64) -> Timestamp {
        let ns = i64::try_from(boottime_ns).unwrap_or(i64::MAX).saturating_add(self.offset_ns);
        Timestamp::from_microsecond(ns.div_euclid(1000)).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boottime_now_is_the_wall_clock_now() {
        let boot = host::boottime_ns();
        let apart = Timestamp::now().duration_since(BootClock::now().wall(boot)).abs();
        assert!(apart < jiff::SignedDuration::from_millis(200), "{apart}");
    }

    #[test]
    fn times_are_cut_to_microseconds() {
        let clock = BootClock { offset_ns: 1_700_000_000_000_000_000 };
        assert_eq!(clock.wall(1_999).to_string(), "2023-11-14T22:13:20.000001Z");
    }
}
