use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::*;

fn entry(reason: &str) -> Entry {
    Entry { reason: Some(reason.to_owned()), ..Entry::new(Action::Load) }
}

/// A journal of this many lines, their reasons being their numbers.
fn of(lines: u64) -> (TempDir, Journal) {
    let dir = tempfile::tempdir().unwrap();
    let (journal, problems) = Journal::open(dir.path()).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    for n in 1..=lines {
        assert_eq!(journal.append(entry(&n.to_string())).unwrap().seq, n);
    }
    (dir, journal)
}

fn text(dir: &TempDir) -> String {
    fs::read_to_string(dir.path().join(FILE)).unwrap()
}

fn flaws(dir: &TempDir) -> Vec<String> {
    match verify(dir.path(), |_| ()) {
        Ok(_) => Vec::new(),
        Err(VerifyError::Broken { found, .. }) => found.iter().map(ToString::to_string).collect(),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_line_is_what_the_documentation_says() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    let entry = Entry {
        uid: Some(0),
        pid: Some(4711),
        command: Some("segd".into()),
        before: Some(3),
        after: Some(4),
        details: json!({ "hash": "x", "a": [1] }),
        ..entry("orders need it")
    };
    journal.append_at(entry, "2026-10-18T12:00:00.1234567Z".parse().unwrap()).unwrap();
    let written = text(&dir);
    let body = concat!(
        r#"{"seq":1,"time":"2026-10-18T12:00:00.123456Z","action":"load","uid":0,"pid":4711,"command":"segd","#,
        r#""before":3,"after":4,"reason":"orders need it","details":{"a":[1],"hash":"x"},"#,
        r#""prev":"0000000000000000000000000000000000000000000000000000000000000000"}"#
    );
    let hash: String = Sha256::digest(body).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(written, format!("{},\"hash\":\"{hash}\"}}\n", body.strip_suffix('}').unwrap()));
    let head: serde_json::Value = serde_json::from_slice(&fs::read(dir.path().join(HEAD)).unwrap()).unwrap();
    assert_eq!(head, json!({ "seq": 1, "hash": hash }));
    let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777 & !0o640, 0, "{mode:o}");
}

#[test]
fn a_sound_journal_is_told_as_such() {
    let (dir, _journal) = of(3);
    let mut seen = Vec::new();
    let verified = verify(dir.path(), |visit| {
        assert!(visit.sound);
        seen.push(visit.line.reason.clone().unwrap());
    })
    .unwrap();
    assert_eq!(seen, ["1", "2", "3"]);
    assert_eq!((verified.lines, verified.torn), (3, 0));
    assert_eq!(verified.last, verified.head);
    assert!(verified.first_time.is_some());
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(verify(empty.path(), |_| ()).unwrap().lines, 0);
}

type Change = fn(&mut Vec<String>);

