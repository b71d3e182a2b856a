//! Exact counters: every flow and packet finds a place, if only the overflow's.

use core::intrinsics::{AtomicOrdering, atomic_xadd, atomic_xchg};
use core::ptr::read_volatile;

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_NOEXIST;
use segd_common::counter::{CounterKey, Loss, OVERFLOW};
use segd_common::flow::{BORROWED, CLOSE_BY_RELEASE, CLOSE_BY_STATE, Flow};

use crate::case::{Case, Size};
use crate::maps::{COUNTER_KEYS, COUNTERS, FREE_COUNTERS, LOSSES};

/// Adds to a `u64` in a map. Per-CPU values need it too: a program in process context can be interrupted by
/// the same program in a softirq on its CPU.
#[inline(always)]
pub(crate) fn add(to: *mut u64, n: u64) -> u64 {
    // SAFETY: callers pass a field of a live map value, 8-byte aligned.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(to, n) }
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
    if case.counter != OVERFLOW {
        return case.counter;
    }
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

/// 1 if user space can have what sockets carry counted whenever it reads the counters. Set before the programs are loaded.
#[unsafe(no_mangle)]
static COUNTS_LATER: Global<u8> = Global::new(0);

/// Whether a packet may be counted with its socket first.
#[inline(always)]
pub(crate) fn counts_later() -> bool {
    COUNTS_LATER.load() != 0
}

/// Counts a packet of a socket's flow: with the socket only, if the end of the flow or of the socket is sure to be seen, and
/// [`settle`] counts it by the flow's labels then; else at once.
#[inline(always)]
pub(crate) fn carry(flow: &mut Flow, size: Size) {
    if counts_later() && flow.flags & (CLOSE_BY_STATE | CLOSE_BY_RELEASE | BORROWED) != 0 {
        keep(flow, size);
    } else {
        packet_of(flow, size);
    }
}

/// Counts a packet in its flow alone.
#[inline(always)]
fn keep(flow: &mut Flow, size: Size) {
    if size.leaving {
        add(&raw mut flow.packets_out, u64::from(size.packets));
        add(&raw mut flow.bytes_out, u64::from(size.bytes));
    } else {
        add(&raw mut flow.packets_in, u64::from(size.packets));
        add(&raw mut flow.bytes_in, u64::from(size.bytes));
    }
}

/// Counts a packet in its flow, which lives in a map, and by the flow's labels.
#[inline(always)]
pub(crate) fn packet_of(flow: &mut Flow, size: Size) {
    if size.packets != 0 {
        keep(flow, size);
        add(&raw mut flow.counted_packets, u64::from(size.packets));
        add(&raw mut flow.counted_bytes, u64::from(size.bytes));
        packet(flow.counter, size);
    }
}

/// Counts what a socket's flow has carried by its labels, but for what is counted already.
///
/// However many CPUs do it at once, with packets coming in between: each gives the counter the difference between the sum
/// that it saw and the one before in the order of the exchanges, which may be negative, so all differences add up to
/// the last sum. A packet that is counted at once adds to both.
#[inline(always)]
pub(crate) fn settle(flow: *mut Flow) {
    // SAFETY: callers pass a live map value; its sums grow at the same time.
    unsafe {
        let read = |sum: *const u64| read_volatile(sum);
        let packets = read(&raw const (*flow).packets_in) + read(&raw const (*flow).packets_out);
        let bytes = read(&raw const (*flow).bytes_in) + read(&raw const (*flow).bytes_out);
        let new_packets = packets.wrapping_sub(exchange(&raw mut (*flow).counted_packets, packets));
        let new_bytes = bytes.wrapping_sub(exchange(&raw mut (*flow).counted_bytes, bytes));
        if new_packets | new_bytes == 0 {
            return;
        }
        if let Some(counter) = COUNTERS.get_ptr_mut((*flow).counter) {
            add(&raw mut (*counter).packets, new_packets);
            add(&raw mut (*counter).bytes, new_bytes);
        }
    }
}

/// Puts a value in the place of another, which it returns.
///
/// # Safety
/// `to` must be a field of a live map value.
#[inline(always)]
pub(crate) unsafe fn exchange(to: *mut u64, value: u64) -> u64 {
    // SAFETY: by the caller's promise; 8-byte aligned.
    unsafe { atomic_xchg::<u64, { AtomicOrdering::Relaxed }>(to, value) }
}
