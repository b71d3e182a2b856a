use clap::Parser;
use jiff::tz::TimeZone;
use segd_common::event::Kind;
use segd_common::traffic::{Direction, Reason, Verdict};

use super::*;
use crate::history::{Peer, Summary};
use crate::telemetry::FlowRecord;
use crate::telemetry::line::LineStyle;
use crate::telemetry::record::tests::{denied, event, record};

fn records() -> Vec<FlowRecord> {
    let mut refused = record(&denied());
    refused.host = "wms-\x1b]0;x\x07".into();
    let mut unknown = record(&event(Kind::Open));
    (unknown.verdict, unknown.reason, unknown.rule) = (Verdict::Audited, Reason::NoRule, None);
    (unknown.direction, unknown.service) = (Direction::Inbound, "other".into());
    (unknown.src.zone, unknown.subject) = ("unknown".into(), "orders".into());
    let mut expired = refused.clone();
    (expired.reason, expired.rule) = (Reason::Expired, Some("old\u{202e}rule".into()));
    vec![record(&event(Kind::Close)), refused.clone(), unknown, refused, expired]
}

fn printed(format: Format, explain: bool, several: bool, sums: bool) -> String {
    let style = LineStyle { colour: false, time_zone: TimeZone::UTC, dated: several, host: several };
    let mut out = Vec::new();
    let mut printer = Printer::with(&mut out, format, explain, style, true);
    let records = records();
    let mut many = Summary::of(&records[1]);
    (many.of.peer, many.flows, many.bytes.sent) = (Peer::Others(999_000), 1_200_345, 5 << 30);
    let printing = if sums {
        let summaries = [Summary::of(&records[0]), Summary::of(&records[2]), many];
        summaries.iter().try_for_each(|summary| printer.sums(summary))
    } else {
        records.iter().try_for_each(|record| printer.record(record))
    };
    assert!(printing.is_ok() && printer.end("nothing").is_ok_and(|code| code == 0));
    String::from_utf8(out).unwrap()
}

#[test]
fn a_table_of_records_tells_what_is_needed() {
    let want = r#"
TIME          VERDICT  DIR  FROM -> TO                    SERVER                  SERVICE       RULE OR REASON      PROCESS
00:01:30.500  allowed  out  fulfillment -> orders         10.30.0.5:5432          postgres      wms-to-orders-db    psql[1234]  closed after 2500 ms, 4096 B in, 900 B out
00:01:30.500  denied   out  fulfillment -> orders         10.30.0.5:5432          postgres      no-rule             -  x3  needs [[allow]] from = "fulfillment", to = "orders", services = ["postgres"]
00:01:30.500  audited  in   unknown -> orders             10.30.0.5:5432          other         no-rule             psql[1234]  needs [[allow]] from = "unknown", to = "orders", services = ["tcp/5432"]
00:01:30.500  denied   out  fulfillment -> orders         10.30.0.5:5432          postgres      no-rule             -  x3  needs [[allow]] from = "fulfillment", to = "orders", services = ["postgres"]
00:01:30.500  denied   out  fulfillment -> orders         10.30.0.5:5432          postgres      old�rule            -  x3  rule `old�rule` has expired: give it a later `expires`
"#;
    assert_eq!(printed(Format::Table, false, false, false), want.trim_start());
}

#[test]
fn an_explanation_is_ready_for_a_zone_file_and_told_once() {
    let want = r#"
00:01:30 allowed outbound fulfillment -> orders 10.30.0.5:5432 postgres wms-to-orders-db psql[1234]  closed after 2500 ms, 4096 B in, 900 B out
00:01:30 denied outbound fulfillment -> orders 10.30.0.5:5432 postgres no-rule -  x3
    # decided by the client's host
    [[allow]]
    id = "fulfillment-to-orders-postgres"
    from = "fulfillment"
    to = "orders"
    services = ["postgres"]
00:01:30 audited inbound unknown -> orders 10.30.0.5:5432 other no-rule psql[1234]
    # decided by the server's host
    # `unknown` is every address that no zone claims: rather put it into a zone
    [[allow]]
    id = "unknown-to-orders-tcp-5432"
    from = "unknown"
    to = "orders"
    services = ["tcp/5432"]
00:01:30 denied outbound fulfillment -> orders 10.30.0.5:5432 postgres no-rule -  x3
00:01:30 denied outbound fulfillment -> orders 10.30.0.5:5432 postgres old�rule -  x3
    # rule `old�rule` has expired: give it a later `expires`
"#;
    assert_eq!(printed(Format::Compact, true, false, false), want.trim_start());
}

