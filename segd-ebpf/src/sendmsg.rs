//! `sendmsg(2)` on unconnected UDP sockets: the errno at once, for a client's request. A server's reply comes
//! through here too and passes by the flow of the request.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use segd_common::addr::Addr;
use segd_common::packet::Ends;
use segd_common::traffic::{Direction, Verdict, protocol};

use crate::connect::{user_ip6, user_port};
use crate::count::Size;
use crate::flow::{self, Case, Party};
use crate::sock;
use crate::view::Policy;

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
    let Some(socket) = (unsafe { sock::keep(sk) }) else {
        return true;
    };
    let is_udp = number == u32::from(protocol::UDP);
    let peer_port = if is_udp { user_port(ctx) } else { 0 };
    let local_port = if is_udp { local_port } else { 0 };
    let ends = Ends { local: Addr::default(), peer, local_port, peer_port };
    let party = Party { ends, direction: Direction::Outbound, protocol: number as u8 };
    if party.owns(&socket.flow) && flow::holds(&socket.flow, policy.generation) {
        return socket.flow.verdict != Verdict::Denied as u8;
    }
    sock::adopt(socket);
    socket.last = party.key(&policy);
    let mut case = Case { ctx: ctx.as_ptr(), policy, party, socket, size: Size::default() };
    flow::datagram(&mut case)
}
