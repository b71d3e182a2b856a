//! Flows: decided once, remembered, decided again when the policy changed.
//!
//! A remembered flow may be read and written by several CPUs at once, without a lock. That never makes a wrong
//! verdict: only a flow that passes is stored under a new peer, readers compare the peer before they trust the
//! verdict, and what is rewritten in place is rewritten by every CPU to the same values, the generation last.

use core::mem::MaybeUninit;
use core::ptr::write_volatile;

use aya_ebpf::bindings::BPF_NOEXIST;
use segd_common::counter::{Loss, OVERFLOW};
use segd_common::flow::{CLOSED, Flow, FlowKey, IDLE_NS, OPENED, OwnedFlow};
use segd_common::id::{Generation, RuleId};
use segd_common::socket::Owner;
use segd_common::table::KEEP_REVOKED;
use segd_common::traffic::{Direction, Reason, Verdict};

use crate::case::{Case, Context, cookie, copy};
use crate::count;
use crate::maps::{FLOWS_IN, FLOWS_OUT};
use crate::tell::{self, Measured};
use crate::view::now;

/// Writes a newly decided flow over `flow`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn begin(flow: *mut Flow, case: *const Case) -> u32 {
    // SAFETY: a live map value and a case of this program, or null, which the kernel holds possible.
    let (Some(flow), Some(case)) = (unsafe { (flow.as_mut(), case.as_ref()) }) else {
        return 0;
    };
    // SAFETY: a reference is a valid place.
    unsafe { write(flow, case, count::place_of(case)) };
    1
}

/// Writes every field of a flow, so that nothing has to be cleared before.
///
/// # Safety
/// `flow` must be a place for a flow, initialised or not.
#[inline(always)]
pub(crate) unsafe fn write(flow: *mut Flow, case: &Case, counter: u32) {
    let now = now();
    // SAFETY: by the caller's promise.
    unsafe {
        copy(&raw mut (*flow).peer, &case.peer);
        copy(&raw mut (*flow).local, &case.local);
        (*flow).started = now;
        (*flow).seen = now;
        // Volatile, or they become a call of memset; see `zero`.
        write_volatile(&raw mut (*flow).packets_in, 0);
        write_volatile(&raw mut (*flow).packets_out, 0);
        write_volatile(&raw mut (*flow).bytes_in, 0);
        write_volatile(&raw mut (*flow).bytes_out, 0);
        write_volatile(&raw mut (*flow).counted_packets, 0);
        write_volatile(&raw mut (*flow).counted_bytes, 0);
        (*flow).counter = counter;
        (*flow).peer_port = case.peer_port;
        (*flow).local_port = case.local_port;
        (*flow).protocol = case.protocol;
        (*flow).direction = case.direction as u8;
        (*flow).flags = 0;
        for i in 0..3 {
            write_volatile((&raw mut (*flow).pad).cast::<u8>().add(i), 0);
        }
        write_volatile((&raw mut (*flow).end).cast::<u16>(), 0);
        settle(flow, case);
        (*flow).generation = case.generation;
    }
}

/// # Safety
/// As [`write`].
#[inline(always)]
unsafe fn settle(flow: *mut Flow, case: &Case) {
    // SAFETY: by the caller's promise.
    unsafe {
        (*flow).subject = case.subject.id;
        (*flow).zone = case.zone;
        (*flow).service = case.service;
        (*flow).rule = case.rule;
        (*flow).reason = case.reason as u8;
        (*flow).expires = case.expires;
        (*flow).verdict = case.verdict as u8;
    }
}

/// Counts a packet that belongs to no remembered flow.
#[inline(always)]
pub(crate) fn count_stray(case: &Case) {
    count::packet(count::place_of(case), case.size());
}

/// Whether a remembered flow's verdict still holds.
#[inline(always)]
pub(crate) fn holds(flow: &Flow, generation: Generation) -> bool {
    flow.generation == generation && (flow.expires == 0 || now() < flow.expires)
}

