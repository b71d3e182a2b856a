//! The authority: every IP packet from or to every socket in the cgroup tree.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::generated::{bpf_sk_fullsock, bpf_skb_load_bytes};
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use segd_common::decide::{decide_unreadable, zone_of};
use segd_common::flow::{Flow, OPENED};
use segd_common::packet::{Bytes, Ends, Packet, TCP_ACK, TCP_SYN, Unreadable, icmp_flow};
use segd_common::traffic::{Direction, Reason, Verdict, protocol};

use crate::count::{self, Size};
use crate::flow::{self, Case, Party};
use crate::sock::{self, LISTEN, RAW, SYN_SENT};
use crate::view::Policy;

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

/// The socket a packet belongs to, as far as a verdict needs it.
#[derive(Clone, Copy)]
struct Sock {
    sk: *mut bpf_sock,
    kind: u32,
    protocol: u32,
    state: u32,
    port: u16,
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
    // SAFETY: not null.
    let sk = unsafe { bpf_sk_fullsock(sk) };
    if sk.is_null() {
        return true;
    }
    // SAFETY: a full socket, not null.
    let sock = unsafe {
        Sock {
            sk,
            kind: (*sk).type_,
            protocol: (*sk).protocol,
            state: (*sk).state,
            port: (*sk).src_port as u16,
        }
    };
    // SAFETY: as above.
    let (length, segments) = unsafe { ((*skb).len, (*skb).gso_segs) };
    let size = Size { packets: segments.max(1), bytes: length, leaving };
    // SAFETY: a full socket.
    let kept = unsafe { sock::kept(sk) };
    if let Some(socket) = kept
        && sock.protocol == u32::from(protocol::TCP)
        && sock.state != LISTEN
        && sock.state != SYN_SENT
        && socket.flow.protocol == protocol::TCP
        && flow::holds(&socket.flow, policy.generation)
        && is_plain_tcp(skb)
    {
        count::packet_of(&mut socket.flow, size);
        return socket.flow.verdict != Verdict::Denied as u8;
    }
    look(ctx, policy, &sock, size)
}

/// Whether the TCP header follows the IP header at once: then the packet goes where the socket says. With IP
/// options or extension headers the address on the wire may be another (source routing).
#[inline(always)]
fn is_plain_tcp(skb: *const __sk_buff) -> bool {
    // SAFETY: the two ends of the packet's linear part, and reads below its end.
    unsafe {
        let data = (*skb).data as usize;
        let end = (*skb).data_end as usize;
        if data + 20 > end {
            return false;
        }
        match *(data as *const u8) {
            0x45 => *((data + 9) as *const u8) == protocol::TCP,
            version if version >> 4 == 6 => *((data + 6) as *const u8) == protocol::TCP,
            _ => false,
        }
    }
}

/// A packet's bytes.
struct Skb(*const __sk_buff);

impl Bytes for Skb {
    #[inline(always)]
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let mut to = [0; N];
        // SAFETY: the buffer has the length that is passed.
        let failed = unsafe { bpf_skb_load_bytes(self.0.cast(), at, (&raw mut to).cast(), N as u32) };
        (failed == 0).then_some(to)
    }
}

/// Reads the packet and judges it.
#[inline(always)]
fn look(ctx: &SkBuffContext, policy: Policy, sock: &Sock, size: Size) -> bool {
    let direction = if size.leaving { Direction::Outbound } else { Direction::Inbound };
    // SAFETY: a full socket.
    let Some(socket) = (unsafe { sock::keep(sock.sk) }) else {
        return decide_unreadable(&policy, policy.host, direction, None, Reason::NoMemory).verdict.passes();
    };
    let party = Party { ends: Ends::default(), direction, protocol: 0 };
    let mut case = Case { ctx: ctx.as_ptr(), policy, party, socket, size };
    let flags = match read(ctx.skb.skb, &mut case.party, size.leaving) {
        Read::Whole(flags) => flags,
        Read::Addresses(reason) => return guess(&case, reason, true),
        Read::Nothing(reason) => return guess(&case, reason, false),
    };
    if case.party.protocol == protocol::UDP && sock.protocol == u32::from(protocol::UDP) {
        // Behind a NAT of this host the packet's port is another than the one that sendmsg saw.
        case.party.ends.local_port = sock.port;
    }
    if case.party.protocol != protocol::TCP {
        return datagram(&mut case);
    }
    if sock.protocol != u32::from(protocol::TCP) || sock.kind == RAW {
        return is_kernels_or_a_copy(&case, flags) || datagram(&mut case);
    }
    if sock.state == LISTEN {
        return handshake(&mut case, flags);
    }
    connection(&mut case, sock.state)
}

/// How much of a packet could be read.
enum Read {
    /// All that a verdict needs; with TCP's flags.
    Whole(u8),
    /// Its addresses, but not its transport, for a reason.
    Addresses(Reason),
    /// Not even those.
    Nothing(Reason),
}

#[inline(never)]
fn read(skb: *const __sk_buff, party: &mut Party, leaving: bool) -> Read {
    match Packet::parse(&Skb(skb)) {
        Ok(packet) => {
            party.ends = packet.ends(leaving);
            party.protocol = packet.protocol;
            Read::Whole(packet.tcp_flags)
        }
        Err(Unreadable { reason, ends: Some((src, dst)), protocol }) => {
            (party.ends.local, party.ends.peer) = if leaving { (src, dst) } else { (dst, src) };
            party.protocol = protocol;
            Read::Addresses(reason)
        }
        Err(Unreadable { reason, .. }) => Read::Nothing(reason),
    }
}

