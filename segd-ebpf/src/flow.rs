//! Flows: decided once, remembered, decided again when the policy changed.
//!
//! A remembered flow may be read and written by several CPUs at once, without a lock. That never makes a wrong
//! verdict: only a flow that passes is stored under a new peer, readers compare the peer before they trust the
//! verdict, and what is rewritten in place is rewritten by every CPU to the same values, the generation last.

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::write_volatile;

use aya_ebpf::bindings::BPF_NOEXIST;
use segd_common::counter::{Loss, OVERFLOW};
use segd_common::decide::{Decision, Facts};
use segd_common::flow::{CLOSED, Flow, FlowKey, IDLE_NS, OPENED, OwnedFlow, Owner, Socket};
use segd_common::id::{Generation, RuleId, ServiceId, ZoneId};
use segd_common::packet::Ends;
use segd_common::traffic::{Direction, Reason, Verdict, protocol};

use crate::count::{self, Size};
use crate::debug;
use crate::maps::{FLOWS_IN, FLOWS_OUT};
use crate::tell::{self, Measured};
use crate::view::{Policy, decide, now};

/// Who talks: what a hook found out, before it is decided.
#[derive(Clone, Copy)]
pub(crate) struct Party {
    pub(crate) ends: Ends,
    pub(crate) direction: Direction,
    pub(crate) protocol: u8,
}

impl Party {
    /// The party of a remembered flow.
    #[inline(always)]
    fn of(flow: &Flow) -> Self {
        let inbound = flow.direction == Direction::Inbound as u8;
        Self {
            ends: Ends {
                local: flow.local,
                peer: flow.peer,
                local_port: flow.local_port,
                peer_port: flow.peer_port,
            },
            direction: if inbound { Direction::Inbound } else { Direction::Outbound },
            protocol: flow.protocol,
        }
    }

    #[inline(always)]
    fn facts(&self, policy: &Policy) -> Facts {
        Facts {
            subject: policy.host,
            direction: self.direction,
            protocol: self.protocol,
            peer: self.ends.peer,
            port: self.ends.service_port(self.direction),
        }
    }

    /// The flow table's key. For ICMP, the request's type and code stand for the local port.
    #[inline(always)]
    pub(crate) fn key(&self, policy: &Policy) -> FlowKey {
        let icmp = matches!(self.protocol, protocol::ICMP | protocol::ICMPV6);
        FlowKey {
            peer: self.ends.peer,
            peer_port: if icmp { 0 } else { self.ends.peer_port },
            local_port: self.ends.local_port,
            subject: policy.host,
            protocol: self.protocol,
            direction: if icmp { self.direction as u8 } else { 0 },
        }
    }

    /// Whether a remembered flow is this party's.
    #[inline(always)]
    pub(crate) fn owns(&self, flow: &Flow) -> bool {
        flow.protocol == self.protocol && flow.peer == self.ends.peer && flow.peer_port == self.ends.peer_port
    }
}

/// Everything a verdict is made of.
pub(crate) struct Case<'a> {
    /// The running program's context.
    pub(crate) ctx: *mut c_void,
    pub(crate) policy: Policy,
    pub(crate) party: Party,
    /// What is kept of the local socket, in its map.
    pub(crate) socket: &'a mut Socket,
    /// The packet; no packets where a system call is judged.
    pub(crate) size: Size,
}

impl Case<'_> {
    /// As in [`decide`]: packets on the loopback device are not looked at.
    #[inline(always)]
    fn on_wire(&self) -> bool {
        self.size.packets != 0
    }

    #[inline(always)]
    pub(crate) fn decide(&self) -> Decision {
        let decision = decide(&self.policy, &self.party.facts(&self.policy), self.on_wire());
        debug::decided(self.ctx, &self.party, &decision);
        decision
    }
}

/// Writes a newly decided flow over `flow`.
#[inline(never)]
pub(crate) fn begin(flow: &mut Flow, policy: &Policy, party: &Party, decision: &Decision) {
    // SAFETY: a reference is a valid place.
    unsafe { write(flow, policy, party, decision) };
    flow.counter = count::place_of(flow);
}

