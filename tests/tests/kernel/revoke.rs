//! What becomes of a live flow that a newer policy denies: `on_revoke`. For `drop`, see `modes`.

use std::time::Duration;

use segd_tests::{Actor, Agent, wait_for};

use crate::support::{Pair, SOON, has, record, rule};

/// An error at once, not after a time limit.
const AT_ONCE: Duration = Duration::from_secs(5);

const REVOKED: &[(&str, &str)] = &[("event", "revoke"), ("verdict", "denied"), ("dst.port", "6379")];

fn agent(pair: &Pair, on_revoke: &str) -> Agent {
    let extra = format!("[enforcement]\non_revoke = \"{on_revoke}\"\n");
    pair.transport
        .agent()
        .zones(&pair.zones(&rule("\"tcp/5432\", \"udp/5432\"")))
        .extra(&extra)
        .start()
        .unwrap()
}

/// Whether a program that waits for its peer learns of the end.
fn ended(watcher: &Actor, what: &str) {
    let report = watcher.next_within(AT_ONCE).unwrap_or_else(|e| panic!("{what} still waits: {e}"));
    assert_eq!(report.errno(), Some("ECONNABORTED"), "{what}: {report:?}");
}

fn told(agent: &Agent, fields: &[(&str, &str)]) -> usize {
    agent.flows().unwrap().iter().filter(|r| has(r, fields)).count()
}

#[test]
fn reset_tells_the_application_at_once_also_an_idle_one() {
    let Some(pair) = Pair::new("reset") else { return };
    let _allowed = pair.orders.tcp_server(5432).unwrap();
    let _server = pair.orders.tcp_server(6379).unwrap();
    let _udp = pair.orders.udp_server(6379).unwrap();
    let agent = agent(&pair, "reset");
    let mut allowed = pair.transport.hold(pair.orders.v4_port(5432)).unwrap();
    let idle = [
        ("IPv4", pair.transport.watch(pair.orders.v4_port(6379), &[]).unwrap()),
        ("IPv6", pair.transport.watch(pair.orders.v6_port(6379), &[]).unwrap()),
        ("v4-mapped", pair.transport.watch(pair.orders.mapped_port(6379), &[]).unwrap()),
        ("UDP", pair.transport.watch(pair.orders.v4_port(6379), &["--udp"]).unwrap()),
        ("UDP, IPv6", pair.transport.watch(pair.orders.v6_port(6379), &["--udp"]).unwrap()),
        ("UDP, v4-mapped", pair.transport.watch(pair.orders.mapped_port(6379), &["--udp"]).unwrap()),
    ];
    let mut busy = pair.transport.hold(pair.orders.v4_port(6379)).unwrap();
    assert_eq!(busy.exchange("one").unwrap().text(), Some("one"));

    agent.mode(&["enforce"]).unwrap();
    let cut = busy.exchange("two").unwrap();
    assert!(matches!(cut.errno(), Some("ECONNABORTED" | "EPIPE")), "{cut:?}");
    for (what, watcher) in &idle {
        ended(watcher, what);
    }
    assert_eq!(allowed.exchange("two").unwrap().text(), Some("two"), "a rule allows it");
    record(&agent, &[("event", "revoke"), ("protocol", "udp"), ("process.comm", "lab-actor")]);
    record(&agent, &[("event", "revoke"), ("protocol", "tcp"), ("process.comm", "lab-actor")]);
    let ended = idle.len() + 1;
    wait_for("each end to be told", SOON, || (told(&agent, REVOKED) >= ended).then_some(())).unwrap();

    agent.mode(&["monitor"]).unwrap();
    let again = pair.transport.tcp_connect(pair.orders.v4_port(6379)).unwrap();
    assert_eq!(again.errno(), None, "a new connection is free to begin: {again:?}");
    record(&agent, &[("event", "close"), ("generation", "3")]);
    assert_eq!(told(&agent, REVOKED), ended, "each is told once: {:#?}", agent.flows());
}

#[test]
fn reset_frees_the_peer_of_a_server_too() {
    let Some(pair) = Pair::new("resetin") else { return };
    let zones = pair.zones("");
    let agent = pair.transport.agent().zones(&zones).start().unwrap();
    let _server = pair.transport.tcp_server(6379).unwrap();
    let client = pair.orders.watch(pair.transport.v4_port(6379), &[]).unwrap();
    agent.mode(&["enforce"]).unwrap();
    let report = client.next_within(AT_ONCE).unwrap();
    assert_eq!(report.errno(), Some("ECONNRESET"), "{report:?}");
    record(&agent, &[("event", "revoke"), ("direction", "inbound"), ("src.zone", "orders")]);
}

#[test]
fn reset_reaches_into_other_network_namespaces() {
    let Some(pair) = Pair::new("resetns") else { return };
    let network = pair.lab.host("container").unwrap();
    let container = pair.transport.container(&network);
    let _server = pair.orders.tcp_server(6379).unwrap();
    let older = container.watch(pair.orders.v4_port(6379), &[]).unwrap();
    let agent = agent(&pair, "reset");
    let younger = container.watch(pair.orders.v4_port(6379), &[]).unwrap();
    agent.mode(&["enforce"]).unwrap();
    ended(&younger, "a connection of a container");
    ended(&older, "one that is older than the agent");
}

#[test]
fn keep_lets_it_live_but_nothing_new_begin() {
    let Some(pair) = Pair::new("keep") else { return };
    let _server = pair.orders.tcp_server(6379).unwrap();
    let agent = agent(&pair, "keep");
    let mut held = pair.transport.hold(pair.orders.v4_port(6379)).unwrap();
    assert_eq!(held.exchange("one").unwrap().text(), Some("one"));
    agent.mode(&["enforce"]).unwrap();
    assert_eq!(held.exchange("two").unwrap().text(), Some("two"));
    let refused = pair.transport.tcp_connect(pair.orders.v4_port(6379)).unwrap();
    assert_eq!(refused.errno(), Some("EPERM"));
    drop(held);
    record(&agent, &[("event", "close"), ("reason", "kept"), ("verdict", "allowed")]);
    assert_eq!(told(&agent, &[("event", "revoke")]), 0);
}

#[test]
fn a_connected_socket_that_names_its_peer_goes_on_with_its_flow() {
    let Some(pair) = Pair::new("sendto") else { return };
    let _servers = [pair.orders.udp_server(5432).unwrap(), pair.orders.udp_server(6379).unwrap()];
    let agent = agent(&pair, "keep");
    let hold = |port| pair.transport.actor(&["udp-hold", &pair.orders.v4_port(port).to_string()]).unwrap();
    let (mut allowed, mut kept) = (hold(5432), hold(6379));
    assert_eq!(allowed.exchange("one").unwrap().text(), Some("one"));
    assert_eq!(kept.exchange("one").unwrap().text(), Some("one"));
    agent.mode(&["enforce"]).unwrap();
    assert_eq!(allowed.exchange("two").unwrap().text(), Some("two"));
    assert_eq!(kept.exchange("two").unwrap().text(), Some("two"));
    drop((allowed, kept));
    record(&agent, &[("event", "close"), ("reason", "kept")]);
    record(&agent, &[("event", "close"), ("reason", "rule")]);
    for port in ["5432", "6379"] {
        assert_eq!(told(&agent, &[("event", "open"), ("dst.port", port)]), 1, "{port} is one flow");
    }
}
