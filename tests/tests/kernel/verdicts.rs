//! Allowed, audited and denied, for TCP and UDP over IPv4 and IPv6, at the client and at the server: each time
//! the errno or the silence, the record, and the counter.

use std::net::SocketAddr;

use crate::support::{ENFORCE, Pair, SOON, counted, has, record, rule};
use segd_tests::{Agent, Host, Report, TIMEOUT};

/// Which end has the agent.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Client,
    Server,
}

struct Case {
    protocol: &'static str,
    /// The server as the client names it.
    to: fn(&Host, u16) -> SocketAddr,
    connect: fn(&Host, SocketAddr) -> anyhow::Result<Report>,
}

const CASES: [Case; 7] = [
    Case { protocol: "tcp", to: Host::v4_port, connect: Host::tcp_connect },
    Case { protocol: "tcp", to: Host::v6_port, connect: Host::tcp_connect },
    Case { protocol: "tcp", to: Host::mapped_port, connect: Host::tcp_connect },
    Case { protocol: "udp", to: Host::v4_port, connect: Host::udp_send },
    Case { protocol: "udp", to: Host::v6_port, connect: Host::udp_send },
    Case { protocol: "udp", to: Host::mapped_port, connect: Host::udp_send },
    Case { protocol: "udp", to: Host::v4_port, connect: Host::udp_connected },
];

const ALLOWED: u16 = 5432;
const OTHER: u16 = 6379;

fn services(protocol: &str) -> String {
    format!("[service.database]\nports = [\"{protocol}/{ALLOWED}\"]\n")
}

/// Runs every case from transport to orders, with the agent at one end.
fn each(name: &str, end: End, rest: &str, check: impl Fn(&Agent, &Case, &dyn Fn(u16) -> Report, u64)) {
    for (number, case) in CASES.iter().enumerate() {
        let Some(pair) = Pair::new(&format!("{name}{number}")) else { return };
        let zones = format!("{}{}{rest}", services(case.protocol), rule("\"database\""));
        let agent = pair.agent(if end == End::Client { &pair.transport } else { &pair.orders }, &zones);
        let _servers = [ALLOWED, OTHER].map(|port| match case.protocol {
            "tcp" => pair.orders.tcp_server(port).unwrap(),
            _ => pair.orders.udp_server(port).unwrap(),
        });
        let connect = |port| (case.connect)(&pair.transport, (case.to)(&pair.orders, port)).unwrap();
        check(&agent, case, &connect, number as u64);
    }
}

/// Direction of the flow as the agent sees it.
fn direction(end: End) -> &'static str {
    if end == End::Client { "outbound" } else { "inbound" }
}

fn flows(agent: &Agent, end: End, case: &Case, verdict: &str, service: &str, wanted: f64) {
    let labels = [
        ("direction", direction(end)),
        ("src_zone", "transport"),
        ("dst_zone", "orders"),
        ("protocol", case.protocol),
        ("service", service),
        ("verdict", verdict),
    ];
    counted(agent, "segd_flows_total", &labels, wanted);
}

fn allowed(end: End) {
    each("allow", end, ENFORCE, |agent, case, connect, _| {
        let outcome = connect(ALLOWED);
        assert_eq!(outcome.errno(), None, "{outcome:?}");
        let facts = [
            ("event", "open"),
            ("verdict", "allowed"),
            ("reason", "rule"),
            ("rule", "transport-to-orders"),
            ("rule_owner", "orders-team"),
            ("direction", direction(end)),
            ("protocol", case.protocol),
            ("service", "database"),
            ("src.zone", "transport"),
            ("dst.zone", "orders"),
            ("dst.port", "5432"),
            ("process.comm", "lab-actor"),
        ];
        record(agent, &facts);
        flows(agent, end, case, "allowed", "database", 1.0);
        counted(agent, "segd_rule_hits_total", &[("rule", "transport-to-orders")], 1.0);
        if case.protocol == "tcp" || end == End::Client {
            let close = record(agent, &[("event", "close"), ("dst.port", "5432")]);
            let bytes = |way: &str| close["bytes"][way].as_u64().unwrap();
            assert!(bytes("in") > 0 && bytes("out") > 0, "{close}");
        }
    });
}

