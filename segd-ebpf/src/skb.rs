//! The authority: every IP packet from or to every socket in the cgroup tree.

use core::ptr::read_volatile;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use segd_common::counter::OVERFLOW;
use segd_common::flow::Flow;
use segd_common::socket::Socket;
use segd_common::traffic::protocol;

use crate::bytes::{is_plain_tcp, plain};
use crate::case::{Size, cookie, copy};
use crate::look::{look, look_alone, meet};
use crate::sock::{self, LISTEN, SYN_SENT};
use crate::view::Policy;
use crate::{borrow, count, decided, flow, seat};

/// Every namespace's loopback device (LOOPBACK_IFINDEX of include/net/net_namespace.h).
const LOOPBACK: u32 = 1;

/// The host's own multicast and broadcast on the way back to its own members; it keeps the device that it left
/// by (PACKET_LOOPBACK of include/uapi/linux/if_packet.h, set by `dev_loopback_xmit` alone).
const PACKET_LOOPBACK: u32 = 5;

#[cgroup_skb(ingress)]
fn ingress(ctx: SkBuffContext) -> i32 {
    i32::from(judge(&ctx, false))
}

#[cgroup_skb(egress)]
fn egress(ctx: SkBuffContext) -> i32 {
    i32::from(judge(&ctx, true))
}

#[inline(always)]
fn judge(ctx: &SkBuffContext, leaving: bool) -> bool {
    let skb = ctx.skb.skb;
    // SAFETY: fields of the context that cgroup_skb programs may read.
    let (device, kind, sk) = unsafe { ((*skb).ifindex, (*skb).pkt_type, (*skb).__bindgen_anon_2.sk) };
    if device == LOOPBACK || kind == PACKET_LOOPBACK || sk.is_null() {
        return true;
    }
    let Some(policy) = Policy::current() else {
        return true;
    };
    // SAFETY: fields of the socket.
    let (state, port) = unsafe { ((*sk).state, (*sk).src_port as u16) };
    // SAFETY: not null; nothing is kept of what is no full socket.
    let answer = if let Some(socket) = unsafe { sock::kept(skb.cast(), sk, 0) } {
        let flow = &mut socket.flow;
        let goes_on = if flow::goes_on(flow, policy.generation) {
            is_of(skb, state, flow, leaving)
        } else {
            borrow::goes_on(flow, policy.generation, port) && is_of_lent(skb, flow, leaving)
        };
        if goes_on {
            count::carry(flow, size(skb, leaving));
            return true;
        }
        if state == LISTEN && greets(skb, socket, u32::from(leaving)) != 0 {
            return true;
        }
        look(skb, socket, u32::from(leaving))
    } else if meet(skb) != 0
        // SAFETY: as above.
        && let Some(socket) = unsafe { sock::kept(skb.cast(), sk, 0) }
    {
        look(skb, socket, u32::from(leaving))
    } else {
        look_alone(skb, u32::from(leaving))
    };
    is_true(answer)
}

/// Whether a global function of BPF returned 1. The compiler sees that it returns nothing else than 0 or 1 and would take the
/// number for the answer, but the kernel takes it for any number: a volatile one is of no known range to either.
#[inline(always)]
fn is_true(answer: u32) -> bool {
    // SAFETY: a number on the stack.
    unsafe { read_volatile(&raw const answer) != 0 }
}

#[inline(always)]
pub(crate) fn size(skb: *const __sk_buff, leaving: bool) -> Size {
    // SAFETY: fields of the context.
    let (length, segments) = unsafe { ((*skb).len, (*skb).gso_segs) };
    Size { packets: segments.max(1), bytes: length, leaving }
}

/// Whether a packet is plainly one of its socket's flow. A TCP socket says where its packets go, but for the first one;
/// a connected UDP socket may send elsewhere.
#[inline(always)]
fn is_of(skb: *const __sk_buff, state: u32, flow: &mut Flow, leaving: bool) -> bool {
    let first = state == SYN_SENT && leaving;
    if flow.protocol == protocol::TCP && !first {
        return state != LISTEN && is_plain_tcp(skb);
    }
    let Some(packet) = plain(skb).filter(|packet| packet.protocol == flow.protocol) else {
        return false;
    };
    let ends = packet.ends(leaving);
    let is_of = ends.peer == flow.peer && ends.peer_port == flow.peer_port;
    if is_of && first {
        copy(&raw mut flow.local, &ends.local);
        flow.local_port = ends.local_port;
    }
    is_of
}

/// The same for the flow that is lent to an unconnected UDP socket.
#[inline(always)]
fn is_of_lent(skb: *const __sk_buff, flow: &Flow, leaving: bool) -> bool {
    plain(skb).is_some_and(|packet| {
        let ends = packet.ends(leaving);
        packet.protocol == protocol::UDP && ends.peer == flow.peer && ends.peer_port == flow.peer_port
    })
}

/// Counts a listener's packet if it is of a handshake like one that was let pass lately. Returns 1 if so, else 0. A function
/// of its own, whose stack is not that of the long way.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn greets(skb: *mut __sk_buff, listener: *const Socket, leaving: u32) -> u32 {
    // SAFETY: a live map value, or null, which the kernel holds possible.
    let (Some(Socket { identity, owner, .. }), Some(policy)) =
        (unsafe { listener.as_ref() }, Policy::current())
    else {
        return 0;
    };
    // Of a listener that is older than the programs more is to be found out.
    if owner.cgroup == 0 || !identity.holds(policy.generation) {
        return 0;
    }
    let Some(packet) = plain(skb).filter(|packet| packet.protocol == protocol::TCP) else {
        return 0;
    };
    let ends = packet.ends(leaving != 0);
    let counter = decided::accepted(&ends.peer, ends.local_port, identity.subject(), policy.generation);
    if counter == OVERFLOW {
        return 0;
    }
    if leaving == 0 {
        seat::greet(cookie(skb.cast()), &ends);
    }
    count::packet(counter, size(skb, leaving != 0));
    1
}
