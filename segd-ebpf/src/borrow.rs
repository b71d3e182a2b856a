//! Flows of unconnected UDP sockets: the last one of each socket stands with what is kept of it for a moment, so that a packet
//! that goes on with it needs neither the flow tables nor a clock.
//!
//! What is so carried is moved to the flow table's entry and to its counter when the moment is over, when the socket is
//! released, and when user space reads the counters.

use core::ptr::write_volatile;

use aya_ebpf::helpers::generated::bpf_jiffies64;
use segd_common::flow::{BORROWED, CLOSED, Flow, FlowKey, OPENED};
use segd_common::id::Generation;
use segd_common::socket::Socket;
use segd_common::traffic::{Verdict, protocol};

use crate::case::{Case, copy};
use crate::count;
use crate::count::{add, counts_later, exchange};
use crate::flow::look_up;
use crate::maps::COUNTERS;
use crate::view::now;

/// How long a flow is lent, in ticks of the kernel's clock: 0.1 to 1 s (CONFIG_HZ is 100 to 1000). Far below the time after
/// which a silent flow is over.
const TICKS: u64 = 100;

#[inline(always)]
fn ticks() -> u64 {
    // SAFETY: the helper takes nothing.
    unsafe { bpf_jiffies64() }
}

/// Whether a packet with these ends goes on with a lent flow.
#[inline(always)]
pub(crate) fn goes_on(flow: &Flow, generation: Generation, local_port: u16) -> bool {
    flow.flags == BORROWED
        && flow.generation == generation
        && flow.local_port == local_port
        && ticks().wrapping_sub(flow.seen) < TICKS
}

/// Lends a socket the flow of a packet that passed, if it may have it without asking: one that does not expire, of a socket
/// whose release is seen.
#[inline(never)]
pub(crate) fn lend(case: &Case, socket: &mut Socket) {
    let slot = &mut socket.flow;
    if !counts_later() || case.protocol != protocol::UDP || slot.protocol != 0 || socket.watched == 0 {
        return;
    }
    let Some(owned) = look_up(&case.key(case.subject.id)) else {
        return;
    };
    // SAFETY: a look-up's pointer stays valid for the program's run.
    let flow = unsafe { &(*owned).flow };
    if flow.generation != case.generation
        || flow.expires != 0
        || flow.verdict == Verdict::Denied as u8
        || flow.flags & (OPENED | CLOSED) != OPENED
    {
        return;
    }
    // SAFETY: plain stores to a live map value. Volatile, so that nothing is read as lent that is half written. What it has
    // carried stays as it is: another CPU may be counting.
    unsafe {
        write_volatile(&raw mut slot.generation, Generation::NONE);
        copy(&raw mut slot.peer, &case.peer);
        slot.peer_port = case.peer_port;
        slot.local_port = case.local_port;
        slot.subject = case.subject.id;
        slot.counter = flow.counter;
        slot.verdict = flow.verdict;
        slot.expires = 0;
        slot.seen = ticks();
        slot.protocol = protocol::UDP;
        slot.flags = BORROWED;
        write_volatile(&raw mut slot.generation, case.generation);
    }
}

/// Takes a lent flow back if its moment is over, or if a packet of it needs a closer look.
#[inline(always)]
pub(crate) fn take_back(case: &Case, flow: &mut Flow) {
    if flow.flags == BORROWED
        && (!goes_on(flow, case.generation, case.local_port)
            || (flow.peer == case.peer && flow.peer_port == case.peer_port))
    {
        settle(flow);
        flow.protocol = 0;
        flow.flags = 0;
    }
}

/// Counts what is carried with a socket where it belongs, whether its flow is lent or its own.
#[inline(always)]
pub(crate) fn settle_any(flow: &mut Flow) {
    if flow.flags == BORROWED {
        settle(flow);
    } else {
        count::settle(flow);
    }
}

/// Moves what a lent flow has carried to where it belongs.
#[inline(never)]
pub(crate) fn settle(flow: &mut Flow) {
    let key = FlowKey {
        peer: flow.peer,
        peer_port: flow.peer_port,
        local_port: flow.local_port,
        subject: flow.subject,
        protocol: protocol::UDP,
        direction: 0,
    };
    // SAFETY: fields of a live map value.
    let (packets_in, packets_out, bytes_in, bytes_out) = unsafe {
        (
            exchange(&raw mut flow.packets_in, 0),
            exchange(&raw mut flow.packets_out, 0),
            exchange(&raw mut flow.bytes_in, 0),
            exchange(&raw mut flow.bytes_out, 0),
        )
    };
    if packets_in | packets_out == 0 {
        return;
    }
    let (packets, bytes) = (packets_in + packets_out, bytes_in + bytes_out);
    if let Some(counter) = COUNTERS.get_ptr_mut(flow.counter) {
        // SAFETY: fields of a live map value.
        unsafe {
            add(&raw mut (*counter).packets, packets);
            add(&raw mut (*counter).bytes, bytes);
        }
    }
    // It may have been crowded out meanwhile.
    if let Some(owned) = look_up(&key) {
        // SAFETY: fields of a live map value.
        unsafe {
            let to = &raw mut (*owned).flow;
            add(&raw mut (*to).packets_in, packets_in);
            add(&raw mut (*to).packets_out, packets_out);
            add(&raw mut (*to).bytes_in, bytes_in);
            add(&raw mut (*to).bytes_out, bytes_out);
            add(&raw mut (*to).counted_packets, packets);
            add(&raw mut (*to).counted_bytes, bytes);
            (*to).seen = now();
        }
    }
}
