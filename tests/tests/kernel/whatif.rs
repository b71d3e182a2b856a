//! What zone files would break is named before, from logs of both ends and from live sockets; then they are enforced, and
//! just that breaks.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{ENFORCE, Pair, SOON, record, rule};
use segd_tests::{Agent, wait_for};

/// The answer on other zone files, and the exit code.
fn whatif(agent: &Agent, dir: &Path, more: &[&str]) -> (Value, Option<i32>) {
    let mut line = vec!["whatif", dir.to_str().unwrap(), "--output", "json"];
    line.extend(more);
    let done = agent.segd(&line).unwrap();
    let json = serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}", done.stderr));
    (json, done.status.code())
}

/// `port end flows` of each line.
fn lines(section: &Value) -> Vec<String> {
    let text = |line: &Value| format!("{} {} {}", line["port"], line["at"].as_str().unwrap(), line["flows"]);
    let mut all: Vec<String> = section["lines"].as_array().unwrap().iter().map(text).collect();
    all.sort();
    all
}

#[test]
fn what_is_named_before_is_what_breaks_then() {
    let Some(pair) = Pair::new("whatif") else { return };
    let before = rule("\"tcp/5432\", \"tcp/6379\", \"tcp/8080\"");
    let client = pair.agent(&pair.transport, &before);
    let server = pair.agent(&pair.orders, &before);
    let ports = [5432, 6379, 8080, 9000];
    let _servers: Vec<_> = ports.iter().map(|port| pair.orders.tcp_server(*port).unwrap()).collect();
    let mut kept = pair.transport.hold(pair.orders.v4_port(5432)).unwrap();
    let mut cut = pair.transport.hold(pair.orders.v4_port(6379)).unwrap();
    for port in [8080, 8080, 9000] {
        assert_eq!(pair.transport.tcp_connect(pair.orders.v4_port(port)).unwrap().errno(), None);
    }
    for agent in [&client, &server] {
        for port in ports {
            record(agent, &[("event", "open"), ("dst.port", &port.to_string())]);
        }
        wait_for("those that ended to end", SOON, || {
            let ended = |r: &Value, port| r["event"] == "close" && r["dst"]["port"] == port;
            let flows = agent.flows().ok()?;
            let count = |port: u16| flows.iter().filter(|r| ended(r, port)).count();
            ((count(8080), count(9000)) == (2, 1)).then_some(())
        })
        .unwrap();
    }

    let dir = pair.transport.directory().join("next");
    fs::create_dir(&dir).unwrap();
    let after = format!("{}{ENFORCE}", pair.zones(&rule("\"tcp/5432\"")));
    fs::write(dir.join("zones.toml"), &after).unwrap();
    let logs = [&client, &server].map(|agent| agent.builder().flow_log().display().to_string());
    let input = ["--input", &logs[0], &logs[1]];
    let (found, code) = whatif(&client, &dir, &input);
    assert_eq!(code, Some(1), "{found:#}");
    assert_eq!(lines(&found["newly_denied"]), ["6379 both 1", "8080 both 2", "9000 both 1"], "{found:#}");
    assert_eq!(lines(&found["unchanged"]), ["5432 both 1"]);
    let rules: Vec<(&Value, &Value)> = found["newly_denied"]["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| (&rule["rule"], &rule["flows"]))
        .collect();
    assert_eq!(
        rules,
        [(&Value::from("transport-to-orders"), &Value::from(3)), (&Value::Null, &Value::from(1))]
    );
    assert_eq!(found["undecided"], Value::Array(vec![]));
    let process = &found["newly_denied"]["lines"][0]["processes"]["some"][0];
    assert!(process.as_str().unwrap().ends_with("lab-actor"), "{process}");

    // The agents answer for what lives, of files that they have never read.
    for (agent, direction) in [(&client, "outbound"), (&server, "inbound")] {
        let (found, code) = whatif(agent, &dir, &[]);
        assert_eq!(code, Some(1), "{found:#}");
        let live = found["live"]["breaks"].as_array().unwrap().iter().filter(|b| b["live"] == true);
        let live: Vec<(&Value, &Value)> = live.map(|b| (&b["dst"]["port"], &b["direction"])).collect();
        assert_eq!(live, [(&Value::from(6379), &Value::from(direction))], "{found:#}");
    }
    assert_eq!(cut.exchange("still").unwrap().text(), Some("still"), "nothing was changed");

    // The files in force, enforced, break what no rule allows.
    let same = pair.transport.directory().join("same");
    fs::create_dir(&same).unwrap();
    fs::write(same.join("zones.toml"), pair.zones(&before)).unwrap();
    let (found, code) = whatif(&client, &same, &input);
    assert_eq!((code, lines(&found["newly_denied"])), (Some(0), Vec::new()), "{found:#}");
    assert_eq!(found["if_enforced"]["flows"], 1);
    let (found, code) = whatif(&client, &same, &[&input[..], &["--as-if-enforced"]].concat());
    assert_eq!((code, lines(&found["newly_denied"])), (Some(1), vec!["9000 both 1".to_owned()]));

    for agent in [&client, &server] {
        agent.write_zones(&after).unwrap();
        agent.json(&["apply", "--force"]).unwrap();
    }
    assert_eq!(kept.exchange("lives").unwrap().text(), Some("lives"));
    assert!(cut.exchange("cut").unwrap().errno().is_some());
    for (port, passes) in [(5432, true), (6379, false), (8080, false), (9000, false)] {
        let answer = pair.transport.tcp_connect(pair.orders.v4_port(port)).unwrap();
        assert_eq!(answer.errno().is_none(), passes, "tcp/{port}: {answer:?}");
    }
}
