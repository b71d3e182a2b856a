//! Keys and values of the policy tables, which exist twice in the kernel: one set per generation slot.
//!
//! An LPM trie compares the first `prefix_len` bits of the key's bytes, so what a prefix may cut is stored in
//! network byte order and stands last.

use crate::addr::V4_BITS;
use crate::id::{Generation, RuleId, SubjectId, ZoneId};
use crate::traffic::{Direction, Mode};

/// Key of the policy trie: what may `subject` do with `peer`?
///
/// `port` is the server's port for TCP and UDP, `type << 8 | code` for ICMP and ICMPv6, else 0.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PolicyKey {
    /// The local side.
    pub subject: SubjectId,
    /// The other side's zone.
    pub peer: ZoneId,
    /// A [`Direction`].
    pub direction: u8,
    /// IP protocol number; see [`protocol`](crate::traffic::protocol).
    pub protocol: u8,
    /// Big endian.
    pub port: [u8; 2],
}

impl PolicyKey {
    /// Bits of a prefix that holds for every peer of a subject.
    pub const ANY_PEER: u32 = 16;
    /// Bits of a prefix that holds for every protocol between a subject and a peer in one direction.
    pub const ANY_PROTOCOL: u32 = 40;
    /// Bits of a prefix that holds for every port of a protocol. Add the length of a port prefix, 0 to 16.
    pub const ANY_PORT: u32 = 48;
    /// Bits of a whole key.
    pub const BITS: u32 = 64;

    /// `port` in host byte order.
    #[inline(always)]
    #[must_use]
    pub const fn new(
        subject: SubjectId,
        peer: ZoneId,
        direction: Direction,
        protocol: u8,
        port: u16,
    ) -> Self {
        Self { subject, peer, direction: direction as u8, protocol, port: port.to_be_bytes() }
    }
}

/// Value of the policy trie.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PolicyEntry {
    /// The instant from which `rule` no longer matches, in nanoseconds of the view's clock
    /// ([`View::now`](crate::decide::View::now)); 0: never.
    pub expires: u64,
    /// The rule that allows this traffic, or none.
    pub rule: RuleId,
    /// A [`Mode`]: what happens if no rule allows it.
    pub mode: u8,
    /// Zero.
    pub pad: [u8; 3],
}

impl PolicyEntry {
    /// An entry of a rule (or none) and a mode.
    #[must_use]
    pub const fn new(rule: RuleId, mode: Mode, expires: u64) -> Self {
        Self { expires, rule, mode: mode as u8, pad: [0; 3] }
    }
}

/// Key of the service trie: what is this protocol and port called?
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServiceKey {
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
    /// Big endian; as in [`PolicyKey`].
    pub port: [u8; 2],
}

impl ServiceKey {
    /// Bits of a prefix that holds for every port of a protocol.
    pub const ANY_PORT: u32 = 16;

    /// `port` in host byte order.
    #[inline(always)]
    #[must_use]
    pub const fn new(protocol: u8, port: u16) -> Self {
        Self { protocol, pad: 0, port: port.to_be_bytes() }
    }
}

/// Key of the failsafe trie: traffic that no policy can cut.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FailsafeKey {
    /// A [`Direction`].
    pub direction: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Big endian; as in [`PolicyKey`].
    pub port: [u8; 2],
    /// The peer, as in [`Addr`](crate::addr::Addr).
    pub peer: [u8; 16],
}

impl FailsafeKey {
    /// Bits of a prefix that holds for every peer of either family.
    pub const ANY_PEER: u32 = 32;
    /// Bits of a prefix that holds for every IPv4 peer.
    pub const ANY_V4: u32 = Self::ANY_PEER + V4_BITS;

    /// `port` in host byte order.
    #[inline(always)]
    #[must_use]
    pub const fn new(direction: Direction, protocol: u8, port: u16, peer: [u8; 16]) -> Self {
        Self { direction: direction as u8, protocol, port: port.to_be_bytes(), peer }
    }
}

/// What a generation says about itself. One per slot.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GenerationInfo {
    /// Its number; [`Generation::NONE`]: nothing is loaded in this slot.
    pub generation: Generation,
    /// What the host's sockets are decided as.
    pub host: SubjectId,
    /// Zero.
    pub pad: u16,
}

/// Value of the failsafe trie: the key alone tells everything.
pub const FAILSAFE: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{align_of, size_of};

    /// The kernel wants no padding it does not know and, in a trie, keys that are a multiple of the value's
    /// alignment.
    #[test]
    fn layouts() {
        assert_eq!(size_of::<PolicyKey>(), 8);
        assert_eq!(size_of::<PolicyEntry>(), 16);
        assert_eq!(size_of::<PolicyKey>() % align_of::<PolicyEntry>(), 0);
        assert_eq!(size_of::<ServiceKey>(), 4);
        assert_eq!(size_of::<FailsafeKey>(), 20);
        assert_eq!(size_of::<GenerationInfo>(), 8);
    }
}
