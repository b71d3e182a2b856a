//! Sockets: what the kernel keeps of each, who made it, its birth and its end.

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::{from_ref, null_mut};

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    bpf_sk_storage_get,
};
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use segd_common::flow::{BORROWED, CLOSE_BY_STATE};
use segd_common::socket::{Identity, Owner, Socket, UNTIL_CLOSE, UNTIL_RELEASE};
use segd_common::traffic::{Direction, Verdict, protocol};

use crate::case::{Case, Context, Size, cookie};
use crate::maps::{FLOWS_OUT, SOCKETS};
use crate::tell::{self, Measured};
use crate::view::Policy;
use crate::{borrow, count, flow, seat, seed, subject};

/// SOCK_STREAM of include/linux/net.h.
pub(crate) const STREAM: u32 = 1;
/// SOCK_RAW of include/linux/net.h.
pub(crate) const RAW: u32 = 3;
/// IPPROTO_MPTCP of include/uapi/linux/in.h; its subflows are TCP sockets.
const MPTCP: u32 = 262;
/// TCP_SYN_SENT of include/net/tcp_states.h.
pub(crate) const SYN_SENT: u32 = 2;
/// TCP_SYN_RECV of include/net/tcp_states.h.
pub(crate) const SYN_RECV: u32 = 3;
/// TCP_CLOSE of include/net/tcp_states.h.
pub(crate) const CLOSE: u32 = 7;
/// TCP_LISTEN of include/net/tcp_states.h.
pub(crate) const LISTEN: u32 = 10;

/// Makes storage for a socket of which nothing is kept.
pub(crate) const MAKE: u64 = BPF_SK_STORAGE_GET_F_CREATE as u64;

/// What is kept of the socket that the running program is about, if anything; with [`MAKE`], `None` only without memory.
///
/// # Safety
/// `sk` must be that socket, as a pointer that the verifier lets `bpf_sk_storage_get` take.
#[inline(always)]
pub(crate) unsafe fn kept(ctx: Context, sk: *mut bpf_sock, flags: u64) -> Option<&'static mut Socket> {
    match seat::kept(cookie(ctx)) {
        Some(socket) => Some(socket),
        // SAFETY: by the caller.
        None => unsafe { storage(sk, flags) },
    }
}

/// # Safety
/// As [`kept`].
#[inline(always)]
unsafe fn storage(sk: *mut bpf_sock, flags: u64) -> Option<&'static mut Socket> {
    let map = from_ref(&SOCKETS).cast_mut().cast::<c_void>();
    // SAFETY: the map is a socket storage of `Socket`, and `sk` a socket by the caller's promise. The value lives as long
    // as the socket, which outlives the program's run. Other CPUs may write to it at the same time: see `flow` for why
    // that never makes a wrong verdict.
    unsafe { bpf_sk_storage_get(map, sk.cast(), null_mut(), flags).cast::<Socket>().as_mut() }
}

/// What is kept of a connection from now on that a listener accepts, with its listener's owner. `watched`: whether its end
/// is sure to be seen by TCP's state. `None` only without memory.
///
/// # Safety
/// As [`kept`].
#[inline(always)]
pub(crate) unsafe fn accept(
    ctx: Context,
    sk: *mut bpf_sock,
    case: &Case,
    watched: bool,
) -> Option<&'static mut Socket> {
    // SAFETY: by the caller. A connection that both sides began has a seat already.
    let inherited = unsafe { kept(ctx, sk, 0) };
    if inherited.is_some() {
        return inherited;
    }
    // SAFETY: by the caller.
    let socket = unsafe { keep(ctx, sk, watched, UNTIL_CLOSE) }?;
    seat::inherit(case, socket);
    Some(socket)
}

/// A place for what is to be kept of a socket of which nothing is: a seat if that is free and `until` is sure to be seen, else
/// storage. `None` only without memory.
///
/// # Safety
/// As [`kept`].
#[inline(always)]
unsafe fn keep(ctx: Context, sk: *mut bpf_sock, sure: bool, until: u64) -> Option<&'static mut Socket> {
    let seat = if sure { seat::take(cookie(ctx), until) } else { None };
    match seat {
        Some(socket) => Some(socket),
        // SAFETY: by the caller.
        None => unsafe { storage(sk, MAKE) },
    }
}

