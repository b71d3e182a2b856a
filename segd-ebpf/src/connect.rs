//! `connect(2)`: the same decision as on the packet, earlier, so that the caller gets an errno at once.

use core::mem::MaybeUninit;
use core::ptr::read_volatile;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use segd_common::addr::Addr;
use segd_common::flow::CLOSE_BY_RELEASE;
use segd_common::socket::{Socket, UNTIL_RELEASE};
use segd_common::traffic::{Direction, Reason, protocol};

use crate::case::{Case, Context, Size, cookie, is_icmp, zero};
use crate::sock::{self, RAW, STREAM};
use crate::tell::{self, Measured};
use crate::view::Policy;
use crate::{borrow, flow, seat, subject};

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
    // An accepted connection that was dissolved has no hold on its seat any more.
    seat::hold(cookie(ctx.as_ptr()), UNTIL_RELEASE);
    // SAFETY: the socket of a socket-address hook.
    let Some(socket) = (unsafe { sock::kept(ctx.as_ptr(), sk, sock::MAKE) }) else {
        return true;
    };
    let mut place = MaybeUninit::uninit();
    let case = Case::new(&mut place, &policy, Size::default());
    case.direction = Direction::Outbound;
    case.protocol = if kind == STREAM { protocol::TCP } else { number as u8 };
    case.peer = peer;
    (case.local_port, case.peer_port) = (local_port, user_port(ctx));
    if is_icmp(case.protocol) {
        // A ping socket has no ports; it sends echo requests.
        let request = if case.protocol == protocol::ICMP { 8 << 8 } else { 128 << 8 };
        (case.local_port, case.peer_port) = (request, request);
    }
    sock::adopt(ctx.as_ptr(), case, socket);
    subject::resolve(socket, case);
    let ctx = ctx.as_ptr();
    // Most sockets have none yet. Of one that was lent, a packet may have been counted after it was taken back.
    if socket.flow.protocol != 0 || socket.flow.packets_in | socket.flow.packets_out != 0 {
        flow::close(ctx, &mut socket.flow, &socket.owner, Measured::default());
        borrow::settle_any(&mut socket.flow);
        zero(&raw mut socket.flow);
    }
    if case.protocol == protocol::TCP { stream(ctx, case, socket) } else { datagram(case, socket) }
}

#[inline(always)]
fn stream(ctx: Context, case: &mut Case, socket: &mut Socket) -> bool {
    case.decide();
    if case.reason == Reason::Loopback {
        return true;
    }
    if !case.verdict.passes() {
        tell::refuse(case, &socket.owner, cookie(ctx));
        return false;
    }
    flow::begin(&mut socket.flow, case);
    flow::open(ctx, &mut socket.flow, &socket.owner);
    true
}

/// Connecting a datagram socket sends nothing, and resolvers do it only to learn the source address. So it is
/// never refused, and a flow opens with its first packet, which gives the sender the errno if it may not.
#[inline(always)]
fn datagram(case: &mut Case, socket: &mut Socket) -> bool {
    let end = if socket.watched == 0 { 0 } else { CLOSE_BY_RELEASE };
    if flow::join(case, &mut socket.flow, end) {
        return true;
    }
    case.decide();
    if case.reason != Reason::Loopback && case.verdict.passes() {
        flow::begin(&mut socket.flow, case);
        socket.flow.flags = end;
    }
    true
}
