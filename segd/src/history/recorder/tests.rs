use std::fs;

use jiff::SignedDuration;
use segd_common::event::Kind;
use tempfile::TempDir;

use super::super::store::Range;
use super::*;
use crate::telemetry::record::tests::{denied, event, record};

const SOON: Duration = Duration::from_secs(10);

fn start(dir: &TempDir) -> Recorder {
    Recorder::start(dir.path(), &HistoryConfig::default()).unwrap()
}

/// A record of now.
fn now(kind: Kind) -> Arc<FlowRecord> {
    Arc::new(FlowRecord { time: Timestamp::now(), ..record(&event(kind)) })
}

fn flows(recorder: &Recorder) -> u64 {
    let all = recorder.reader().unwrap().summaries(Range::default()).unwrap();
    all.iter().map(|summary| summary.flows).sum()
}

#[test]
fn what_is_offered_is_read_and_found_again_by_the_next_agent() {
    let dir = TempDir::new().unwrap();
    let recorder = start(&dir);
    recorder.rules_in_force(["wms-to-orders-db".into(), "unused".into()]);
    let open = now(Kind::Open);
    recorder.offer(&[Arc::clone(&open), now(Kind::Close)]);
    assert_eq!(flows(&recorder), 1);
    recorder.offer(&[Arc::clone(&open)]);
    assert_eq!(flows(&recorder), 2, "in the same hour");
    let status = recorder.status();
    assert!(status.up && status.lost == 0 && status.bytes > 0 && status.rows == 1, "{status:?}");
    assert!(recorder.close(SOON));
    recorder.offer(&[open]);
    assert_eq!(recorder.status().lost, 1, "after the end");
    assert!(recorder.reader().is_err());

    let next = start(&dir);
    next.offer(&[now(Kind::Open)]);
    assert_eq!(flows(&next), 3);
    let rules = next.reader().unwrap().rules().unwrap();
    let facts: Vec<_> = rules.iter().map(|r| (&*r.rule, r.hits, r.last_hit.is_some())).collect();
    assert_eq!(facts, [("unused", 0, false), ("wms-to-orders-db", 3, true)]);
}

#[test]
fn records_of_many_hours_in_any_order_are_kept() {
    let dir = TempDir::new().unwrap();
    let recorder = start(&dir);
    let hours = [0, 5, 1, 5, 0, 3, 2, 5];
    for hours_ago in hours {
        let time = Timestamp::now() - SignedDuration::from_hours(hours_ago);
        recorder.offer(&[Arc::new(FlowRecord { time, ..record(&event(Kind::Open)) })]);
    }
    assert_eq!(flows(&recorder), hours.len() as u64);
    assert_eq!(recorder.status().lost, 0);
}

#[test]
fn a_damaged_file_is_set_aside() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(FILE);
    fs::write(&path, [7; 8192]).unwrap();
    let recorder = start(&dir);
    recorder.offer(&[now(Kind::Open)]);
    assert_eq!(flows(&recorder), 1);
    assert_eq!(fs::read(dir.path().join("history.db.damaged")).unwrap(), [7; 8192]);
    assert!(recorder.status().up);

    // And one that is damaged while it is used: what is in memory is written to the new one.
    recorder.offer(&[now(Kind::Open)]);
    assert!(recorder.close(SOON));
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[4096..middle].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    let next = start(&dir);
    next.offer(&[now(Kind::Open)]);
    assert_eq!(flows(&next), 1);
}

#[test]
fn a_file_of_a_later_version_is_left_alone() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(FILE);
    drop(start(&dir).reader().unwrap());
    let db = rusqlite::Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    let recorder = start(&dir);
    recorder.offer(&[now(Kind::Open)]);
    let error = recorder.reader().unwrap_err().to_string();
    assert!(error.contains("schema 99"), "{error}");
    let status = recorder.status();
    assert!(!status.up && status.error.is_some_and(|e| e.contains("schema 99")));
    // When it is out of the way, what was recorded meanwhile is written.
    fs::rename(&path, dir.path().join("kept.db")).unwrap();
    assert_eq!(flows(&recorder), 1);
    assert!(recorder.status().up);
}

#[test]
fn more_than_the_queue_holds_is_counted() {
    let dir = TempDir::new().unwrap();
    let recorder = start(&dir);
    let denial = Arc::new(FlowRecord { time: Timestamp::now(), count: 1, ..record(&denied()) });
    let many = vec![denial; QUEUE + 100];
    recorder.offer(&many);
    let lost = recorder.status().lost;
    assert!(lost >= 100, "{lost}");
    assert_eq!(flows(&recorder) + lost, many.len() as u64);
}
