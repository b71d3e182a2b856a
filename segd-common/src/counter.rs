//! Exact per-CPU counters.

use crate::id::{RuleId, ServiceId, SubjectId, ZoneId};

/// What a counter counts. The kernel gives each key seen a place in the array of [`Counter`]s.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CounterKey {
    /// The rule that allowed it, or none.
    pub rule: RuleId,
    /// The local side.
    pub subject: SubjectId,
    /// The other side's zone.
    pub zone: ZoneId,
    /// What the server's port is called.
    pub service: ServiceId,
    /// IP protocol number.
    pub protocol: u8,
    /// A [`Direction`](crate::traffic::Direction).
    pub direction: u8,
    /// A [`Verdict`](crate::traffic::Verdict).
    pub verdict: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// One CPU's part of a counter.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counter {
    /// Flows that began, or attempts that were denied.
    pub flows: u64,
    /// IP packets in both directions.
    pub packets: u64,
    /// IP bytes in both directions.
    pub bytes: u64,
    /// Nanoseconds of CLOCK_BOOTTIME when the last flow began.
    pub last: u64,
}

/// The place of everything that found no place of its own; it is counted there, so that sums stay exact.
pub const OVERFLOW: u32 = 0;

/// Things the data path could not do, and what it did to spare the ring buffer. Indexes of a per-CPU array
/// of `u64`.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// Denials and flows' turns whose event found the ring buffer full.
    Ring = 0,
    /// Flows counted in [`OVERFLOW`].
    Counters = 1,
    /// Flows that the flow table did not take; each of their packets is decided anew.
    Flows = 2,
    /// Denials that were joined to a later event. Not lost: see [`Loss::Told`].
    Joined = 3,
    /// Joined denials that an event has told of since.
    Told = 4,
    /// Joined denials that the agent told of, as no further denial came that would have. Only the agent writes
    /// it, on the first CPU.
    ToldByAgent = 5,
    /// New cgroups of workloads that found no room; their sockets are decided as the host's, or by their user.
    Workloads = 6,
}

impl Loss {
    /// Those by which something is lost, each with the name of the stage where it happens.
    pub const STAGES: [(&str, Self); 4] = [
        ("ring", Self::Ring),
        ("counters", Self::Counters),
        ("flows", Self::Flows),
        ("workloads", Self::Workloads),
    ];
}

/// Number of [`Loss`] indexes.
pub const LOSSES: u32 = 7;

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::size_of;

    #[test]
    fn layouts_have_no_hidden_padding() {
        assert_eq!(size_of::<CounterKey>(), 4 + 3 * 2 + 3 + 3);
        assert_eq!(size_of::<Counter>(), 32);
    }
}
