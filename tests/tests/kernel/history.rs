//! What flowed is found again: after a restart, after a kill, beside a damaged file.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use segd::control::Client;
use segd::control::api::HistoryQuery;
use segd::history::{FILE, Peer, Range, RuleFacts, Summary, open_read_only};
use segd_common::traffic::{Direction, Verdict};
use segd_tests::{Agent, wait_for};

use crate::support::{ENFORCE, Pair, SOON, counted, rule};

fn ask<T>(agent: &Agent, request: impl AsyncFnOnce(Client) -> T) -> T {
    let client = Client::new(&agent.host().run_dir());
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(request(client))
}

fn history(agent: &Agent) -> Vec<Summary> {
    ask(agent, async |client| client.history(&HistoryQuery::default()).await.unwrap().all().await.unwrap())
}

fn rules(agent: &Agent) -> Vec<RuleFacts> {
    ask(agent, async |client| client.rules().await.unwrap())
}

/// Flows to a port of the host `orders` with this verdict, whatever the hour.
fn flows(all: &[Summary], pair: &Pair, port: u16, verdict: Verdict) -> u64 {
    let wanted = |s: &&Summary| {
        s.of.port == port && s.of.verdict == verdict && s.of.peer == Peer::Address(pair.orders.v4())
    };
    all.iter().filter(wanted).map(|s| s.flows).sum()
}