/// Writes every field of a flow but its counter's place, so that nothing has to be cleared before.
///
/// # Safety
/// `flow` must be a place for a flow, initialised or not.
#[inline(always)]
unsafe fn write(flow: *mut Flow, policy: &Policy, party: &Party, decision: &Decision) {
    let now = now();
    // SAFETY: by the caller's promise.
    unsafe {
        (*flow).peer = party.ends.peer;
        (*flow).local = party.ends.local;
        (*flow).started = now;
        (*flow).seen = now;
        // Volatile, or the compiler calls its memset, whose stack is missing elsewhere.
        write_volatile(&raw mut (*flow).packets_in, 0);
        write_volatile(&raw mut (*flow).packets_out, 0);
        write_volatile(&raw mut (*flow).bytes_in, 0);
        write_volatile(&raw mut (*flow).bytes_out, 0);
        (*flow).counter = OVERFLOW;
        (*flow).peer_port = party.ends.peer_port;
        (*flow).local_port = party.ends.local_port;
        (*flow).subject = policy.host;
        (*flow).protocol = party.protocol;
        (*flow).direction = party.direction as u8;
        (*flow).flags = 0;
        for i in 0..5 {
            write_volatile((&raw mut (*flow).pad).cast::<u8>().add(i), 0);
        }
        settle(flow, decision);
        (*flow).generation = policy.generation;
    }
}

/// # Safety
/// As [`write`].
#[inline(always)]
unsafe fn settle(flow: *mut Flow, decision: &Decision) {
    // SAFETY: by the caller's promise.
    unsafe {
        (*flow).zone = decision.zone;
        (*flow).service = decision.service;
        (*flow).rule = decision.rule;
        (*flow).reason = decision.reason as u8;
        (*flow).expires = decision.expires;
        (*flow).verdict = decision.verdict as u8;
    }
}

/// Counts and tells an attempt that does not become a flow.
#[inline(never)]
pub(crate) fn refuse(case: &Case<'_>, decision: &Decision) {
    let mut place = MaybeUninit::<Flow>::uninit();
    // SAFETY: the place is written as a whole before it is read.
    let flow = unsafe {
        write(place.as_mut_ptr(), &case.policy, &case.party, decision);
        place.assume_init_mut()
    };
    flow.counter = count::place_of(flow);
    count::begin(flow.counter, flow.started);
    count::packet(flow.counter, case.size);
    tell::deny(case.ctx, flow, &case.socket.owner);
}

/// Counts a packet that belongs to no remembered flow.
#[inline(always)]
pub(crate) fn count_stray(case: &Case<'_>, decision: &Decision) {
    let party = &case.party;
    let place = count::place_for(case.policy.host, party.direction as u8, party.protocol, decision);
    count::packet(place, case.size);
}

/// Whether a remembered flow's verdict still holds.
#[inline(always)]
pub(crate) fn holds(flow: &Flow, generation: Generation) -> bool {
    flow.generation == generation && (flow.expires == 0 || now() < flow.expires)
}

/// Decides a remembered flow again, by its own direction.
#[inline(never)]
pub(crate) fn renew(ctx: *mut c_void, policy: &Policy, flow: &mut Flow, owner: &Owner, on_wire: bool) {
    if flow.reason != Reason::Preexisting as u8 {
        let passed = flow.verdict != Verdict::Denied as u8;
        let decision = decide(policy, &Party::of(flow).facts(policy), on_wire);
        flow.subject = policy.host;
        // SAFETY: a reference is a valid place.
        unsafe { settle(flow, &decision) };
        flow.counter = count::place_of(flow);
        if passed && !decision.verdict.passes() {
            tell::revoke(ctx, flow, owner);
        }
    }
    // SAFETY: a plain store to the flow; volatile keeps it behind those above.
    unsafe { write_volatile(&raw mut flow.generation, policy.generation) };
}

/// A connection older than the agent goes on: cutting it would punish the host for installing segd. Who began
/// it is not known; the lower port is taken for the server's.
#[inline(always)]
pub(crate) fn preexisting(zone: ZoneId) -> Decision {
    Decision {
        verdict: Verdict::Allowed,
        reason: Reason::Preexisting,
        zone,
        service: ServiceId::OTHER,
        rule: RuleId::NONE,
        expires: 0,
    }
}