/// Names the running process as the owner of a socket that has none: one older than the agent, or made by the
/// kernel for a program (a subflow of MPTCP). Only where `current` makes the call. What a packet told of the socket
/// itself is worth more: the process may have it from another. So is what was found of it before.
#[inline(always)]
pub(crate) fn adopt(ctx: Context, case: &Case, socket: &mut Socket) {
    seed::adopt(ctx, socket);
    if socket.owner.pid == 0 {
        let Owner { cgroup, uid, .. } = socket.owner;
        name(&mut socket.owner);
        if cgroup == 0 {
            socket.identity = Identity::NONE;
        } else {
            (socket.owner.cgroup, socket.owner.uid) = (cgroup, uid);
        }
    }
    if subject::is_unsure(socket, case) {
        subject::know_ancestors(socket.owner.cgroup);
    }
}

/// Writes the process that runs now. Only where `current` makes the call.
#[inline(always)]
fn name(owner: &mut Owner) {
    // SAFETY: the helpers take nothing, or the buffer they fill with its size.
    unsafe {
        owner.cgroup = bpf_get_current_cgroup_id();
        owner.pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        owner.uid = bpf_get_current_uid_gid() as u32;
        bpf_get_current_comm((&raw mut owner.comm).cast(), 16);
    }
}

#[cgroup_sock(sock_create)]
fn sock_create(ctx: SockContext) -> i32 {
    let sk = ctx.sock;
    // SAFETY: the context of this hook is the socket.
    let (kind, number) = unsafe { ((*sk).type_, (*sk).protocol) };
    // Of these two the release is told, whatever becomes of them.
    let released = number == u32::from(protocol::TCP) || number == u32::from(protocol::UDP);
    // SAFETY: as above.
    let Some(socket) = (unsafe { keep(ctx.as_ptr(), sk, released, UNTIL_RELEASE) }) else {
        return 1;
    };
    name(&mut socket.owner);
    socket.watched = 1;
    subject::know_ancestors(socket.owner.cgroup);
    let Some(name) = unjudgeable(kind, number) else {
        return 1;
    };
    let Some(policy) = Policy::current() else {
        return 1;
    };
    let mut place = MaybeUninit::uninit();
    let case = Case::new(&mut place, &policy, Size::default());
    case.direction = Direction::Outbound;
    case.protocol = name;
    subject::resolve(socket, case);
    case.decide_socket();
    if case.verdict != Verdict::Allowed {
        tell::refuse(case, &socket.owner, cookie(ctx.as_ptr()));
    }
    if !case.verdict.passes() {
        // What is not made is not released.
        seat::leave(cookie(ctx.as_ptr()), UNTIL_RELEASE);
    }
    i32::from(case.verdict.passes())
}

/// What a rule must name to allow a kind of socket that is not judged by its packets alone; `None` for TCP,
/// UDP and ICMP, whose packets tell everything, also from a raw socket.
#[inline(always)]
fn unjudgeable(kind: u32, number: u32) -> Option<u8> {
    let number = if number == MPTCP { protocol::TCP } else { number as u8 };
    let icmp = matches!(number, protocol::ICMP | protocol::ICMPV6);
    match number {
        _ if icmp => None,
        _ if kind == RAW => Some(protocol::RAW),
        protocol::TCP | protocol::UDP => None,
        n => Some(n),
    }
}

#[cgroup_sock(sock_release)]
fn sock_release(ctx: SockContext) -> i32 {
    // SAFETY: the context of this hook is the socket.
    match unsafe { kept(ctx.as_ptr(), ctx.sock, 0) } {
        Some(socket) => {
            release(ctx.as_ptr(), socket);
            seat::leave(cookie(ctx.as_ptr()), UNTIL_RELEASE);
        }
        None => seed::forget(ctx.as_ptr()),
    }
    1
}

#[inline(always)]
fn release(ctx: Context, socket: &mut Socket) {
    if socket.flow.flags == BORROWED {
        borrow::settle(&mut socket.flow);
        socket.flow.flags = 0;
        socket.flow.protocol = 0;
    } else if socket.flow.flags & CLOSE_BY_STATE != 0 {
        // TCP's: `sock_ops` tells its end, and it began no other.
        return;
    } else {
        flow::close(ctx, &mut socket.flow, &socket.owner, Measured::default());
        count::settle(&raw mut socket.flow);
    }
    let Some(key) = socket.last() else {
        return;
    };
    // What a peer began may go on with another socket of the same port.
    if let Some(owned) = FLOWS_OUT.get_ptr_mut(&key) {
        // SAFETY: a look-up's pointer stays valid for the program's run.
        let owned = unsafe { &mut *owned };
        flow::close(ctx, &mut owned.flow, &owned.owner, Measured::default());
        let _ = FLOWS_OUT.remove(&key);
    }
}
