//! What somebody does behind segd's back is found: a journal edited by hand, hooks taken away.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use segd_tests::{Agent, wait_for};

use crate::support::{ENFORCE, Pair, SOON, rule};

/// `segd audit` with these options: its exit code, and all that it printed.
fn audit(agent: &Agent, options: &[&str]) -> (Option<i32>, String) {
    let dir = agent.host().state_dir();
    let audit = agent.segd(&[&["audit", "--state-dir", &dir.to_string_lossy()], options].concat()).unwrap();
    (audit.status.code(), audit.stdout + &audit.stderr)
}

fn journal(agent: &Agent) -> PathBuf {
    agent.host().state_dir().join("journal.jsonl")
}

#[test]
fn a_journal_that_was_changed_by_hand_is_found() {
    type Edit = fn(&mut Vec<String>);
    let Some(pair) = Pair::new("journal") else { return };
    let mut agent = pair.agent(&pair.transport, &rule("\"tcp/80\""));
    agent.mode(&["enforce", "--reason", "change 17"]).unwrap();
    agent.mode(&["monitor"]).unwrap();
    agent.json(&["apply"]).unwrap();
    agent.kill(Signal::SIGTERM).unwrap();
    let path = journal(&agent);
    let head = agent.host().state_dir().join("journal.head");
    let (text, end) = (fs::read_to_string(&path).unwrap(), fs::read(&head).unwrap());
    let sound: Vec<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(sound.len(), 5, "start, two modes, a load, a stop: {text}");
    assert_eq!(audit(&agent, &[]).0, Some(0));
    let edits: [(&str, Edit, &str); 6] = [
        (
            "edited",
            |lines| lines[1] = lines[1].replace("change 17", "change 71"),
            "line 2: its hash does not fit",
        ),
        ("removed", |lines| drop(lines.remove(2)), "line 3: number 4 follows number 2"),
        ("reordered", |lines| lines.swap(1, 2), "line 2: number 3 follows number 1"),
        ("cut", |lines| lines.truncate(3), "line 3: the journal was cut: it ends with number 3"),
        ("emptied", |lines| lines.clear(), "line 0: the journal was cut"),
        ("inserted", |lines| lines.insert(2, "{}".into()), "line 3: this is no line of a journal"),
    ];
    for (what, edit, wanted) in edits {
        let mut lines = sound.clone();
        edit(&mut lines);
        let edited: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(&path, edited).unwrap();
        fs::write(&head, &end).unwrap();
        for options in [&[][..], &["--verify"], &["--action", "stop"]] {
            let (code, said) = audit(&agent, options);
            assert_eq!((code, said.contains(wanted)), (Some(1), true), "{what}: {wanted}: {said}");
        }
        agent = agent.restart().unwrap();
        agent.kill(Signal::SIGTERM).unwrap();
        let (code, said) = audit(&agent, &["--action", "tamper", "--output", "json"]);
        assert_eq!(code, Some(1), "{what}: it stays broken: {said}");
        let told: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
        let reason = told["reason"].as_str().unwrap();
        assert!(reason.contains(wanted.split_once(": ").unwrap().1), "{what}: {reason}");
    }
}

#[test]
fn detach_is_journaled_and_hooks_that_go_are_told() {
    let Some(pair) = Pair::new("hooks") else { return };
    let agent = pair.agent(&pair.transport, &format!("{}{ENFORCE}", rule("\"tcp/80\"")));
    let _server = pair.orders.tcp_server(5432).unwrap();
    let errno = || pair.transport.tcp_connect(pair.orders.v4_port(5432)).unwrap().errno().map(str::to_owned);
    assert_eq!(errno().as_deref(), Some("EPERM"));
    let version = format!("v{}", segd_common::schema::VERSION);
    let links = agent.host().bpffs().join(version).join("links");
    let tampers =
        |agent: &Agent| agent.metrics().unwrap().sum("segd_tamper_events_total", &[("kind", "hooks")]);
    assert_eq!(tampers(&agent), 0.0);
    ["connect4", "egress"].iter().for_each(|hook| fs::remove_file(links.join(hook)).unwrap());
    wait_for("it to be counted", SOON, || (tampers(&agent) == 1.0).then_some(())).unwrap();
    let status = agent.status().unwrap();
    let warned = status["warnings"].to_string();
    assert!(warned.contains("2 of 11 hooks (egress, connect4)"), "{status:#}");
    let text = agent.segd(&["status"]).unwrap().stdout;
    assert!(text.contains("9 of 11 hooks attached"), "{text}");
    let (_, said) = audit(&agent, &["--action", "tamper"]);
    assert!(said.contains("no program of segd is attached at egress, connect4"), "{said}");

    let mut agent = agent.restart().unwrap();
    assert_eq!(errno().as_deref(), Some("EPERM"), "the next agent attaches them again");
    assert_eq!(agent.status().unwrap()["warnings"], serde_json::json!([]));
    agent.kill(Signal::SIGTERM).unwrap();
    agent.detach().unwrap();
    assert_eq!(errno(), None, "nothing is judged");
    let (code, said) = audit(&agent, &["--action", "detach"]);
    assert!(code == Some(0) && said.contains("root(0)"), "{said}");
    let agent = agent.restart().unwrap();
    assert_eq!(errno().as_deref(), Some("EPERM"));
    // A running agent notices it too.
    agent.detach().unwrap();
    wait_for("it to be counted", SOON, || (tampers(&agent) == 1.0).then_some(())).unwrap();
    let status = agent.status().unwrap();
    assert!(status["warnings"].to_string().contains("nothing is judged"), "{status:#}");
}
