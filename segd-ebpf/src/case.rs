//! One case: what a hook found out, and what was decided of it.

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::{copy_nonoverlapping, write_volatile};

use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use segd_common::addr::Addr;
use segd_common::counter::OVERFLOW;
use segd_common::decide::{
    Decision, Facts, decide_in_zone, decide_socket, decide_unreadable, zone_of, zone_on_wire,
};
use segd_common::flow::{BORROWED, Flow, FlowKey};
use segd_common::id::{Generation, RuleId, ServiceId, SubjectId, ZoneId};
use segd_common::packet::Ends;
use segd_common::table::Subject;
use segd_common::traffic::{Direction, Reason, Verdict, protocol};

use crate::view::{Policy, Slot};
use crate::{debug, decided};

/// Context of the running program.
pub(crate) type Context = *mut c_void;

/// SO_COOKIE of the socket that the running program is about.
#[inline(always)]
pub(crate) fn cookie(ctx: Context) -> u64 {
    // SAFETY: the context is that of the running program, and each of our types has the helper.
    unsafe { bpf_get_socket_cookie(ctx) }
}

/// One packet's size, for the counters. Default: no packet.
#[derive(Clone, Copy, Default)]
pub(crate) struct Size {
    pub(crate) packets: u32,
    pub(crate) bytes: u32,
    pub(crate) leaving: bool,
}

/// Everything a verdict is made of, and the verdict.
///
/// It lies on the stack of the program itself, and functions get a pointer to it. Those that are `extern "C"` are global
/// functions of BPF: the kernel verifies each once a program instead of at each call, for any argument; for that it
/// wants memory of a known size without a byte that was not written, so there is no padding here.
#[repr(C)]
pub(crate) struct Case {
    pub(crate) peer: Addr,
    pub(crate) local: Addr,
    /// What the local socket is decided as.
    pub(crate) subject: Subject,
    /// As in [`Decision`], like the four below.
    pub(crate) expires: u64,
    pub(crate) rule: RuleId,
    pub(crate) zone: ZoneId,
    pub(crate) service: ServiceId,
    pub(crate) verdict: Verdict,
    pub(crate) reason: Reason,
    /// As in [`Policy`].
    pub(crate) flags: u8,
    pub(crate) protocol: u8,
    pub(crate) slot: u32,
    pub(crate) generation: Generation,
    /// As in [`Size`], like the two below.
    pub(crate) packets: u32,
    pub(crate) bytes: u32,
    /// Host byte order.
    pub(crate) peer_port: u16,
    /// Host byte order.
    pub(crate) local_port: u16,
    /// What the local socket was decided as before `subject`.
    pub(crate) former: SubjectId,
    pub(crate) direction: Direction,
    pub(crate) leaving: bool,
    /// The place of the counter of what was decided, if that is known; else [`OVERFLOW`].
    pub(crate) counter: u32,
}

const _: () = assert!(size_of::<Case>() == 3 * 16 + 8 + 4 + 2 * 2 + 4 + 4 * 4 + 3 * 2 + 2 + 4, "no padding");

impl Case {
    /// Nobody and nothing yet, decided as the host. Written where it stays: a move would be a copy.
    #[inline(always)]
    pub(crate) fn new<'a>(place: &'a mut MaybeUninit<Self>, policy: &Policy, size: Size) -> &'a mut Self {
        zero(place.as_mut_ptr());
        // SAFETY: zero is a value of each of its fields.
        let case = unsafe { place.assume_init_mut() };
        case.subject.id = policy.host;
        case.former = policy.host;
        case.flags = policy.flags;
        case.slot = policy.slot;
        case.generation = policy.generation;
        case.packets = size.packets;
        case.bytes = size.bytes;
        case.direction = if size.leaving { Direction::Outbound } else { Direction::Inbound };
        case.leaving = size.leaving;
        case
    }

    #[inline(always)]
    pub(crate) fn set_ends(&mut self, ends: &Ends) {
        copy(&mut self.peer, &ends.peer);
        copy(&mut self.local, &ends.local);
        self.peer_port = ends.peer_port;
        self.local_port = ends.local_port;
    }

    #[inline(always)]
    pub(crate) fn ends(&self) -> Ends {
        Ends { local: self.local, peer: self.peer, local_port: self.local_port, peer_port: self.peer_port }
    }

    /// As [`Direction::service_port`].
    #[inline(always)]
    pub(crate) fn service_port(&self) -> u16 {
        self.direction.service_port(self.local_port, self.peer_port)
    }

    /// As in [`Size`].
    #[inline(always)]
    pub(crate) fn size(&self) -> Size {
        Size { packets: self.packets, bytes: self.bytes, leaving: self.leaving }
    }

    #[inline(always)]
    pub(crate) fn settle(&mut self, decision: &Decision) {
        self.expires = decision.expires;
        self.rule = decision.rule;
        self.zone = decision.zone;
        self.service = decision.service;
        self.verdict = decision.verdict;
        self.reason = decision.reason;
        self.counter = OVERFLOW;
    }

    /// May it begin? Sets the answer's fields.
    #[inline(always)]
    pub(crate) fn decide(&mut self) {
        // Remembered from here, so that what remembering takes of the stack is not added to what deciding takes.
        if judge(self) != 0 && self.packets == 0 {
            decided::remember(self);
        }
    }

    /// May a socket of `protocol` be made? Sets the answer's fields.
    #[inline(always)]
    pub(crate) fn decide_socket(&mut self) {
        judge_socket(self);
    }

    /// What becomes of a packet whose transport is not known, for the reason in the case? Sets the answer's fields.
    #[inline(always)]
    pub(crate) fn decide_unreadable(&mut self, addressed: bool) {
        judge_unreadable(self, u32::from(addressed));
    }

    /// Sets the peer's zone.
    #[inline(always)]
    pub(crate) fn locate(&mut self) {
        locate(self);
    }

    /// The key of the flow tables, for a subject. For ICMP, the request's type and code stand for the local port.
    #[inline(always)]
    pub(crate) fn key(&self, subject: SubjectId) -> FlowKey {
        let icmp = is_icmp(self.protocol);
        FlowKey {
            peer: self.peer,
            peer_port: if icmp { 0 } else { self.peer_port },
            local_port: self.local_port,
            subject,
            protocol: self.protocol,
            direction: if icmp { self.direction as u8 } else { 0 },
        }
    }

    /// Whether a socket's flow is with the same peer.
    #[inline(always)]
    pub(crate) fn owns(&self, flow: &Flow) -> bool {
        flow.flags != BORROWED
            && flow.protocol == self.protocol
            && flow.peer == self.peer
            && flow.peer_port == self.peer_port
    }
}

