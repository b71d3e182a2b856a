//! Summaries say less, but they add up to the same.

use std::collections::HashMap;
use std::sync::Mutex;

use jiff::Timestamp;

use super::super::summaries::Summaries;
use super::super::{Detail, Options, Output, Pending, Written, lock};
use super::*;
use crate::history::{Conversation, Summary};
use segd_common::event::{Event, Kind};
use segd_common::traffic::Verdict;

fn at(kind: Kind, time: &str, change: impl FnOnce(&mut Event)) -> FlowRecord {
    let mut event = event(kind);
    change(&mut event);
    FlowRecord { time: time.parse().unwrap(), ..record(&event) }
}

type Sums = HashMap<(Timestamp, Conversation), Summary>;

fn sums<'r>(records: impl IntoIterator<Item = &'r FlowRecord>) -> Sums {
    let mut sums = Sums::new();
    for one in records.into_iter().map(Summary::of) {
        let key = (one.hour, one.of.clone());
        sums.entry(key).and_modify(|sum| sum.add(&one)).or_insert(one);
    }
    sums
}

#[test]
fn of_a_window() {
    let records = [
        at(Kind::Open, "2026-11-22T10:59:58Z", |_| {}),
        at(Kind::Open, "2026-11-22T10:59:58.5Z", |e| (e.flow.local_port, e.owner.pid) = (40_001, 1235)),
        at(Kind::Close, "2026-11-22T10:59:59Z", |_| {}),
        at(Kind::Close, "2026-11-22T11:00:01Z", |e| (e.flow.local_port, e.owner.pid) = (40_001, 1235)),
        at(Kind::Open, "2026-11-22T11:00:02Z", |e| e.flow.peer_port = 6379),
    ];
    let mut summaries = Summaries::new(Duration::from_secs(60));
    assert_eq!(summaries.left(), None);
    for record in &records {
        assert!(Summaries::takes(record));
        summaries.add(record);
    }
    assert!(summaries.left().is_some_and(|left| !left.is_zero()));
    let told = summaries.drain();
    let said: Vec<_> = told.iter().map(|(r, weight)| (r.dst.port, r.count, r.bytes.sent, *weight)).collect();
    assert_eq!(said, [(5432, 2, 900, 3), (5432, 0, 900, 1), (6379, 1, 0, 1)]);
    assert_eq!(sums(told.iter().map(|(record, _)| record)), sums(&records));
    assert_eq!(summaries.left(), None);

    let first = serde_json::to_value(&told[0].0).unwrap();
    for (key, want) in [
        ("event", "\"summary\""),
        ("since", "\"2026-11-22T10:59:58.000000Z\""),
        ("time", "\"2026-11-22T10:59:59.000000Z\""),
        ("duration_ms", "null"),
        ("rtt_us", "null"),
    ] {
        assert_eq!(first[key].to_string(), want, "{key}");
    }
    assert_eq!((&first["src"]["port"], &first["process"]["pid"]), (&0.into(), &0.into()));
    assert_eq!(serde_json::from_value::<FlowRecord>(first).unwrap(), told[0].0);
}

#[test]
fn only_of_what_was_allowed() {
    for (record, taken) in [
        (record(&event(Kind::Open)), true),
        (record(&event(Kind::Close)), true),
        (record(&event(Kind::Revoke)), false),
        (record(&denied()), false),
        (FlowRecord { verdict: Verdict::Audited, ..record(&event(Kind::Open)) }, false),
    ] {
        assert_eq!(Summaries::takes(&record), taken, "{record:?}");
    }
}

#[test]
fn a_window_with_too_many_conversations_ends_early() {
    let mut summaries = Summaries::new(Duration::from_secs(3600));
    for port in 0..4096 {
        assert!(summaries.left().is_none_or(|left| !left.is_zero()), "{port}");
        summaries.add(&at(Kind::Open, "2026-11-22T10:00:00Z", |e| e.flow.peer_port = port));
    }
    assert_eq!(summaries.left(), Some(Duration::ZERO));
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Output for Memory {
    fn write(&mut self, pending: &Pending) -> Written {
        lock(&self.0).extend(pending.bytes());
        Written::all(pending)
    }
}

/// Works never.
struct Broken;

impl Output for Broken {
    fn write(&mut self, _: &Pending) -> Written {
        Written::failed(0, std::io::ErrorKind::StorageFull.into())
    }
}

fn summing(window: Duration) -> Options {
    Options { detail: Detail::Summary { window }, ..Options::named("summing") }
}

#[test]
fn a_sink_tells_at_the_end_of_a_window_and_at_its_own() {
    let memory = Memory::default();
    let sink = Sink::start(summing(Duration::from_secs(1)), memory.clone()).unwrap();
    let (open, refused) = (Arc::new(record(&event(Kind::Open))), Arc::new(record(&denied())));
    for _ in 0..500 {
        sink.offer(&[Arc::clone(&open), Arc::clone(&open)]);
    }
    sink.offer(&[Arc::clone(&refused)]);
    let told = || -> Vec<FlowRecord> {
        let text = String::from_utf8(lock(&memory.0).clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    until("the window ends", &sink, |_| told().iter().any(|record| record.event == Kind::Summary));
    for _ in 0..10 {
        sink.offer(&[Arc::clone(&open)]);
    }
    assert!(sink.close(Duration::from_secs(5)));
    let told = told();
    assert_eq!(told.iter().filter(|record| record.event == Kind::Deny).count(), 1);
    assert!(told.len() <= 6, "{}", told.len());
    let all = std::iter::repeat_n(&*open, 1010).chain([&*refused]);
    assert_eq!(sums(&told), sums(all));
}

#[test]
fn a_summary_that_is_lost_counts_for_all_that_it_stands_for() {
    let sink = Sink::start(summing(Duration::from_secs(1)), Broken).unwrap();
    for _ in 0..30 {
        sink.offer(&[Arc::new(record(&event(Kind::Open)))]);
    }
    assert!(sink.close(Duration::from_secs(5)));
    assert_eq!(sink.status().lost_write, 30);
}