/// Decides a remembered flow again, by its own direction. The case becomes the flow's.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn renew(case: *mut Case, flow: *mut Flow, owner: *const Owner, cookie: u64) -> u32 {
    // SAFETY: a case of this program and live map values, or null, which the kernel holds possible.
    let (Some(case), Some(flow), Some(owner)) = (unsafe { (case.as_mut(), flow.as_mut(), owner.as_ref()) })
    else {
        return 0;
    };
    if flow.reason != Reason::Preexisting as u8 {
        let passed = flow.verdict != Verdict::Denied as u8;
        copy(&mut case.peer, &flow.peer);
        copy(&mut case.local, &flow.local);
        case.peer_port = flow.peer_port;
        case.local_port = flow.local_port;
        case.protocol = flow.protocol;
        let inbound = flow.direction == Direction::Inbound as u8;
        case.direction = if inbound { Direction::Inbound } else { Direction::Outbound };
        case.decide();
        if passed && case.verdict == Verdict::Denied {
            keep(case);
        }
        count::settle(flow);
        // SAFETY: a reference is a valid place.
        unsafe { settle(flow, case) };
        flow.counter = count::place_of(case);
        if passed && case.verdict == Verdict::Denied {
            tell::revoke(flow, owner, cookie);
        }
    }
    // SAFETY: a plain store to the flow; volatile keeps it behind those above.
    unsafe { write_volatile(&raw mut flow.generation, case.generation) };
    1
}

/// If the policy has live flows kept, what it denies one goes on, to be decided again by the next generation. But
/// nothing outlives its workload.
#[inline(always)]
fn keep(case: &mut Case) {
    if case.flags & KEEP_REVOKED != 0 && case.reason != Reason::WorkloadExpired {
        case.verdict = Verdict::Allowed;
        case.reason = Reason::Kept;
        case.rule = RuleId::NONE;
        case.counter = OVERFLOW;
        case.expires = case.subject.expires;
    }
}

/// A connection older than the programs goes on of which user space found nothing (see `seed`): who began it is not
/// known; the lower port is taken for the server's.
#[inline(always)]
pub(crate) fn preexisting(case: &mut Case) {
    case.verdict = Verdict::Allowed;
    case.reason = Reason::Preexisting;
    case.counter = OVERFLOW;
}

/// Counts a remembered flow's beginning and tells it, once.
#[inline(always)]
pub(crate) fn open(ctx: Context, flow: &mut Flow, owner: &Owner) {
    if flow.flags & OPENED == 0 {
        flow.flags |= OPENED;
        count::begin(flow.counter, flow.started);
        tell::open(flow, owner, cookie(ctx));
    }
}

/// Whether a packet of this flow passes without another look, if it is one.
#[inline(always)]
pub(crate) fn goes_on(flow: &Flow, generation: Generation) -> bool {
    holds(flow, generation)
        && flow.flags & (OPENED | CLOSED) == OPENED
        && flow.verdict != Verdict::Denied as u8
}

/// Tells a remembered flow's end, once, if its beginning was told.
#[inline(always)]
pub(crate) fn close(ctx: Context, flow: &mut Flow, owner: &Owner, measured: Measured) {
    if flow.flags & (OPENED | CLOSED) == OPENED {
        flow.flags |= CLOSED;
        tell::close(flow, owner, cookie(ctx), measured);
    }
}

/// Judges a datagram that belongs to no connected socket: by its flow if there is one, whoever began it;
/// else as the first of a new one.
#[inline(never)]
pub(crate) fn datagram(ctx: Context, case: &mut Case, owner: &Owner) -> bool {
    if let Some(owned) = find(ctx, case) {
        let passes = follow(ctx, case, &mut owned.flow, &owned.owner);
        if !passes {
            // What comes next is judged by its own direction.
            forget(case, owned.flow.direction);
        }
        return passes;
    }
    case.decide();
    match case.reason {
        Reason::Loopback => true,
        Reason::Control => {
            count_stray(case);
            true
        }
        _ if !case.verdict.passes() => {
            tell::refuse(case, owner, cookie(ctx));
            false
        }
        _ => {
            remember(case, owner);
            start(ctx, case);
            true
        }
    }
}

/// The live flow of a datagram, whoever began it.
#[inline(never)]
fn find(ctx: Context, case: &Case) -> Option<&'static mut OwnedFlow> {
    let key = case.key(case.subject.id);
    let found = match look_up(&key) {
        Some(owned) => owned,
        None if case.former == case.subject.id => return None,
        None => follow_subject(case)?,
    };
    // SAFETY: a look-up's pointer stays valid for the program's run.
    let owned = unsafe { &mut *found };
    let now = now();
    // Another CPU may have seen a packet after this one's clock was read.
    if owned.flow.seen > now || now - owned.flow.seen < IDLE_NS {
        owned.flow.seen = now;
        return Some(owned);
    }
    close(ctx, &mut owned.flow, &owned.owner, Measured::default());
    forget(case, owned.flow.direction);
    None
}

