use std::net::Ipv4Addr;
use std::sync::{Arc, LazyLock};

use segd_common::event::Kind;
use segd_common::traffic::{Direction, Reason, Verdict};

use super::*;
use crate::telemetry::record::tests::{event, record};

fn noon() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

const HOUR_0: i64 = 498_708;

fn ip(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(n).into()
}

static RULED: LazyLock<Summary> = LazyLock::new(|| {
    let mut one = Summary::of(&record(&event(Kind::Open)));
    one.of.direction = Direction::Inbound;
    (one.hour, one.first, one.last) = (noon(), noon(), noon());
    one
});

/// An inbound flow of one peer, allowed by a rule.
pub(crate) fn ruled(peer: u32) -> Summary {
    let mut one = RULED.clone();
    one.of.peer = Peer::Address(ip(peer));
    one
}

/// One that only monitor mode let pass.
pub(crate) fn audited(peer: u32) -> Summary {
    let mut one = ruled(peer);
    (one.of.verdict, one.of.reason, one.of.rule) = (Verdict::Audited, Reason::NoRule, None);
    one
}

fn small() -> Limits {
    Limits {
        ruled: Places { group: 8, ports: 16, hour: 32 },
        unruled: Places { group: 4, ports: 8, hour: 16 },
        names: 8,
        groups: 24,
        swaps: 100,
        known: 64,
    }
}

fn begun(limits: Limits) -> Fold {
    let mut fold = Fold::new(limits);
    fold.begin(HOUR_0);
    fold
}

fn totals(fold: &Fold) -> (u64, u64) {
    fold.changes().fold((0, 0), |(flows, bytes), c| (flows + c.sums.flows, bytes + c.sums.bytes.received))
}

/// Single peers, and how many others.
fn peers(fold: &Fold, wanted: impl Fn(&Conversation) -> bool) -> (Vec<IpAddr>, u64) {
    let rows: Vec<_> = fold.changes().filter(|c| wanted(c.of)).collect();
    let mut single: Vec<IpAddr> = rows.iter().filter_map(|c| c.peer).collect();
    single.sort_unstable();
    (single, rows.iter().filter_map(|c| c.others).map(Sketch::count).sum())
}

#[test]
fn hours_have_numbers() {
    assert_eq!(hour_number(noon()), HOUR_0);
    assert_eq!(hour_start(HOUR_0), noon());
    assert_eq!(hour_number("1969-12-31T23:59:59Z".parse().unwrap()), -1);
}

#[test]
fn a_million_peers_are_a_few_rows_and_no_flow_is_lost() {
    let mut fold = begun(Limits::default());
    let mut most = 0;
    let (mut flows, mut bytes) = (0, 0);
    for peer in 0..1_000_000 {
        let mut one = audited(peer);
        one.flows = u64::from(peer % 3);
        one.bytes.received = u64::from(peer);
        (flows, bytes) = (flows + one.flows, bytes + one.bytes.received);
        fold.add(one);
        if peer % 50_000 == 0 {
            most = most.max(fold.entries());
        }
    }
    assert_eq!(totals(&fold), (flows, bytes));
    let (single, others) = peers(&fold, |_| true);
    assert_eq!(single.len(), Limits::default().unruled.group);
    let expected = 1_000_000 - single.len() as u64;
    assert!(others.abs_diff(expected) < expected / 8, "{others} of {expected}");
    most = most.max(fold.entries());
    assert!(most < 6000, "{most} entries: it does not grow with the number of peers");
}

#[test]
fn every_port_of_many_peers_by_many_programs_stays_bounded() {
    let mut fold = begun(Limits::default());
    let mut flows = 0;
    for n in 0..100_000u32 {
        let mut one = if n % 2 == 0 { audited(n % 977) } else { ruled(n % 977) };
        one.of.port = u16::try_from(n.wrapping_mul(7919) % 65_536).unwrap();
        one.of.process = Some(format!("/tmp/{n}").into());
        one.of.peer_zone = format!("zone-{}", n % 40).into();
        flows += one.flows;
        fold.add(one);
    }
    assert_eq!(totals(&fold).0, flows);
    let limits = Limits::default();
    let rows = fold.changes().count();
    let most = limits.ruled.hour + limits.unruled.hour + limits.groups + 2 * 40 + 1;
    assert!(rows <= most, "{rows} rows of {most}");
    let entries = fold.entries();
    assert!(entries < 100_000, "{entries} entries");
    assert!(fold.changes().any(|c| c.of.port == 0 && &*c.of.service == "other"));
    let programs: std::collections::HashSet<_> = fold.changes().map(|c| c.of.process.clone()).collect();
    assert!(programs.len() <= limits.names + 1, "{}", programs.len());
}

#[test]
fn icmp_types_are_bounded_like_ports() {
    let mut fold = begun(small());
    for n in 0..=u16::MAX {
        let mut one = audited(1);
        one.of.protocol = "icmp".into();
        (one.of.port, one.of.icmp) = (0, Some(n.to_be_bytes().into()));
        fold.add(one);
    }
    assert_eq!(totals(&fold).0, 65_536);
    let kinds = fold.changes().filter(|c| c.of.icmp.is_some()).count();
    assert_eq!(kinds, 6, "three quarters of the places");
}

#[test]
fn a_scan_pushes_out_nobody_whom_a_rule_allows() {
    let mut fold = begun(small());
    for peer in 0..10_000 {
        fold.add(audited(1000 + peer));
    }
    for peer in 0..5 {
        fold.add(ruled(peer));
    }
    let (single, others) = peers(&fold, |of| of.rule.is_some());
    assert_eq!((single, others), ((0..5).map(ip).collect(), 0));
}