#[test]
fn whatever_is_changed_is_found_where_it_was_changed() {
    let cases: &[(&str, Change, &[&str])] = &[
        (
            "edited",
            |l| l[2] = l[2].replace("\"reason\":\"3\"", "\"reason\":\"x\""),
            &["line 3: its hash does not fit: it was edited"],
        ),
        (
            "edited in white space",
            |l| l[2] = l[2].replace("\"uid\":null", "\"uid\": null"),
            &["line 3: its hash does not fit: it was edited"],
        ),
        (
            "edited with its hash",
            |l| l[2] = resealed(&l[2].replace("\"reason\":\"3\"", "\"reason\":\"x\"")),
            &["line 4: it was not written after the line before it: one of the two was replaced"],
        ),
        (
            "the last one edited with its hash",
            |l| l[4] = resealed(&l[4].replace("\"reason\":\"5\"", "\"reason\":\"x\"")),
            &["line 5: journal.head names another line number 5: one of the two was replaced"],
        ),
        (
            "removed",
            |l| drop(l.remove(1)),
            &["line 2: number 3 follows number 1: what was between them was removed or moved"],
        ),
        (
            "the first removed",
            |l| drop(l.remove(0)),
            &["line 1: number 2 follows number 0: what was between them was removed or moved"],
        ),
        (
            "reordered",
            |l| l.swap(1, 2),
            &[
                "line 2: number 3 follows number 1: what was between them was removed or moved",
                "line 3: number 2 follows number 3: it was moved or inserted",
            ],
        ),
        (
            "a copy inserted",
            |l| l.insert(3, l[1].clone()),
            &["line 4: number 2 follows number 3: it was moved or inserted"],
        ),
        (
            "a forged one inserted",
            |l| l.insert(3, resealed(&l[3].replace("\"reason\":\"4\"", "\"reason\":\"x\""))),
            &[
                "line 5: number 4 follows number 4: it was moved or inserted",
                "line 6: it was not written after the line before it: one of the two was replaced",
            ],
        ),
        ("other text inserted", |l| l.insert(3, "# fine".into()), &["line 4: this is no line of a journal"]),
        ("replaced by other text", |l| l[3] = "{}".into(), &["line 4: this is no line of a journal"]),
        ("a huge line", |l| l.insert(3, "x".repeat(300_000)), &["line 4: longer than 65536 bytes"]),
        (
            "cut",
            |l| l.truncate(3),
            &[
                "line 3: the journal was cut: it ends with number 3, and journal.head says that number 5 was written",
            ],
        ),
        (
            "emptied",
            Vec::clear,
            &[
                "line 0: the journal was cut: it ends with number 0, and journal.head says that number 5 was written",
            ],
        ),
        ("the last removed", |l| drop(l.pop()), &["line 4: the journal was cut: it ends with number 4"]),
    ];
    for (name, change, wanted) in cases {
        let (dir, journal) = of(5);
        let mut lines: Vec<String> = text(&dir).lines().map(str::to_owned).collect();
        change(&mut lines);
        fs::write(dir.path().join(FILE), lines.iter().map(|l| format!("{l}\n")).collect::<String>()).unwrap();
        let found = flaws(&dir);
        assert_eq!(found.len(), wanted.len(), "{name}: {found:?}");
        for (found, wanted) in found.iter().zip(*wanted) {
            assert!(found.starts_with(wanted), "{name}: {found}");
        }
        drop(journal);
        let (again, problems) = Journal::open(dir.path()).unwrap();
        assert_eq!(problems.len(), wanted.len(), "{name}: {problems:?}");
        again.append(entry("later")).unwrap();
        again.append(entry("later still")).unwrap();
        assert!(!flaws(&dir).is_empty(), "{name}: new lines hide the flaw");
    }
}

/// A line whose hash fits what it says.
fn resealed(line: &str) -> String {
    let body = format!("{}}}", &line[..line.rfind(",\"hash\"").unwrap()]);
    let hash: String = Sha256::digest(&body).iter().map(|b| format!("{b:02x}")).collect();
    format!("{},\"hash\":\"{hash}\"}}", body.strip_suffix('}').unwrap())
}

