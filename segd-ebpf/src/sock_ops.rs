//! TCP's own turns: a connection attempt, an accepted connection, an end.

use core::mem::MaybeUninit;
use core::ptr::read_volatile;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_SOCK_OPS_TCP_CONNECT_CB,
};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use segd_common::addr::Addr;
use segd_common::counter::OVERFLOW;
use segd_common::flow::{CLOSE_BY_STATE, CLOSED, OPENED};
use segd_common::id::Generation;
use segd_common::packet::Ends;
use segd_common::socket::UNTIL_CLOSE;
use segd_common::traffic::{Direction, Reason, protocol};

use crate::case::{Case, Size, cookie, zero};
use crate::sock::{self, CLOSE};
use crate::tell::{self, Measured};
use crate::view::Policy;
use crate::{count, flow, seat, subject};

/// AF_INET of include/linux/socket.h.
const INET: u32 = 2;

#[sock_ops]
fn sock_ops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => began(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(&ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == CLOSE => ended(&ctx),
        _ => {}
    }
    0
}

/// Asks for the state callback, which tells the end.
#[inline(always)]
fn watch(ctx: &SockOpsContext) -> bool {
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    ctx.set_cb_flags(flags as i32).is_ok()
}

#[inline(always)]
fn began(ctx: &SockOpsContext) {
    // SAFETY: the context's socket.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() {
        return;
    }
    // SAFETY: the socket of a sock_ops hook, not null.
    let Some(socket) = (unsafe { sock::kept(ctx.as_ptr(), sk, 0) }) else {
        return;
    };
    // Of a connection to one of the host's own addresses a packet may show that it leaves a container, and begin the flow.
    let within = socket.flow.protocol != protocol::TCP && ends(ctx).peer.is_loopback();
    if !within && watch(ctx) && seat::hold(cookie(ctx.as_ptr()), UNTIL_CLOSE) {
        socket.flow.flags |= CLOSE_BY_STATE;
    }
}

#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    let Some(policy) = Policy::current() else {
        return;
    };
    // SAFETY: the context's socket.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() {
        return;
    }
    let mut place = MaybeUninit::uninit();
    let case = Case::new(&mut place, &policy, Size::default());
    case.set_ends(&ends(ctx));
    case.direction = Direction::Inbound;
    case.protocol = protocol::TCP;
    if case.peer.is_loopback() || case.peer == case.local {
        // SAFETY: the socket of a sock_ops hook, not null.
        if let Some(socket) = unsafe { sock::kept(ctx.as_ptr(), sk, 0) } {
            zero(&raw mut socket.flow);
        }
        return;
    }
    let watched = watch(ctx);
    // SAFETY: as above.
    let Some(socket) = (unsafe { sock::accept(ctx.as_ptr(), sk, case, watched) }) else {
        return;
    };
    if socket.flow.flags & (OPENED | CLOSED) == OPENED {
        // Both sides began; it goes on as this side's.
        return;
    }
    let by_state = if watched { CLOSE_BY_STATE } else { 0 };
    subject::resolve(socket, case);
    case.decide();
    if case.reason == Reason::Loopback {
        // One of the host's own addresses: over the loopback device, where packets are not looked at, or it is the host
        // that talks to a container. Then a packet shows it, and has it decided as such.
        // SAFETY: a reference is a valid place.
        unsafe { flow::write(&raw mut socket.flow, case, OVERFLOW) };
        socket.flow.flags = by_state;
        socket.flow.generation = Generation::NONE;
        return;
    }
    flow::begin(&mut socket.flow, case);
    socket.flow.flags |= by_state;
    if case.verdict.passes() {
        flow::open(ctx.as_ptr(), &mut socket.flow, &socket.owner);
    } else {
        // The policy changed during the handshake; the packets of this flow are dropped from now on.
        tell::refuse(case, &socket.owner, cookie(ctx.as_ptr()));
    }
    if subject::is_unsure(socket, case) {
        // This hook cannot tell whose socket it is; the next packet can, and has it decided again.
        socket.flow.generation = Generation::NONE;
    }
}

#[inline(always)]
fn ended(ctx: &SockOpsContext) {
    // SAFETY: the context and its socket.
    let (sk, srtt, retransmits) = unsafe {
        let ops = ctx.ops;
        ((*ops).__bindgen_anon_2.sk, (*ops).srtt_us, (*ops).total_retrans)
    };
    if sk.is_null() {
        return;
    }
    // SAFETY: the socket of a sock_ops hook, not null.
    let Some(socket) = (unsafe { sock::kept(ctx.as_ptr(), sk, 0) }) else {
        return;
    };
    // The kernel keeps the smoothed round-trip time shifted left by 3 (struct tcp_sock).
    let measured = Measured { rtt_us: srtt >> 3, retransmits };
    flow::close(ctx.as_ptr(), &mut socket.flow, &socket.owner, measured);
    count::settle(&raw mut socket.flow);
    seat::leave(cookie(ctx.as_ptr()), UNTIL_CLOSE);
}

/// All fields are read before any is chosen: the verifier wants each read at a fixed place of the context, and
/// the compiler would join the reads of the two branches into one at a place that varies.
#[inline(always)]
fn ends(ctx: &SockOpsContext) -> Ends {
    let ops = ctx.ops;
    // SAFETY: fields of the context.
    let (family, local4, peer4, local6, peer6, local_port, peer_port) = unsafe {
        (
            read_volatile(&raw const (*ops).family),
            read_volatile(&raw const (*ops).local_ip4),
            read_volatile(&raw const (*ops).remote_ip4),
            v6(&raw const (*ops).local_ip6),
            v6(&raw const (*ops).remote_ip6),
            read_volatile(&raw const (*ops).local_port),
            read_volatile(&raw const (*ops).remote_port),
        )
    };
    let (local, peer) = if family == INET {
        (Addr::v4(local4.to_ne_bytes()), Addr::v4(peer4.to_ne_bytes()))
    } else {
        (local6, peer6)
    };
    Ends { local, peer, local_port: local_port as u16, peer_port: u32::from_be(peer_port) as u16 }
}

/// # Safety
/// `words` must point to an address in the context of the running program.
#[inline(always)]
unsafe fn v6(words: *const [u32; 4]) -> Addr {
    let words = words.cast::<u32>();
    // SAFETY: the four words, by the caller's promise.
    Addr::from_words(unsafe {
        [
            read_volatile(words),
            read_volatile(words.add(1)),
            read_volatile(words.add(2)),
            read_volatile(words.add(3)),
        ]
    })
}
