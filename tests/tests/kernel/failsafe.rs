//! Failsafe traffic: nothing that segd does cuts it, neither what begins nor what lives.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use segd_tests::{Agent, Report, wait_for};

use crate::confirm::actions;
use crate::support::{ENFORCE, Pair, SOON, rule};

fn waits(agent: &Agent, action: &str) {
    wait_for(action, Duration::from_secs(30), || actions(agent).iter().any(|a| a == action).then_some(()))
        .unwrap();
}

#[test]
fn ssh_in_and_dns_out_outlive_whatever_happens() {
    let Some(pair) = Pair::new("failsafe") else { return };
    let host = &pair.transport;
    let sshd = host.actor_below("sshd.service", &["tcp-serve", "[::]:22"]).unwrap();
    assert!(matches!(sshd.next().unwrap(), Report::Listening { .. }));
    let _dns = pair.orders.udp_server(53).unwrap();
    let _server = pair.orders.tcp_server(5432).unwrap();
    let ends = Timestamp::now().checked_add(SignedDuration::from_secs(8)).unwrap();
    let workloads = format!(
        "[workload.sshd]\nzone = \"transport\"\nunit = \"sshd.service\"\ninherit = false\nexpires = {ends:.3}\n\
         [workload.resolver]\nzone = \"transport\"\nunit = \"resolver.service\"\nexpires = {ends:.3}\n"
    );
    let canary = "[[rollout]]\nmode = \"enforce\"\ncanary = { percent = 100 }\n";
    let agent = pair.agent(host, &rule("\"tcp/5432\""));
    let mut ssh = pair.orders.hold(host.v4_port(22)).unwrap();
    let mut check = |step: &str| {
        assert_eq!(ssh.exchange(step).unwrap().text(), Some(step), "a session of ssh lives on: {step}");
        for to in [host.v4_port(22), host.v6_port(22)] {
            assert_eq!(pair.orders.tcp_connect(to).unwrap().errno(), None, "{step}: {to}");
        }
        let to = pair.orders.v4_port(53).to_string();
        for ask in ["udp-send", "udp-connected"] {
            let dns = host.actor_below("resolver.service", &[ask, &to]).unwrap();
            let answer = loop {
                match dns.next().unwrap() {
                    Report::Sent | Report::Connected { .. } => {}
                    other => break other,
                }
            };
            assert_eq!(answer.text(), Some("ping"), "{step}: {answer:?}");
        }
    };
    check("monitor");
    agent.mode(&["enforce"]).unwrap();
    check("enforce");
    agent.mode(&["default"]).unwrap();
    let zones = |rest: &str| agent.write_zones(&pair.zones(&format!("{workloads}{rest}"))).unwrap();
    zones(&format!("{}{canary}", rule("\"tcp/5432\"")));
    agent.json(&["apply", "--force"]).unwrap();
    check("workloads in a canary");
    while Timestamp::now() < ends {
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(1));
    check("expired workloads");

    let exception = ["exception", "add", "--from", "orders", "--to", "transport", "--services", "tcp/22"];
    let limits = ["--owner", "on-call", "--reason", "INC-1", "--ttl", "1s"];
    agent.json(&[&exception[..], &limits].concat()).unwrap();
    check("an exception for the same");
    waits(&agent, "exception-end");
    check("an exception that ended");

    agent.mode(&["enforce", "--confirm", "1s"]).unwrap();
    check("a change that waits");
    waits(&agent, "expire");
    check("a change that nobody confirmed");

    let connect = || host.tcp_connect(pair.orders.v4_port(5432)).unwrap();
    assert_eq!(connect().errno(), None);
    zones(ENFORCE);
    agent.json(&["apply", "--force", "--guard-denied", "1", "--guard-window", "5m"]).unwrap();
    wait_for("the guard", SOON, || connect().errno().is_none().then_some(())).unwrap();
    waits(&agent, "guard");
    check("a guard that rolled back");
    agent.json(&["apply", "--force"]).unwrap();
    agent.json(&["rollback"]).unwrap();
    check("a rollback");
    let agent = agent.restart().unwrap();
    check("another agent");
    let told = agent.flows().unwrap();
    let cut = told
        .iter()
        .filter(|r| r["verdict"] == "denied" && (r["dst"]["port"] == 22 || r["dst"]["port"] == 53));
    assert_eq!(cut.count(), 0, "{told:#?}");
    wait_for("a record", SOON, || told.iter().any(|r| r["reason"] == "failsafe").then_some(())).unwrap();
}