#[inline(always)]
pub(crate) fn look_up(key: &FlowKey) -> Option<*mut OwnedFlow> {
    match FLOWS_OUT.get_ptr_mut(key) {
        Some(owned) => Some(owned),
        None => FLOWS_IN.get_ptr_mut(key),
    }
}

/// The flow of a socket that was decided as another subject in a former generation: it moves to the key of what the
/// socket is now. One that this generation has decided is of another socket, and stays.
#[inline(never)]
fn follow_subject(case: &Case) -> Option<*mut OwnedFlow> {
    let (key, former) = (case.key(case.subject.id), case.key(case.former));
    if let Some(owned) = FLOWS_OUT.get_ptr_mut(&former) {
        // SAFETY: a look-up's pointer stays valid for the program's run.
        let owned = unsafe { &*owned };
        if owned.flow.generation == case.generation {
            return None;
        }
        let _ = FLOWS_OUT.insert(&key, owned, u64::from(BPF_NOEXIST));
        let _ = FLOWS_OUT.remove(&former);
        return FLOWS_OUT.get_ptr_mut(&key);
    }
    // SAFETY: as above.
    let owned = unsafe { &*FLOWS_IN.get_ptr_mut(&former)? };
    if owned.flow.generation == case.generation {
        return None;
    }
    let _ = FLOWS_IN.insert(&key, owned, u64::from(BPF_NOEXIST));
    let _ = FLOWS_IN.remove(&former);
    FLOWS_IN.get_ptr_mut(&key)
}

/// If the peer began a flow with this port, a socket that connects to it goes on with that: so do servers that answer
/// each client from a socket of its own. `flags`: how its end is seen from now on.
#[inline(never)]
pub(crate) fn join(case: &Case, flow: &mut Flow, flags: u8) -> bool {
    let key = case.key(case.subject.id);
    let found = match FLOWS_IN.get_ptr_mut(&key) {
        Some(owned) => Some(owned),
        None if case.former == case.subject.id => None,
        None => follow_subject(case),
    };
    let Some(owned) = found else {
        return false;
    };
    // SAFETY: a look-up's pointer stays valid for the program's run.
    let known = unsafe { &(*owned).flow };
    if known.direction != Direction::Inbound as u8 || now().saturating_sub(known.seen) >= IDLE_NS {
        return false;
    }
    copy(flow, known);
    flow.flags |= flags;
    let _ = FLOWS_IN.remove(&key);
    true
}

#[inline(never)]
fn forget(case: &Case, direction: u8) {
    let key = case.key(case.subject.id);
    let _ =
        if direction == Direction::Inbound as u8 { FLOWS_IN.remove(&key) } else { FLOWS_OUT.remove(&key) };
}

/// Every function in the chain of calls to this one has its share of the 512 bytes of stack; here a whole
/// table value is on it.
#[inline(never)]
fn remember(case: &Case, owner: &Owner) {
    let mut place = MaybeUninit::<OwnedFlow>::uninit();
    let owned = place.as_mut_ptr();
    // SAFETY: the place is written as a whole before it is read. Its counter's place is found when it starts.
    let owned = unsafe {
        copy(&raw mut (*owned).owner, owner);
        write(&raw mut (*owned).flow, case, OVERFLOW);
        place.assume_init_ref()
    };
    let key = case.key(case.subject.id);
    let flags = u64::from(BPF_NOEXIST);
    // If another CPU was first, its entry serves.
    let _ = if owned.flow.direction == Direction::Inbound as u8 {
        FLOWS_IN.insert(&key, owned, flags)
    } else {
        FLOWS_OUT.insert(&key, owned, flags)
    };
}

/// Counts and tells the flow that was just remembered.
#[inline(always)]
fn start(ctx: Context, case: &Case) {
    let Some(owned) = find(ctx, case) else {
        return count::lose(Loss::Flows, 1);
    };
    let flow = &mut owned.flow;
    if flow.flags & OPENED == 0 {
        flow.counter = count::place_of(case);
    }
    open(ctx, flow, &owned.owner);
    count::packet_of(flow, case.size());
}

/// Judges a packet of a remembered flow. If it is the first that passes, the flow begins.
#[inline(always)]
pub(crate) fn follow(ctx: Context, case: &mut Case, flow: &mut Flow, owner: &Owner) -> bool {
    if !holds(flow, case.generation) {
        renew(case, flow, owner, cookie(ctx));
    }
    let passes = flow.verdict != Verdict::Denied as u8;
    if passes {
        open(ctx, flow, owner);
    }
    count::packet_of(flow, case.size());
    passes
}