#[test]
fn allowed_at_the_client() {
    allowed(End::Client);
}

#[test]
fn allowed_at_the_server() {
    allowed(End::Server);
}

fn audited(end: End) {
    each("audit", end, "", |agent, case, connect, _| {
        let outcome = connect(OTHER);
        assert_eq!(outcome.errno(), None, "monitor mode lets everything pass: {outcome:?}");
        let facts = [
            ("event", "open"),
            ("verdict", "audited"),
            ("reason", "no-rule"),
            ("rule", "null"),
            ("direction", direction(end)),
            ("protocol", case.protocol),
            ("dst.port", "6379"),
        ];
        record(agent, &facts);
        flows(agent, end, case, "audited", "other", 1.0);
    });
}

#[test]
fn audited_at_the_client() {
    audited(End::Client);
}

#[test]
fn audited_at_the_server() {
    audited(End::Server);
}

#[test]
fn denied_at_the_client_with_eperm_at_once() {
    each("deny", End::Client, ENFORCE, |agent, case, connect, _| {
        let outcome = connect(OTHER);
        assert_eq!(outcome.errno(), Some("EPERM"), "{outcome:?}");
        let facts = [
            ("event", "deny"),
            ("verdict", "denied"),
            ("reason", "no-rule"),
            ("direction", "outbound"),
            ("protocol", case.protocol),
            ("src.zone", "transport"),
            ("dst.zone", "orders"),
            ("dst.port", "6379"),
            ("process.comm", "lab-actor"),
        ];
        record(agent, &facts);
        flows(agent, End::Client, case, "denied", "other", 1.0);
    });
}

#[test]
fn denied_at_the_server_by_silence() {
    each("drop", End::Server, ENFORCE, |agent, case, connect, _| {
        let outcome = connect(OTHER);
        assert_eq!(outcome.errno(), Some(TIMEOUT), "{outcome:?}");
        let facts = [
            ("event", "deny"),
            ("verdict", "denied"),
            ("direction", "inbound"),
            ("protocol", case.protocol),
            ("dst.port", "6379"),
        ];
        let deny = record(agent, &facts);
        assert!(has(&deny, &[("process.comm", "lab-actor")]), "the listener is named: {deny}");
        let labels = [("direction", "inbound"), ("service", "other"), ("verdict", "denied")];
        let denied =
            agent.wait_metrics("denials", SOON, |m| m.sum("segd_flows_total", &labels) >= 1.0).unwrap();
        assert!(denied.sum("segd_packets_total", &labels) >= 1.0);
        flows(agent, End::Server, case, "allowed", "database", 0.0);
    });
}

/// What a live connection has carried is in the counters when they are read, and once only.
#[test]
fn packets_are_counted_while_a_connection_lives_and_add_up_when_it_has_ended() {
    let Some(pair) = Pair::new("live-counts") else { return };
    let agent = pair.agent(&pair.transport, &format!("{}{ENFORCE}", rule("\"tcp/5432\"")));
    let _server = pair.orders.tcp_server(5432).unwrap();
    let mut held = pair.transport.hold(pair.orders.v4_port(5432)).unwrap();
    let carried = |name: &str| agent.metrics().unwrap().sum(name, &[("direction", "outbound")]);
    let mut before = 0.0;
    for text in ["one", "two", "three"] {
        assert_eq!(held.exchange(text).unwrap().text(), Some(text));
        let now = carried("segd_packets_total");
        assert!(now >= before + 2.0, "one packet each way at least: {before}, then {now}");
        before = now;
    }
    let other_rule = pair.zones(&format!("{}{ENFORCE}", rule("\"tcp/5432\"").replace("to-", "2-")));
    agent.write_zones(&other_rule).unwrap();
    assert!(agent.segd(&["apply", "--force"]).unwrap().status.success());
    assert_eq!(held.exchange("four").unwrap().text(), Some("four"));
    drop(held);
    let close = record(&agent, &[("event", "close"), ("dst.port", "5432")]);
    for (metric, field) in [("segd_packets_total", "packets"), ("segd_bytes_total", "bytes")] {
        let told = ["in", "out"].iter().filter_map(|way| close[field][*way].as_f64()).sum::<f64>();
        assert_eq!(carried(metric), told, "{metric}");
    }
}
