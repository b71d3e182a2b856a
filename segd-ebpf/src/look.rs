//! The way of a packet that is not plainly one of its socket's flow: it is read, and judged by what is found.

use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::generated::bpf_sk_fullsock;
use aya_ebpf::programs::SkBuffContext;
use segd_common::flow::OPENED;
use segd_common::packet::{Packet, TCP_ACK, TCP_RST, TCP_SYN, Unreadable, icmp_flow};
use segd_common::socket::{Owner, Socket};
use segd_common::traffic::{Direction, Reason, Verdict, protocol};

use crate::bytes::{Skb, plain};
use crate::case::{Case, cookie, copy, is_icmp};
use crate::maps::NOBODY;
use crate::skb::size;
use crate::sock::{self, CLOSE, LISTEN, MAKE, RAW, SYN_RECV, SYN_SENT};
use crate::view::Policy;
use crate::{borrow, count, flow, seat, seed, subject, tell};

/// The socket a packet belongs to, as far as a verdict needs it.
#[derive(Clone, Copy)]
struct Sock {
    kind: u32,
    protocol: u32,
    state: u32,
    port: u16,
}

impl Sock {
    /// # Safety
    /// A full socket.
    #[inline(always)]
    unsafe fn of(sk: *const bpf_sock) -> Self {
        // SAFETY: by the caller.
        unsafe {
            Self {
                kind: (*sk).type_,
                protocol: (*sk).protocol,
                state: (*sk).state,
                port: (*sk).src_port as u16,
            }
        }
    }

    #[inline(always)]
    const fn is_tcp(&self) -> bool {
        self.protocol == protocol::TCP as u32 && self.kind != RAW
    }

    #[inline(always)]
    const fn is_udp(&self) -> bool {
        self.protocol == protocol::UDP as u32 && self.kind != RAW
    }
}

/// The socket of a packet; `None` if it is no full one.
#[inline(always)]
fn full(skb: *const __sk_buff) -> Option<*mut bpf_sock> {
    // SAFETY: the context's socket.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    // SAFETY: not null.
    let sk = unsafe { bpf_sk_fullsock(sk) };
    if sk.is_null() { None } else { Some(sk) }
}

/// Makes storage for the socket of a packet of which nothing is kept, unless its TCP has ended, for behind that nothing
/// begins, or another CPU is about to accept it, which begins its flow. Returns 1 if there is any, else 0.
#[inline(never)]
pub(crate) fn meet(skb: *mut __sk_buff) -> u32 {
    let Some(sk) = full(skb) else {
        return 0;
    };
    // SAFETY: a full socket.
    let sock = unsafe { Sock::of(sk) };
    if sock.is_tcp() && matches!(sock.state, CLOSE | SYN_RECV) {
        return 0;
    }
    // SAFETY: as above.
    u32::from(unsafe { sock::kept(skb.cast(), sk, MAKE) }.is_some())
}

/// Reads the packet and judges it. Returns 1 if it passes, else 0. A global function of BPF, which the kernel verifies once,
/// wherever the value lies; so the way of most packets is short.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn look(skb: *mut __sk_buff, socket: *mut Socket, leaving: u32) -> u32 {
    // SAFETY: a live map value, or null, which the kernel holds possible.
    let Some(socket) = (unsafe { socket.as_mut() }) else {
        return 1;
    };
    let Some(sk) = full(skb) else {
        return 1;
    };
    let Some(policy) = Policy::current() else {
        return 1;
    };
    // SAFETY: a full socket.
    let sock = unsafe { Sock::of(sk) };
    let mut place = MaybeUninit::uninit();
    let case = Case::new(&mut place, &policy, size(skb, leaving != 0));
    u32::from(look_closely(&SkBuffContext::new(skb), case, socket, &sock))
}

#[inline(always)]
fn look_closely(ctx: &SkBuffContext, case: &mut Case, socket: &mut Socket, sock: &Sock) -> bool {
    seed::adopt(ctx.as_ptr(), socket);
    if subject::is_unsure(socket, case) {
        subject::ask(ctx.skb.skb, socket);
    }
    subject::resolve(socket, case);
    let flags = match read(ctx.skb.skb, case, sock) {
        ADDRESSES => return guess(ctx, case, &socket.owner, true),
        NOTHING => return guess(ctx, case, &socket.owner, false),
        flags => flags as u8,
    };
    if !sock.is_tcp() || case.protocol != protocol::TCP {
        return is_kernels_or_a_copy(case, &socket.owner, flags) || datagram(ctx, case, socket, sock);
    }
    if sock.state == LISTEN {
        if !case.leaving {
            seat::greet(cookie(ctx.as_ptr()), &case.ends());
        }
        return handshake(ctx, case, &socket.owner, flags);
    }
    if sock.state == SYN_RECV && socket.flow.protocol == 0 {
        // Another CPU is about to accept it.
        return handshake(ctx, case, &socket.owner, flags);
    }
    connection(ctx, case, socket, sock.state, flags)
}

