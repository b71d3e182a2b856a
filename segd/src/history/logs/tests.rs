use std::fs;
use std::io::Write as _;
use std::path::Path;

use segd_common::event::Kind;
use segd_common::traffic::Direction;

use super::*;
use crate::history::Peer;
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

/// What a sink that sums up writes.
fn summed() -> FlowRecord {
    let mut summed = record(&event(Kind::Close));
    (summed.event, summed.count) = (Kind::Summary, 40);
    summed.since = Some("2025-12-31T23:59:00Z".parse().unwrap());
    summed
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
    let mut records: Vec<_> = std::iter::repeat_n(records(), 3).flatten().collect();
    records[14] = summed();
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

#[test]
fn records_come_by_their_time_and_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let mut records = records();
    for (n, record) in records.iter_mut().enumerate() {
        record.time = format!("2026-01-01T00:00:0{n}Z").parse().unwrap();
    }
    let [a, b] = ["a.jsonl", "b.jsonl"].map(|name| directory.path().join(name));
    fs::write(&a, text(&[&records[..1], &records[3..4]].concat())).unwrap();
    fs::write(&b, text(&[&records[1..3], &records[4..]].concat()) + "\n{\"schema\":1,").unwrap();
    let all = |wanted: &Wanted| {
        let mut taken = Vec::new();
        let notes = super::records(&[b.clone(), a.clone()], wanted, |record| taken.push(record)).unwrap();
        (taken, notes)
    };
    let torn = format!("{}:5: cut short: being written, or by a crash; left out", b.display());
    assert_eq!(all(&Wanted::default()), (records.clone(), vec![torn]));
    let mut wanted =
        Wanted { since: Some(records[1].time), until: Some(records[4].time), filter: Filter::default() };
    wanted.filter.set("not-verdict", "denied").unwrap();
    assert_eq!(all(&wanted).0, [records[1].clone(), records[3].clone()]);
    fs::write(&a, "no\n").unwrap();
    let errors = super::records(std::slice::from_ref(&a), &wanted, |_| ()).unwrap_err().to_string();
    assert_eq!(errors, format!("{}:1: not a flow record of segd: expected ident at column 2", a.display()));
}

#[test]
fn a_scan_becomes_a_sum_of_others_and_hides_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flows.jsonl");
    let (good, scan) = (record(&event(Kind::Open)), record(&denied()));
    let address = |n: u32| std::net::Ipv4Addr::from(0x0a40_0000 + n).into();
    let mut file = std::io::BufWriter::new(fs::File::create(&path).unwrap());
    let mut write = |record: &FlowRecord| file.write_all(text(std::slice::from_ref(record)).as_bytes());
    for n in 0..3000 {
        let mut one = scan.clone();
        (one.dst.ip, one.count) = (address(n), 1);
        write(&one).unwrap();
        // Another scan, of ports.
        (one.dst.ip, one.dst.port) = (address(0), u16::try_from(10_000 + n).unwrap());
        (one.service, one.dst.zone) = ("other".into(), "admin".into());
        write(&one).unwrap();
        let mut one = good.clone();
        one.dst.ip = address(n % 5);
        write(&one).unwrap();
    }
    drop(file);
    let blocks = Mutex::new({
        let (to, from) = sync_channel(9999);
        Source::open(&[path], &mut Found::default()).send_to(&to, |_, _| (), &mut Found::default());
        from
    });
    let (sums, _) = work(&blocks, &Wanted::default(), 200);
    let mut merged = Sums::new(200);
    merged.merge(sums);
    let summaries = merged.into_summaries();
    assert!(summaries.len() < 250, "{}", summaries.len());
    let of = |zone: &str, verdict: &str| {
        let these: Vec<_> =
            summaries.iter().filter(|s| *s.of.peer_zone == *zone && s.of.verdict.name() == verdict).collect();
        let flows: u64 = these.iter().map(|s| s.flows).sum();
        let others: Vec<_> = these
            .iter()
            .filter_map(|s| match s.of.peer {
                Peer::Others(n) => Some((n, s.of.port, s.of.service.to_string())),
                Peer::Address(_) => None,
            })
            .collect();
        (these.len(), flows, others)
    };
    assert_eq!(of("orders", "allowed"), (5, 3000, vec![]), "whom nobody may hide");
    let (rows, flows, others) = of("orders", "denied");
    let [(n, 5432, service)] = &others[..] else { panic!("{others:?}") };
    assert_eq!((flows, service.as_str()), (3000, "postgres"));
    assert!(rows > 10 && n.abs_diff(3000) < 400, "{rows} rows, {n} others");
    let (_, flows, others) = of("admin", "denied");
    let [(n, 0, service)] = &others[..] else { panic!("{others:?}") };
    assert_eq!((flows, service.as_str()), (3000, "other"));
    assert!(n.abs_diff(3000) < 400, "{n} others");
}

#[test]
fn a_flow_that_begins_without_its_own_address_is_one_with_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flows.jsonl");
    let mut records: Vec<_> = [event(Kind::Open), event(Kind::Close)].iter().map(record).collect();
    records[0].src.ip = "0.0.0.0".parse().unwrap();
    fs::write(&path, text(&records)).unwrap();
    let [sum] = &all(&[&path]).unwrap().summaries[..] else { panic!("not one") };
    assert_eq!((sum.flows, sum.bytes.sent, sum.of.local), (1, 900, Some(records[1].src.ip)));
    // As long as it is open there is but one end.
    fs::write(&path, text(&records[..1])).unwrap();
    assert_eq!(all(&[&path]).unwrap().summaries[0].of.local, None);
}