/// Writes zeros over a whole value, word by word. An assignment would become a call of memset: what the linker makes
/// of that is a loop in a function of its own, which the kernel walks each time, and refuses if it leaves a pointer to
/// the stack in the register of its return value.
#[inline(always)]
pub(crate) fn zero<T>(to: *mut T) {
    const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() == 8) };
    for i in 0..size_of::<T>() / 8 {
        // SAFETY: callers pass a place for a `T`, which is so many words; volatile words stay words.
        unsafe { write_volatile(to.cast::<u64>().add(i), 0) };
    }
}

/// Copies a value in place. An assignment would become a call of memmove where the compiler does not see that the two
/// are not one; see [`zero`].
#[inline(always)]
pub(crate) fn copy<T: Copy>(to: *mut T, from: &T) {
    // SAFETY: callers pass a place for a `T` that is not `from`.
    unsafe { copy_nonoverlapping(from, to, 1) };
}

/// Whether a protocol has kinds of messages instead of ports.
#[inline(always)]
pub(crate) const fn is_icmp(number: u8) -> bool {
    matches!(number, protocol::ICMP | protocol::ICMPV6)
}

/// Decides, unless it is known from before. Returns 1 if the answer is new, else 0. Packets on the loopback device are not
/// looked at, so what is one is on the wire.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge(case: *mut Case) -> u32 {
    // SAFETY: a case of this program or null, which the kernel holds possible.
    let Some(case) = (unsafe { case.as_mut() }) else {
        return 0;
    };
    if decided::recall(case) {
        return 0;
    }
    let view = Slot(case.slot);
    let facts = Facts {
        subject: case.subject,
        direction: case.direction,
        protocol: case.protocol,
        peer: case.peer,
        port: case.service_port(),
    };
    let on_wire = case.packets != 0;
    let zone = if on_wire { zone_on_wire(&view, &facts.peer) } else { zone_of(&view, &facts.peer) };
    let decision = decide_in_zone(&view, &facts, zone);
    case.settle(&decision);
    debug::decided(case);
    1
}

/// [`decide_socket`], with `protocol` as the name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge_socket(case: *mut Case) -> u32 {
    // SAFETY: as in `judge`.
    let Some(case) = (unsafe { case.as_mut() }) else {
        return 0;
    };
    let decision = decide_socket(&Slot(case.slot), case.subject, case.protocol);
    case.settle(&decision);
    1
}

/// [`decide_unreadable`], for the reason in the case. `addressed`: 1 if it has the packet's addresses, else 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge_unreadable(case: *mut Case, addressed: u32) -> u32 {
    // SAFETY: as in `judge`.
    let Some(case) = (unsafe { case.as_mut() }) else {
        return 0;
    };
    let view = Slot(case.slot);
    let peer = case.peer;
    let peer = if addressed != 0 { Some(&peer) } else { None };
    let decision = decide_unreadable(&view, case.subject, case.direction, peer, case.reason);
    case.settle(&decision);
    1
}

/// [`zone_of`] the peer, into the case.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn locate(case: *mut Case) -> u32 {
    // SAFETY: as in `judge`.
    let Some(case) = (unsafe { case.as_mut() }) else {
        return 0;
    };
    let peer = case.peer;
    case.zone = zone_of(&Slot(case.slot), &peer).zone;
    1
}
