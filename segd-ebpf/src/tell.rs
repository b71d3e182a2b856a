//! Tells user space of a flow's turns, through the ring buffer.

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use segd_common::counter::Loss;
use segd_common::event::{Event, Kind};
use segd_common::flow::{DENIAL_BUDGET, DENIAL_NS, Denial, DenialKey, Flow, OwnedFlow, Owner};
use segd_common::traffic::Direction;

use crate::count;
use crate::maps::{BUDGET, DENIALS, EVENTS};
use crate::view::now;

/// The end of a TCP connection, as the kernel measured it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Measured {
    pub(crate) rtt_us: u32,
    pub(crate) retransmits: u32,
}

/// Context of the running program, for the helpers that want it.
pub(crate) type Context = *mut c_void;

#[inline(always)]
fn tell(ctx: Context, kind: Kind, flow: &Flow, owner: &Owner, times: u64, measured: Measured) {
    let Some(mut entry) = EVENTS.reserve(0) else {
        count::lose(Loss::Ring, times);
        return;
    };
    let event: *mut Event = entry.as_mut_ptr();
    // SAFETY: the entry is reserved memory of an event's size. It is written field by field, as a whole event
    // would not fit on the stack beside the caller's. The context is that of the running program, whose type
    // has the helper.
    unsafe {
        (*event).time = now();
        (*event).cookie = bpf_get_socket_cookie(ctx);
        (*event).count = times;
        (*event).owner = *owner;
        (*event).flow = *flow;
        (*event).rtt_us = measured.rtt_us;
        (*event).retransmits = measured.retransmits;
        (*event).kind = kind as u8;
        (*event).pad = [0; 7];
    }
    entry.submit(0);
}

/// A flow began.
#[inline(never)]
pub(crate) fn open(ctx: Context, flow: &Flow, owner: &Owner) {
    tell(ctx, Kind::Open, flow, owner, 1, Measured::default());
}

/// A flow that passed is cut.
#[inline(never)]
pub(crate) fn revoke(ctx: Context, flow: &Flow, owner: &Owner) {
    tell(ctx, Kind::Revoke, flow, owner, 1, Measured::default());
}

/// A flow ended.
#[inline(never)]
pub(crate) fn close(ctx: Context, flow: &Flow, owner: &Owner, measured: Measured) {
    tell(ctx, Kind::Close, flow, owner, 1, measured);
}

/// A flow was not let begin, or in monitor mode would not be. Repeats within [`DENIAL_NS`] are joined.
#[inline(never)]
pub(crate) fn deny(ctx: Context, flow: &Flow, owner: &Owner) {
    let inbound = flow.direction == Direction::Inbound as u8;
    let key = DenialKey {
        peer: flow.peer,
        port: if inbound { flow.local_port } else { flow.peer_port },
        subject: flow.subject,
        protocol: flow.protocol,
        direction: flow.direction,
        pad: [0; 2],
    };
    let now = now();
    let denial = match DENIALS.get_ptr_mut(&key) {
        Some(denial) => Some(denial),
        None => {
            // If another CPU was first, its entry serves.
            let _ = DENIALS.insert(&key, &NOTHING, u64::from(BPF_NOEXIST));
            DENIALS.get_ptr_mut(&key)
        }
    };
    let Some(denial) = denial else {
        return tell(ctx, Kind::Deny, flow, owner, 1, Measured::default());
    };
    // SAFETY: a look-up's pointer stays valid for the program's run.
    unsafe {
        if (*denial).sample.flow.protocol == 0 {
            (*denial).sample.owner = *owner;
            (*denial).sample.flow = *flow;
        }
        if now.wrapping_sub((*denial).told) < DENIAL_NS || !affordable(now) {
            count::add(&raw mut (*denial).untold, 1);
            count::lose(Loss::Joined, 1);
            return;
        }
        let untold = (*denial).untold;
        (*denial).told = now;
        (*denial).untold = 0;
        if untold > 0 {
            count::lose(Loss::Told, untold);
        }
        tell(ctx, Kind::Deny, flow, owner, untold + 1, Measured::default());
    }
}

/// No denial yet. Not on the stack, where it would not fit.
static NOTHING: Denial = Denial { told: 0, untold: 0, sample: OwnedFlow::NONE };

/// Whether this CPU may tell of one more denial now.
#[inline(always)]
fn affordable(now: u64) -> bool {
    let Some(budget) = BUDGET.get_ptr_mut(0) else {
        return true;
    };
    // SAFETY: this CPU's value; a softirq in between makes the count too small by one at most.
    unsafe {
        if now.wrapping_sub((*budget).since) >= DENIAL_NS {
            (*budget).since = now;
            (*budget).told = 0;
        }
        (*budget).told += 1;
        (*budget).told <= DENIAL_BUDGET
    }
}