#[test]
fn a_head_that_does_not_fit_is_found() {
    let cases: [(Option<&str>, &str); 4] = [
        (None, "line 5: journal.head is gone"),
        (Some("{"), "line 5: journal.head is damaged"),
        (Some("old"), "line 5: number 5 is the last, but journal.head says that it is 3"),
        (Some(r#"{"seq":5,"hash":"00"}"#), "line 5: journal.head names another line number 5"),
    ];
    for (head, wanted) in cases {
        let (dir, journal) = of(3);
        let path = dir.path().join(HEAD);
        let old = fs::read_to_string(&path).unwrap();
        for n in 4..=5 {
            journal.append(entry(&n.to_string())).unwrap();
        }
        match head {
            None => fs::remove_file(&path).unwrap(),
            Some("old") => fs::write(&path, old).unwrap(),
            Some(text) => fs::write(&path, text).unwrap(),
        }
        let found = flaws(&dir);
        assert!(found.len() == 1 && found[0].starts_with(wanted), "{found:?}");
    }
}

#[test]
fn a_tail_cut_while_the_agent_runs_stays_visible_though_the_head_was_put_back_too() {
    let (dir, journal) = of(3);
    let saved = [FILE, HEAD].map(|name| (name, fs::read(dir.path().join(name)).unwrap()));
    journal.append(entry("the deed")).unwrap();
    for (name, bytes) in saved {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    assert!(flaws(&dir).is_empty(), "from the files alone it cannot be known");
    journal.append(entry("next")).unwrap();
    assert_eq!(
        flaws(&dir),
        ["line 4: number 5 follows number 3: what was between them was removed or moved"]
    );
}

#[test]
fn a_crash_between_line_and_head_is_no_flaw() {
    for lines in [0, 1, 4] {
        let (dir, journal) = of(lines);
        let head = fs::read(dir.path().join(HEAD)).ok();
        journal.append(entry("unnamed")).unwrap();
        match head {
            Some(head) => fs::write(dir.path().join(HEAD), head).unwrap(),
            None => fs::remove_file(dir.path().join(HEAD)).unwrap(),
        }
        drop(journal);
        assert_eq!(flaws(&dir), [""; 0]);
        let (journal, problems) = Journal::open(dir.path()).unwrap();
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(journal.append(entry("next")).unwrap().seq, lines + 2);
        assert_eq!(flaws(&dir), [""; 0]);
    }
}

#[test]
fn a_torn_line_is_put_aside_wherever_it_is_torn() {
    let (dir, journal) = of(2);
    let (whole, head) = (text(&dir), fs::read(dir.path().join(HEAD)).unwrap());
    journal.append(entry("torn")).unwrap();
    let full = text(&dir);
    drop(journal);
    for end in (whole.len() + 1..full.len()).step_by(37) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), &full[..end]).unwrap();
        fs::write(dir.path().join(HEAD), &head).unwrap();
        let torn = (end - whole.len()) as u64;
        assert_eq!(verify(dir.path(), |_| ()).unwrap().torn, torn);
        let (journal, problems) = Journal::open(dir.path()).unwrap();
        let [Problem::Torn { file, bytes }] = &problems[..] else { panic!("{problems:?}") };
        assert_eq!((file.as_str(), *bytes), ("journal.torn-3", torn));
        assert_eq!(fs::read_to_string(dir.path().join(file)).unwrap(), full[whole.len()..end]);
        journal.append(entry("next")).unwrap();
        let mut seen = Vec::new();
        verify(dir.path(), |v| seen.push((v.line.action, v.line.details.clone()))).unwrap();
        assert_eq!(seen[2], (Action::Recover, json!({ "file": "journal.torn-3", "bytes": torn })));
        assert_eq!(seen.len(), 4);
    }
}

#[test]
fn putting_aside_survives_a_crash_in_its_middle() {
    let (dir, journal) = of(2);
    drop(journal);
    // Put aside and cut off, but not journaled.
    fs::write(dir.path().join("journal.torn"), "{\"seq\":3").unwrap();
    let (_, problems) = Journal::open(dir.path()).unwrap();
    assert!(matches!(&problems[..], [Problem::Torn { bytes: 8, .. }]), "{problems:?}");
    assert_eq!(fs::read_to_string(dir.path().join("journal.torn-3")).unwrap(), "{\"seq\":3");
    // Put aside, but not cut off; and the very first line.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FILE), "{\"se").unwrap();
    fs::write(dir.path().join("journal.torn"), "{\"se").unwrap();
    let (_, problems) = Journal::open(dir.path()).unwrap();
    assert!(matches!(&problems[..], [Problem::Torn { bytes: 8, .. }]), "{problems:?}");
    assert_eq!(verify(dir.path(), |_| ()).unwrap().lines, 1);
}

