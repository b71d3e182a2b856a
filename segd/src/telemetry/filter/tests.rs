use segd_common::event::Kind;

use super::*;
use crate::history::Peer;
use crate::telemetry::record::tests::{denied, event, record};

fn filter(pairs: &[(&str, &str)]) -> Filter {
    let mut filter = Filter::default();
    for (key, value) in pairs {
        filter.set(key, value).unwrap();
    }
    filter
}

/// An allowed flow of a workload's process on `wms-app-1` to tcp/5432.
fn of_workload() -> FlowRecord {
    let mut record = record(&event(Kind::Open));
    record.workload = Some("inventory-bot".into());
    record.subject = "inventory-bot".into();
    record.src.zone = "inventory-bot".into();
    let process = record.process.as_mut().unwrap();
    process.exe = Some("/usr/lib/postgresql/bin/psql".into());
    process.comm = "main".into();
    process.unit = Some("inventory-bot.service".into());
    record
}

#[test]
fn keys_fit_and_their_negations_do_not() {
    for (record, key, value, want) in [
        (record(&denied()), "verdict", "denied", true),
        (record(&denied()), "verdict", "audited, denied", true),
        (record(&denied()), "verdict", "allowed", false),
        (record(&denied()), "event", "deny", true),
        (record(&denied()), "event", "open,close", false),
        (record(&denied()), "reason", "no-rule", true),
        (record(&denied()), "reason", "fragment,rule-expired", false),
        (record(&denied()), "direction", "outbound", true),
        (record(&denied()), "direction", "inbound", false),
        (record(&denied()), "zone", "orders", true),
        (record(&denied()), "zone", "fulfillment", true),
        (record(&denied()), "zone", "ord*,admin", true),
        (record(&denied()), "zone", "admin", false),
        (record(&denied()), "from", "fulfillment", true),
        (record(&denied()), "from", "orders", false),
        (record(&denied()), "from", "10.20.0.7", true),
        (record(&denied()), "to", "orders", true),
        (record(&denied()), "to", "order?", true),
        (record(&denied()), "to", "10.30.0.5", true),
        (record(&denied()), "to", "::ffff:10.30.0.5", true),
        (record(&denied()), "to", "10.30.0.0/16", true),
        (record(&denied()), "to", "10.31.0.0/16,admin", false),
        (record(&denied()), "to", "2001:db8::/32", false),
        (record(&denied()), "address", "10.20.0.7", true),
        (record(&denied()), "address", "10.30.0.0/16", true),
        (record(&denied()), "address", "10.99.0.1", false),
        (record(&denied()), "port", "5432", true),
        (record(&denied()), "port", "tcp/5432", true),
        (record(&denied()), "port", "tcp", true),
        (record(&denied()), "port", "6/*", true),
        (record(&denied()), "port", "53,5432", true),
        (record(&denied()), "port", "udp/5432", false),
        (record(&denied()), "port", "5400-5500", true),
        (record(&denied()), "port", "40000", false),
        (record(&denied()), "protocol", "tcp", true),
        (record(&denied()), "protocol", "6", true),
        (record(&denied()), "protocol", "udp,icmp", false),
        (record(&denied()), "service", "postgres", true),
        (record(&denied()), "service", "redis", false),
        (record(&denied()), "host", "wms-*", true),
        (record(&denied()), "host", "wms", false),
        (record(&denied()), "workload", "*", false),
        (record(&denied()), "process", "*", false),
        (record(&denied()), "rule", "*", false),
        (of_workload(), "rule", "wms-to-orders-db", true),
        (of_workload(), "rule", "orders-*", false),
        (of_workload(), "workload", "inventory-bot", true),
        (of_workload(), "workload", "other-bot", false),
        (of_workload(), "from", "inventory-bot", true),
        (of_workload(), "process", "main", true),
        (of_workload(), "process", "psql", true),
        (of_workload(), "process", "/usr/lib/*/psql", true),
        (of_workload(), "process", "inventory-bot.service", true),
        (of_workload(), "process", "*.service", true),
        (of_workload(), "process", "bin", false),
    ] {
        let wanted = filter(&[(key, value)]);
        assert_eq!(wanted.matches(&record), want, "{key}={value}");
        assert_eq!(Filter::from_query(&wanted.to_query()).as_ref(), Ok(&wanted), "{key}={value}");
        let unwanted = filter(&[(&format!("not-{key}"), value)]);
        assert_eq!(unwanted.matches(&record), !want, "not-{key}={value}");
        assert_eq!(Filter::from_query(&unwanted.to_query()).as_ref(), Ok(&unwanted), "not-{key}={value}");
        if !matches!(key, "event" | "process") {
            let summary = Summary::of(&record);
            assert_eq!(wanted.matches_summary(&summary), want, "{key}={value} of a summary");
            assert_eq!(unwanted.matches_summary(&summary), !want, "not-{key}={value} of a summary");
        }
    }
}

