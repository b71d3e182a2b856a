//! What the kernel remembers of sockets and flows.

use crate::addr::Addr;
use crate::id::{Generation, RuleId, ServiceId, SubjectId, ZoneId};
#[cfg(doc)]
use crate::table::Subject;

/// Who made a socket; of one older than the agent, who had it open. All zero if that is not known; `pid` and `comm` zero,
/// if only the socket itself could tell.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Owner {
    /// Inode of its cgroup directory, fixed for the socket's life.
    pub cgroup: u64,
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// User id in the initial user namespace.
    pub uid: u32,
    /// Name of the thread, NUL-padded.
    pub comm: [u8; 16],
}

impl Owner {
    /// Nobody known.
    pub const NONE: Self = Self { cgroup: 0, pid: 0, uid: 0, comm: [0; 16] };
}

/// A flow that was decided, and what it has carried. Zeroed: no flow.
///
/// Byte counts are IP packets' lengths; packets are as on the wire, so a segmentation-offloaded one counts as
/// many.
///
/// What each packet of an established flow touches stands first: at the beginning of a socket's storage it shares the
/// cache line that the kernel's look-up of the storage reads anyway (`struct bpf_local_storage_elem` of
/// include/linux/bpf_local_storage.h).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flow {
    /// As [`PolicyEntry::expires`](crate::table::PolicyEntry::expires), on CLOCK_BOOTTIME.
    pub expires: u64,
    /// Received.
    pub packets_in: u64,
    /// Sent.
    pub packets_out: u64,
    /// Received.
    pub bytes_in: u64,
    /// Sent.
    pub bytes_out: u64,
    /// The generation that decided; another one decides again.
    pub generation: Generation,
    /// Index of its [`Counter`](crate::counter::Counter).
    pub counter: u32,
    /// IP protocol number; 0: no flow.
    pub protocol: u8,
    /// A [`Direction`](crate::traffic::Direction).
    pub direction: u8,
    /// A [`Verdict`](crate::traffic::Verdict).
    pub verdict: u8,
    /// A [`Reason`](crate::traffic::Reason).
    pub reason: u8,
    /// [`OPENED`], [`CLOSED`], [`CLOSE_BY_STATE`], [`CLOSE_BY_RELEASE`]; or [`BORROWED`].
    pub flags: u8,
    /// Zero.
    pub pad: [u8; 3],
    /// The other side.
    pub peer: Addr,
    /// Nanoseconds of CLOCK_BOOTTIME at the last packet. UDP only.
    pub seen: u64,
    /// Host byte order.
    pub peer_port: u16,
    /// Host byte order.
    pub local_port: u16,
    /// The local side.
    pub subject: SubjectId,
    /// The other side's zone.
    pub zone: ZoneId,
    /// This side; unspecified where a client has not been given one yet.
    pub local: Addr,
    /// Nanoseconds of CLOCK_BOOTTIME at the decision.
    pub started: u64,
    /// How many of the packets of a socket's flow are in its counter. The rest comes there when the flow ends, is decided
    /// again, or is settled by who reads the counters.
    pub counted_packets: u64,
    /// The same of its bytes.
    pub counted_bytes: u64,
    /// The rule that allowed it.
    pub rule: RuleId,
    /// What the server's port is called.
    pub service: ServiceId,
    /// Zero.
    pub end: [u8; 2],
}

impl Flow {
    /// No flow.
    pub const NONE: Self = Self {
        expires: 0,
        packets_in: 0,
        packets_out: 0,
        bytes_in: 0,
        bytes_out: 0,
        generation: Generation::NONE,
        counter: 0,
        protocol: 0,
        direction: 0,
        verdict: 0,
        reason: 0,
        flags: 0,
        pad: [0; 3],
        peer: Addr::UNSPECIFIED,
        seen: 0,
        peer_port: 0,
        local_port: 0,
        subject: SubjectId(0),
        zone: ZoneId::UNKNOWN,
        local: Addr::UNSPECIFIED,
        started: 0,
        counted_packets: 0,
        counted_bytes: 0,
        rule: RuleId::NONE,
        service: ServiceId::OTHER,
        end: [0; 2],
    };
}

/// Flag of a [`Flow`]: its beginning was counted and told.
pub const OPENED: u8 = 1;
/// Flag of a [`Flow`]: its end was told.
pub const CLOSED: u8 = 2;
/// Flag of a [`Flow`]: `sock_ops` tells its end, so `sock_release` need not.
pub const CLOSE_BY_STATE: u8 = 4;
/// Flag of a [`Flow`]: `sock_release` tells its end, which is sure to come.
pub const CLOSE_BY_RELEASE: u8 = 8;
/// Flag of a [`Flow`], and its only one: in an unconnected UDP socket's storage, what stands in for the flow table's entry
/// of the last flow, for some ticks of the kernel's clock, which `seen` then counts in. It holds while that flow passes
/// and does not expire; what it has carried is the table's entry's and its counter's.
pub const BORROWED: u8 = 16;

/// Socket-local storage of every socket. Accepted sockets inherit their listener's.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Socket {
    /// TCP and connected UDP: its flow.
    pub flow: Flow,
    /// Who made it (for an accepted one: who made the listener).
    pub owner: Owner,
    /// 1 if the programs saw it made, and so will see its release; else 0.
    pub watched: u64,
    /// The last flow it began of those that belong to no connected socket: a hint which one ends with it.
    pub last: FlowKey,
    /// What it is decided as.
    pub subject: Resolved,
    /// The ids of its cgroup's ancestors (or its own) at the levels from 0, the root's, on; 0: beyond its own level. All
    /// zero: not known. They outlive the directories.
    pub ancestors: [u64; LEVELS],
}

/// Levels of the cgroup tree that a socket remembers.
pub const LEVELS: usize = 8;