#[test]
fn hostile_text_stays_on_its_line() {
    let (dir, journal) = of(1);
    let hostile = Entry {
        command: Some("a\n{\"seq\":9}\r\x1b[2J\u{9b}\u{202e}".into()),
        details: json!({ "x": "\",\"hash\":\"\n\u{2028}" }),
        ..entry("line 1\nline 2\0")
    };
    let line = journal.append(hostile).unwrap();
    assert_eq!(line.command.as_deref(), Some("a\u{fffd}{\"seq\":9}\u{fffd}\u{fffd}[2J\u{fffd}\u{fffd}"));
    assert_eq!(line.reason.as_deref(), Some("line 1\u{fffd}line 2\u{fffd}"));
    assert_eq!(text(&dir).lines().count(), 2);
    assert!(!text(&dir).contains(|c: char| c.is_control() && c != '\n'));
    assert_eq!(flaws(&dir), [""; 0]);
}

#[test]
fn what_is_too_long_is_cut() {
    let (dir, journal) = of(0);
    for filling in ["x", "\"", "\u{1}", "ä"] {
        let details = json!({ "flows": vec![filling.repeat(100); 2000] });
        let whole = details.to_string();
        let long = Entry { command: Some(filling.repeat(5000)), details, ..entry(&"y".repeat(10_000)) };
        let line = journal.append(long).unwrap();
        assert_eq!(line.details["bytes"], whole.len());
        assert!(whole.starts_with(line.details["cut"].as_str().unwrap()));
        assert_eq!(line.reason.unwrap().chars().count(), 2001);
    }
    assert!(text(&dir).lines().all(|line| (16 << 10..MAX_LINE).contains(&line.len())));
    assert_eq!(flaws(&dir), [""; 0]);
}

/// A disk may be slow to sync for all who wait for their turn.
fn in_turn<T>(mut attempt: impl FnMut() -> Result<T, JournalError>) -> T {
    loop {
        match attempt() {
            Err(JournalError::Locked { .. }) => {}
            done => return done.unwrap(),
        }
    }
}

#[test]
fn several_writers_and_a_reader_do_not_disturb_each_other() {
    let (dir, journal) = of(1);
    let (other, _) = Journal::open(dir.path()).unwrap();
    std::thread::scope(|scope| {
        let writers = [&journal, &other].map(|journal| {
            // In every other one a new process, as `segd detach` is.
            let path = dir.path();
            scope.spawn(move || {
                for n in 0..20 {
                    if n % 2 == 0 {
                        in_turn(|| journal.append(entry("a")));
                    } else {
                        let (own, _) = in_turn(|| Journal::open(path));
                        in_turn(|| own.append(entry("b")));
                    }
                }
            })
        });
        while !writers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            assert_eq!(flaws(&dir), [""; 0]);
        }
    });
    assert_eq!(verify(dir.path(), |_| ()).unwrap().lines, 41);
}

#[test]
fn links_are_not_followed_and_a_held_lock_is_told() {
    let dir = tempfile::tempdir().unwrap();
    symlink("/dev/null", dir.path().join(FILE)).unwrap();
    let error = Journal::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains(FILE) && error.contains("--state-dir"), "{error}");
    let (dir, journal) = of(1);
    let lock = fs::File::open(dir.path().join("journal.lock")).unwrap();
    lock.lock().unwrap();
    let error = journal.append(entry("x")).unwrap_err().to_string();
    assert!(error.contains("another process has held") && error.contains("for 5 seconds"), "{error}");
}

#[test]
fn a_foreign_line_that_is_not_ended_is_ended() {
    let (dir, journal) = of(1);
    let mut junk = text(&dir);
    junk.push_str(&"x".repeat(3 * MAX_LINE));
    fs::write(dir.path().join(FILE), junk).unwrap();
    assert_eq!(journal.append(entry("2")).unwrap().seq, 2);
    assert_eq!(flaws(&dir), ["line 2: longer than 65536 bytes, so segd did not write it"]);
}
