//! Break-glass: a rule for a limited time.

use std::time::Duration;

use nix::sys::signal::Signal;
use segd_tests::wait_for;

use crate::confirm::{actions, journal};
use crate::support::{ENFORCE, Pair, SOON, record, rule};

const ADD: [&str; 12] = [
    "exception",
    "add",
    "--from",
    "transport",
    "--to",
    "orders",
    "--services",
    "tcp/5432",
    "--owner",
    "on-call",
    "--reason",
    "INC-42",
];

#[test]
fn an_exception_is_there_at_once_and_gone_by_itself() {
    let Some(pair) = Pair::new("exception") else { return };
    let mut agent = pair.agent(&pair.transport, &format!("{}{ENFORCE}", rule("\"tcp/22\"")));
    let _server = pair.orders.tcp_server(5432).unwrap();
    let errno = || {
        let outcome = pair.transport.tcp_connect(pair.orders.v4_port(5432)).unwrap();
        outcome.errno().map(str::to_owned)
    };
    assert_eq!(errno().as_deref(), Some("EPERM"));
    let added = agent.json(&[&ADD[..], &["--ttl", "1h"]].concat()).unwrap();
    let id = added["exception"]["id"].as_str().unwrap().to_owned();
    assert_eq!(errno(), None);
    record(&agent, &[("event", "open"), ("rule", &format!("exception/{id}")), ("verdict", "allowed")]);

    agent.write_zones(&pair.zones(&format!("{}{ENFORCE}", rule("\"tcp/23\"")))).unwrap();
    agent.json(&["apply"]).unwrap();
    assert_eq!(errno(), None, "it outlives a load");
    agent.json(&["rollback"]).unwrap();
    assert_eq!(errno(), None, "and a rollback");
    agent.kill(Signal::SIGKILL).unwrap();
    agent = agent.restart().unwrap();
    assert_eq!(errno(), None, "and the agent");
    assert_eq!(agent.json(&["exception", "list"]).unwrap()[0]["id"], id.as_str());
    agent.json(&["exception", "revoke", &id]).unwrap();
    assert_eq!(errno().as_deref(), Some("EPERM"));

    agent.json(&[&ADD[..], &["--ttl", "7s"]].concat()).unwrap();
    assert_eq!(errno(), None);
    let mut held = pair.transport.hold(pair.orders.v4_port(5432)).unwrap();
    agent.kill(Signal::SIGKILL).unwrap();
    assert_eq!(held.exchange("one").unwrap().text(), Some("one"));
    wait_for("the kernel to end it without an agent", SOON, || {
        (errno().as_deref() == Some("EPERM")).then_some(())
    })
    .unwrap();
    assert!(held.exchange("two").unwrap().errno().is_some(), "its live flows end with it");
    agent = agent.restart().unwrap();
    assert_eq!(agent.json(&["exception", "list"]).unwrap(), serde_json::json!([]));

    agent.json(&[&ADD[..], &["--ttl", "1s"]].concat()).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    wait_for("the end to be journaled", SOON, || {
        actions(&agent).iter().any(|a| a == "exception-end").then_some(())
    })
    .unwrap();
    let first = journal(&agent).into_iter().find(|l| l["action"] == "exception-add").unwrap();
    assert_eq!((first["reason"].as_str(), first["uid"].as_u64()), (Some("INC-42"), Some(0)));
    assert_eq!(first["details"]["owner"], "on-call");
}

#[test]
fn an_exception_has_limits() {
    let Some(pair) = Pair::new("limits") else { return };
    let zones = pair.zones(ENFORCE);
    let agent = pair
        .transport
        .agent()
        .zones(&zones)
        .extra("[enforcement]\nmax_exception_ttl = \"2h\"\n")
        .start()
        .unwrap();
    let long = agent.segd(&[&ADD[..], &["--ttl", "3h"]].concat()).unwrap();
    assert_eq!(long.status.code(), Some(2), "{}", long.stderr);
    assert!(long.stderr.contains("max_exception_ttl"), "{}", long.stderr);
    let wrong = [
        "exception",
        "add",
        "--from",
        "transprot",
        "--to",
        "orders",
        "--services",
        "postgres",
        "--owner",
        "x",
        "--reason",
        "y",
        "--ttl",
        "1h",
    ];
    let wrong = agent.segd(&wrong).unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(wrong.stderr.contains("`transport`") && wrong.stderr.contains("`postgres`"), "{}", wrong.stderr);
    let unknown = agent.segd(&["exception", "revoke", "x"]).unwrap();
    assert_eq!(unknown.status.code(), Some(2));
}
