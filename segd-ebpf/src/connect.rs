//! `connect(2)`: the same decision as on the packet, earlier, so that the caller gets an errno at once.

use core::ptr::read_volatile;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use segd_common::addr::Addr;
use segd_common::flow::{Flow, IDLE_NS};
use segd_common::packet::Ends;
use segd_common::traffic::{Direction, Reason, protocol};

use crate::count::Size;
use crate::flow::{self, Case, Party};
use crate::maps::FLOWS_IN;
use crate::sock::{self, RAW, STREAM};
use crate::tell::Measured;
use crate::view::{Policy, now};

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the kernel fills `user_ip4` for this hook, in network order.
    let ip = unsafe { (*ctx.sock_addr).user_ip4 };
    i32::from(connect(&ctx, Addr::v4(ip.to_ne_bytes())))
}

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    i32::from(connect(&ctx, user_ip6(&ctx)))
}

/// The address that the caller of an IPv6 hook passed.
#[inline(always)]
pub(crate) fn user_ip6(ctx: &SockAddrContext) -> Addr {
    // SAFETY: only the place of a field of the context.
    let words = unsafe { (&raw const (*ctx.sock_addr).user_ip6).cast::<u32>() };
    // SAFETY: the kernel fills the four words of `user_ip6` for the IPv6 hooks, in network order. Volatile, as
    // the verifier wants them read one by one.
    Addr::from_words(unsafe {
        [
            read_volatile(words),
            read_volatile(words.add(1)),
            read_volatile(words.add(2)),
            read_volatile(words.add(3)),
        ]
    })
}

/// The port that the caller passed, in host byte order.
#[inline(always)]
pub(crate) fn user_port(ctx: &SockAddrContext) -> u16 {
    // SAFETY: a field of the context; the low half holds the port in network order.
    u16::from_be(unsafe { (*ctx.sock_addr).user_port } as u16)
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, peer: Addr) -> bool {
    let Some(policy) = Policy::current() else {
        return true;
    };
    // SAFETY: fields of the context; the socket is never null here.
    let (kind, number, sk, local_port) = unsafe {
        let sa = ctx.sock_addr;
        let sk = (*sa).__bindgen_anon_1.sk;
        ((*sa).type_, (*sa).protocol, sk, (*sk).src_port as u16)
    };
    if kind == RAW {
        return true;
    }
    // SAFETY: the socket of a socket-address hook.
    let Some(socket) = (unsafe { sock::keep(sk) }) else {
        return true;
    };
    let protocol = if kind == STREAM { protocol::TCP } else { number as u8 };
    let mut ends = Ends { local: Addr::default(), peer, local_port, peer_port: user_port(ctx) };
    if matches!(protocol, protocol::ICMP | protocol::ICMPV6) {
        // A ping socket has no ports; it sends echo requests.
        let request = if protocol == protocol::ICMP { 8 << 8 } else { 128 << 8 };
        (ends.local_port, ends.peer_port) = (request, request);
    }
    let party = Party { ends, direction: Direction::Outbound, protocol };
    sock::adopt(socket);
    let mut case = Case { ctx: ctx.as_ptr(), policy, party, socket, size: Size::default() };
    flow::close(case.ctx, &mut case.socket.flow, &case.socket.owner, Measured::default());
    if protocol == protocol::TCP { stream(&mut case) } else { datagram(&mut case) }
}

#[inline(always)]
fn stream(case: &mut Case<'_>) -> bool {
    case.socket.flow = Flow::NONE;
    let decision = case.decide();
    if decision.reason == Reason::Loopback {
        return true;
    }
    if !decision.verdict.passes() {
        flow::refuse(case, &decision);
        return false;
    }
    flow::begin(&mut case.socket.flow, &case.policy, &case.party, &decision);
    flow::open(case.ctx, &mut case.socket.flow, &case.socket.owner);
    true
}

/// Connecting a datagram socket sends nothing, and resolvers do it only to learn the source address. So it is
/// never refused, and a flow opens with its first packet, which gives the sender the errno if it may not.
#[inline(always)]
fn datagram(case: &mut Case<'_>) -> bool {
    case.socket.flow = Flow::NONE;
    if joins(case) {
        return true;
    }
    let decision = case.decide();
    if decision.reason != Reason::Loopback && decision.verdict.passes() {
        flow::begin(&mut case.socket.flow, &case.policy, &case.party, &decision);
    }
    true
}

/// If the peer began a flow with this port, the socket goes on with that: so do servers that answer each client
/// from a socket of its own.
#[inline(always)]
fn joins(case: &mut Case<'_>) -> bool {
    let key = case.party.key(&case.policy);
    let Some(owned) = FLOWS_IN.get_ptr_mut(&key) else {
        return false;
    };
    // SAFETY: a look-up's pointer stays valid for the program's run.
    let known = unsafe { &(*owned).flow };
    if now().saturating_sub(known.seen) >= IDLE_NS {
        return false;
    }
    case.socket.flow = *known;
    let _ = FLOWS_IN.remove(&key);
    true
}
