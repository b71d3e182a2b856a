//! The agent is killed at the worst moments of a change: the host is in the old state or in the new one, and the next
//! agent goes on from there and says which.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use segd_tests::{Agent, segd, wait_for};
use serde_json::Value;

use crate::confirm::journal;
use crate::support::{ENFORCE, Pair, rule};

/// Kills the agent so long after it announced the next generation on disk, while `command` asks for it.
fn kill_after(agent: &mut Agent, command: &[&str], delay: Duration) {
    let pid = Pid::from_raw(agent.process().pid().try_into().unwrap());
    let standing = agent.host().state_dir().join("standing.json");
    let mut asked = Command::new(segd().unwrap());
    asked
        .args(command)
        .env("SEGD_RUN_DIR", agent.host().run_dir())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut asked = asked.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_announced(&standing) {
        assert!(Instant::now() < deadline, "nothing is announced");
    }
    std::thread::sleep(delay);
    kill(pid, Signal::SIGKILL).unwrap();
    // Whether the command heard of its success depends on the moment.
    asked.wait().unwrap();
    wait_for("the agent to be gone", Duration::from_secs(10), || agent.process().ended().unwrap()).unwrap();
}

fn is_announced(standing: &Path) -> bool {
    let text = std::fs::read_to_string(standing).unwrap_or_default();
    serde_json::from_str::<Value>(&text).is_ok_and(|standing| !standing["next"].is_null())
}

/// From before the tables are filled to well after the change is journaled.
const DELAYS_MS: [u64; 12] = [0, 5, 10, 20, 30, 40, 50, 60, 80, 100, 150, 250];

#[test]
fn a_load_is_made_or_not_made() {
    let Some(pair) = Pair::new("crash") else { return };
    let zones = |services: &str| pair.zones(&format!("{}{ENFORCE}", rule(services)));
    let mut agent = pair.agent(&pair.transport, &format!("{}{ENFORCE}", rule("\"tcp/80\"")));
    let _server = pair.orders.tcp_server(5432).unwrap();
    let allowed = || pair.transport.tcp_connect(pair.orders.v4_port(5432)).unwrap().errno().is_none();
    let (mut before, mut news) = (false, [0, 0]);
    for delay in DELAYS_MS {
        let wanted = !before;
        agent.write_zones(&zones(if wanted { "\"tcp/5432\"" } else { "\"tcp/80\"" })).unwrap();
        kill_after(&mut agent, &["apply", "--force"], Duration::from_millis(delay));
        let kernel = allowed();
        news[usize::from(kernel == wanted)] += 1;
        // The next agent must not load the files: it must be seen what it thinks that stands.
        let old = zones(if kernel { "\"tcp/5432\"" } else { "\"tcp/80\"" });
        agent.write_zones(&old).unwrap();
        agent = agent.restart().unwrap();
        assert_eq!(allowed(), kernel, "after {delay} ms");
        let status = agent.status().unwrap();
        let list = agent.json(&["rollback", "--list"]).unwrap();
        let policies = list["policies"].as_array().unwrap();
        let here = policies.iter().find(|p| p["in_force"] == true).unwrap();
        assert_eq!(here["hash"], status["policy"]["hash"], "after {delay} ms: {status:#} {list:#}");
        if kernel == wanted {
            let lines = journal(&agent);
            let told =
                lines.iter().rev().find(|l| l["action"] == "load" || l["action"] == "recover").unwrap();
            assert_eq!(told["after"], here["generation"], "after {delay} ms: {told:#}");
        }
        before = kernel;
    }
    println!("killed {} times before the flip, {} times after it", news[0], news[1]);
    assert!(news[0] > 0 && news[1] > 0, "{news:?}");
}

#[test]
fn a_change_that_waits_goes_back_whenever_the_agent_dies() {
    let Some(pair) = Pair::new("crash-confirm") else { return };
    let mut agent = pair.agent(&pair.transport, &rule("\"tcp/80\""));
    let _server = pair.orders.tcp_server(5432).unwrap();
    let allowed = || pair.transport.tcp_connect(pair.orders.v4_port(5432)).unwrap().errno().is_none();
    for delay in [0, 30, 60, 90, 120, 200] {
        kill_after(
            &mut agent,
            &["mode", "enforce", "--force", "--confirm", "2s"],
            Duration::from_millis(delay),
        );
        let enforced = !allowed();
        std::thread::sleep(Duration::from_millis(2500));
        assert!(allowed(), "after {delay} ms, enforced {enforced}: the deadline is over");
        agent = agent.restart().unwrap();
        assert!(allowed(), "after {delay} ms");
        let status = agent.status().unwrap();
        assert!(status["pending"].is_null() && status["overrides"] == serde_json::json!([]), "{status:#}");
    }
}
