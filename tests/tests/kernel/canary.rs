//! Canaries: a rollout that holds on some hosts, or towards some peers.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use segd_tests::{Agent, Host, TIMEOUT};
use serde_json::Value;

use crate::support::{Pair, record, rule};

const PORT: u16 = 6379;

fn zones(pair: &Pair, canary: &str) -> String {
    let rollout =
        format!("[[rollout]]\nsubject = \"transport\"\nmode = \"enforce\"\ncanary = {{ {canary} }}\n");
    pair.zones(&format!("{}{rollout}", rule("\"tcp/5432\"")))
}

fn errno(from: &Host, to: IpAddr) -> Option<String> {
    let outcome = from.tcp_connect(SocketAddr::from((to, PORT))).unwrap();
    outcome.errno().map(str::to_owned)
}

/// The lines of the modes of this host that are not the default.
fn sources(status: &Value) -> Vec<&str> {
    let modes = status["modes"].as_array().unwrap().iter();
    modes.map(|m| m["source"].as_str().unwrap()).filter(|source| *source != "default").collect()
}

#[test]
fn a_host_is_in_or_not_in_and_status_says_why() {
    let Some(pair) = Pair::new("canary") else { return };
    let _server = pair.orders.tcp_server(PORT).unwrap();
    let agent = pair.transport.agent().zones(&zones(&pair, "percent = 0")).start().unwrap();
    for (canary, is_in, why) in [
        ("percent = 0", false, "is not below percent = 0"),
        ("percent = 100", true, "is below percent = 100"),
        ("hosts = [\"orders\"]", false, "`hosts` does not name it"),
        ("hosts = [\"orders\", \"Trans*\"]", true, "named by `trans*`"),
        ("percent = 0, hosts = [\"transport\"]", true, "named by `transport`"),
    ] {
        agent.write_zones(&zones(&pair, canary)).unwrap();
        agent.json(&["apply", "--force"]).unwrap();
        let denied = errno(&pair.transport, pair.orders.v4()).as_deref() == Some("EPERM");
        assert_eq!(denied, is_in, "{canary}");
        let status = agent.status().unwrap();
        let shown = &status["canaries"][0];
        assert_eq!(shown["included"], is_in, "{canary}: {status:#}");
        assert!(shown["why"].as_str().unwrap().contains(why), "{canary}: {shown:#}");
        let wanted: &[&str] = if is_in { &["rollout, canary"; 2] } else { &[] };
        assert_eq!(sources(&status), wanted, "{canary}: {status:#}");
        let text = agent.segd(&["status"]).unwrap().stdout;
        let words = format!("{} the canary of", if is_in { "in" } else { "not in" });
        assert!(text.contains(&words) && text.contains(why), "{text}");
    }
    // `segd mode` counts before a canary that leaves this host out.
    agent.write_zones(&zones(&pair, "percent = 0")).unwrap();
    agent.json(&["apply", "--force"]).unwrap();
    agent.mode(&["enforce"]).unwrap();
    assert_eq!(errno(&pair.transport, pair.orders.v4()).as_deref(), Some("EPERM"));
    assert_eq!(sources(&agent.status().unwrap()), ["override"; 2]);
}

#[test]
fn who_is_in_stays_in_as_the_percentage_grows() {
    let Some(pair) = Pair::new("grows") else { return };
    let agent = pair.transport.agent().zones(&zones(&pair, "percent = 0")).start().unwrap();
    let list = pair.transport.directory().join("hosts");
    let names: Vec<String> =
        (0..200).map(|n| format!("wms-app-{n}\n")).chain(["transport\n".into()]).collect();
    std::fs::write(&list, names.concat()).unwrap();
    let dir = agent.status().unwrap()["policy"]["dir"].as_str().unwrap().to_owned();
    let mut before = BTreeSet::new();
    for percent in [5_usize, 20, 50, 90, 100] {
        agent.write_zones(&zones(&pair, &format!("percent = {percent}"))).unwrap();
        let listed = agent.json(&["check", &dir, "--hosts", &list.to_string_lossy()]).unwrap();
        let hosts = listed["canaries"][0]["hosts"].as_array().unwrap().iter();
        let now: BTreeSet<String> =
            hosts.filter(|h| h["in"] == true).map(|h| h["host"].as_str().unwrap().to_owned()).collect();
        assert!(now.is_superset(&before), "{percent}: {:?} left", before.difference(&now));
        assert!(now.len().abs_diff(201 * percent / 100) < 25, "{percent}: {}", now.len());
        agent.json(&["apply", "--force"]).unwrap();
        let own = agent.status().unwrap()["canaries"][0]["included"].as_bool().unwrap();
        assert_eq!(own, now.contains("transport"), "the agent of a host says what check says of it");
        before = now;
    }
    assert_eq!(before.len(), 201);
}