/// Reads and judges a packet for itself, for the kernel has no memory to remember its socket, or that has ended or is not
/// accepted yet. Returns 1 if it passes, else 0.
#[inline(never)]
pub(crate) fn look_alone(skb: *mut __sk_buff, leaving: u32) -> u32 {
    let Some(sk) = full(skb) else {
        return 1;
    };
    let Some(policy) = Policy::current() else {
        return 1;
    };
    let Some(nobody) = NOBODY.get(0) else {
        return 1;
    };
    // SAFETY: a full socket.
    let sock = unsafe { Sock::of(sk) };
    let mut place = MaybeUninit::uninit();
    let case = Case::new(&mut place, &policy, size(skb, leaving != 0));
    u32::from(judge_alone(&SkBuffContext::new(skb), case, &sock, nobody))
}

#[inline(always)]
fn judge_alone(ctx: &SkBuffContext, case: &mut Case, sock: &Sock, nobody: &Owner) -> bool {
    subject::of_packet(ctx.skb.skb, case);
    let flags = match read(ctx.skb.skb, case, sock) {
        ADDRESSES => return guess(ctx, case, nobody, true),
        NOTHING => return guess(ctx, case, nobody, false),
        flags => flags as u8,
    };
    if !sock.is_tcp() || case.protocol != protocol::TCP {
        if is_icmp(case.protocol) {
            set_icmp(case);
        }
        return is_kernels_or_a_copy(case, nobody, flags) || flow::datagram(ctx.as_ptr(), case, nobody);
    }
    if matches!(sock.state, LISTEN | SYN_RECV) {
        return handshake(ctx, case, nobody, flags);
    }
    if sock.state == CLOSE && case.leaving && flags & TCP_RST != 0 {
        // The last word of a connection that was counted as over.
        return true;
    }
    // Who began is not known of a connection that lives: it goes on if either might have.
    case.direction = Direction::Outbound;
    case.decide();
    if !case.verdict.passes() && sock.state != SYN_SENT {
        case.direction = Direction::Inbound;
        case.decide();
    }
    if !case.verdict.passes() {
        case.reason = Reason::NoMemory;
        tell::refuse(case, nobody, cookie(ctx.as_ptr()));
    } else if case.reason != Reason::Loopback {
        flow::count_stray(case);
    }
    case.verdict.passes()
}

/// Of [`read`]: the packet's addresses could be read, but not its transport.
const ADDRESSES: u32 = 0x100;
/// Of [`read`]: not even its addresses could be read.
const NOTHING: u32 = 0x101;

/// Reads a packet into its case. Returns TCP's flags if all could be read that a verdict needs, else one of the numbers
/// above, with the reason in the case. A number, as a type of more would be returned through the caller's stack.
#[inline(never)]
fn read(skb: *const __sk_buff, case: &mut Case, sock: &Sock) -> u32 {
    let parsed = match plain(skb) {
        Some(packet) => Ok(packet),
        None => Packet::parse(&Skb(skb)),
    };
    match parsed {
        Ok(packet) => {
            case.set_ends(&packet.ends(case.leaving));
            case.protocol = packet.protocol;
            if case.protocol == protocol::UDP && sock.protocol == u32::from(protocol::UDP) {
                // Behind a NAT of this host the packet's port is another than the one that sendmsg saw.
                case.local_port = sock.port;
            }
            u32::from(packet.tcp_flags)
        }
        Err(Unreadable { reason, ends, protocol }) => {
            case.reason = reason;
            let Some((src, dst)) = ends else {
                return NOTHING;
            };
            case.protocol = protocol;
            let (local, peer) = if case.leaving { (src, dst) } else { (dst, src) };
            copy(&mut case.local, &local);
            copy(&mut case.peer, &peer);
            ADDRESSES
        }
    }
}

/// A packet whose transport is not known.
#[inline(always)]
fn guess(ctx: &SkBuffContext, case: &mut Case, owner: &Owner, addressed: bool) -> bool {
    case.decide_unreadable(addressed);
    if case.verdict != Verdict::Allowed {
        tell::refuse(case, owner, cookie(ctx.as_ptr()));
    }
    case.verdict.passes()
}

