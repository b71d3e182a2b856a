use jiff::{SignedDuration, Timestamp};
use segd_common::event::Kind;
use segd_common::traffic::Verdict;
use tempfile::TempDir;

use super::super::fold::tests::{audited, ruled};
use super::super::fold::{Limits, hour_number};
use super::*;
use crate::history::{Peer, Summary, open_read_only};
use crate::telemetry::record::tests::{event, record};

const ALL: Range = Range { since: None, until: None };

fn at(mut one: Summary, hour: i64) -> Summary {
    one.hour = hour_start(hour);
    (one.first, one.last) = (one.hour, one.hour + SignedDuration::from_millis(1500));
    one
}

fn open(dir: &TempDir) -> Store {
    Store::open(&dir.path().join(FILE)).unwrap()
}

/// Writes these, as a fold would that was never ended.
fn write(store: &mut Store, fold: &mut Fold, all: impl IntoIterator<Item = Summary>) {
    for one in all {
        let hour = hour_number(one.hour);
        if !fold.holds(hour) {
            fold.begin(hour);
            let rows = store.load_hour(hour).unwrap();
            fold.restore(hour, rows);
        }
        fold.add(one);
    }
    store.write(fold, &RuleNews::default()).unwrap();
    fold.written();
}

fn read(dir: &TempDir, range: Range) -> Vec<Summary> {
    open_read_only(dir.path()).unwrap().summaries(range).unwrap()
}

#[test]
fn every_field_comes_back() {
    let dir = TempDir::new().unwrap();
    let (mut store, mut fold) = (open(&dir), Fold::default());
    let full = Summary::of(&record(&event(Kind::Close)));
    let mut bare = at(audited(9), 500_000);
    bare.of = Conversation {
        workload: Some("inventory_bot".into()),
        process: None,
        unit: None,
        uid: None,
        local: None,
        peer: Peer::Address("2001:db8::7".parse().unwrap()),
        protocol: "icmpv6".into(),
        port: 0,
        icmp: Some((128, 0)),
        ..bare.of
    };
    (bare.flows, bare.bytes.sent) = (u64::from(u32::MAX), 1 << 60);
    for one in [&full, &bare] {
        write(&mut store, &mut fold, [one.clone()]);
    }
    let mut wanted = vec![full, bare];
    wanted.sort_by_key(|one| one.hour);
    assert_eq!(read(&dir, ALL), wanted);
}

#[test]
fn ranges_take_whole_hours_that_they_touch() {
    let dir = TempDir::new().unwrap();
    let (mut store, mut fold) = (open(&dir), Fold::default());
    (0..5).for_each(|n| write(&mut store, &mut fold, [at(ruled(1), 500_000 + n)]));
    let time = |hour: i64, s: i64| Some(hour_start(hour) + SignedDuration::from_secs(s));
    for (since, until, hours) in [
        (None, None, 0..5),
        (time(500_001, 0), None, 1..5),
        // Its last record was before.
        (time(500_001, 60), None, 2..5),
        (None, time(500_003, 0), 0..3),
        (None, time(500_003, 1), 0..4),
        (time(500_004, 60), time(500_009, 0), 5..5),
    ] {
        let found: Vec<_> =
            read(&dir, Range { since, until }).iter().map(|s| hour_number(s.hour) - 500_000).collect();
        assert_eq!(found, hours.collect::<Vec<_>>(), "{since:?} {until:?}");
    }
}

#[test]
fn a_flood_costs_a_bounded_file_and_the_next_agent_goes_on() {
    let dir = TempDir::new().unwrap();
    let (mut store, mut fold) = (open(&dir), Fold::new(Limits::default()));
    let mut flows = 0;
    for part in 0..10 {
        let scan = (0..20_000).map(|n| at(audited(part * 20_000 + n), 500_000));
        write(&mut store, &mut fold, scan);
        flows += 20_000;
        if part == 4 {
            // Killed, and begun again.
            (store, fold) = (open(&dir), Fold::new(Limits::default()));
        }
        let sum: u64 = read(&dir, ALL).iter().map(|s| s.flows).sum();
        assert_eq!(sum, flows, "after part {part}");
    }
    let all = read(&dir, ALL);
    let others: Vec<u64> = all
        .iter()
        .filter_map(|s| match s.of.peer {
            Peer::Others(n) => Some(n),
            Peer::Address(_) => None,
        })
        .collect();
    assert_eq!((all.len(), others.len()), (257, 1));
    assert!(others[0].abs_diff(199_744) < 24_000, "{others:?}");
    let extent = store.extent().unwrap();
    assert_eq!((extent.rows, extent.oldest), (257, Some(500_000)));
    assert!(extent.bytes < 1 << 20, "{}", extent.bytes);
    store.check().unwrap();
}