/// Both addresses of the peer are in one zone; only one is in the canary.
#[test]
fn a_cohort_of_peers_is_enforced_and_the_others_are_watched() {
    let Some(pair) = Pair::new("cohort") else { return };
    let inside: [IpAddr; 2] = ["10.77.1.99".parse().unwrap(), "2001:db8:77:1::99".parse().unwrap()];
    let outside = [pair.orders.v4(), pair.orders.v6()];
    inside.iter().for_each(|address| pair.orders.add_address(*address).unwrap());
    let _server = pair.orders.tcp_server(PORT).unwrap();
    let _own = pair.transport.tcp_server(PORT).unwrap();
    let peers = "peers = [\"10.77.1.96/28\", \"2001:db8:77:1::99/128\"]";
    let agent = pair.transport.agent().zones(&zones(&pair, peers)).start().unwrap();
    let from = |own: IpAddr, to: IpAddr| {
        let (own, to) = (SocketAddr::from((own, 0)).to_string(), SocketAddr::from((to, PORT)).to_string());
        let outcome = pair.orders.act(&["tcp-connect", &to, "--bind", &own]).unwrap();
        outcome[0].errno().map(str::to_owned)
    };
    for ((inside, outside), own) in
        inside.iter().zip(&outside).zip([pair.transport.v4(), pair.transport.v6()])
    {
        assert_eq!(errno(&pair.transport, *inside).as_deref(), Some("EPERM"), "{inside}");
        assert_eq!(errno(&pair.transport, *outside), None, "{outside}");
        assert_eq!(from(*inside, own).as_deref(), Some(TIMEOUT), "{inside}, inbound");
        assert_eq!(from(*outside, own), None, "{outside}, inbound");
        for (end, direction) in [("dst", "outbound"), ("src", "inbound")] {
            for (address, verdict) in [(inside, "denied"), (outside, "audited")] {
                let (ip, zone) = (format!("{end}.ip"), format!("{end}.zone"));
                record(
                    &agent,
                    &[
                        ("direction", direction),
                        (&ip, &address.to_string()),
                        (&zone, "orders"),
                        ("verdict", verdict),
                        ("reason", "no-rule"),
                    ],
                );
            }
        }
        let text = |address: &IpAddr| explain(&agent, &address.to_string());
        let (code, said) = text(inside);
        assert_eq!(code, Some(1), "{said}");
        let (code, said) = text(outside);
        assert_eq!((code, said.contains("is for the peers 10.77.1.96/28")), (Some(0), true), "{said}");
    }
    let metrics = agent.metrics().unwrap();
    let zones = [("src_zone", "transport"), ("dst_zone", "orders")];
    for verdict in ["denied", "audited"] {
        let labels = [&zones[..], &[("verdict", verdict)]].concat();
        assert_eq!(metrics.sum("segd_flows_total", &labels), 2.0, "{verdict}: one zone, one series");
    }
    let status = agent.status().unwrap();
    let wanted = "rollout, canary peers 10.77.1.96/28 2001:db8:77:1::99/128";
    assert_eq!(sources(&status), [wanted; 2], "{status:#}");
    assert!(status["canaries"][0]["why"].as_str().unwrap().contains("for traffic with 10.77.1.96/28"));
}

fn explain(agent: &Agent, to: &str) -> (Option<i32>, String) {
    let config = agent.host().directory().join("segd.toml");
    let port = PORT.to_string();
    let said =
        agent.segd(&["explain", "transport", to, &port, "--config", &config.to_string_lossy()]).unwrap();
    (said.status.code(), said.stdout + &said.stderr)
}
