//! Before the switch: what would break is shown, and nothing is changed unless a person insists.

use crate::support::{Pair, SOON, record, rule};
use nix::sys::signal::Signal;
use segd_tests::{Agent, wait_for};
use serde_json::Value;

#[test]
fn what_would_be_cut_is_shown_and_needs_force() {
    let Some(pair) = Pair::new("preview") else { return };
    let agent = pair.agent(&pair.transport, &rule("\"tcp/5432\""));
    let _allowed = pair.orders.tcp_server(5432).unwrap();
    let _live = pair.orders.tcp_server(6379).unwrap();
    let _seen = pair.orders.tcp_server(8080).unwrap();
    let mut allowed = pair.transport.hold(pair.orders.v4_port(5432)).unwrap();
    let mut live = pair.transport.hold(pair.orders.v6_port(6379)).unwrap();
    assert_eq!(pair.transport.tcp_connect(pair.orders.v4_port(8080)).unwrap().errno(), None);
    record(&agent, &[("event", "open"), ("dst.port", "8080")]);

    let dry = wait_for("both to be known", SOON, || {
        let dry = agent.json(&["mode", "enforce", "--dry-run"]).ok()?;
        (dry["breaks"].as_array()?.len() == 2).then_some(dry)
    })
    .unwrap();
    assert_eq!(dry["changed"], false);
    let (first, second) = (&dry["breaks"][0], &dry["breaks"][1]);
    assert_eq!((first["live"].as_bool(), first["dst"]["port"].as_u64()), (Some(true), Some(6379)), "{dry:#}");
    assert_eq!(first["process"], "lab-actor");
    assert!(first["pid"].is_u64() && first["dst"]["zone"] == "orders" && first["reason"] == "no-rule");
    assert_eq!((second["live"].as_bool(), second["dst"]["port"].as_u64()), (Some(false), Some(8080)));

    let refused = agent.segd(&["mode", "enforce"]).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stdout.contains("6379") && refused.stdout.contains("8080"), "{}", refused.stdout);
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    assert_eq!(live.exchange("still").unwrap().text(), Some("still"));
    let not_a_terminal = agent.segd(&["mode", "enforce", "--yes"]).unwrap();
    assert_eq!(not_a_terminal.status.code(), Some(1), "--yes is for people at a terminal");

    let forced = agent.json(&["mode", "enforce", "--force"]).unwrap();
    assert_eq!(forced["breaks"].as_array().unwrap().len(), 2);
    assert!(live.exchange("cut").unwrap().errno().is_some());
    assert_eq!(allowed.exchange("lives").unwrap().text(), Some("lives"));

    agent.mode(&["monitor"]).unwrap();
    agent.write_zones(&pair.zones("[[rollout]]\nmode = \"enforce\"\n")).unwrap();
    let refused = agent.segd(&["apply"]).unwrap();
    assert_eq!(refused.status.code(), Some(0), "segd mode monitor is above it: {}", refused.stderr);
    agent.write_zones(&pair.zones(&rule("\"tcp/5432\""))).unwrap();
    agent.json(&["apply"]).unwrap();
    agent.mode(&["default"]).unwrap();
    agent.write_zones(&pair.zones("[[rollout]]\nmode = \"enforce\"\n")).unwrap();
    let refused = agent.segd(&["apply"]).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stdout);
    assert!(refused.stdout.contains("5432"), "the rule is gone: {}", refused.stdout);
    assert_eq!(allowed.exchange("unchanged").unwrap().text(), Some("unchanged"));
}

/// What enforcing would break, as (live, direction, server's port), once there is so much of it.
fn breaks(agent: &Agent, count: usize) -> Vec<(bool, String, u64)> {
    let mut dry = Value::Null;
    wait_for("what would break", SOON, || {
        dry = agent.json(&["mode", "enforce", "--dry-run"]).unwrap()["breaks"].take();
        (dry.as_array().unwrap().len() == count).then_some(())
    })
    .unwrap_or_else(|e| panic!("{e}: {dry:#}"));
    let told = |b: &Value| {
        let direction = b["direction"].as_str().unwrap().to_owned();
        (b["live"].as_bool().unwrap(), direction, b["dst"]["port"].as_u64().unwrap())
    };
    let mut told: Vec<_> = dry.as_array().unwrap().iter().map(told).collect();
    told.sort();
    told
}

#[test]
fn an_agent_that_was_killed_knows_again_what_flows() {
    let Some(pair) = Pair::new("again") else { return };
    let mut agent = pair.agent(&pair.transport, "");
    let _server = pair.orders.tcp_server(6379).unwrap();
    let mut held = pair.transport.hold(pair.orders.v4_port(6379)).unwrap();
    // A flow of no connected socket.
    let _answers = pair.transport.udp_server(4000).unwrap();
    assert_eq!(pair.orders.udp_send(pair.transport.v4_port(4000)).unwrap().text(), Some("ping"));
    let both = [(true, "inbound".to_owned(), 4000), (true, "outbound".to_owned(), 6379)];
    assert_eq!(breaks(&agent, 2), both);
    agent.kill(Signal::SIGKILL).unwrap();
    let agent = agent.restart().unwrap();
    assert_eq!(breaks(&agent, 2), both);
    assert_eq!(held.exchange("lives").unwrap().text(), Some("lives"));
    drop(held);
    record(&agent, &[("event", "close"), ("dst.port", "6379")]);
    let seen = [(false, "outbound".to_owned(), 6379), (true, "inbound".to_owned(), 4000)];
    assert_eq!(breaks(&agent, 2), seen, "what has ended was seen");
}

#[test]
fn what_a_workload_did_is_judged_as_the_workloads_when_its_cgroup_is_gone() {
    let Some(pair) = Pair::new("gone") else { return };
    let root = segd::datapath::host::cgroup2_root().unwrap();
    let below = pair.transport.cgroup().strip_prefix(&root).unwrap().display().to_string();
    let zones = pair.zones(&format!(
        "[workload.app]\nzone = \"transport\"\ncgroup = \"/{below}/app-*\"\n\
         [[allow]]\nid = \"app\"\nfrom = \"app\"\nto = \"orders\"\nservices = [\"tcp/5432\"]\nowner = \"o\"\n"
    ));
    let agent = pair.transport.agent().zones(&zones).start().unwrap();
    let _server = pair.orders.tcp_server(5432).unwrap();
    let text = format!(": < /dev/tcp/{}/5432", pair.orders.v4());
    let mut command = pair.transport.command_below("app-1", "bash").unwrap();
    command.args(["-c", &text]);
    assert!(pair.transport.run(command).unwrap().status.success());
    let open = record(&agent, &[("event", "open"), ("dst.port", "5432")]);
    assert_eq!(open["reason"], "rule", "{open:#}");
    std::fs::remove_dir(pair.transport.cgroup().join("app-1")).unwrap();
    assert_eq!(breaks(&agent, 0), [], "its rule holds for its next start");
}
