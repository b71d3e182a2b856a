//! A change that must be confirmed: kept, extended, taken back; by the kernel alone if the agent is dead.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use segd_tests::{Agent, Host, wait_for};
use serde_json::Value;

use crate::support::{ENFORCE, Pair, SOON, record, rule};

const PORT: u16 = 5432;

fn errno(pair: &Pair) -> Option<String> {
    let outcome = pair.transport.tcp_connect(pair.orders.v4_port(PORT)).unwrap();
    outcome.errno().map(str::to_owned)
}

fn wait_until(pair: &Pair, what: &str, wanted: Option<&str>) {
    wait_for(what, SOON, || (errno(pair).as_deref() == wanted).then_some(())).unwrap();
}

pub(crate) fn journal(agent: &Agent) -> Vec<Value> {
    let dir = agent.host().state_dir();
    let audit = agent.segd(&["audit", "--state-dir", &dir.to_string_lossy(), "--output", "json"]).unwrap();
    assert!(audit.status.success(), "{}", audit.stderr);
    audit.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) fn actions(agent: &Agent) -> Vec<String> {
    journal(agent).iter().map(|line| line["action"].as_str().unwrap().to_owned()).collect()
}

fn serving(pair: &Pair, host: &Host) -> Agent {
    pair.agent(host, &rule("\"tcp/22\""))
}

#[test]
fn what_is_confirmed_stays_and_what_is_extended_waits_longer() {
    let Some(pair) = Pair::new("confirm") else { return };
    let agent = serving(&pair, &pair.transport);
    let _server = pair.orders.tcp_server(PORT).unwrap();
    agent.mode(&["enforce", "--confirm", "6s", "--reason", "change 17"]).unwrap();
    assert_eq!(errno(&pair).as_deref(), Some("EPERM"), "it is live at once");
    let extended = agent.json(&["confirm", "--extend", "1h"]).unwrap();
    assert_eq!(extended["pending"]["by"], 0);
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(errno(&pair).as_deref(), Some("EPERM"), "the first deadline is past");
    let again = agent.segd(&["mode", "enforce", "--subject", "orders"]).unwrap();
    assert_eq!(again.status.code(), Some(1), "{}", again.stderr);
    assert!(again.stderr.contains("waits to be confirmed"), "{}", again.stderr);

    let confirmed = agent.json(&["confirm"]).unwrap();
    assert_eq!(confirmed["pending"], Value::Null);
    let nothing = agent.segd(&["confirm"]).unwrap();
    assert!(nothing.stderr.contains("nothing waits to be confirmed"), "{}", nothing.stderr);
    let agent = agent.restart().unwrap();
    assert_eq!(errno(&pair).as_deref(), Some("EPERM"));
    assert_eq!(agent.status().unwrap()["pending"], Value::Null);
    assert_eq!(actions(&agent), ["start", "mode", "confirm", "confirm", "stop", "start"]);
    assert_eq!(journal(&agent)[1]["reason"], "change 17");
}

#[test]
fn what_nobody_confirms_goes_back_by_itself() {
    let Some(pair) = Pair::new("lapse") else { return };
    let agent = serving(&pair, &pair.transport);
    let _server = pair.orders.tcp_server(PORT).unwrap();
    let before = agent.status().unwrap();
    agent.mode(&["enforce", "--confirm", "5s"]).unwrap();
    assert_eq!(errno(&pair).as_deref(), Some("EPERM"));
    wait_until(&pair, "the former mode", None);
    wait_for("the agent to know", SOON, || {
        let status = agent.status().ok()?;
        (status["pending"].is_null() && status["overrides"] == before["overrides"]).then_some(())
    })
    .unwrap();
    assert_eq!(actions(&agent), ["start", "mode", "expire"]);
    let agent = agent.restart().unwrap();
    assert_eq!(errno(&pair), None);
    assert_eq!(agent.status().unwrap()["policy"]["record"], before["policy"]["record"]);
}

