//! `sendmsg(2)` on unconnected UDP sockets: the errno at once, for a client's request. A server's reply comes
//! through here too and passes by the flow of the request.

use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use segd_common::addr::Addr;
use segd_common::traffic::{Direction, Verdict, protocol};

use crate::case::{Case, Size};
use crate::connect::{user_ip6, user_port};
use crate::view::Policy;
use crate::{borrow, flow, sock, subject};

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the kernel fills `user_ip4` for this hook, in network order.
    let ip = unsafe { (*ctx.sock_addr).user_ip4 };
    i32::from(sendmsg(&ctx, Addr::v4(ip.to_ne_bytes())))
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    i32::from(sendmsg(&ctx, user_ip6(&ctx)))
}

#[inline(always)]
fn sendmsg(ctx: &SockAddrContext, peer: Addr) -> bool {
    let Some(policy) = Policy::current() else {
        return true;
    };
    // SAFETY: fields of the context; the socket is never null here.
    let (sk, local_port, number) = unsafe {
        let sa = ctx.sock_addr;
        let sk = (*sa).__bindgen_anon_1.sk;
        (sk, (*sk).src_port as u16, (*sa).protocol)
    };
    // SAFETY: the socket of a socket-address hook.
    let Some(socket) = (unsafe { sock::kept(ctx.as_ptr(), sk, sock::MAKE) }) else {
        return true;
    };
    let is_udp = number == u32::from(protocol::UDP);
    let lent = &socket.flow;
    if is_udp
        && borrow::goes_on(lent, policy.generation, local_port)
        && lent.peer == peer
        && lent.peer_port == user_port(ctx)
    {
        return true;
    }
    let mut place = MaybeUninit::uninit();
    let case = Case::new(&mut place, &policy, Size::default());
    case.direction = Direction::Outbound;
    case.protocol = number as u8;
    case.peer = peer;
    if is_udp {
        (case.local_port, case.peer_port) = (local_port, user_port(ctx));
    }
    let connected = case.owns(&socket.flow);
    if connected && flow::holds(&socket.flow, policy.generation) {
        return socket.flow.verdict != Verdict::Denied as u8;
    }
    sock::adopt(ctx.as_ptr(), case, socket);
    subject::resolve(socket, case);
    if connected {
        // The address that its socket is connected to: whoever began that flow, it goes on.
        return flow::follow(ctx.as_ptr(), case, &mut socket.flow, &socket.owner);
    }
    socket.set_last(&case.key(case.subject.id));
    flow::datagram(ctx.as_ptr(), case, &socket.owner)
}
