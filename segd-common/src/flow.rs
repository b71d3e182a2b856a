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
/// In three parts, so that CPUs that receive and send for a socket write to no cache line that the other reads: what says
/// whether a packet passes, which shares its line with what the kernel or [`Seat`] has before it (`struct
/// bpf_local_storage_elem` of include/linux/bpf_local_storage.h); what was received, and what only the beginning and the end
/// of a flow touch; what was sent.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flow {
    /// As [`PolicyEntry::expires`](crate::table::PolicyEntry::expires), on CLOCK_BOOTTIME.
    pub expires: u64,
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
    /// Host byte order.
    pub peer_port: u16,
    /// Host byte order.
    pub local_port: u16,
    /// The local side.
    pub subject: SubjectId,
    /// The other side's zone.
    pub zone: ZoneId,
    /// The rule that allowed it.
    pub rule: RuleId,
    /// What the server's port is called.
    pub service: ServiceId,
    /// Zero.
    pub end: [u8; 2],
    /// Received.
    pub packets_in: u64,
    /// Received.
    pub bytes_in: u64,
    /// This side; unspecified where a client has not been given one yet.
    pub local: Addr,
    /// Nanoseconds of CLOCK_BOOTTIME at the decision.
    pub started: u64,
    /// Nanoseconds of CLOCK_BOOTTIME at the last packet. UDP only.
    pub seen: u64,
    /// How many of the packets of a socket's flow are in its counter. The rest comes there when the flow ends, is decided
    /// again, or is settled by who reads the counters.
    pub counted_packets: u64,
    /// The same of its bytes.
    pub counted_bytes: u64,
    /// Sent.
    pub packets_out: u64,
    /// Sent.
    pub bytes_out: u64,
}

impl Flow {
    /// No flow.
    pub const NONE: Self = Self {
        expires: 0,
        generation: Generation::NONE,
        counter: 0,
        protocol: 0,
        direction: 0,
        verdict: 0,
        reason: 0,
        flags: 0,
        pad: [0; 3],
        peer: Addr::UNSPECIFIED,
        peer_port: 0,
        local_port: 0,
        subject: SubjectId(0),
        zone: ZoneId::UNKNOWN,
        rule: RuleId::NONE,
        service: ServiceId::OTHER,
        end: [0; 2],
        packets_in: 0,
        bytes_in: 0,
        local: Addr::UNSPECIFIED,
        started: 0,
        seen: 0,
        counted_packets: 0,
        counted_bytes: 0,
        packets_out: 0,
        bytes_out: 0,
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
/// Flag of a [`Flow`], and its only one: in what is kept of an unconnected UDP socket, what stands in for the flow table's entry
/// of the last flow, for some ticks of the kernel's clock, which `seen` then counts in. It holds while that flow passes
/// and does not expire; what it has carried is the table's entry's and its counter's.
pub const BORROWED: u8 = 16;

/// What is kept of a socket: in its [`Seat`], else as its socket-local storage, which accepted sockets inherit from their
/// listener.
///
/// It has 184 bytes, with which the kernel's part of the storage is 256: one more, and it would take 512.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Socket {
    /// TCP and connected UDP: its flow. Other sockets: see [`Socket::last`].
    pub flow: Flow,
    /// Who made it (for an accepted one: who made the listener).
    pub owner: Owner,
    /// What it is decided as, as [`Resolved`] reads it; 0: not found yet.
    pub subject: u64,
    /// What it was decided as before, in the last generation where that was something else; 0: nothing else.
    pub former: SubjectId,
    /// 1 if the programs saw it made, and so will see its release; else 0.
    pub watched: u8,
    /// Zero.
    pub pad: [u8; 5],
}

/// A place for what is kept of a socket. What each packet touches shares a cache line with the word that says whose it is:
/// Linux puts an array's values 8 bytes before one (`struct bpf_array` of include/linux/bpf.h, as of 6.18).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seat {
    /// Zero.
    pub lead: u64,
    /// SO_COOKIE of the socket that has it or had it last, shifted left by [`SEAT_SHIFT`]; in the bits below, until when it
    /// has it: [`UNTIL_RELEASE`], [`UNTIL_CLOSE`], both, or 0 if the place is free. One word, so that both change as one.
    pub whose: u64,
    /// What is kept of it.
    pub socket: Socket,
    /// Zero.
    pub pad: [u64; 7],
}

/// Bits of [`Seat::whose`] below the cookie.
pub const SEAT_SHIFT: u32 = 2;
/// Those bits.
pub const SEAT_HELD: u64 = UNTIL_RELEASE | UNTIL_CLOSE;
/// Bit of [`Seat::whose`]: until `sock_release` runs.
pub const UNTIL_RELEASE: u64 = 1;
/// Bit of [`Seat::whose`]: until `sock_ops` sees TCP's state become CLOSE.
pub const UNTIL_CLOSE: u64 = 2;

/// The last packet of a CPU that came to a listener.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Greeting {
    /// The listener's SO_COOKIE.
    pub listener: u64,
    /// Who sent it.
    pub peer: Addr,
    /// Host byte order.
    pub peer_port: u16,
    /// Host byte order.
    pub local_port: u16,
    /// Zero.
    pub pad: [u8; 4],
}

