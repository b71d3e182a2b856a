//! Tells user space of a flow's turns, through the ring buffer.

use core::ptr::write_volatile;

use aya_ebpf::bindings::BPF_NOEXIST;
use segd_common::counter::Loss;
use segd_common::event::{Event, Kind};
use segd_common::flow::{DENIAL_BUDGET, DENIAL_NS, Denial, DenialKey, Flow, OwnedFlow};
use segd_common::socket::Owner;

use crate::case::{Case, copy};
use crate::maps::{BUDGET, DENIALS, EVENTS};
use crate::view::now;
use crate::{count, flow};

/// The end of a TCP connection, as the kernel measured it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Measured {
    pub(crate) rtt_us: u32,
    pub(crate) retransmits: u32,
}

/// Writes an event but for its flow, field by field: a whole event would not fit on the stack.
///
/// # Safety
/// `event` must be a place for an event.
#[inline(always)]
unsafe fn head(event: *mut Event, kind: u8, owner: &Owner, cookie: u64, times: u64, measured: Measured) {
    // SAFETY: by the caller's promise.
    unsafe {
        (*event).time = now();
        (*event).cookie = cookie;
        (*event).count = times;
        copy(&raw mut (*event).owner, owner);
        (*event).rtt_us = measured.rtt_us;
        (*event).retransmits = measured.retransmits;
        // With the padding behind it, which volatile stores keep from becoming a call of memset.
        for i in 0..7 {
            write_volatile((&raw mut (*event).pad).cast::<u8>().add(i), 0);
        }
        (*event).kind = kind;
    }
}

/// Tells of a remembered flow. `kind`: a [`Kind`]. `measured`: round-trip time and retransmits, one half each.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tell(kind: u32, flow: *const Flow, owner: *const Owner, cookie: u64, measured: u64) -> u32 {
    // SAFETY: live map values or null, which the kernel holds possible.
    let (Some(flow), Some(owner)) = (unsafe { (flow.as_ref(), owner.as_ref()) }) else {
        return 0;
    };
    let Some(mut entry) = EVENTS.reserve(0) else {
        count::lose(Loss::Ring, 1);
        return 0;
    };
    let event: *mut Event = entry.as_mut_ptr();
    let measured = Measured { rtt_us: (measured >> 32) as u32, retransmits: measured as u32 };
    // SAFETY: the entry is reserved memory of an event's size.
    unsafe {
        head(event, kind as u8, owner, cookie, 1, measured);
        copy(&raw mut (*event).flow, flow);
    }
    entry.submit(0);
    1
}

/// A flow began.
#[inline(always)]
pub(crate) fn open(flow: &Flow, owner: &Owner, cookie: u64) {
    tell(Kind::Open as u32, flow, owner, cookie, 0);
}

/// A flow that passed is cut.
#[inline(always)]
pub(crate) fn revoke(flow: &Flow, owner: &Owner, cookie: u64) {
    tell(Kind::Revoke as u32, flow, owner, cookie, 0);
}

/// A flow ended.
#[inline(always)]
pub(crate) fn close(flow: &Flow, owner: &Owner, cookie: u64, measured: Measured) {
    let measured = u64::from(measured.rtt_us) << 32 | u64::from(measured.retransmits);
    tell(Kind::Close as u32, flow, owner, cookie, measured);
}

/// Counts and tells an attempt that does not become a flow: it was not let begin, or in monitor mode would not be.
/// Repeats within [`DENIAL_NS`] are told joined.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn refuse(case: *const Case, owner: *const Owner, cookie: u64) -> u32 {
    // SAFETY: a case of this program and a live map value, or null, which the kernel holds possible.
    let (Some(case), Some(owner)) = (unsafe { (case.as_ref(), owner.as_ref()) }) else {
        return 0;
    };
    let now = now();
    let place = count::place_of(case);
    count::begin(place, now);
    count::packet(place, case.size());
    let key = DenialKey {
        peer: case.peer,
        port: case.service_port(),
        subject: case.subject.id,
        protocol: case.protocol,
        direction: case.direction as u8,
        pad: [0, 0],
    };
    let denial = match DENIALS.get_ptr_mut(&key) {
        Some(denial) => Some(denial),
        None => {
            // If another CPU was first, its entry serves.
            let _ = DENIALS.insert(&key, &NOTHING, u64::from(BPF_NOEXIST));
            DENIALS.get_ptr_mut(&key)
        }
    };
    let mut times = 1;
    if let Some(denial) = denial {
        // SAFETY: a look-up's pointer stays valid for the program's run.
        unsafe {
            if (*denial).sample.flow.protocol == 0 {
                copy(&raw mut (*denial).sample.owner, owner);
                flow::write(&raw mut (*denial).sample.flow, case, place);
            }
            if now.wrapping_sub((*denial).told) < DENIAL_NS || !affordable(now) {
                count::add(&raw mut (*denial).untold, 1);
                count::lose(Loss::Joined, 1);
                return 0;
            }
            let untold = (*denial).untold;
            (*denial).told = now;
            (*denial).untold = 0;
            if untold > 0 {
                count::lose(Loss::Told, untold);
            }
            times += untold;
        }
    }
    let Some(mut entry) = EVENTS.reserve(0) else {
        count::lose(Loss::Ring, times);
        return 0;
    };
    let event: *mut Event = entry.as_mut_ptr();
    // SAFETY: the entry is reserved memory of an event's size.
    unsafe {
        head(event, Kind::Deny as u8, owner, cookie, times, Measured::default());
        flow::write(&raw mut (*event).flow, case, place);
    }
    entry.submit(0);
    1
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