/// What a socket is decided as: found once for each generation.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Resolved {
    /// The generation in the high half, then the subject's number, then zeros; one word, so that the two are read and
    /// written as one. 0: not found yet.
    pub word: u64,
    /// As [`Subject::expires`], on CLOCK_BOOTTIME.
    pub expires: u64,
    /// What it was decided as before, in the last generation where that was something else; 0: nothing else.
    pub former: SubjectId,
    /// Zero.
    pub pad: [u16; 3],
}

impl Resolved {
    /// Not found yet.
    pub const NONE: Self = Self { word: 0, expires: 0, former: SubjectId(0), pad: [0; 3] };

    /// The word for a subject in a generation.
    #[inline(always)]
    #[must_use]
    pub const fn word(generation: Generation, subject: SubjectId) -> u64 {
        (generation.0 as u64) << 32 | (subject.0 as u64) << 16
    }

    /// The generation of a word.
    #[inline(always)]
    #[must_use]
    pub const fn generation(word: u64) -> Generation {
        Generation((word >> 32) as u32)
    }

    /// The subject of a word.
    #[inline(always)]
    #[must_use]
    pub const fn subject(word: u64) -> SubjectId {
        let [_, _, low, high, ..] = word.to_le_bytes();
        SubjectId(u16::from_le_bytes([low, high]))
    }
}

/// What the agent found out of a socket older than the programs, until they see its first packet.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seed {
    /// Who has it open; its pid is 0 if that is not known.
    pub owner: Owner,
    /// The other side, if it has one.
    pub peer: Addr,
    /// Host byte order.
    pub peer_port: u16,
    /// IP protocol number of its flow; 0: it has none, as it is a listener or not connected.
    pub protocol: u8,
    /// Who began the flow: a [`Direction`](crate::traffic::Direction).
    pub direction: u8,
    /// Zero.
    pub pad: [u8; 4],
}

/// Key of the table of flows that belong to no connected socket.
///
/// The local address is not part of it: a datagram's is not known yet when `sendmsg` decides.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowKey {
    /// The other side.
    pub peer: Addr,
    /// Host byte order; ICMP: 0.
    pub peer_port: u16,
    /// Host byte order; ICMP: the request's `type << 8 | code`.
    pub local_port: u16,
    /// The local side.
    pub subject: SubjectId,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero, but for ICMP, where each direction is a flow: a [`Direction`](crate::traffic::Direction).
    pub direction: u8,
}

/// Value of the table of flows that belong to no connected socket.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OwnedFlow {
    /// Whose socket began it, or received its first packet.
    pub owner: Owner,
    /// The flow.
    pub flow: Flow,
}

impl OwnedFlow {
    /// No flow of nobody.
    pub const NONE: Self = Self { owner: Owner::NONE, flow: Flow::NONE };
}

/// A flow without a packet for this long is over: its next packet is a new one, decided by its own direction.
/// Nanoseconds. The same as Linux conntrack's `nf_conntrack_udp_timeout_stream`.
pub const IDLE_NS: u64 = 120_000_000_000;

/// Key of the table that joins repeated denials into one event.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct DenialKey {
    /// The other side.
    pub peer: Addr,
    /// The server's port, host byte order.
    pub port: u16,
    /// The local side.
    pub subject: SubjectId,
    /// IP protocol number.
    pub protocol: u8,
    /// A [`Direction`](crate::traffic::Direction).
    pub direction: u8,
    /// Zero.
    pub pad: [u8; 2],
}

/// What is known of repeated denials.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Denial {
    /// Nanoseconds of CLOCK_BOOTTIME of the last event.
    pub told: u64,
    /// Denials since then that no event told of.
    pub untold: u64,
    /// The first of them.
    pub sample: OwnedFlow,
}

/// How many denials one CPU told of lately.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Budget {
    /// Nanoseconds of CLOCK_BOOTTIME when the count began.
    pub since: u64,
    /// Since then.
    pub told: u64,
}

/// Repeated denials of one key are told at most this often. Nanoseconds.
pub const DENIAL_NS: u64 = 1_000_000_000;

/// Each CPU tells of at most this many denials in [`DENIAL_NS`], so that a scan or a flood from forged addresses
/// does not crowd other events out of the ring buffer. What is beyond is told later, joined.
pub const DENIAL_BUDGET: u64 = 2000;

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::size_of;

    #[test]
    fn layouts_have_no_hidden_padding() {
        assert_eq!(size_of::<Owner>(), 32);
        assert_eq!(size_of::<Flow>(), 2 * 16 + 9 * 8 + 3 * 4 + 5 * 2 + 5 + 3 + 2);
        assert_eq!(core::mem::offset_of!(Flow, peer), 56, "a cache line but for the kernel's own word");
        let parts = size_of::<Owner>() + size_of::<Flow>() + size_of::<FlowKey>() + size_of::<Resolved>();
        assert_eq!((size_of::<Resolved>(), size_of::<Socket>()), (24, parts + 8 + 8 * LEVELS));
        assert_eq!(size_of::<FlowKey>(), 24);
        assert_eq!(size_of::<Seed>(), size_of::<Owner>() + 16 + 2 + 2 + 4);
        assert_eq!(size_of::<DenialKey>(), 24);
        assert_eq!(size_of::<Denial>(), 16 + size_of::<OwnedFlow>());
    }

    #[test]
    fn a_resolved_word_holds_both() {
        for (generation, subject) in [(0, 16), (1, 17), (u32::MAX, u16::MAX)] {
            let (generation, subject) = (Generation(generation), SubjectId(subject));
            let word = Resolved::word(generation, subject);
            assert_eq!((Resolved::generation(word), Resolved::subject(word)), (generation, subject));
        }
    }
}
