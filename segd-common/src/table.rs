//! Keys and values of the policy tables, which exist twice in the kernel: one set per generation slot.
//!
//! An LPM trie compares the first `prefix_len` bits of the key's bytes, so what a prefix may cut is stored in
//! network byte order and stands last.

use crate::addr::V4_BITS;
use crate::id::{Generation, RuleId, SubjectId, ZoneId};
use crate::schema::SLOTS;
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

/// Value of the address tables: where an address belongs.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerZone {
    /// The zone that it is in, as it is counted and told.
    pub zone: ZoneId,
    /// What [`PolicyKey::peer`] is for it: the zone's own number, or one that stands for the part of the zone
    /// that is in the cohort of a canary. Means something within one generation only.
    pub group: ZoneId,
}

impl PeerZone {
    /// An address in a zone and in no cohort.
    #[inline(always)]
    #[must_use]
    pub const fn plain(zone: ZoneId) -> Self {
        Self { zone, group: zone }
    }
}

/// Which generation is in force, and what each says about itself: all that a packet needs of them, in one look-up and, but
/// for deadlines, one cache line.
///
/// User space writes the whole value, but changes only slots that no program reads, and then `slot`, by which they come
/// into force: programs that run at the same time see every other byte written over by itself.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Active {
    /// Zero. Linux 6.18 puts an array's values 8 bytes before a cache line (`struct bpf_array` of include/linux/bpf.h).
    pub lead: u64,
    /// The slot in force, unless its deadline has passed.
    pub slot: u32,
    /// Zero.
    pub pad: u32,
    /// By slot.
    pub infos: [GenerationInfo; SLOTS as usize],
    /// By slot, if its [`HAS_DEADLINE`] is set: the instant from which the generation in its slot `fallback` holds in place of
    /// it, in nanoseconds of CLOCK_BOOTTIME. Else 0.
    pub deadlines: [u64; SLOTS as usize],
}

/// What a generation says about itself.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GenerationInfo {
    /// Its number; [`Generation::NONE`]: nothing is loaded in this slot.
    pub generation: Generation,
    /// What the host's sockets are decided as that belong to no workload.
    pub host: SubjectId,
    /// A slot; without a deadline, 0.
    pub fallback: u8,
    /// [`KEEP_REVOKED`], [`HAS_WORKLOADS`], [`HAS_USERS`] and [`HAS_DEADLINE`].
    pub flags: u8,
}

/// Flag of a [`GenerationInfo`]: flows that passed before it go on, whatever it says of them.
pub const KEEP_REVOKED: u8 = 1;
/// Flag of a [`GenerationInfo`]: it knows workloads by cgroup.
pub const HAS_WORKLOADS: u8 = 2;
/// Flag of a [`GenerationInfo`]: it knows workloads by user.
pub const HAS_USERS: u8 = 4;
/// Flag of a [`GenerationInfo`]: it holds until a deadline.
pub const HAS_DEADLINE: u8 = 8;

/// What a local socket is decided as. Value of the tables of cgroups and of users, whose subjects are workloads.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Subject {
    /// The instant from which it is denied everything but failsafe traffic, in nanoseconds of the view's clock
    /// ([`View::now`](crate::decide::View::now)); 0: never.
    pub expires: u64,
    /// Its number.
    pub id: SubjectId,
    /// Zero.
    pub pad: [u16; 3],
}

impl Subject {
    /// A subject that does not expire.
    #[inline(always)]
    #[must_use]
    pub const fn lasting(id: SubjectId) -> Self {
        Self { expires: 0, id, pad: [0, 0, 0] }
    }
}

impl Subject {
    /// The key under which a workload itself stands in the table of cgroups, beside its cgroups: no cgroup has this id,
    /// as inodes count up from 1.
    #[inline(always)]
    #[must_use]
    pub const fn key(id: SubjectId) -> u64 {
        u64::MAX - id.0 as u64
    }

    /// Whether a key of the table of cgroups is a workload's own.
    #[must_use]
    pub const fn is_key(key: u64) -> bool {
        key >= Self::key(SubjectId(u16::MAX))
    }
}

/// Bytes of a [`Pattern`]'s text.
pub const PATTERN_BYTES: usize = 112;

/// Which cgroups belong to a workload: those whose path, or the path of an ancestor, matches the text.
///
/// A path is relative to the root of the cgroup2 tree and begins with `/`. In the text `*` stands for any bytes but
/// `/`, or none. Where several patterns match, the one that matches the longest part of the path wins, counted from
/// the path's beginning to the end of the match (so a unit inside another's cgroup is its own), then the first.
/// [`glob`](crate::glob) matches.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pattern {
    /// The workload.
    pub subject: Subject,
    /// Number of bytes of `text`.
    pub len: u8,
    /// 1: the text is the name of a systemd unit and begins behind the first `/` of the path or one whose names before
    /// it all end in `.slice`, for there the service manager of the host keeps its units; below a unit, who has it
    /// delegated may take any name. 0: the text begins with the path.
    pub anywhere: u8,
    /// Zero.
    pub pad: [u8; 6],
    /// Padded with zeros.
    pub text: [u8; PATTERN_BYTES],
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
        assert_eq!((size_of::<GenerationInfo>(), size_of::<Active>()), (8, 80));
        assert_eq!(size_of::<PeerZone>(), 4);
        assert_eq!(size_of::<Subject>(), 16);
        assert_eq!(size_of::<Pattern>(), 16 + 8 + PATTERN_BYTES);
    }
}
