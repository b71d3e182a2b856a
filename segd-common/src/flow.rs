//! What the kernel remembers of flows.

use crate::addr::Addr;
use crate::id::{Generation, RuleId, ServiceId, SubjectId, ZoneId};
use crate::socket::Owner;
#[cfg(doc)]
use crate::socket::{Seat, Socket};

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
        assert_eq!(size_of::<Flow>(), 2 * 16 + 9 * 8 + 3 * 4 + 5 * 2 + 5 + 3 + 2);
        assert_eq!(core::mem::offset_of!(Flow, packets_in), 56, "a cache line but for the word before");
        assert_eq!(core::mem::offset_of!(Flow, packets_out), 56 + 64, "the next line");
        assert_eq!(size_of::<FlowKey>(), 24);
        assert_eq!(size_of::<DenialKey>(), 24);
        assert_eq!(size_of::<Denial>(), 16 + size_of::<OwnedFlow>());
    }
}