#[test]
fn who_was_known_or_comes_again_takes_the_place_of_who_came_once() {
    let mut fold = begun(small());
    // In the former hour, before the scan.
    fold.add(audited(7));
    fold.begin(HOUR_0 + 1);
    fold.begin(HOUR_0 + 2);
    let later = |peer| {
        let mut one = audited(peer);
        (one.hour, one.first) = (hour_start(HOUR_0 + 2), hour_start(HOUR_0 + 2));
        one.last = one.first;
        one
    };
    for peer in 0..100 {
        fold.add(later(1000 + peer));
    }
    fold.add(later(7));
    for _ in 0..5 {
        fold.add(later(8));
    }
    let (single, others) = peers(&fold, |_| true);
    assert!(single.contains(&ip(7)) && single.contains(&ip(8)), "{single:?}");
    assert_eq!((single.len(), totals(&fold).0), (4, 106));
    assert!(others >= 96, "{others}");
    // Nor does one that comes again take the place of one that is known or has come more than once.
    for peer in 0..100 {
        fold.add(later(2000 + peer));
        fold.add(later(2000 + peer));
        fold.add(later(2000 + peer));
    }
    let (single, _) = peers(&fold, |_| true);
    assert!(single.contains(&ip(7)) && single.contains(&ip(8)), "{single:?}");
}

#[test]
fn what_was_written_is_gone_on_with() {
    let mut fold = begun(small());
    for peer in 0..50 {
        fold.add(audited(peer));
    }
    let rows: Vec<Kept> = fold
        .changes()
        .map(|c| Kept { of: c.of.clone(), peer: c.peer, sums: *c.sums, others: c.others.cloned() })
        .collect();
    let mut next = begun(small());
    next.restore(HOUR_0, rows.clone());
    assert_eq!(next.pending(), 0);
    for peer in 0..50 {
        next.add(audited(peer));
    }
    let mut both = next.changes().fold((0, 0), |(rows, flows), c| {
        assert!(!c.is_new, "{c:?}");
        (rows + 1, flows + c.sums.flows)
    });
    assert_eq!(both, (5, 100));
    assert_eq!(peers(&next, |_| true).1, 46, "the same others are counted once");
    next.written();
    // Read late, when the file could not be opened before.
    let mut late = begun(small());
    for peer in 0..50 {
        late.add(audited(peer));
    }
    late.restore(HOUR_0, rows);
    both = late.changes().fold((0, 0), |(rows, flows), c| (rows + 1, flows + c.sums.flows));
    assert_eq!(both, (5, 100));
}

#[test]
fn only_what_has_changed_is_written_again() {
    let mut fold = begun(small());
    (0..3).for_each(|peer| fold.add(audited(peer)));
    assert_eq!(fold.changes().filter(|c| c.is_new).count(), 3);
    fold.written();
    assert_eq!(fold.pending(), 0);
    fold.add(audited(1));
    let changed: Vec<_> = fold.changes().map(|c| (c.peer, c.sums.flows, c.is_new)).collect();
    assert_eq!(changed, [(Some(ip(1)), 2, false)]);
    fold.lost();
    assert_eq!(fold.changes().filter(|c| c.is_new).count(), 3);
    assert_eq!(totals(&fold).0, 4);
    // One that gives up its place is removed where it was written.
    fold.written();
    (10..100).for_each(|peer| fold.add(audited(peer)));
    (0..2).for_each(|_| fold.add(audited(200)));
    assert_eq!(fold.removals().count(), 1);
}

#[test]
fn two_hours_are_held_and_the_rest_is_told() {
    let mut fold = begun(small());
    fold.add(audited(1));
    assert_eq!(fold.ends_next(), None);
    assert_eq!(fold.begin(HOUR_0 + 1), 0);
    assert_eq!(fold.ends_next(), Some(HOUR_0));
    assert_eq!(fold.begin(HOUR_0 + 2), 1, "a flow that was never written");
    assert!(!fold.holds(HOUR_0) && fold.holds(HOUR_0 + 1));
    fold.add(audited(1));
    assert_eq!(fold.pending(), 0, "an hour that is not held");
}

#[test]
fn of_what_is_known_the_newest_stays() {
    let mut known = Known::default();
    let of = Arc::new(audited(0).of);
    for n in 0..1000 {
        known.note(i64::from(n / 100), &of, ip(n), 100);
    }
    let kept = |hours: std::ops::Range<u32>| {
        hours.map(ip).filter(|peer| known.has(known::of_peer(&of, *peer))).count()
    };
    // Which ones of the last hour is left to chance.
    assert!(kept(900..1000) >= 40, "{}", kept(900..1000));
    assert_eq!(kept(0..800), 0);
    assert!(known.len() <= 4096 + 101, "{}", known.len());
}

#[test]
fn what_begins_without_a_local_address_and_ends_with_one_is_one_row() {
    let local =
        |one: Summary, n: Option<u32>| Summary { of: Conversation { local: n.map(ip), ..one.of }, ..one };
    let mut fold = begun(small());
    fold.add(local(ruled(1), None));
    fold.written();
    for n in [Some(9), None, Some(9), None] {
        fold.add(local(ruled(1), n));
    }
    let rows: Vec<_> = fold.changes().map(|c| (c.of.local, c.sums.flows, c.is_new)).collect();
    assert_eq!(rows, [(Some(ip(9)), 5, true)]);
    let removed: Vec<_> = fold.removals().map(|r| (r.of.local, r.peer)).collect();
    assert_eq!(removed, [(None, ip(1))]);
    // Another address of the host is another row.
    fold.add(local(ruled(1), Some(8)));
    assert_eq!((fold.changes().count(), totals(&fold).0), (2, 6));
}
