//! Whatever somebody writes into the name of a process, a unit, a label or a zone, it stays what it is: text in a field.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::{Output, journald, syslog};
use super::*;
use crate::telemetry::line;
use crate::telemetry::record::Process;
use crate::telemetry::text::{is_tricky, printable};
use segd_common::event::Kind;

const PIECES: [&str; 24] = [
    "\n",
    "\r\n",
    "\0",
    "\x1b[2J\x1b]0;x\x07",
    "\u{9b}31m",
    "\u{85}",
    "\u{2028}",
    "\u{202e}",
    "\u{feff}",
    "\x7f",
    "<34>1 2026-01-01T00:00:00Z evil su - ID47 - ",
    "[a@1 b=\"c\"]",
    "]",
    "\"",
    "\\",
    "\\u000a",
    " ",
    "-",
    "MESSAGE=gone",
    "PRIORITY\n\x01\0\0\0\0\0\0\09\n",
    "_UID=0",
    "12 <1>1 ",
    "ö😀",
    "{\"verdict\":\"allowed\"}",
];

fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![prop::sample::select(&PIECES[..]).prop_map(str::to_owned), ".{0,8}"];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// Now and then longer than a syslog message may be.
fn long_text() -> impl Strategy<Value = String> {
    (text(), prop_oneof![8 => Just(1_usize), 1 => Just(200)]).prop_map(|(text, times)| text.repeat(times))
}

prop_compose! {
    fn hostile()(
        texts in prop::array::uniform8(text()),
        (comm, exe, unit) in (long_text(), long_text(), long_text()),
        labels in prop::collection::btree_map(text(), text(), 0..4),
        kind in prop::sample::select(Kind::ALL),
    ) -> FlowRecord {
        let mut event = if kind == Kind::Deny { denied() } else { event(kind) };
        event.count = 1;
        event.kind = if kind == Kind::Summary { Kind::Open as u8 } else { kind as u8 };
        let [host, from, to, service, rule, owner, subject, workload] = texts.map(Arc::<str>::from);
        let mut record = record(&event);
        record.event = kind;
        record.labels = Arc::new(labels.into_iter().collect::<BTreeMap<_, _>>());
        (record.src.zone, record.dst.zone) = (from, to);
        (record.host, record.service, record.subject) = (host, service, subject);
        (record.rule, record.rule_owner, record.workload) = (Some(rule), Some(owner), Some(workload));
        let (comm, exe, unit) = (comm.into(), Some(exe.into()), Some(unit.into()));
        record.process = Some(Process { pid: 1, comm, exe, unit, uid: 0 });
        record
    }
}

fn clean(text: &str) -> bool {
    !text.chars().any(is_tricky)
}

struct Lines;

impl Output for Lines {
    fn write(&mut self, _: &super::super::Pending) -> super::super::Written {
        unreachable!("encodes only")
    }
}

fn encoded(output: &impl Output, record: &FlowRecord) -> Vec<u8> {
    let mut bytes = Vec::new();
    output.encode(record, &mut bytes).unwrap();
    bytes
}

proptest! {
    #[test]
    fn a_line_of_json_is_one_line(record in hostile()) {
        let text = String::from_utf8(encoded(&Lines, &record)).unwrap();
        let line = text.strip_suffix('\n').unwrap();
        prop_assert!(clean(line), "{line:?}");
        prop_assert_eq!(serde_json::from_str::<FlowRecord>(line).unwrap(), record);
    }

    #[test]
    fn a_line_for_people_is_one_line(record in hostile()) {
        let line = line::message(&record);
        prop_assert!(clean(&line), "{line:?}");
    }

    #[test]
    fn a_syslog_message_is_one_message(records in prop::collection::vec(hostile(), 1..4)) {
        let local = syslog::Syslog::to("unix:/dev/log");
        let stream = syslog::Syslog::to("tcp://localhost");
        let mut all = Vec::new();
        for record in &records {
            let bytes = encoded(&local, record);
            let message = Message::parse(&bytes);
            let severity = match record.event {
                Kind::Deny | Kind::Revoke => 4,
                Kind::Open | Kind::Close | Kind::Summary => 6,
            };
            prop_assert_eq!(message.priority, 3 * 8 + severity);
            prop_assert_eq!(&*message.id, record.event.name());
            prop_assert!(message.host.bytes().all(|b| b.is_ascii_graphic()));
            if message.record == *record {
                prop_assert!(bytes.len() <= 8192);
            } else {
                // Shortened, in what is told of the process and the labels alone.
                let told = message.record;
                prop_assert!(told.labels.is_empty() && told.process.is_some());
                let (labels, process) = (Arc::clone(&record.labels), record.process.clone());
                prop_assert_eq!(&FlowRecord { labels, process, ..told }, record);
            }
            all.extend(encoded(&stream, record));
        }
        let (messages, rest) = octet_counted(&all);
        prop_assert_eq!((messages.len(), rest.len()), (records.len(), 0));
        for (message, record) in messages.iter().zip(&records) {
            prop_assert_eq!(Message::parse(message).record.time, record.time);
        }
    }

    #[test]
    fn a_journal_entry_has_the_fields_of_segd_only(record in hostile()) {
        let mut bytes = Vec::new();
        journald::entry(&record, &mut bytes).unwrap();
        let mut once = BTreeMap::new();
        for (name, value) in journald::tests::parse(&bytes) {
            let value = String::from_utf8(value).unwrap();
            prop_assert!(clean(&value), "{name}={value:?}");
            if !name.starts_with("SEGD_LABELS_") {
                prop_assert_eq!(once.insert(name, value), None);
            }
        }
        let host = once["SEGD_HOST"].clone();
        prop_assert_eq!(host, printable(&record.host));
        let told: FlowRecord = serde_json::from_str(&once["SEGD_RECORD"]).unwrap();
        prop_assert_eq!(&told, &record);
        once.retain(|name, _| !name.starts_with("SEGD_"));
        prop_assert_eq!(once.into_keys().collect::<Vec<_>>(), ["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER"]);
    }
}
