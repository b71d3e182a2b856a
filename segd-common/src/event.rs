//! What the kernel tells user space, one record a flow's turn, through the ring buffer.

use crate::flow::Flow;
use crate::socket::Owner;

/// A record of the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Nanoseconds of CLOCK_BOOTTIME.
    pub time: u64,
    /// SO_COOKIE of the socket; 0 where the hook has none.
    pub cookie: u64,
    /// Denials that this one stands for, itself among them; else 1.
    pub count: u64,
    /// Whose socket it is.
    pub owner: Owner,
    /// The flow as it stands now.
    pub flow: Flow,
    /// Smoothed round-trip time in microseconds when a TCP flow ends; 0: not measured.
    pub rtt_us: u32,
    /// Segments sent again, when a TCP flow ends.
    pub retransmits: u32,
    /// A [`Kind`].
    pub kind: u8,
    /// Zero.
    pub pad: [u8; 7],
}

/// What happened.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// A flow began and passes.
    Open = 0,
    /// A flow ended.
    Close = 1,
    /// A flow was not let begin.
    Deny = 2,
    /// A flow that passed was cut by a newer policy.
    Revoke = 3,
    /// Several allowed flows of one conversation began or ended. Made in user space only: no event of the kernel is one.
    Summary = 4,
}

impl Kind {
    /// Every kind, in the order of its numbers.
    pub const ALL: &[Self] = &[Self::Open, Self::Close, Self::Deny, Self::Revoke, Self::Summary];

    /// The kind that byte `b` of an event stands for.
    #[must_use]
    pub const fn from_byte(b: u8) -> Option<Self> {
        match b {
            0 => Some(Self::Open),
            1 => Some(Self::Close),
            2 => Some(Self::Deny),
            3 => Some(Self::Revoke),
            _ => None,
        }
    }

    /// Its name in flow records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Close => "close",
            Self::Deny => "deny",
            Self::Revoke => "revoke",
            Self::Summary => "summary",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::size_of;

    #[test]
    fn layout_has_no_hidden_padding() {
        assert_eq!(size_of::<Event>(), 3 * 8 + size_of::<Owner>() + size_of::<Flow>() + 2 * 4 + 8);
    }
}
