//! The agent may stop, die and come back: what it has put into the kernel goes on.

use segd::datapath::HOOKS;
use segd_tests::{Actor, Agent, Report, wait_for};

use crate::support::{ENFORCE, Pair, SOON, counted, record, rule};
use nix::sys::signal::Signal;

#[test]
fn enforcement_never_pauses() {
    let Some(pair) = Pair::new("restart") else { return };
    let zones = format!("{}{ENFORCE}", rule("\"tcp/5432\""));
    let mut agent = pair.agent(&pair.transport, &zones);
    let _server = pair.orders.tcp_server(5432).unwrap();
    let mut held = pair.transport.hold(pair.orders.v4_port(5432)).unwrap();
    let mut rounds = 0.0;
    let mut check = |held: &mut Actor, when: &str| {
        let outcome = pair.transport.tcp_connect(pair.orders.v4_port(6379)).unwrap();
        assert_eq!(outcome.errno(), Some("EPERM"), "{when}: {outcome:?}");
        let outcome = pair.transport.tcp_connect(pair.orders.v4_port(5432)).unwrap();
        assert_eq!(outcome.errno(), None, "{when}: {outcome:?}");
        assert_eq!(held.exchange(when).unwrap().text(), Some(when), "the connection lives on");
        rounds += 1.0;
        rounds
    };
    let mut denied = check(&mut held, "running");
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        // What the agent has read and not yet written would die with it.
        all_told(&agent, denied);
        agent.kill(signal).unwrap();
        check(&mut held, "without an agent");
        agent = agent.restart().unwrap();
        assert_eq!(links(&pair), HOOKS.len(), "no hook was attached twice");
        denied = check(&mut held, "with a new agent");
        counted(&agent, "segd_flows_total", &[("verdict", "allowed")], denied + 1.0);
        counted(&agent, "segd_flows_total", &[("verdict", "denied")], denied);
    }
    // What happened without an agent was kept for the next one.
    all_told(&agent, denied);
    drop(held);
    record(&agent, &[("event", "close"), ("dst.port", "5432")]);
}

/// Waits until the flow log and the counters of joined denials add up.
fn all_told(agent: &Agent, denied: f64) {
    let mut last = String::new();
    wait_for("every denial to be told", SOON, || {
        let metrics = agent.metrics().ok()?;
        let joined = metrics.sum("segd_denials_joined_total", &[]);
        let untold = joined - metrics.sum("segd_denials_told_total", &[]);
        let flows = agent.flows().ok()?;
        let denials = flows.iter().filter(|r| r["event"] == "deny");
        let told: f64 = denials.filter_map(|r| r["count"].as_f64()).sum();
        last = format!("{told} told and {untold} untold of {denied}");
        (told + untold == denied).then_some(())
    })
    .unwrap_or_else(|e| panic!("{e}: {last}; {:#?}", agent.flows()));
}

fn links(pair: &Pair) -> usize {
    let version = format!("v{}", segd_common::schema::VERSION);
    std::fs::read_dir(pair.transport.bpffs().join(version).join("links")).unwrap().count()
}

#[test]
fn connections_are_judged_without_a_gap_through_takeovers() {
    const CONNECTS: u64 = 10_000;
    let Some(pair) = Pair::new("takeover") else { return };
    let zones = format!("{}{ENFORCE}", rule("\"tcp/5432\""));
    let mut agent = pair.agent(&pair.transport, &zones);
    let _server = pair.orders.tcp_server(5432).unwrap();
    let allowed = pair.orders.v4_port(5432).to_string();
    let denied = pair.orders.v4_port(6379).to_string();
    let count = CONNECTS.to_string();
    let mut traffic = pair.transport.actor(&["churn", &allowed, &denied, "--connects", &count]).unwrap();
    let mut takeovers = 0;
    while traffic.process().ended().unwrap().is_none() {
        agent.kill(Signal::SIGKILL).unwrap();
        agent = agent.restart().unwrap();
        takeovers += 1;
    }
    let outcome = traffic.next().unwrap();
    let Report::Counted { outcomes } = &outcome else { panic!("{outcome:?}") };
    assert_eq!(outcomes.get("ok"), Some(&(CONNECTS / 2)), "{takeovers} takeovers: {outcomes:?}");
    assert_eq!(outcomes.get("EPERM"), Some(&(CONNECTS / 2)), "{takeovers} takeovers: {outcomes:?}");
    assert!(takeovers > 0);
}
