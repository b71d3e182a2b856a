//! Exact counters: every flow and packet finds a place, if only the overflow's.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::BPF_NOEXIST;
use segd_common::counter::{CounterKey, Loss, OVERFLOW};
use segd_common::flow::Flow;

use crate::case::{Case, Size};
use crate::maps::{COUNTER_KEYS, COUNTERS, FREE_COUNTERS, LOSSES};

/// Adds to a `u64` in a map. Per-CPU values need it too: a program in process context can be interrupted by
/// the same program in a softirq on its CPU.
#[inline(always)]
pub(crate) fn add(to: *mut u64, n: u64) {
    // SAFETY: callers pass a field of a live map value, 8-byte aligned.
    unsafe {
        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(to, n);
    }
}

/// Counts something the data path could not do.
#[inline(always)]
pub(crate) fn lose(what: Loss, n: u64) {
    if let Some(count) = LOSSES.get_ptr_mut(what as u32) {
        add(count, n);
    }
}

/// The place of the counter of what is so decided.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn place_of(case: *const Case) -> u32 {
    // SAFETY: a case of this program or null, which the kernel holds possible.
    let Some(case) = (unsafe { case.as_ref() }) else {
        return OVERFLOW;
    };
    place(&CounterKey {
        rule: case.rule,
        subject: case.subject.id,
        zone: case.zone,
        service: case.service,
        protocol: case.protocol,
        direction: case.direction as u8,
        verdict: case.verdict as u8,
        pad: [0, 0, 0],
    })
}

#[inline(always)]
fn place(key: &CounterKey) -> u32 {
    if let Some(place) = COUNTER_KEYS.get_ptr(key) {
        // SAFETY: a look-up's pointer stays valid for the program's run.
        return unsafe { *place };
    }
    let Ok(Some(place)) = FREE_COUNTERS.pop() else {
        lose(Loss::Counters, 1);
        return OVERFLOW;
    };
    if COUNTER_KEYS.insert(key, place, u64::from(BPF_NOEXIST)).is_ok() {
        return place;
    }
    // Another CPU was first: its place counts, ours goes back.
    let _ = FREE_COUNTERS.push(place, 0);
    match COUNTER_KEYS.get_ptr(key) {
        // SAFETY: as above.
        Some(place) => unsafe { *place },
        None => {
            lose(Loss::Counters, 1);
            OVERFLOW
        }
    }
}

/// Counts the beginning of a flow, or a denied attempt.
#[inline(always)]
pub(crate) fn begin(place: u32, now: u64) {
    if let Some(counter) = COUNTERS.get_ptr_mut(place) {
        // SAFETY: the pointer is to a live map value; `last` may be overwritten by a newer time only.
        unsafe {
            add(&raw mut (*counter).flows, 1);
            (*counter).last = now;
        }
    }
}

/// Counts a packet by its flow's labels.
#[inline(always)]
pub(crate) fn packet(place: u32, size: Size) {
    if let Some(counter) = COUNTERS.get_ptr_mut(place) {
        // SAFETY: the pointer is to a live map value.
        unsafe {
            add(&raw mut (*counter).packets, u64::from(size.packets));
            add(&raw mut (*counter).bytes, u64::from(size.bytes));
        }
    }
}

/// Counts a packet in its flow, which lives in a map, and by the flow's labels.
#[inline(always)]
pub(crate) fn packet_of(flow: &mut Flow, size: Size) {
    if size.leaving {
        add(&raw mut flow.packets_out, u64::from(size.packets));
        add(&raw mut flow.bytes_out, u64::from(size.bytes));
    } else {
        add(&raw mut flow.packets_in, u64::from(size.packets));
        add(&raw mut flow.bytes_in, u64::from(size.bytes));
    }
    packet(flow.counter, size);
}
