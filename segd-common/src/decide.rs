//! The decision. Every caller in the kernel and in user space comes through here.

use crate::addr::Addr;
use crate::id::{RuleId, ServiceId, ZoneId};
use crate::table::{FailsafeKey, PeerZone, PolicyEntry, PolicyKey, ServiceKey, Subject};
use crate::traffic::{Direction, Mode, Reason, Verdict, protocol};

/// One generation of the policy tables: BPF maps in the kernel, plain collections in user space.
pub trait View {
    /// The zone that claims exactly this address (a /32 or /128).
    fn host(&self, addr: &Addr) -> Option<PeerZone>;
    /// The zone of the longest shorter prefix that holds this address.
    fn prefix(&self, addr: &Addr) -> Option<PeerZone>;
    /// The longest matching entry.
    fn policy(&self, key: &PolicyKey) -> Option<PolicyEntry>;
    /// The longest matching service.
    fn service(&self, key: &ServiceKey) -> Option<ServiceId>;
    /// Whether an entry matches.
    fn failsafe(&self, key: &FailsafeKey) -> bool;
    /// Nanoseconds on the clock that [`PolicyEntry::expires`] is measured on.
    fn now(&self) -> u64;
}

/// The first packet of a flow, seen from the host that decides.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Facts {
    /// The local side.
    pub subject: Subject,
    /// Who begins.
    pub direction: Direction,
    /// IP protocol number.
    pub protocol: u8,
    /// The other side.
    pub peer: Addr,
    /// As in [`PolicyKey`], in host byte order.
    pub port: u16,
}

/// The answer, with the way to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What happens.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The other side's zone.
    pub zone: ZoneId,
    /// What the port is called.
    pub service: ServiceId,
    /// The rule that allowed it, or that would have had it not expired (but none where a failsafe did).
    pub rule: RuleId,
    /// When the verdict ends by itself, as [`PolicyEntry::expires`]; 0: never.
    pub expires: u64,
}

impl Decision {
    #[inline(always)]
    const fn builtin(reason: Reason, zone: ZoneId) -> Self {
        let rule = RuleId::NONE;
        Self { verdict: Verdict::Allowed, reason, zone, service: ServiceId::OTHER, rule, expires: 0 }
    }
}

/// The zone of an address: an exact host first, then the longest prefix, else `unknown`.
#[inline(always)]
pub fn zone_of<V: View>(view: &V, addr: &Addr) -> PeerZone {
    match view.host(addr) {
        Some(zone) => zone,
        None => view.prefix(addr).unwrap_or(PeerZone::plain(ZoneId::UNKNOWN)),
    }
}

/// The zone of an address in a packet on an interface other than the loopback device. One of the host's own
/// there is forged, or belongs to a container: it gets no loopback privileges, but what its prefix says.
#[inline(always)]
pub fn zone_on_wire<V: View>(view: &V, addr: &Addr) -> PeerZone {
    match zone_of(view, addr) {
        PeerZone { zone: ZoneId::LOOPBACK, .. } => {
            let prefix = view.prefix(addr).filter(|peer| peer.zone != ZoneId::LOOPBACK);
            prefix.unwrap_or(PeerZone::plain(ZoneId::UNKNOWN))
        }
        peer => peer,
    }
}

/// May this flow begin?
#[inline(always)]
pub fn decide<V: View>(view: &V, facts: &Facts) -> Decision {
    decide_in_zone(view, facts, zone_of(view, &facts.peer))
}

/// [`decide`] for a peer whose zone the caller knows, by [`zone_of`] or [`zone_on_wire`].
#[inline(always)]
pub fn decide_in_zone<V: View>(view: &V, facts: &Facts, peer: PeerZone) -> Decision {
    let zone = peer.zone;
    if zone == ZoneId::LOOPBACK {
        return Decision::builtin(Reason::Loopback, zone);
    }
    if is_control(facts.protocol, facts.port) {
        return Decision::builtin(Reason::Control, zone);
    }
    let service = view.service(&ServiceKey::new(facts.protocol, facts.port)).unwrap_or(ServiceId::OTHER);
    let until = facts.subject.expires;
    let (rule, expires, mode, reason) = if has_passed(view, until) {
        (RuleId::NONE, 0, Mode::Enforce as u8, Reason::WorkloadExpired)
    } else {
        let key = PolicyKey::new(facts.subject.id, peer.group, facts.direction, facts.protocol, facts.port);
        match view.policy(&key) {
            Some(e) if e.rule == RuleId::NONE => (RuleId::NONE, 0, e.mode, Reason::NoRule),
            Some(e) if has_passed(view, e.expires) => (e.rule, 0, e.mode, Reason::Expired),
            Some(e) => (e.rule, e.expires, e.mode, Reason::Rule),
            None => (RuleId::NONE, 0, Mode::Monitor as u8, Reason::NoRule),
        }
    };
    if reason as u8 == Reason::Rule as u8 {
        let expires = sooner(expires, until);
        return Decision { verdict: Verdict::Allowed, reason, zone, service, rule, expires };
    }
    let safe = FailsafeKey::new(facts.direction, facts.protocol, facts.port, facts.peer.bytes());
    if view.failsafe(&safe) {
        let (verdict, reason, rule) = (Verdict::Allowed, Reason::Failsafe, RuleId::NONE);
        return Decision { verdict, reason, zone, service, rule, expires: 0 };
    }
    let verdict = unless_enforced(mode);
    let expires = if verdict.passes() { until } else { 0 };
    Decision { verdict, reason, zone, service, rule, expires }
}