#[test]
fn lines_of_several_hosts_name_day_and_host() {
    let table = printed(Format::Table, false, true, false);
    let lines: Vec<_> = table.lines().take(3).map(|line| &line[..line.floor_char_boundary(52)]).collect();
    let want = [
        "TIME                     HOST            VERDICT  DI",
        "2026-01-01 00:01:30.500  wms-app-1       allowed  ou",
        "2026-01-01 00:01:30.500  wms-�]0;x�      denied ",
    ];
    assert_eq!(lines, want);
    let compact = printed(Format::Compact, false, true, false);
    assert!(compact.starts_with("2026-01-01 00:01:30 wms-app-1 allowed outbound fulfillment"), "{compact}");
}

#[test]
fn json_is_a_record_with_what_it_needs() {
    let json = printed(Format::Json, true, false, false);
    let lines: Vec<_> = json.lines().collect();
    for (line, record) in lines.iter().zip(records()) {
        assert_eq!(serde_json::from_str::<FlowRecord>(line).unwrap(), record, "a record, as it came");
    }
    assert_eq!(*lines[0], serde_json::to_string(&records()[0]).unwrap());
    let needed = r#","needed":{"from":"unknown","to":"orders","services":["tcp/5432"],"side":"inbound"}}"#;
    assert!(lines[2].ends_with(needed), "{}", lines[2]);
    assert!(
        lines[4].ends_with(r#","help":"rule `old�rule` has expired: give it a later `expires`"}"#),
        "{}",
        lines[4]
    );
    assert_eq!(lines.len(), 5);
}

#[test]
fn sums_of_an_hour() {
    let want = r#"
HOUR            VERDICT  DIR  FROM -> TO                    PEER                    SERVICE                   FLOWS    RECEIVED        SENT  RULE OR REASON      PROCESS
2026-01-01 00h  allowed  out  fulfillment -> orders         10.30.0.5               postgres tcp/5432             0    4.00 KiB       900 B  wms-to-orders-db    psql
2026-01-01 00h  audited  in   unknown -> orders             10.20.0.7               tcp/5432                      1         0 B         0 B  no-rule             psql  needs [[allow]] from = "unknown", to = "orders", services = ["tcp/5432"]
2026-01-01 00h  denied   out  fulfillment -> orders         and 999,000 more peers  postgres tcp/5432     1,200,345         0 B    5.00 GiB  no-rule             -  needs [[allow]] from = "fulfillment", to = "orders", services = ["postgres"]
"#;
    assert_eq!(printed(Format::Table, false, false, true), want.trim_start());
    let want = "\
2026-01-01 00h allowed outbound fulfillment -> orders postgres tcp/5432 x0 10.30.0.5 wms-to-orders-db psql
2026-01-01 00h audited inbound unknown -> orders tcp/5432 x1 10.20.0.7 no-rule psql
2026-01-01 00h denied outbound fulfillment -> orders postgres tcp/5432 x1200345 and 999,000 more peers no-rule -
";
    assert_eq!(printed(Format::Compact, false, false, true), want);
    let json = printed(Format::Json, false, false, true);
    assert_eq!(json.matches(r#""needed":{"from":"#).count(), 2, "{json}");
    assert!(json.lines().all(|line| serde_json::from_str::<Summary>(line).is_ok()), "{json}");
}

#[derive(Parser)]
struct Only {
    #[command(flatten)]
    flows: Flows,
}

#[test]
fn options_that_exclude_each_other() {
    for (line, good) in [
        ("flows -f --not --port 53 -n 3", true),
        ("flows -f --since 10m", true),
        ("flows --since 2h --until 1h --hourly -o compact", true),
        ("flows --input a.jsonl b.jsonl --explain", true),
        ("flows -f --input a.jsonl", false),
        ("flows -f --hourly", false),
        ("flows -f --until 1h", false),
        ("flows --since yesterday", false),
        ("flows --verdict deny", false),
    ] {
        assert_eq!(Only::try_parse_from(line.split(' ')).is_ok(), good, "{line}");
    }
}