/// A packet whose transport is not known.
#[inline(always)]
fn guess(case: &Case<'_>, reason: Reason, addressed: bool) -> bool {
    let peer = addressed.then_some(&case.party.ends.peer);
    let decision = decide_unreadable(&case.policy, case.policy.host, case.party.direction, peer, reason);
    if decision.verdict != Verdict::Allowed {
        flow::refuse(case, &decision);
    }
    decision.verdict.passes()
}

/// TCP on a socket that is not TCP's. The kernel's own sockets, which no program made, reset and acknowledge
/// for connections that have no socket any more; and a raw socket gets copies of what is judged at the TCP
/// socket. Neither begins anything. What a program forges on a raw socket is judged.
#[inline(always)]
fn is_kernels_or_a_copy(case: &Case<'_>, flags: u8) -> bool {
    let begins = flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
    !case.size.leaving || (!begins && case.socket.owner.pid == 0)
}

/// UDP, ICMP and every other protocol without connections of its own.
#[inline(always)]
fn datagram(case: &mut Case<'_>) -> bool {
    let leaving = case.size.leaving;
    let number = case.party.protocol;
    let icmp = matches!(number, protocol::ICMP | protocol::ICMPV6);
    if icmp {
        let (began, request) = icmp_flow(number, case.party.ends.local_port, leaving);
        case.party.direction = began;
        (case.party.ends.local_port, case.party.ends.peer_port) = (request, request);
    }
    let connected = &mut case.socket.flow;
    if case.party.owns(connected) && (!icmp || connected.direction == case.party.direction as u8) {
        if connected.flags & OPENED == 0 {
            connected.local = case.party.ends.local;
            connected.local_port = case.party.ends.local_port;
            flow::open(case.ctx, connected, &case.socket.owner);
        }
        let connected: *mut Flow = connected;
        // SAFETY: both are fields of the socket's map value, which outlives the case.
        return unsafe { flow::follow(case, &mut *connected, &case.socket.owner) };
    }
    if leaving {
        case.socket.last = case.party.key(&case.policy);
    }
    flow::datagram(case)
}

/// A packet of a listener: the three of a handshake. The flow begins, and is counted and told, when it is
/// accepted; a refusal is at the first packet.
#[inline(always)]
fn handshake(case: &mut Case<'_>, flags: u8) -> bool {
    case.party.direction = Direction::Inbound;
    let decision = case.decide();
    if decision.reason == Reason::Loopback {
        return true;
    }
    let begins = flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
    if !decision.verdict.passes() && begins && !case.size.leaving {
        flow::refuse(case, &decision);
    } else {
        flow::count_stray(case, &decision);
    }
    decision.verdict.passes()
}

/// A packet of a TCP connection whose verdict is missing, old, or for another peer than the packet's.
#[inline(always)]
fn connection(case: &mut Case<'_>, state: u32) -> bool {
    let known = &mut case.socket.flow;
    // The kernel found the socket of an answer to a connection attempt by all of its addresses; behind a NAT of
    // this host they differ from those that left.
    let answer = state == SYN_SENT && !case.size.leaving && known.protocol == protocol::TCP;
    if answer {
        let known: *mut Flow = known;
        // SAFETY: both are fields of the socket's map value, which outlives the case.
        return unsafe { flow::follow(case, &mut *known, &case.socket.owner) };
    }
    if case.party.owns(known) {
        known.local = case.party.ends.local;
        known.local_port = case.party.ends.local_port;
        let known: *mut Flow = known;
        // SAFETY: both are fields of the socket's map value, which outlives the case.
        return unsafe { flow::follow(case, &mut *known, &case.socket.owner) };
    }
    if known.protocol == 0 && state != SYN_SENT {
        if case.party.ends.peer_port < case.party.ends.local_port {
            case.party.direction = Direction::Outbound;
        } else {
            case.party.direction = Direction::Inbound;
        }
        let decision = flow::preexisting(zone_of(&case.policy, &case.party.ends.peer));
        flow::begin(&mut case.socket.flow, &case.policy, &case.party, &decision);
        flow::open(case.ctx, &mut case.socket.flow, &case.socket.owner);
        count::packet_of(&mut case.socket.flow, case.size);
        return true;
    }
    // A connection attempt that no connect hook saw, or one whose packets go elsewhere than its socket says.
    case.party.direction = Direction::Outbound;
    let decision = case.decide();
    if decision.reason == Reason::Loopback {
        return true;
    }
    if !decision.verdict.passes() {
        flow::refuse(case, &decision);
        return false;
    }
    if state == SYN_SENT {
        let told = case.socket.flow.flags;
        flow::begin(&mut case.socket.flow, &case.policy, &case.party, &decision);
        case.socket.flow.flags = told;
        flow::open(case.ctx, &mut case.socket.flow, &case.socket.owner);
        count::packet_of(&mut case.socket.flow, case.size);
    } else {
        flow::count_stray(case, &decision);
    }
    true
}
