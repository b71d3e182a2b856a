//! From monitor to enforce and back, while connections live and while traffic flows.

use std::time::Duration;

use crate::support::{Pair, counted, record, rule};
use segd_tests::{Report, TIMEOUT};

#[test]
fn a_live_connection_that_no_rule_allows_is_cut_by_enforce_and_freed_by_monitor() {
    let Some(pair) = Pair::new("live") else { return };
    let zones = pair.zones(&rule("\"tcp/5432\""));
    let drop = "[enforcement]\non_revoke = \"drop\"\n";
    let agent = pair.transport.agent().zones(&zones).extra(drop).start().unwrap();
    let _allowed = pair.orders.tcp_server(5432).unwrap();
    let _other = pair.orders.tcp_server(6379).unwrap();
    let mut allowed = pair.transport.hold(pair.orders.v4_port(5432)).unwrap();
    let mut other = pair.transport.hold(pair.orders.v4_port(6379)).unwrap();
    assert_eq!(allowed.exchange("one").unwrap().text(), Some("one"));
    assert_eq!(other.exchange("one").unwrap().text(), Some("one"));

    agent.mode(&["enforce"]).unwrap();
    assert_eq!(allowed.exchange("two").unwrap().text(), Some("two"), "a rule allows it");
    let cut = other.exchange("two").unwrap();
    assert_eq!(cut.errno(), Some(TIMEOUT), "{cut:?}");
    record(&agent, &[("event", "revoke"), ("verdict", "denied"), ("dst.port", "6379")]);
    let refused = pair.transport.tcp_connect(pair.orders.v4_port(6379)).unwrap();
    assert_eq!(refused.errno(), Some("EPERM"));

    agent.mode(&["monitor"]).unwrap();
    let again = other.exchange("three").unwrap();
    assert!(matches!(&again, Report::Received { .. }), "TCP sends again what was dropped: {again:?}");
    assert_eq!(allowed.exchange("three").unwrap().text(), Some("three"));
    counted(&agent, "segd_enforcing", &[("service", "other"), ("direction", "outbound")], 0.0);
}

#[test]
fn a_mode_can_be_set_for_one_service_and_outlives_the_agent() {
    let Some(pair) = Pair::new("scope") else { return };
    let zones = "[service.cache]\nports = [\"tcp/6379\"]\n";
    let agent = pair.agent(&pair.transport, zones);
    let _cache = pair.orders.tcp_server(6379).unwrap();
    let _other = pair.orders.tcp_server(8080).unwrap();
    agent.mode(&["enforce", "--service", "cache", "--direction", "outbound"]).unwrap();
    let check = || {
        let cache = pair.transport.tcp_connect(pair.orders.v4_port(6379)).unwrap();
        assert_eq!(cache.errno(), Some("EPERM"), "{cache:?}");
        let other = pair.transport.tcp_connect(pair.orders.v4_port(8080)).unwrap();
        assert_eq!(other.errno(), None, "{other:?}");
    };
    check();
    let agent = agent.restart().unwrap();
    check();
    let status = agent.status().unwrap();
    assert_eq!(status["overrides"][0]["service"], "cache");
    assert_eq!(status["overrides"][0]["set_by"], 0);
    counted(&agent, "segd_enforcing", &[("service", "cache"), ("direction", "outbound")], 1.0);

    agent.mode(&["default"]).unwrap();
    assert_eq!(agent.status().unwrap()["overrides"], serde_json::json!([]));
    let cache = pair.transport.tcp_connect(pair.orders.v4_port(6379)).unwrap();
    assert_eq!(cache.errno(), None, "the zone files say monitor: {cache:?}");
}

#[test]
fn a_hundred_swaps_under_traffic_give_no_wrong_verdict() {
    const SWAPS: usize = 100;
    const CONNECTS: u64 = 50_000;
    let Some(pair) = Pair::new("swap") else { return };
    let zones = |extra: &str| {
        let rules = rule("\"tcp/5432\"");
        pair.zones(&format!("{extra}{rules}[[rollout]]\nmode = \"enforce\"\n"))
    };
    let agent = pair.transport.agent().zones(&zones("")).start().unwrap();
    let _allowed = pair.orders.tcp_server(5432).unwrap();
    let allowed = pair.orders.v4_port(5432).to_string();
    let denied = pair.orders.v4_port(6379).to_string();
    let count = CONNECTS.to_string();
    let mut traffic = pair.transport.actor(&["churn", &allowed, &denied, "--connects", &count]).unwrap();
    let mut swaps = 0;
    // Each generation gives the tables other contents: another zone, another prefix, another rule.
    while traffic.process().ended().unwrap().is_none() || swaps < SWAPS {
        let extra = format!(
            "[zone.extra{swaps}]\ncidrs = [\"172.16.{}.0/24\"]\n[[allow]]\nid = \"extra{swaps}\"\nfrom = \"extra{swaps}\"\n\
             to = \"transport\"\nservices = [\"tcp/{}\"]\n",
            swaps % 256,
            1000 + swaps,
        );
        agent.write_zones(&zones(&extra)).unwrap();
        let applied = agent.segd(&["apply", "--force"]).unwrap();
        assert!(applied.status.success(), "{}", applied.stderr);
        swaps += 1;
    }
    let outcome = traffic.next_within(Duration::from_secs(60)).unwrap();
    let Report::Counted { outcomes } = &outcome else { panic!("{outcome:?}") };
    assert_eq!(outcomes.get("ok"), Some(&(CONNECTS / 2)), "{outcomes:?}");
    assert_eq!(outcomes.get("EPERM"), Some(&(CONNECTS / 2)), "{outcomes:?}");
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
    assert!(swaps >= SWAPS, "{swaps}");
    let metrics = agent.metrics().unwrap();
    assert_eq!(metrics.sum("segd_flows_total", &[("verdict", "allowed")]), (CONNECTS / 2) as f64);
    assert_eq!(metrics.sum("segd_flows_total", &[("verdict", "denied")]), (CONNECTS / 2) as f64);
}
