//! What `segd flows` shows of the same traffic: live memory, history, log file.

use nix::sys::signal::Signal;
use segd_tests::{Agent, wait_for};
use serde_json::{Value, json};

use crate::support::{ENFORCE, Pair, SOON, record, rule};

/// `segd flows` with these arguments, as JSON lines.
fn shown(agent: &Agent, arguments: &[&str]) -> Vec<Value> {
    let state = agent.host().state_dir();
    let state = state.to_string_lossy();
    let all = [&["flows", "-o", "json", "--state-dir", &state], arguments].concat();
    let finished = agent.segd(&all).unwrap();
    assert!(finished.status.success(), "{arguments:?}: {}", finished.stderr);
    finished.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn flows_are_found_in_memory_history_and_log_alike() {
    let Some(pair) = Pair::new("flows") else { return };
    let zones = format!("{}{ENFORCE}", rule("\"tcp/5432\""));
    let mut agent = pair.agent(&pair.transport, &zones);
    let _server = pair.orders.tcp_server(5432).unwrap();
    assert_eq!(pair.transport.tcp_connect(pair.orders.v4_port(5432)).unwrap().errno(), None);
    assert_eq!(pair.transport.tcp_connect(pair.orders.v4_port(6379)).unwrap().errno(), Some("EPERM"));
    record(&agent, &[("event", "close"), ("dst.port", "5432")]);
    record(&agent, &[("event", "deny"), ("dst.port", "6379")]);

    let denied = ["--zone", "orders", "--not", "--verdict", "allowed"];
    let needed = json!({"from": "transport", "to": "orders", "services": ["tcp/6379"], "side": "outbound"});
    let log = agent.host().directory().join("flows.jsonl");
    let log = log.to_string_lossy();
    for (what, place) in [
        ("memory", &[][..]),
        ("single records since", &["--since", "1h"]),
        ("the history", &["--hourly", "--since", "2h"]),
        ("the log", &["--input", &log]),
        ("the log by the hour", &["--hourly", "--input", &log]),
    ] {
        let found = wait_for(what, SOON, || {
            let found = shown(&agent, &[&denied[..], place].concat());
            (!found.is_empty()).then_some(found)
        });
        for flow in found.unwrap_or_else(|error| panic!("{error}")) {
            assert_eq!((&flow["verdict"], &flow["needed"]), (&json!("denied"), &needed), "{what}: {flow:#}");
        }
    }
    assert!(shown(&agent, &["--since", "2h", "--until", "1h"]).is_empty(), "before the agent");

    let wrong = agent.segd(&["flows", "--zone", "ordrs"]).unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{}", wrong.stderr);
    assert!(wrong.stderr.contains("did you mean `orders`?"), "{}", wrong.stderr);
    let wrong = agent.segd(&["flows", "--hourly", "--to", "ordrs"]).unwrap();
    assert!(wrong.stderr.contains("did you mean `orders`?"), "{}", wrong.stderr);

    agent.kill(Signal::SIGTERM).unwrap();
    let left = shown(&agent, &[&denied[..], &["--since", "1h"]].concat());
    assert!(left.iter().any(|flow| flow["needed"] == needed), "without an agent: {left:#?}");
}
