//! The whole command on the demo estate: flows that were recorded, and zone files that somebody broke.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::Parser;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../zones/demo");

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    whatif: Whatif,
}

/// Zone files, a log of both ends and a configuration in a directory of their own.
struct Bench {
    dir: TempDir,
}

/// Address of a host, by name.
fn ip(host: &str) -> &str {
    match host {
        "orders-1" => "10.77.1.10",
        "wms-1" => "10.77.2.10",
        "wms-2" => "10.77.2.200",
        "tms-1" => "10.77.3.10",
        "gateway" => "10.77.4.10",
        _ => "192.0.2.7",
    }
}

fn zone(host: &str) -> &str {
    match host.split_once('-').map_or(host, |(head, _)| head) {
        "orders" => "orders",
        "wms" => "fulfillment",
        "tms" => "transport",
        "gateway" => "partner",
        _ => "unknown",
    }
}

/// `time client server port rule`, as one end of it records it; without a rule it is audited.
fn record(flow: &str, at_client: bool) -> Value {
    let words: Vec<&str> = flow.split_whitespace().collect();
    let [time, client, server, port, rule] = words[..] else { panic!("{flow}") };
    let rule = (rule != "-").then_some(rule);
    let (host, comm) = if at_client { (client, "java") } else { (server, "server") };
    let port: u16 = port.parse().unwrap();
    json!({
        "schema": 1, "time": format!("2026-11-{time}:00Z"), "host": host, "labels": {}, "event": "open",
        "verdict": if rule.is_some() { "allowed" } else { "audited" },
        "reason": if rule.is_some() { "rule" } else { "no-rule" },
        "direction": if at_client { "outbound" } else { "inbound" }, "protocol": "tcp",
        "src": { "ip": ip(client), "port": 40000, "zone": zone(client) },
        "dst": { "ip": ip(server), "port": port, "zone": zone(server) },
        "service": "other", "rule": rule, "rule_owner": null, "generation": 1, "subject": zone(host),
        "workload": null, "count": 1, "packets": { "in": 0, "out": 0 }, "bytes": { "in": 0, "out": 0 },
        "duration_ms": null, "rtt_us": null, "retransmits": null,
        "process": { "pid": 7, "comm": comm, "exe": format!("/usr/bin/{comm}"), "unit": null, "uid": 1 },
    })
}

const FLOWS: [&str; 9] = [
    "20T10:00 wms-1 orders-1 5432 wms-to-orders-db",
    "20T10:05 wms-1 orders-1 5432 wms-to-orders-db",
    "20T11:00 wms-2 orders-1 5432 wms-to-orders-db",
    "20T11:00 orders-1 wms-1 6379 orders-to-stock",
    "20T12:00 orders-1 tms-1 8080 orders-to-freight",
    "20T12:00 wms-1 tms-1 8080 wms-to-freight",
    "20T13:00 gateway tms-1 8080 partner-to-freight",
    "01T13:00 gateway tms-1 9000 -",
    "20T13:30 elsewhere tms-1 22 -",
];

impl Bench {
    /// The demo's zone files, each part of `edits` replaced by the other.
    fn new(edits: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("zones")).unwrap();
        for file in ["10-zones.toml", "20-rules.toml"] {
            let mut text = fs::read_to_string(Path::new(DEMO).join(file)).unwrap();
            for (from, to) in edits {
                text = text.replace(from, to);
            }
            fs::write(dir.path().join("zones").join(file), text).unwrap();
        }
        let mut log = String::new();
        for flow in FLOWS {
            for at_client in [true, false] {
                // Only hosts with segd record, and the gateway is another's.
                if !(at_client && (flow.contains("gateway ") || flow.contains("elsewhere "))) {
                    let _ = writeln!(log, "{}", record(flow, at_client));
                }
            }
        }
        fs::write(dir.path().join("flows.jsonl"), log).unwrap();
        fs::write(dir.path().join("segd.toml"), "").unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn report(&self, more: &[&str]) -> Result<Report, Failure> {
        let (zones, log, config) = (self.path("zones"), self.path("flows.jsonl"), self.path("segd.toml"));
        let line = ["whatif", &zones, "--config", &config, "--before", DEMO, "--input", &log];
        let line = Line::try_parse_from(line.iter().chain(more)).unwrap();
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(line.whatif.report())
    }

    fn text(&self, more: &[&str], limit: usize) -> (bool, String) {
        let mut report = self.report(more).unwrap_or_else(|failure| panic!("{}", failure.message));
        report.comparison.limit(limit);
        let text = text::render(&report, limit, &TimeZone::UTC);
        (report.breaks, text.replace(&self.path(""), ""))
    }
}

const ENFORCE: &str = "\n[[rollout]]\nmode = \"enforce\"\n\n# True whoever edits the rules above.";

/// Somebody narrows a prefix, closes a port, drops a rule, and enforces.
const BROKEN: [(&str, &str); 4] = [
    ("10.77.2.0/24", "10.77.2.0/25"),
    ("tcp/6379", "tcp/6380"),
    ("id = \"partner-to-freight\"\nfrom = \"partner\"", "id = \"other\"\nfrom = \"orders\""),
    ("\n# True whoever edits the rules above.", ENFORCE),
];