fn wait_history(agent: &Agent, what: &str, done: impl Fn(&[Summary]) -> bool) -> Vec<Summary> {
    let mut last = Vec::new();
    wait_for(what, SOON, || {
        last = history(agent);
        done(&last).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {last:#?}"));
    last
}

#[test]
fn what_flowed_is_told_by_process_zone_and_rule() {
    let Some(pair) = Pair::new("hist") else { return };
    let zones = format!("{}{ENFORCE}", rule("\"tcp/5432\""));
    let agent = pair.agent(&pair.transport, &zones);
    let _server = pair.orders.tcp_server(5432).unwrap();
    for _ in 0..3 {
        assert_eq!(pair.transport.tcp_connect(pair.orders.v4_port(5432)).unwrap().errno(), None);
    }
    let refused = pair.transport.tcp_connect(pair.orders.v4_port(6379)).unwrap();
    assert_eq!(refused.errno(), Some("EPERM"));
    let all = wait_history(&agent, "three flows with what they carried", |all| {
        flows(all, &pair, 5432, Verdict::Allowed) == 3
            && flows(all, &pair, 6379, Verdict::Denied) >= 1
            && all.iter().any(|s| s.bytes.sent > 0)
    });
    let allowed = all.iter().find(|s| s.of.port == 5432).unwrap();
    let of = &allowed.of;
    assert_eq!((&*of.subject, &*of.peer_zone, &*of.protocol), ("transport", "orders", "tcp"));
    assert_eq!((of.direction, of.rule.as_deref()), (Direction::Outbound, Some("transport-to-orders")));
    assert_eq!(of.local, Some(pair.transport.v4()));
    // By its path, or by its thread's name if it had ended before the agent looked.
    assert!(of.process.as_deref().is_some_and(|name| name.ends_with("lab-actor")), "{of:?}");

    // The hours of a range only.
    let before = Range { since: None, until: Some(allowed.first) };
    let found =
        ask(&agent, async |client| client.history(&HistoryQuery(before)).await.unwrap().all().await.unwrap());
    assert!(found.iter().all(|s| s.first < allowed.first), "{found:#?}");

    let facts = rules(&agent);
    let [facts] = &facts[..] else { panic!("{facts:?}") };
    assert_eq!((&*facts.rule, facts.hits, facts.gone), ("transport-to-orders", 3, None));
    assert!(facts.last_hit.is_some_and(|hit| hit >= facts.since), "{facts:?}");

    // For people and for dashboards.
    let shown = agent.segd(&["status"]).unwrap().stdout;
    assert!(shown.contains("history    ") && shown.contains("of 256.0 MiB"), "{shown}");
    counted(&agent, "segd_history_up", &[], 1.0);
    counted(&agent, "segd_lost_events_total", &[("stage", "history")], 0.0);
    assert!(agent.metrics().unwrap().sum("segd_history_bytes", &[]) > 0.0);

    // Without an agent.
    let mut agent = agent;
    agent.kill(Signal::SIGTERM).unwrap();
    let alone = open_read_only(&pair.transport.state_dir()).unwrap();
    assert_eq!(flows(&alone.summaries(Range::default()).unwrap(), &pair, 5432, Verdict::Allowed), 3);
    assert_eq!(alone.rules().unwrap()[0].since, facts.since);
}

#[test]
fn a_kill_takes_at_most_the_last_batch_and_damages_nothing() {
    let Some(pair) = Pair::new("histkill") else { return };
    let mut agent = pair.agent(&pair.transport, &rule("\"tcp/5432\""));
    let _server = pair.orders.tcp_server(5432).unwrap();
    let since = rules(&agent)[0].since;
    let mut safe = 0;
    for round in 0..5 {
        let to = pair.orders.v4_port(5432).to_string();
        let mut traffic = pair.transport.actor(&["churn", &to, &to, "--connects", "400"]).unwrap();
        // In the middle of it, while a query makes it write.
        std::thread::sleep(Duration::from_millis(40 * round));
        safe = flows(&history(&agent), &pair, 5432, Verdict::Allowed).max(safe);
        agent.kill(Signal::SIGKILL).unwrap();
        let left = open_read_only(&pair.transport.state_dir()).unwrap();
        let kept = flows(&left.summaries(Range::default()).unwrap(), &pair, 5432, Verdict::Allowed);
        assert!(kept >= safe, "round {round}: {kept} of {safe} that were read before the kill");
        safe = kept;
        drop(left);
        traffic.process().wait(SOON).unwrap();
        agent = agent.restart().unwrap();
        let gone_on = flows(&history(&agent), &pair, 5432, Verdict::Allowed);
        assert!(gone_on >= safe, "round {round}: {gone_on} of {safe}");
    }
    assert!(safe > 0, "nothing was written before a kill");
    let damaged = pair.transport.state_dir().join(format!("{FILE}.damaged"));
    assert!(!damaged.exists(), "the file was damaged");
    assert_eq!(rules(&agent)[0].since, since, "the rule is no new one");
    let before = flows(&history(&agent), &pair, 5432, Verdict::Allowed);
    assert_eq!(pair.transport.tcp_connect(pair.orders.v4_port(5432)).unwrap().errno(), None);
    wait_history(&agent, "one flow more", |all| flows(all, &pair, 5432, Verdict::Allowed) > before);
}

#[test]
fn a_damaged_file_is_set_aside_and_none_is_kept_where_it_is_not_wanted() {
    let Some(pair) = Pair::new("histbad") else { return };
    let state = pair.transport.state_dir();
    let mut agent = pair.agent(&pair.transport, &rule("\"tcp/5432\""));
    agent.kill(Signal::SIGTERM).unwrap();
    fs::write(state.join(FILE), [0xa5; 16_384]).unwrap();
    agent = agent.restart().unwrap();
    assert_eq!(history(&agent), []);
    assert!(agent.process().stderr().contains("history.db is damaged"), "{}", agent.process().stderr());
    assert_eq!(fs::read(state.join("history.db.damaged")).unwrap(), [0xa5; 16_384]);
    let _server = pair.orders.tcp_server(5432).unwrap();
    assert_eq!(pair.transport.tcp_connect(pair.orders.v4_port(5432)).unwrap().errno(), None);
    wait_history(&agent, "a flow in the new file", |all| flows(all, &pair, 5432, Verdict::Allowed) == 1);

    let host = &pair.orders;
    let without = host.agent().zones(&pair.zones("")).extra("[history]\nenabled = false\n").start().unwrap();
    let error = ask(&without, async |client| {
        client.history(&HistoryQuery::default()).await.map(drop).unwrap_err().to_string()
    });
    assert_eq!(
        error,
        "this agent keeps no flow history; set `[history] enabled = true` in segd.toml and restart segd"
    );
    assert!(!host.state_dir().join(FILE).exists());
}