#[test]
fn the_kernel_goes_back_without_an_agent_and_the_next_one_says_so() {
    let Some(pair) = Pair::new("deadline") else { return };
    let mut agent = serving(&pair, &pair.transport);
    let _server = pair.orders.tcp_server(PORT).unwrap();
    agent.write_zones(&pair.zones(&format!("{}{ENFORCE}", rule("\"tcp/22\"")))).unwrap();
    agent.json(&["apply", "--confirm", "7s"]).unwrap();
    assert_eq!(errno(&pair).as_deref(), Some("EPERM"));
    agent.kill(Signal::SIGKILL).unwrap();
    assert_eq!(errno(&pair).as_deref(), Some("EPERM"), "the agent is dead, the deadline is not over");
    wait_until(&pair, "the kernel to go back", None);

    let agent = agent.restart().unwrap();
    assert_eq!(errno(&pair), None, "the files on disk still say enforce");
    let status = agent.status().unwrap();
    assert!(status["pending"].is_null());
    assert!(status["policy"]["held"].as_str().unwrap().contains("not confirmed in time"), "{status:#}");
    assert_eq!(actions(&agent), ["start", "load", "start", "expire"]);
    agent.json(&["apply", "--force"]).unwrap();
    assert_eq!(errno(&pair).as_deref(), Some("EPERM"), "apply loads what was held back");
}

#[test]
fn a_restart_in_time_goes_on_waiting() {
    let Some(pair) = Pair::new("waiting") else { return };
    let mut agent = serving(&pair, &pair.transport);
    let _server = pair.orders.tcp_server(PORT).unwrap();
    agent.mode(&["enforce", "--confirm", "1h"]).unwrap();
    agent.kill(Signal::SIGKILL).unwrap();
    let agent = agent.restart().unwrap();
    assert_eq!(errno(&pair).as_deref(), Some("EPERM"));
    let status = agent.status().unwrap();
    assert_eq!(status["pending"]["by"], 0, "{status:#}");
    agent.mode(&["monitor"]).unwrap();
    assert_eq!(errno(&pair), None, "the way out is open while a change waits");
    let back = agent.json(&["rollback"]).unwrap();
    assert!(back["pending"].is_null());
    assert_eq!(errno(&pair), None, "and it holds for what comes back");
    record(&agent, &[("event", "open"), ("verdict", "audited")]);
}

#[test]
fn any_of_the_last_policies_comes_back_at_once() {
    let Some(pair) = Pair::new("rollback") else { return };
    let agent = serving(&pair, &pair.transport);
    let _server = pair.orders.tcp_server(PORT).unwrap();
    let policy = |services: &str| pair.zones(&format!("{}{ENFORCE}", rule(services)));
    let mut applied = Vec::new();
    for services in ["\"tcp/5432\"", "\"tcp/80\"", "\"tcp/5432\", \"tcp/80\"", "\"tcp/81\""] {
        agent.write_zones(&policy(services)).unwrap();
        applied.push(agent.json(&["apply", "--force"]).unwrap()["policy"]["record"].as_u64().unwrap());
    }
    assert_eq!(errno(&pair).as_deref(), Some("EPERM"));
    agent.json(&["rollback"]).unwrap();
    assert_eq!(errno(&pair), None, "the one before allowed it");
    agent.json(&["apply", "--force"]).unwrap();
    let back = agent.json(&["rollback"]).unwrap();
    assert_eq!(
        back["policy"]["record"].as_u64(),
        Some(applied[2]),
        "what was in force before, not what is older"
    );
    agent.json(&["rollback", &applied[1].to_string()]).unwrap();
    assert_eq!(errno(&pair).as_deref(), Some("EPERM"));
    let began = Instant::now();
    agent.json(&["rollback", &applied[0].to_string(), "--reason", "INC-1"]).unwrap();
    println!("a rollback took {:?}", began.elapsed());
    assert_eq!(errno(&pair), None);
    let list = agent.json(&["rollback", "--list"]).unwrap();
    assert_eq!(list["policies"].as_array().unwrap().len(), 6);

    let unknown = agent.segd(&["rollback", "999"]).unwrap();
    assert_eq!(unknown.status.code(), Some(1));
    assert!(unknown.stderr.contains("999 is not kept"), "{}", unknown.stderr);
    let agent = agent.restart().unwrap();
    assert_eq!(errno(&pair), None, "the files on disk are those of another policy");
    assert_eq!(agent.status().unwrap()["policy"]["record"].as_u64(), Some(applied[0]));
    agent.write_zones(&policy("\"tcp/82\"")).unwrap();
    let agent = agent.restart().unwrap();
    assert_eq!(errno(&pair), None, "only a person says that files are right again");
    agent.json(&["apply", "--force"]).unwrap();
    assert_eq!(errno(&pair).as_deref(), Some("EPERM"));
    assert!(agent.status().unwrap()["policy"]["held"].is_null());
}