#[test]
fn a_peer_that_gives_up_its_place_is_not_counted_twice() {
    let dir = TempDir::new().unwrap();
    let (mut store, mut fold) = (open(&dir), Fold::default());
    write(&mut store, &mut fold, (0..1000).map(|n| at(audited(n), 500_000)));
    // The next agent knows the conversations from the file only.
    (store, fold) = (open(&dir), Fold::default());
    write(&mut store, &mut fold, (0..3).map(|_| at(audited(5000), 500_000)));
    let all = read(&dir, ALL);
    assert!(all.iter().any(|s| s.of.peer == audited(5000).of.peer));
    assert_eq!(all.iter().map(|s| s.flows).sum::<u64>(), 1003);
    assert_eq!(store.extent().unwrap().rows, all.len() as u64);
}

#[test]
fn what_is_too_old_or_too_much_goes_and_the_file_shrinks() {
    let dir = TempDir::new().unwrap();
    let (mut store, mut fold) = (open(&dir), Fold::default());
    let name = |hour: i64, n: u32| {
        let mut one = at(ruled(n), hour);
        one.of.process = Some(format!("/opt/{hour}/{}/{}", n % 100, "x".repeat(200)).into());
        one
    };
    let first = 500_000;
    for hour in 0..120 {
        write(&mut store, &mut fold, (0..1000).map(|n| name(first + hour, n)));
    }
    let now = hour_start(first + 119);
    let full = store.extent().unwrap();
    assert_eq!((full.rows, full.oldest), (120_000, Some(first)));
    let size = 8 << 20;
    assert!(full.bytes > size, "{}", full.bytes);
    let retention = Retention { hours: 24 * 30, size };
    assert!(store.is_too_large(retention).unwrap());
    store.retain(now, retention).unwrap();
    let less = store.extent().unwrap();
    assert!(less.bytes <= size && less.bytes > size / 4, "{less:?}");
    assert!(less.oldest.is_some_and(|oldest| oldest > first), "{less:?}");
    assert!(!store.is_too_large(retention).unwrap());
    let all = read(&dir, ALL);
    assert_eq!(all.len() as u64, less.rows);
    // Of names and conversations only those that are used are left.
    store.retain(now, Retention { hours: 2, size }).unwrap();
    let count = |table: &str| -> i64 {
        store.db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    assert_eq!((count("flow"), count("conversation"), count("hour")), (3000, 300, 3));
    assert!(count("name") < 320, "{}", count("name"));
    let last = store.extent().unwrap();
    assert!(last.bytes < less.bytes / 2, "{last:?}");
    // And what is left is written to as before.
    write(&mut store, &mut fold, [name(first + 119, 0)]);
    assert_eq!(read(&dir, ALL).iter().map(|s| s.flows).sum::<u64>(), 3001);
    store.check().unwrap();
}

#[test]
fn a_day_of_an_ordinary_host_is_small() {
    let dir = TempDir::new().unwrap();
    let (mut store, mut fold) = (open(&dir), Fold::default());
    for hour in 0..24 {
        let flows = (0..400).map(|n| {
            let mut one = at(ruled(n / 4), 500_000 + hour);
            one.of.port = u16::try_from(5000 + n % 4).unwrap();
            one.of.process = Some(format!("/usr/lib/warehouse/service-{}", n % 4).into());
            (one.flows, one.bytes.received, one.bytes.sent) = (360, 1_000_000, 50_000_000);
            (one.packets.received, one.packets.sent) = (10_000, 30_000);
            one.last = one.first + SignedDuration::from_secs(3599);
            one
        });
        write(&mut store, &mut fold, flows);
    }
    store.retain(hour_start(500_023), Retention { hours: 24 * 30, size: 256 << 20 }).unwrap();
    store.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let extent = store.extent().unwrap();
    let per_row = extent.bytes / extent.rows;
    println!("{per_row} bytes a summary");
    assert!(per_row < 64, "{per_row} bytes for each of {} summaries", extent.rows);
}

#[test]
fn rules_have_a_past() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let time = |s: i64| Timestamp::from_second(1_800_000_000 + s).unwrap();
    let fold = Fold::default();
    let mut in_force = |ids: &[&str], at: i64, hits: &[(&str, u64, i64)]| {
        let mut news = RuleNews {
            in_force: Some((ids.iter().map(|id| Arc::from(*id)).collect(), time(at))),
            ..RuleNews::default()
        };
        for (id, flows, at) in hits {
            news.hit(&Arc::from(*id), *flows, time(*at), time(*at));
        }
        store.write(&fold, &news).unwrap();
        open_read_only(dir.path()).unwrap().rules().unwrap()
    };
    let facts = |rule: &str, since, last_hit: Option<i64>, hits, gone: Option<i64>| RuleFacts {
        rule: rule.into(),
        since: time(since),
        last_hit: last_hit.map(time),
        hits,
        gone: gone.map(time),
    };
    assert_eq!(in_force(&["a", "b"], 0, &[]), [facts("a", 0, None, 0, None), facts("b", 0, None, 0, None)]);
    let found = in_force(&["a", "c"], 100, &[("a", 2, 50), ("a", 1, 60), ("b", 0, 40)]);
    assert_eq!(
        found,
        [
            facts("a", 0, Some(60), 3, None),
            facts("b", 0, Some(40), 0, Some(100)),
            facts("c", 100, None, 0, None)
        ]
    );
    // Back after a rollback: it is no new rule.
    let found = in_force(&["a", "b"], 200, &[("a", 5, 55)]);
    assert_eq!(
        found,
        [
            facts("a", 0, Some(60), 8, None),
            facts("b", 0, Some(40), 0, None),
            facts("c", 100, None, 0, Some(200))
        ]
    );
    // Forgotten when all that it could have allowed is.
    store.retain(time(200 + 25 * 3600), Retention { hours: 24, size: 16 << 20 }).unwrap();
    let left = open_read_only(dir.path()).unwrap().rules().unwrap();
    assert_eq!(left.iter().map(|r| &*r.rule).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn files_that_are_no_history_of_this_version_are_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(FILE);
    let error = open_read_only(dir.path()).unwrap_err();
    assert!(matches!(error, HistoryError::None(_)), "{error}");

    fs::write(&path, "no database, but long enough to be read as the header of one".repeat(20)).unwrap();
    assert!(open_read_only(dir.path()).unwrap_err().is_damage());
    assert!(Store::open(&path).unwrap_err().is_damage());

    let aside = set_aside(&path).unwrap();
    assert!(!path.exists() && aside.ends_with("history.db.damaged") && aside.exists());

    let foreign = Connection::open(&path).unwrap();
    foreign.execute("CREATE TABLE x (y)", []).unwrap();
    drop(foreign);
    assert!(Store::open(&path).unwrap_err().is_damage());
    fs::remove_file(&path).unwrap();

    drop(open(&dir));
    let newer = Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", schema::VERSION + 1).unwrap();
    drop(newer);
    for error in [Store::open(&path).unwrap_err(), open_read_only(dir.path()).unwrap_err()] {
        assert!(error.to_string().contains("a later version of segd wrote"), "{error}");
        assert!(!error.is_damage());
    }
}

#[test]
fn a_reader_neither_disturbs_nor_is_disturbed() {
    let dir = TempDir::new().unwrap();
    let (mut store, mut fold) = (open(&dir), Fold::default());
    write(&mut store, &mut fold, (0..300).map(|n| at(ruled(n), 500_000)));
    let reader = open_read_only(dir.path()).unwrap();
    let mut seen = 0;
    reader
        .each(ALL, |_| {
            if seen == 0 {
                write(&mut store, &mut fold, (0..300).map(|n| at(ruled(n), 500_001)));
                store.retain(hour_start(500_001), Retention { hours: 24, size: 16 << 20 }).unwrap();
            }
            seen += 1;
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, 600);
    assert_eq!(reader.summaries(ALL).unwrap().len(), 600);
    assert!(store.write(&fold, &RuleNews::default()).is_ok());
    // Who may only read the directory reads a file that was left whole.
    drop(reader);
    drop(store);
    assert!(no_files(&dir, ["-wal", "-shm"]));
    assert_eq!(read(&dir, ALL).iter().filter(|s| s.of.verdict == Verdict::Allowed).count(), 600);
}

fn no_files(dir: &TempDir, suffixes: [&str; 2]) -> bool {
    suffixes.iter().all(|suffix| !with_suffix(&dir.path().join(FILE), suffix).exists())
}