#[test]
fn the_demo_as_it_is_breaks_nothing() {
    let (breaks, text) = Bench::new(&[]).text(&[], LINES);
    assert_eq!(text, include_str!("tests/same.txt").trim_end(), "{text}");
    assert!(!breaks);
}

#[test]
fn what_a_broken_copy_breaks_is_named() {
    let bench = Bench::new(&BROKEN);
    let (breaks, text) = bench.text(&[], LINES);
    assert_eq!(text, include_str!("tests/broken.txt").trim_end(), "{text}");
    assert!(breaks);
    let (_, text) = bench.text(&[], 1);
    assert!(text.contains("\n... and 3 more\n"), "{text}");
}

#[test]
fn without_enforcement_a_copy_breaks_when_it_is_asked_as_if() {
    let bench = Bench::new(&BROKEN[..3]);
    assert!(!bench.report(&[]).unwrap_or_else(|f| panic!("{}", f.message)).breaks);
    assert!(bench.report(&["--as-if-enforced"]).unwrap_or_else(|f| panic!("{}", f.message)).breaks);
}

#[test]
fn where_nothing_was_seen_nothing_is_said() {
    let nothing = Bench::new(&BROKEN).report(&["--port", "9"]).map(|_| ());
    let failure = nothing.err().unwrap();
    assert_eq!((failure.code, failure.message.as_str()), (2, NOTHING));
}

#[test]
fn the_json_is_stable() {
    let report = Bench::new(&BROKEN).report(&[]).unwrap_or_else(|f| panic!("{}", f.message));
    let json = serde_json::to_value(&report).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(
        keys(&json),
        "as_if_enforced at breaks dir first hash hosts if_enforced last live newly_allowed newly_audited \
         newly_denied observed recent_since schema unchanged undecided warnings"
    );
    assert_eq!((json["schema"].as_u64(), json["breaks"].as_bool()), (Some(1), Some(true)));
    let denied = &json["newly_denied"];
    assert_eq!(keys(denied), "conversations flows lines more_lines recent_conversations rules");
    assert_eq!(
        keys(&denied["rules"][0]),
        "conversations defined first flows hosts last owner recent_conversations rule"
    );
    let lines = denied["lines"].as_array().unwrap();
    let line = lines.iter().find(|line| line["port"] == 6379).unwrap();
    assert_eq!(
        keys(line),
        "approximate at conversations first flows from from_owner hosts last now peers port processes protocol \
         reason recent_conversations rule rule_before rule_before_owner rule_owner service to to_owner was"
    );
    for (key, wanted) in [
        ("from", json!("orders")),
        ("to", json!("fulfillment")),
        ("was", json!("allowed")),
        ("now", json!("denied")),
        ("at", json!("both")),
        ("rule_before_owner", json!("wms-platform@example.com")),
        ("peers", json!({ "count": 1, "some": ["10.77.2.10"] })),
    ] {
        assert_eq!(line[key], wanted, "{key}");
    }
    assert_eq!(
        json["hosts"]["wms-2"],
        json!({ "by": "recorded", "was": "fulfillment", "zone": "fulfillment" })
    );
}

#[test]
fn bad_zone_files_are_bad_input() {
    for (edit, wanted) in [
        (("services = [\"redis\"]", "services = [\"rediss\"]"), "error: unknown service `rediss`"),
        (("deny = [\"postgres\", \"tcp/22\"]", "allow = [\"postgres\"]"), "[[test]]"),
    ] {
        let failure = Bench::new(&[edit]).report(&[]).err().unwrap();
        assert_eq!(failure.code, 2);
        assert!(
            failure.message.contains("20-rules.toml:") || failure.message.contains(wanted),
            "{}",
            failure.message
        );
    }
    let bench = Bench::new(&[]);
    fs::remove_dir_all(bench.path("zones")).unwrap();
    assert_eq!(bench.report(&[]).err().unwrap().code, 2);
}

#[test]
fn what_expires_until_an_instant_is_seen_before() {
    let edits = [("id = \"orders-to-stock\"", "id = \"orders-to-stock\"\nexpires = 2099-01-01"), BROKEN[3]];
    let bench = Bench::new(&edits);
    assert!(!bench.text(&[], LINES).0);
    let (breaks, text) = bench.text(&["--at", "2099-01-01T00:00:00Z"], LINES);
    assert!(breaks && text.contains("rule-expired orders-to-stock  both ends"), "{text}");
}

#[test]
fn text_of_others_cannot_move_the_cursor() {
    let bench = Bench::new(&BROKEN);
    let log = fs::read_to_string(bench.path("flows.jsonl")).unwrap();
    fs::write(bench.path("flows.jsonl"), log.replace("/usr/bin/java", "/bin/\\u001b[2Jx")).unwrap();
    let (_, text) = bench.text(&[], LINES);
    assert!(text.contains("/bin/\u{fffd}[2Jx") && !text.contains('\u{1b}'), "{text}");
}
