use std::cell::RefCell;
use std::sync::Arc;

use segd_common::id::{RuleId, SubjectId, ZoneId};
use segd_common::socket::Owner;
use segd_common::table::{PeerZone, PolicyEntry, PolicyKey};
use segd_common::traffic::{Mode, protocol};

use super::*;

const HOST: SubjectId = SubjectId(16);
const PEER: ZoneId = ZoneId(17);
const FAR: u64 = 1 << 62;

/// Outbound tcp/443 to the peer's zone is allowed until `expires`; nothing else is, and that is enforced.
fn compiled(expires: u64) -> Compiled {
    let entry = |rule, expires| PolicyEntry::new(rule, Mode::Enforce, expires);
    let key = |port| PolicyKey::new(HOST, PEER, Direction::Outbound, protocol::TCP, port);
    Compiled {
        host: HOST,
        prefixes4: Arc::new(vec![(8, [10, 0, 0, 0], PeerZone::plain(PEER))]),
        policy: vec![
            (PolicyKey::ANY_PEER, PolicyKey { subject: HOST, ..zero() }, entry(RuleId::NONE, 0)),
            (PolicyKey::BITS, key(443), entry(RuleId(1), expires)),
        ],
        ..Compiled::default()
    }
}

fn zero() -> PolicyKey {
    PolicyKey::new(SubjectId(0), ZoneId(0), Direction::Outbound, 0, 0)
}

fn live(cookie: u64, direction: Direction, local_port: u16, peer_port: u16) -> LiveSocket {
    let flow = Flow {
        peer: Addr::v4([10, 9, 9, 9]),
        local: Addr::v4([10, 1, 1, 1]),
        peer_port,
        local_port,
        protocol: protocol::TCP,
        direction: direction as u8,
        generation: Generation(1),
        started: 5,
        ..Flow::NONE
    };
    LiveSocket { cookie, owner: Owner::NONE, flow }
}

fn cut(revoker: &Revoker, live: &[LiveSocket], compiled: &Compiled) -> Vec<Event> {
    let told = RefCell::new(Vec::new());
    let subject = |_: &LiveSocket| Subject::lasting(compiled.host);
    let tell = |event: &Event| told.borrow_mut().push(*event);
    let cut = revoker.cut_idle(live, compiled, Generation(2), subject, tell);
    let told = told.into_inner();
    assert_eq!(cut, told.len());
    told
}

fn queued(revoker: &Revoker) -> Vec<u64> {
    std::mem::take(&mut *revoker.queue.lock().unwrap()).iter().map(Target::cookie).collect()
}

#[test]
fn what_passed_and_is_denied_now_is_cut_once() {
    let revoker = Revoker::new(OnRevoke::Reset);
    let verdict = |socket: LiveSocket, verdict, reason, generation| LiveSocket {
        flow: Flow {
            verdict: verdict as u8,
            reason: reason as u8,
            generation: Generation(generation),
            ..socket.flow
        },
        ..socket
    };
    let out = |cookie, port| live(cookie, Direction::Outbound, 40_000, port);
    let all = [
        out(1, 443),
        out(2, 80),
        live(3, Direction::Inbound, 443, 40_000),
        verdict(out(4, 80), Verdict::Denied, Reason::NoRule, 1),
        verdict(out(5, 80), Verdict::Allowed, Reason::Rule, 2),
        verdict(out(6, 80), Verdict::Audited, Reason::NoRule, 1),
        verdict(out(7, 80), Verdict::Allowed, Reason::Preexisting, 1),
        verdict(out(8, 80), Verdict::Allowed, Reason::Preexisting, 0),
    ];
    let told = cut(&revoker, &all, &compiled(FAR));
    let cookies: Vec<u64> = told.iter().map(|event| event.cookie).collect();
    assert_eq!(
        cookies,
        [2, 3, 6, 8],
        "the others are allowed, cut already, decided, or of no known direction"
    );
    assert_eq!(queued(&revoker), cookies);
    let flow = told[0].flow;
    assert_eq!((flow.verdict, flow.reason), (Verdict::Denied as u8, Reason::NoRule as u8));
    assert_eq!((flow.zone, flow.generation, told[0].kind), (PEER, Generation(2), Kind::Revoke as u8));

    assert!(cut(&revoker, &all, &compiled(FAR)).is_empty(), "each once");
    assert!(!revoker.notice(&told[0]), "the kernel's word of it comes late");
    let other = Event { cookie: 9, ..told[0] };
    assert!(revoker.notice(&other) && !revoker.notice(&other));
    assert!(revoker.notice(&Event { kind: Kind::Open as u8, ..told[0] }));
    assert_eq!(queued(&revoker), [9]);
}

#[test]
fn a_rule_that_expired_lets_no_connection_live() {
    let revoker = Revoker::new(OnRevoke::Reset);
    let socket = live(1, Direction::Outbound, 40_000, 443);
    assert!(cut(&revoker, &[socket], &compiled(FAR)).is_empty());
    assert_eq!(cut(&revoker, &[socket], &compiled(1)).len(), 1);
    assert_eq!(next_expiry(&compiled(FAR), unix_ns()), Some(FAR));
    assert_eq!(next_expiry(&compiled(1), unix_ns()), None);
}

#[test]
fn drop_and_keep_destroy_nothing() {
    for on_revoke in [OnRevoke::Drop, OnRevoke::Keep] {
        let revoker = Revoker::new(on_revoke);
        assert!(cut(&revoker, &[live(2, Direction::Outbound, 40_000, 80)], &compiled(FAR)).is_empty());
        let event = Event {
            time: 0,
            cookie: 2,
            count: 1,
            owner: Owner::NONE,
            flow: Flow::NONE,
            rtt_us: 0,
            retransmits: 0,
            kind: Kind::Revoke as u8,
            pad: [0; 7],
        };
        assert!(revoker.notice(&event) && revoker.notice(&event), "the kernel tells of each time");
        assert!(queued(&revoker).is_empty());
    }
}

#[test]
fn a_full_queue_loses_and_memory_is_bounded() {
    let revoker = Revoker::new(OnRevoke::Reset);
    let socket = Target::from(&live(1, Direction::Outbound, 1, 2));
    for _ in 0..QUEUE + 3 {
        revoker.destroy(socket);
    }
    assert_eq!(revoker.lost.load(Ordering::Relaxed), 3);
    assert_eq!(queued(&revoker).len(), QUEUE);
    let mut told = Told::default();
    let flow = Flow { started: 5, ..Flow::NONE };
    for cookie in 0..REMEMBERED as u64 + 1 {
        assert!(told.first(cookie, &flow, 9));
    }
    assert!(!told.first(1, &flow, 9) && told.first(0, &flow, 9), "the oldest was forgotten");
    assert_eq!(told.times.len(), REMEMBERED);
}

#[test]
fn a_socket_that_is_connected_again_is_revoked_again() {
    let mut told = Told::default();
    let began = |started| Flow { started, ..Flow::NONE };
    for (what, flow, now, first) in [
        ("older than the programs", began(0), 10, true),
        ("the kernel's word of it", began(4), 11, false),
        ("connected again", began(20), 30, true),
        ("its idle self", began(20), 40, false),
        ("and once more", began(31), 50, true),
    ] {
        assert_eq!(told.first(7, &flow, now), first, "{what}");
    }
    assert_eq!((told.times.len(), told.order.len()), (1, 1));
}
