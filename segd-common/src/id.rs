//! Small numbers that stand for names in the kernel.
//!
//! The agent gives a name its number once and keeps it for as long as its counters live
//! (`policy::ids` in user space), so a counter or an event means the same in every generation.

/// A zone. Numbers below [`FIRST_ZONE`](ZoneId::FIRST) are built in.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ZoneId(pub u16);

impl ZoneId {
    /// Everything that no zone claims.
    pub const UNKNOWN: Self = Self(0);
    /// The host itself: always allowed, never logged.
    pub const LOOPBACK: Self = Self(1);
    /// 224.0.0.0/4, ff00::/8 and 255.255.255.255.
    pub const MULTICAST: Self = Self(2);
    /// 169.254.0.0/16 and fe80::/10.
    pub const LINK_LOCAL: Self = Self(3);
    /// The first number that a zone or workload of the policy gets.
    pub const FIRST: u16 = 16;
    /// In a [`PolicyKey`](crate::table::PolicyKey): not a zone but "whatever the peer is", for what has none.
    pub const ANY: Self = Self(u16::MAX);
}

/// What a local socket is decided as: the host's zone or a workload. Zones and workloads share one number space.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SubjectId(pub u16);

impl From<ZoneId> for SubjectId {
    #[inline(always)]
    fn from(z: ZoneId) -> Self {
        Self(z.0)
    }
}

/// The service that a protocol and port belong to.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ServiceId(pub u16);

impl ServiceId {
    /// No service names this port.
    pub const OTHER: Self = Self(0);
}

/// An `[[allow]]` rule.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RuleId(pub u32);

impl RuleId {
    /// No rule matched.
    pub const NONE: Self = Self(0);
}

/// One compiled policy. Generations count up from 1.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Generation(pub u32);

impl Generation {
    /// No policy is loaded: everything passes and nothing is recorded.
    pub const NONE: Self = Self(0);
}