impl Socket {
    /// The last flow that it began of those that belong to no connected socket: a hint which one ends with it. Kept where
    /// a flow of its own has its local address and its beginning.
    #[inline(always)]
    #[must_use]
    pub fn last(&self) -> Option<FlowKey> {
        let [a, b, c, d, e, f, protocol, direction] = self.flow.started.to_ne_bytes();
        let key = FlowKey {
            peer: self.flow.local,
            peer_port: u16::from_ne_bytes([a, b]),
            local_port: u16::from_ne_bytes([c, d]),
            subject: SubjectId(u16::from_ne_bytes([e, f])),
            protocol,
            direction,
        };
        if self.has_flow() || protocol == 0 { None } else { Some(key) }
    }

    /// Remembers a flow that it began, unless it has one of its own.
    #[inline(always)]
    pub fn set_last(&mut self, key: &FlowKey) {
        if self.has_flow() {
            return;
        }
        let ([a, b], [c, d], [e, f]) =
            (key.peer_port.to_ne_bytes(), key.local_port.to_ne_bytes(), key.subject.0.to_ne_bytes());
        self.flow.local = key.peer;
        self.flow.started = u64::from_ne_bytes([a, b, c, d, e, f, key.protocol, key.direction]);
    }

    /// Whether its flow is its own: not lent, and not none.
    #[inline(always)]
    const fn has_flow(&self) -> bool {
        self.flow.protocol != 0 && self.flow.flags != BORROWED
    }
}

/// Levels of the cgroup tree by which a workload is found.
pub const LEVELS: usize = 8;

/// The ids of a cgroup's ancestors, and its own, at the levels from 0, the root's, on; 0: beyond its own level. They outlive
/// the directories.
pub type Ancestors = [u64; LEVELS];

/// What a socket is decided as: found once for each generation. In one word, so that it is read and written as one: the
/// generation in the high half, then the subject's number, then 1 if it is to be found anew each time, else 0.
#[derive(Clone, Copy, Debug)]
pub struct Resolved;

impl Resolved {
    /// The word for a subject in a generation.
    #[inline(always)]
    #[must_use]
    pub const fn word(generation: Generation, subject: SubjectId, anew: bool) -> u64 {
        (generation.0 as u64) << 32 | (subject.0 as u64) << 16 | anew as u64
    }

    /// Whether a word holds in a generation as it stands.
    #[inline(always)]
    #[must_use]
    pub const fn holds(word: u64, generation: Generation) -> bool {
        word >> 32 == generation.0 as u64 && word & 1 == 0
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
        assert_eq!(core::mem::offset_of!(Flow, packets_in), 56, "a cache line but for the word before");
        assert_eq!(core::mem::offset_of!(Flow, packets_out), 56 + 64, "the next line");
        assert_eq!(size_of::<Socket>(), size_of::<Flow>() + size_of::<Owner>() + 16);
        assert_eq!(size_of::<Socket>(), 184, "the kernel's part of the storage is 256 bytes");
        assert_eq!(size_of::<Seat>(), 256, "whole cache lines");
        assert_eq!(size_of::<Greeting>(), 8 + 16 + 2 * 2 + 4);
        assert_eq!(size_of::<FlowKey>(), 24);
        assert_eq!(size_of::<Seed>(), size_of::<Owner>() + 16 + 2 + 2 + 4);
        assert_eq!(size_of::<DenialKey>(), 24);
        assert_eq!(size_of::<Denial>(), 16 + size_of::<OwnedFlow>());
    }

    #[test]
    fn a_resolved_word_holds_both_in_its_generation_unless_to_be_found_anew() {
        for (generation, subject) in [(1, 16), (2, 17), (u32::MAX, u16::MAX)] {
            let (generation, subject) = (Generation(generation), SubjectId(subject));
            let word = Resolved::word(generation, subject, false);
            assert_eq!((Resolved::holds(word, generation), Resolved::subject(word)), (true, subject));
            assert!(!Resolved::holds(word, Generation(generation.0 - 1)));
            let word = Resolved::word(generation, subject, true);
            assert_eq!((Resolved::holds(word, generation), Resolved::subject(word)), (false, subject));
        }
        assert!(!Resolved::holds(0, Generation(1)));
    }

    #[test]
    fn the_last_flow_is_kept_beside_a_lent_one_and_never_over_its_own() {
        let key = FlowKey {
            peer: Addr::v4([10, 1, 2, 3]),
            peer_port: 53,
            local_port: 40_000,
            subject: SubjectId(17),
            protocol: 17,
            direction: 1,
        };
        let mut socket = Socket::default();
        assert_eq!(socket.last(), None);
        socket.set_last(&key);
        assert_eq!(socket.last(), Some(key));
        (socket.flow.protocol, socket.flow.flags) = (17, BORROWED);
        assert_eq!(socket.last(), Some(key));
        let next = FlowKey { peer: Addr::v4([10, 9, 9, 9]), ..key };
        socket.set_last(&next);
        assert_eq!(socket.last(), Some(next));
        let own = Flow { protocol: 17, started: 77, local: Addr::v4([10, 0, 0, 1]), ..Flow::NONE };
        socket.flow = own;
        socket.set_last(&key);
        assert_eq!((socket.last(), socket.flow), (None, own));
    }
}
