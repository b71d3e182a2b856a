use std::fs;
use std::io::Write as _;
use std::path::Path;

use segd_common::event::Kind;
use segd_common::traffic::Direction;

use super::*;
use crate::telemetry::FlowRecord;
use crate::telemetry::record::tests::{denied, event, record};

/// Records of every kind, of several hosts and hours, with names that JSON escapes.
fn records() -> Vec<FlowRecord> {
    let mut ping = event(Kind::Open);
    ping.flow.protocol = 1;
    ping.flow.peer_port = 8 << 8;
    ping.flow.local_port = 0;
    ping.flow.direction = Direction::Inbound as u8;
    let mut records: Vec<_> =
        [event(Kind::Open), event(Kind::Close), denied(), ping].iter().map(record).collect();
    let mut odd = records[0].clone();
    odd.host = "wms-\"2\"".into();
    odd.process.as_mut().unwrap().exe = Some("/opt/b\\n\u{1b}\u{e4}".into());
    odd.process.as_mut().unwrap().unit = Some("b.service".into());
    odd.workload = Some("bot".into());
    odd.rule = None;
    odd.src.ip = "::".parse().unwrap();
    odd.dst.ip = "2001:db8::7".parse().unwrap();
    odd.time = "2026-01-01T05:59:59.999999Z".parse().unwrap();
    records.push(odd);
    records
}

fn text(records: &[FlowRecord]) -> String {
    records.iter().map(|r| serde_json::to_string(r).unwrap() + "\n").collect()
}

/// The slow way.
fn expected(records: &[FlowRecord]) -> Vec<Summary> {
    let mut sums: Vec<Summary> = Vec::new();
    for one in records.iter().map(Summary::of) {
        match sums.iter_mut().find(|sum| (sum.hour, &sum.of) == (one.hour, &one.of)) {
            Some(sum) => sum.add(&one),
            None => sums.push(one),
        }
    }
    sums.sort_by(|a, b| (a.hour, &a.of).cmp(&(b.hour, &b.of)));
    sums
}

fn all(inputs: &[&Path]) -> Result<Read, LogErrors> {
    let inputs: Vec<_> = inputs.iter().map(|path| path.to_path_buf()).collect();
    summarise(&inputs, &Wanted::default(), |_, _| ())
}

#[test]
fn lines_add_up_as_their_records_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flows.jsonl");
    let records: Vec<_> = std::iter::repeat_n(records(), 3).flatten().collect();
    fs::write(&path, text(&records)).unwrap();
    let read = all(&[&path]).unwrap();
    assert_eq!(read.summaries, expected(&records));
    assert_eq!((read.records, read.notes), (15, Vec::<String>::new()));
    assert_eq!(all(&[&path, &path]).unwrap().records, 30);
}

#[test]
fn blocks_neither_lose_nor_cut_a_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flows.jsonl");
    let mut records = records();
    // Longer than a block.
    records[1].labels = std::sync::Arc::new([("long".to_owned(), "x".repeat(3 << 20))].into());
    let records: Vec<_> =
        (0..4000).map(|n| &records[if n == 2000 { 1 } else { n % 5 / 2 * 2 }]).cloned().collect();
    fs::write(&path, text(&records).trim_end()).unwrap();
    let read = all(&[&path]).unwrap();
    assert_eq!((read.records, read.notes.len()), (4000, 0));
    assert_eq!(read.summaries, expected(&records));
}

#[test]
fn what_is_not_wanted_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flows.jsonl");
    let records = records();
    fs::write(&path, text(&records)).unwrap();
    let time = records[0].time;
    for (since, until, filter, want) in [
        (None, None, ("verdict", "denied"), &records[2..3]),
        (None, None, ("not-host", "wms-app-1"), &records[4..]),
        (None, None, ("process", "b.service"), &records[4..]),
        (None, None, ("event", "close"), &records[1..2]),
        (Some(time), Some(records[4].time), ("zone", "*"), &records[..4]),
        (Some(records[4].time), None, ("zone", "*"), &records[4..]),
        (None, Some(time), ("zone", "*"), &[]),
    ] {
        let mut wanted = Wanted { since, until, filter: Filter::default() };
        wanted.filter.set(filter.0, filter.1).unwrap();
        let read = summarise(std::slice::from_ref(&path), &wanted, |_, _| ()).unwrap();
        assert_eq!(read.summaries, expected(want), "{filter:?}");
        assert_eq!(read.records, 5);
    }
}

#[test]
fn a_directory_stands_for_its_logs() {
    let directory = tempfile::tempdir().unwrap();
    let line = text(&records()[..1]);
    for name in ["a.jsonl", "b.jsonl", "b.jsonl.1", "b.jsonl.10"] {
        fs::write(directory.path().join(name), &line).unwrap();
    }
    for name in ["notes.txt", "b.jsonl.old", "jsonl", "c.json"] {
        fs::write(directory.path().join(name), "not a record\n").unwrap();
    }
    assert_eq!(all(&[directory.path()]).unwrap().records, 4);
    let empty = tempfile::tempdir().unwrap();
    let want = format!("{}: there is no log file (*.jsonl) in this directory", empty.path().display());
    assert_eq!(all(&[empty.path()]).unwrap_err().to_string(), want);
}

#[test]
fn a_line_that_is_being_written_is_noted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flows.jsonl");
    let text = text(&records());
    fs::write(&path, &text[..text.len() - 20]).unwrap();
    let read = all(&[&path]).unwrap();
    assert_eq!(read.records, 4);
    let want = format!("{}:5: cut short: being written, or by a crash; left out", path.display());
    assert_eq!(read.notes, [want]);
}

#[test]
fn errors_tell_the_place_and_are_told_together() {
    let directory = tempfile::tempdir().unwrap();
    let good = text(&records()[..1]);
    let path = directory.path().join("bad.jsonl");
    let newer = good.replace("\"schema\":1", "\"schema\":2");
    let verdict = good.replace("\"allowed\"", "\"fine\\u001b\"");
    fs::write(&path, format!("{good}\nNov 22 sshd: hello\n{newer}{{\"schema\":9}}\n{verdict}{good}[]\n"))
        .unwrap();
    let missing = directory.path().join("missing.jsonl");
    let p = path.display();
    let column = verdict.find("fine").unwrap() + "fine\\u001b\"".len();
    let want = format!(
        "{p}:3: not a flow record of segd: expected value at column 1\n\
         {p}:4: a record of schema 2, which this segd does not know (it knows 1): read it with the segd that wrote it\n\
         {p}:5: a record of schema 9, which this segd does not know (it knows 1): read it with the segd that wrote it\n\
         {p}:6: not a flow record of segd: `fine\u{fffd}` is no verdict: it must be one of allowed, audited, denied at column {column}\n\
         {p}:8: not a flow record of segd: invalid length 0, expected a flow record at column 2\n\
         {}: cannot be read: No such file or directory (os error 2)",
        missing.display()
    );
    assert_eq!(all(&[&path, &missing]).unwrap_err().to_string(), want);

    let mut file = fs::File::create(&path).unwrap();
    for n in 0..100_000 {
        file.write_all(if n == 77_777 { good.as_bytes() } else { b"{}\n" }).unwrap();
    }
    let errors = all(&[&path]).unwrap_err();
    assert_eq!(errors.further, 99_989);
    let lines: Vec<_> = errors.first.iter().map(|error| error.line).collect();
    assert_eq!(lines, (1..=10).collect::<Vec<_>>());
    assert!(
        errors
            .to_string()
            .ends_with(":10: not a flow record of segd: missing field `schema` at column 2\nand 99989 more")
    );
}