/// Counts a remembered flow's beginning and tells it, once.
#[inline(always)]
pub(crate) fn open(ctx: *mut c_void, flow: &mut Flow, owner: &Owner) {
    if flow.flags & OPENED == 0 {
        flow.flags |= OPENED;
        count::begin(flow.counter, flow.started);
        tell::open(ctx, flow, owner);
    }
}

/// Tells a remembered flow's end, once, if its beginning was told.
#[inline(always)]
pub(crate) fn close(ctx: *mut c_void, flow: &mut Flow, owner: &Owner, measured: Measured) {
    if flow.flags & (OPENED | CLOSED) == OPENED {
        flow.flags |= CLOSED;
        tell::close(ctx, flow, owner, measured);
    }
}

/// Judges a datagram that belongs to no connected socket: by its flow if there is one, whoever began it;
/// else as the first of a new one.
#[inline(never)]
pub(crate) fn datagram(case: &mut Case<'_>) -> bool {
    if let Some(owned) = find(case) {
        let passes = follow(case, &mut owned.flow, &owned.owner);
        if !passes {
            // What comes next is judged by its own direction.
            forget(case, owned.flow.direction);
        }
        return passes;
    }
    let decision = case.decide();
    match decision.reason {
        Reason::Loopback => true,
        Reason::Control => {
            count_stray(case, &decision);
            true
        }
        _ if !decision.verdict.passes() => {
            refuse(case, &decision);
            false
        }
        _ => {
            remember(case, &decision);
            start(case);
            true
        }
    }
}

/// The live flow of a datagram, whoever began it.
#[inline(never)]
fn find(case: &Case<'_>) -> Option<&'static mut OwnedFlow> {
    let key = case.party.key(&case.policy);
    let found = match FLOWS_OUT.get_ptr_mut(&key) {
        Some(owned) => owned,
        None => FLOWS_IN.get_ptr_mut(&key)?,
    };
    // SAFETY: a look-up's pointer stays valid for the program's run.
    let owned = unsafe { &mut *found };
    let now = now();
    // Another CPU may have seen a packet after this one's clock was read.
    if owned.flow.seen > now || now - owned.flow.seen < IDLE_NS {
        owned.flow.seen = now;
        return Some(owned);
    }
    close(case.ctx, &mut owned.flow, &owned.owner, Measured::default());
    forget(case, owned.flow.direction);
    None
}

#[inline(never)]
fn forget(case: &Case<'_>, direction: u8) {
    let key = case.party.key(&case.policy);
    let _ =
        if direction == Direction::Inbound as u8 { FLOWS_IN.remove(&key) } else { FLOWS_OUT.remove(&key) };
}

/// Every function in the chain of calls to this one has its share of the 512 bytes of stack; here a whole
/// table value is on it.
#[inline(never)]
fn remember(case: &Case<'_>, decision: &Decision) {
    let mut place = MaybeUninit::<OwnedFlow>::uninit();
    let owned = place.as_mut_ptr();
    // SAFETY: the place is written as a whole before it is read. Its counter's place is found when it starts.
    let owned = unsafe {
        (*owned).owner = case.socket.owner;
        write(&raw mut (*owned).flow, &case.policy, &case.party, decision);
        place.assume_init_ref()
    };
    let key = case.party.key(&case.policy);
    let flags = u64::from(BPF_NOEXIST);
    // If another CPU was first, its entry serves.
    let _ = if owned.flow.direction == Direction::Inbound as u8 {
        FLOWS_IN.insert(&key, owned, flags)
    } else {
        FLOWS_OUT.insert(&key, owned, flags)
    };
}

/// Counts and tells the flow that was just remembered.
#[inline(never)]
fn start(case: &Case<'_>) {
    let Some(owned) = find(case) else {
        return count::lose(Loss::Flows, 1);
    };
    let flow = &mut owned.flow;
    if flow.flags & OPENED == 0 {
        flow.counter = count::place_of(flow);
    }
    open(case.ctx, flow, &owned.owner);
    count::packet_of(flow, case.size);
}

/// Judges a packet of a remembered flow.
#[inline(always)]
pub(crate) fn follow(case: &Case<'_>, flow: &mut Flow, owner: &Owner) -> bool {
    if !holds(flow, case.policy.generation) {
        renew(case.ctx, &case.policy, flow, owner, case.on_wire());
    }
    count::packet_of(flow, case.size);
    flow.verdict != Verdict::Denied as u8
}
