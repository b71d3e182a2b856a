//! What the kernel remembers of sockets.

use crate::addr::Addr;
use crate::flow::{BORROWED, Flow, FlowKey};
use crate::id::{Generation, SubjectId};
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
    /// What it is decided as.
    pub identity: Identity,
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
    /// has it: [`UNTIL_RELEASE`], [`UNTIL_CLOSE`], both, or 0 if the place is free. One word, so that both change as one. The
    /// cookie is 0 if no socket had it yet, and while one is taking it.
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

/// What a socket is decided as: found once for each generation. One word, so that it is read and written as one: the
/// generation in the high half, then the subject's number, then 1 if it is to be found anew each time, else 0.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Identity(u64);

impl Identity {
    /// Not found yet.
    pub const NONE: Self = Self(0);

    /// That of a subject in a generation.
    #[inline(always)]
    #[must_use]
    pub const fn new(generation: Generation, subject: SubjectId, anew: bool) -> Self {
        Self((generation.0 as u64) << 32 | (subject.0 as u64) << 16 | anew as u64)
    }

    /// Whether it holds in a generation as it stands.
    #[inline(always)]
    #[must_use]
    pub const fn holds(self, generation: Generation) -> bool {
        self.0 >> 32 == generation.0 as u64 && self.0 & 1 == 0
    }

    /// The subject; that of [`NONE`](Self::NONE) is none.
    #[inline(always)]
    #[must_use]
    pub const fn subject(self) -> SubjectId {
        let [_, _, low, high, ..] = self.0.to_le_bytes();
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

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::size_of;

    #[test]
    fn layouts_have_no_hidden_padding() {
        assert_eq!(size_of::<Owner>(), 32);
        assert_eq!(size_of::<Socket>(), size_of::<Flow>() + size_of::<Owner>() + 16);
        assert_eq!(size_of::<Socket>(), 184, "the kernel's part of the storage is 256 bytes");
        assert_eq!(size_of::<Seat>(), 256, "whole cache lines");
        assert_eq!(size_of::<Greeting>(), 8 + 16 + 2 * 2 + 4);
        assert_eq!(size_of::<Seed>(), size_of::<Owner>() + 16 + 2 + 2 + 4);
    }

    #[test]
    fn an_identity_holds_in_its_generation_unless_to_be_found_anew() {
        for (generation, subject) in [(1, 16), (2, 17), (u32::MAX, u16::MAX)] {
            let (generation, subject) = (Generation(generation), SubjectId(subject));
            let found = Identity::new(generation, subject, false);
            assert_eq!((found.holds(generation), found.subject()), (true, subject));
            assert!(!found.holds(Generation(generation.0 - 1)));
            let found = Identity::new(generation, subject, true);
            assert_eq!((found.holds(generation), found.subject()), (false, subject));
        }
        assert!(!Identity::NONE.holds(Generation(1)));
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