/// The verdict on a packet whose transport is not known (a later fragment, a malformed header): no rule can
/// allow it, so only the mode between subject and peer counts.
#[inline(always)]
pub fn decide_unreadable<V: View>(
    view: &V,
    subject: Subject,
    direction: Direction,
    peer: Option<&Addr>,
    reason: Reason,
) -> Decision {
    let peer = peer.map_or(PeerZone::plain(ZoneId::ANY), |addr| zone_of(view, addr));
    if peer.zone == ZoneId::LOOPBACK {
        return Decision::builtin(Reason::Loopback, peer.zone);
    }
    let mode = if has_passed(view, subject.expires) {
        Mode::Enforce as u8
    } else {
        let entry = view.policy(&PolicyKey::new(subject.id, peer.group, direction, protocol::RAW, 0));
        entry.map_or(Mode::Monitor as u8, |e| e.mode)
    };
    let zone = if peer.zone == ZoneId::ANY { ZoneId::UNKNOWN } else { peer.zone };
    Decision {
        verdict: unless_enforced(mode),
        reason,
        zone,
        service: ServiceId::OTHER,
        rule: RuleId::NONE,
        expires: 0,
    }
}

/// May this socket be made? Asked for the kinds whose packets the policy cannot judge; `name` is
/// [`protocol::RAW`] or the number of the protocol that a rule would have to name. The compiler puts what the
/// rules towards any peer allow of them under [`ZoneId::ANY`].
#[inline(always)]
pub fn decide_socket<V: View>(view: &V, subject: Subject, name: u8) -> Decision {
    let key = PolicyKey::new(subject.id, ZoneId::ANY, Direction::Outbound, name, 0);
    let (rule, expires, mode) =
        view.policy(&key).map_or((RuleId::NONE, 0, Mode::Monitor as u8), |e| (e.rule, e.expires, e.mode));
    let service = view.service(&ServiceKey::new(name, 0)).unwrap_or(ServiceId::OTHER);
    let zone = ZoneId::UNKNOWN;
    let (verdict, reason) = if has_passed(view, subject.expires) {
        (Verdict::Denied, Reason::WorkloadExpired)
    } else if rule != RuleId::NONE && !has_passed(view, expires) {
        return Decision { verdict: Verdict::Allowed, reason: Reason::Rule, zone, service, rule, expires };
    } else {
        (unless_enforced(mode), Reason::SocketType)
    };
    Decision { verdict, reason, zone, service, rule: RuleId::NONE, expires: 0 }
}

/// Whether an instant that may be none (0) is past.
#[inline(always)]
fn has_passed<V: View>(view: &V, instant: u64) -> bool {
    instant != 0 && view.now() >= instant
}

/// The earlier of two instants that may be none (0).
#[inline(always)]
const fn sooner(a: u64, b: u64) -> u64 {
    if a == 0 || (b != 0 && b < a) { b } else { a }
}

#[inline(always)]
const fn unless_enforced(mode: u8) -> Verdict {
    if mode == Mode::Enforce as u8 { Verdict::Denied } else { Verdict::Audited }
}

/// ICMP errors (RFC 792, RFC 4443 section 3), IPv6 neighbour discovery (RFC 4861) and multicast membership
/// (RFC 3376, RFC 2710, RFC 3810): cutting them breaks path MTU discovery and the link itself.
#[inline(always)]
#[must_use]
pub const fn is_control(proto: u8, port: u16) -> bool {
    let kind = port >> 8;
    match proto {
        protocol::IGMP => true,
        protocol::ICMP => matches!(kind, 3 | 4 | 11 | 12),
        protocol::ICMPV6 => matches!(kind, 1..=4 | 130..=136 | 143),
        _ => false,
    }
}

/// An echo reply (or another ICMP answer) belongs to the flow of its request, which runs the other way.
/// Returns the request's type for a reply's, else `None`. Types of RFC 792 and RFC 4443.
#[inline(always)]
#[must_use]
pub const fn icmp_request_of(proto: u8, kind: u8) -> Option<u8> {
    match (proto, kind) {
        (protocol::ICMP, 0) => Some(8),
        (protocol::ICMP, 14) => Some(13),
        (protocol::ICMP, 16) => Some(15),
        (protocol::ICMP, 18) => Some(17),
        (protocol::ICMPV6, 129) => Some(128),
        (protocol::ICMPV6, 140) => Some(139),
        _ => None,
    }
}