#[test]
fn every_key_is_needed_and_any_value_is_enough() {
    let record = record(&denied());
    for (pairs, want) in [
        (&[][..], true),
        (&[("verdict", "denied"), ("zone", "orders")], true),
        (&[("verdict", "denied"), ("zone", "admin")], false),
        (&[("zone", "admin"), ("zone", "orders")], true),
        (&[("zone", "orders"), ("not-port", "53")], true),
        (&[("zone", "orders"), ("not-port", "53,5432")], false),
        (&[("not-zone", "admin"), ("not-zone", "orders")], false),
    ] {
        assert_eq!(filter(pairs).matches(&record), want, "{pairs:?}");
    }
}

#[test]
fn of_a_summary_what_is_not_known_fits_nothing() {
    let mut summary = Summary::of(&of_workload());
    for (key, value, want) in [
        ("process", "psql", true),
        ("process", "/usr/lib/*", true),
        ("process", "inventory-bot.service", true),
        ("process", "main", false),
        ("event", "close", true),
        ("not-event", "close", true),
    ] {
        assert_eq!(filter(&[(key, value)]).matches_summary(&summary), want, "{key}={value}");
    }
    summary.of.peer = Peer::Others(9);
    assert!(!filter(&[("to", "10.30.0.5")]).matches_summary(&summary));
    assert!(filter(&[("not-to", "10.30.0.5")]).matches_summary(&summary));
    assert!(filter(&[("to", "orders")]).matches_summary(&summary));
}

#[test]
fn a_query_is_read_as_it_was_written() {
    assert_eq!(Filter::default().to_query(), "");
    let filter = filter(&[
        ("verdict", "denied,audited"),
        ("to", "10.1.2.3/8"),
        ("not-port", "tcp/443"),
        ("not-port", "6"),
    ]);
    assert_eq!(filter.to_query(), "verdict=denied%2Caudited&to=10.0.0.0%2F8&not-port=tcp%2F443%2C6");
}

#[test]
fn names_of_zones_are_known() {
    let filter = filter(&[("from", "a,10.0.0.1"), ("not-zone", "b,c*"), ("workload", "d"), ("service", "e")]);
    assert_eq!(filter.names().collect::<Vec<_>>(), ["a", "b", "d"]);
}

#[test]
fn errors_say_what_to_write() {
    for (key, value, want) in [
        ("verdict", "deny", "`deny` is no verdict: it must be one of allowed, audited, denied"),
        ("verdict", "", "`` is no verdict: it must be one of allowed, audited, denied"),
        (
            "from",
            "10.0.0.0/33",
            "`10.0.0.0/33` is neither a zone, an address nor a CIDR; examples: orders, 10.0.0.7, 10.0.0.0/8",
        ),
        (
            "to",
            "10.0.0",
            "`10.0.0` is neither a zone, an address nor a CIDR; examples: orders, 10.0.0.7, 10.0.0.0/8",
        ),
        (
            "not-address",
            "orders",
            "`orders` is neither an address nor a CIDR; examples: 10.0.0.7, 10.0.0.0/8, 2001:db8::/32",
        ),
        (
            "port",
            "70000",
            "`70000` is no port: `70000` is no number from 0 to 65535; examples: 5432, tcp/5432, udp/4000-4010, icmp",
        ),
        (
            "port",
            "9-1",
            "`9-1` is no port: the range ends before it begins; examples: 5432, tcp/5432, udp/4000-4010, icmp",
        ),
        (
            "port",
            "tpc/1",
            "`tpc/1` is no port: `tpc` is no protocol (known: icmp, tcp, udp, icmpv6, sctp, udplite, raw, or a number); \
             examples: 5432, tcp/5432, udp/4000-4010, icmp",
        ),
        (
            "protocol",
            "tpc",
            "`tpc` is no protocol; known: icmp, tcp, udp, icmpv6, sctp, udplite, raw, or a number from 0 to 255",
        ),
        ("service", "", "`` is no name of a service"),
        ("process", "a\x1b", "`a\u{fffd}` is no name of a process"),
        (
            "not-prot",
            "1",
            "unknown filter `not-prot`: the filters are verdict, zone, from, to, workload, address, port, protocol, \
             service, process, direction, event, reason, rule, host, each also with `not-` before it",
        ),
    ] {
        assert_eq!(Filter::default().set(key, value).unwrap_err().to_string(), want);
    }
}