/// TCP on a socket that is not TCP's. The kernel's own sockets, which no program made, reset and acknowledge
/// for connections that have no socket any more; and a raw socket gets copies of what is judged at the TCP
/// socket. Neither begins anything. What a program forges on a raw socket is judged.
#[inline(always)]
fn is_kernels_or_a_copy(case: &Case, owner: &Owner, flags: u8) -> bool {
    let begins = flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
    case.protocol == protocol::TCP && (!case.leaving || (!begins && owner.pid == 0))
}

/// Gives an ICMP packet the direction and the request of its exchange.
#[inline(always)]
fn set_icmp(case: &mut Case) {
    let (began, request) = icmp_flow(case.protocol, case.local_port, case.leaving);
    case.direction = began;
    (case.local_port, case.peer_port) = (request, request);
}

/// UDP, ICMP and every other protocol without connections of its own.
#[inline(always)]
fn datagram(ctx: &SkBuffContext, case: &mut Case, socket: &mut Socket, sock: &Sock) -> bool {
    let icmp = is_icmp(case.protocol);
    if icmp {
        set_icmp(case);
    }
    let ctx = ctx.as_ptr();
    let Socket { flow: connected, owner, .. } = socket;
    if case.owns(connected) && (!icmp || connected.direction == case.direction as u8) {
        if connected.flags & OPENED == 0 {
            connected.local = case.local;
            connected.local_port = case.local_port;
        }
        return flow::follow(ctx, case, connected, owner);
    }
    if case.leaving {
        socket.set_last(&case.key(case.subject.id));
    }
    borrow::take_back(case, &mut socket.flow);
    let passes = flow::datagram(ctx, case, &socket.owner);
    if passes && sock.is_udp() {
        borrow::lend(case, socket);
    }
    passes
}

/// A packet of a listener: the three of a handshake. The flow begins, and is counted and told, when it is
/// accepted; a refusal is at the first packet.
#[inline(always)]
fn handshake(ctx: &SkBuffContext, case: &mut Case, owner: &Owner, flags: u8) -> bool {
    case.direction = Direction::Inbound;
    case.decide();
    if case.reason == Reason::Loopback {
        return true;
    }
    let begins = flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
    if !case.verdict.passes() && begins && !case.leaving {
        tell::refuse(case, owner, cookie(ctx.as_ptr()));
    } else {
        flow::count_stray(case);
    }
    case.verdict.passes()
}

/// A packet of a TCP connection whose verdict is missing, old, or for another peer than the packet's.
#[inline(always)]
fn connection(ctx: &SkBuffContext, case: &mut Case, socket: &mut Socket, state: u32, flags: u8) -> bool {
    let ctx = ctx.as_ptr();
    let Socket { flow: known, owner, .. } = socket;
    // The kernel found the socket of an answer to a connection attempt by all of its addresses; behind a NAT of
    // this host they differ from those that left.
    let answer = state == SYN_SENT && !case.leaving && known.protocol == protocol::TCP;
    if answer {
        return flow::follow(ctx, case, known, owner);
    }
    if case.owns(known) {
        known.local = case.local;
        known.local_port = case.local_port;
        // A reset says nothing but that the connection is over: so the peer of one that was cut need not wait.
        let resets = case.leaving && flags & TCP_RST != 0;
        return flow::follow(ctx, case, known, owner) || resets;
    }
    if known.protocol == 0 && state != SYN_SENT {
        let outbound = case.peer_port < case.local_port;
        case.direction = if outbound { Direction::Outbound } else { Direction::Inbound };
        case.locate();
        flow::preexisting(case);
        flow::begin(known, case);
        flow::open(ctx, known, owner);
        count::packet_of(known, case.size());
        return true;
    }
    // A connection attempt that no connect hook saw, or one whose packets go elsewhere than its socket says.
    case.direction = Direction::Outbound;
    case.decide();
    if case.reason == Reason::Loopback {
        return true;
    }
    if !case.verdict.passes() {
        tell::refuse(case, owner, cookie(ctx));
        return false;
    }
    if state == SYN_SENT {
        let told = known.flags;
        count::settle(known);
        flow::begin(known, case);
        known.flags = told;
        flow::open(ctx, known, owner);
        count::packet_of(known, case.size());
    } else {
        flow::count_stray(case);
    }
    true
}
