//! Workloads as zone files name them: units, templates, cgroups, users; out and in; while they live and when they end.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use segd_tests::{Actor, Agent, Report, TIMEOUT, wait_for};

use crate::support::{ENFORCE, Pair, SOON, has, record, rule};
use crate::workloads::{may_reach, outcomes, path_of};

/// Each workload may reach a port of its own.
const PORTS: [u16; 5] = [5432, 8080, 9090, 9091, 9092];

fn workload(name: &str, rest: &str) -> String {
    format!("[workload.{name}]\nzone = \"transport\"\nowner = \"automation\"\npurpose = \"test\"\n{rest}\n")
}

fn allow(from: &str, to: &str, ports: &str) -> String {
    format!(
        "[[allow]]\nid = \"{from}-to-{to}\"\nowner = \"o\"\nfrom = \"{from}\"\nto = \"{to}\"\nservices = [\"{ports}\"]\n"
    )
}

fn start(pair: &Pair, rest: &str) -> Agent {
    pair.agent(&pair.transport, &format!("{}{rest}{ENFORCE}", rule("\"tcp/5432\"")))
}

fn explain(agent: &Agent, from: &str, port: &str) -> (Option<i32>, String) {
    let config = agent.host().directory().join("segd.toml");
    let said = agent.segd(&["explain", from, "orders", port, "--config", &config.to_string_lossy()]).unwrap();
    (said.status.code(), said.stdout + &said.stderr)
}

fn below(pair: &Pair, cgroup: &str, arguments: &[&str]) -> Actor {
    pair.transport.actor_below(cgroup, arguments).unwrap()
}

/// A connection to this port of orders by a process in this cgroup, over which something went already.
fn hold(pair: &Pair, cgroup: &str, port: u16) -> Actor {
    let mut held = below(pair, cgroup, &["hold", &pair.orders.v4_port(port).to_string()]);
    assert!(matches!(held.next().unwrap(), Report::Connected { .. }), "{cgroup} {port}");
    assert_eq!(held.exchange("one").unwrap().text(), Some("one"), "{cgroup} {port}");
    held
}

#[test]
fn units_templates_cgroups_and_users_of_the_zone_files() {
    let Some(pair) = Pair::new("identity") else { return };
    let batch = format!("cgroup = \"{}/batch-*\"", path_of(pair.transport.cgroup()));
    let zones = [
        workload("inventory_bot", "unit = \"inventory-bot.service\"\ninherit = false"),
        workload("agents", "unit = \"agent@.service\""),
        workload("batch", &batch),
        workload("clerk", "user = \"nobody\""),
        allow("inventory_bot", "orders", "tcp/8080"),
        allow("agents", "orders", "tcp/9090"),
        allow("batch", "orders", "tcp/9091"),
        allow("clerk", "orders", "tcp/9092"),
    ];
    let agent = start(&pair, &zones.concat());
    let port = |port| ("dst.port", port);
    // The unit can be found while the process lives.
    let mut bot = below(&pair, "inventory-bot.service", &["attempt"]);
    assert_eq!(bot.exchange(&format!("tcp {}", pair.orders.v4_port(8080))).unwrap(), Report::Sent);
    let told = record(&agent, &[port("8080"), ("verdict", "allowed"), ("workload", "inventory_bot")]);
    assert_eq!(
        (&told["subject"], &told["process"]["unit"]),
        (&"inventory_bot".into(), &"inventory-bot.service".into())
    );
    drop(bot);
    for (cgroup, wanted) in [
        ("cron.service", &[5432][..]),
        ("inventory-bot.service", &[8080]),
        ("inventory-bot.service/worker/deep", &[8080]),
        ("jobs.slice/inventory-bot.service", &[8080]),
        ("agent@7.service", &[5432, 9090]),
        ("jobs.slice/agent@a-b.service", &[5432, 9090]),
        ("agent.service", &[5432]),
        ("batch-night/one", &[5432, 9091]),
        ("batch", &[5432]),
        // Whoever may make cgroups here may not take a unit's name.
        ("user.slice/user@1000.service/inventory-bot.service", &[5432]),
        ("user.slice/user@1000.service/app.slice/inventory-bot.service", &[5432]),
        ("session-1.scope/inventory-bot.service", &[5432]),
        ("container/system.slice/inventory-bot.service", &[5432]),
    ] {
        assert_eq!(
            may_reach(&pair, &PORTS, pair.transport.actor_below(cgroup, &["attempt"])),
            wanted,
            "{cgroup}"
        );
    }
    let nobody = || pair.transport.actor_as("nobody", &["attempt"]);
    assert_eq!(may_reach(&pair, &PORTS, nobody()), [5432, 9092]);

    record(&agent, &[port("5432"), ("verdict", "denied"), ("workload", "inventory_bot"), ("rule", "null")]);
    record(
        &agent,
        &[port("5432"), ("verdict", "allowed"), ("workload", "agents"), ("rule", "transport-to-orders")],
    );
    record(&agent, &[port("9092"), ("verdict", "allowed"), ("workload", "clerk")]);
    record(&agent, &[port("8080"), ("verdict", "denied"), ("workload", "null"), ("subject", "transport")]);

    let (code, said) = explain(&agent, "inventory_bot", "tcp/5432");
    assert_eq!(code, Some(1), "{said}");
    for wanted in
        ["workload inventory_bot", "unit inventory-bot.service", "(inherit = false)", "denied (no-rule)"]
    {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    let (code, said) = explain(&agent, "inventory_bot", "tcp/8080");
    assert!(code == Some(0) && said.contains("inventory_bot-to-orders"), "{said}");
    assert_eq!(explain(&agent, "agents", "tcp/5432").0, Some(0), "it inherits");
}

#[test]
fn two_hundred_short_lived_units_are_never_the_host() {
    let Some(pair) = Pair::new("short") else { return };
    let _server = pair.orders.tcp_server(8080).unwrap();
    let cgroup = pair.transport.cgroup().join("jobs.slice");
    std::fs::create_dir(&cgroup).unwrap();
    let jobs = workload("jobs", &format!("cgroup = \"{}/job-*.service\"", path_of(&cgroup)));
    let agent = start(&pair, &format!("{jobs}{}", allow("jobs", "orders", "tcp/8080")));
    let (cgroup, to) = (cgroup.display().to_string(), pair.orders.v4_port(8080).to_string());
    let actor = pair.transport.actor(&["jobs", &cgroup, &to, "--count", "200"]).unwrap();
    let done = outcomes(&actor, 200);
    assert_eq!(done.get(&format!("{:?}", Report::Sent)), Some(&200), "{done:?}");
    let opened = || {
        let flows = agent.flows().unwrap();
        flows
            .iter()
            .filter(|r| has(r, &[("event", "open"), ("subject", "jobs"), ("workload", "jobs")]))
            .count()
    };
    wait_for("every record", SOON, || (opened() == 200).then_some(())).unwrap();
    let others: Vec<_> = agent.flows().unwrap().into_iter().filter(|r| r["subject"] != "jobs").collect();
    assert!(others.is_empty(), "{others:#?}");
    let metrics = agent.metrics().unwrap();
    assert_eq!(metrics.sum("segd_flows_total", &[("src_zone", "jobs"), ("verdict", "allowed")]), 200.0);
    assert_eq!(metrics.sum("segd_flows_total", &[]), 200.0, "none was decided as anything else");
}

#[test]
fn what_a_workload_serves_is_decided_as_the_workload() {
    let Some(pair) = Pair::new("serves") else { return };
    let zones = [
        workload("inventory_bot", "unit = \"inventory-bot.service\"\ninherit = false"),
        allow("orders", "inventory_bot", "tcp/7000\", \"udp/7000\", \"tcp/7003"),
        allow("orders", "transport", "tcp/7001\", \"tcp/7002"),
    ];
    let agent = start(&pair, &zones.concat());
    let serve = |cgroup: &str, what: &str, port: u16| {
        let actor = below(&pair, cgroup, &[what, &format!("[::]:{port}")]);
        assert!(matches!(actor.next().unwrap(), Report::Listening { .. }));
        actor
    };
    let _bot = [("tcp-serve", 7000), ("udp-serve", 7000), ("tcp-serve", 7002)]
        .map(|(what, port)| serve("inventory-bot.service", what, port));
    let _host = [7001, 7003].map(|port| serve("web.service", "tcp-serve", port));
    for (port, wanted) in [(7000, None), (7001, None), (7002, Some(TIMEOUT)), (7003, Some(TIMEOUT))] {
        for to in [pair.transport.v4_port(port), pair.transport.v6_port(port)] {
            assert_eq!(pair.orders.tcp_connect(to).unwrap().errno(), wanted, "{to}");
        }
    }
    let answer = pair.orders.udp_send(pair.transport.v4_port(7000)).unwrap();
    assert_eq!(answer.text(), Some("ping"), "its answer passes too: {answer:?}");
    let inbound = ("direction", "inbound");
    record(&agent, &[inbound, ("dst.port", "7000"), ("workload", "inventory_bot"), ("verdict", "allowed")]);
    record(&agent, &[inbound, ("dst.port", "7002"), ("workload", "inventory_bot"), ("verdict", "denied")]);
    record(&agent, &[inbound, ("dst.port", "7003"), ("workload", "null"), ("verdict", "denied")]);
}

#[test]
fn a_load_that_makes_changes_or_removes_a_workload_decides_its_live_sockets_again() {
    let Some(pair) = Pair::new("redecide") else { return };
    let _servers = [5432, 8080].map(|port| pair.orders.tcp_server(port).unwrap());
    let agent = start(&pair, "");
    let load = |rest: &str| {
        agent.write_zones(&pair.zones(&format!("{}{rest}{ENFORCE}", rule("\"tcp/5432\"")))).unwrap();
    };
    let bot = |rest: &str| workload("bot", &format!("unit = \"bot.service\"\n{rest}"));
    let mut other = hold(&pair, "other.service", 5432);
    let mut held = hold(&pair, "bot.service", 5432);
    load(&format!("{}{}", bot("inherit = false"), allow("bot", "orders", "tcp/8080")));
    let refused = agent.segd(&["apply"]).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    let shown = &refused.stdout;
    assert!(shown.contains("lab-actor[") && shown.contains("bot.service"), "{shown}");
    assert_eq!(held.exchange("two").unwrap().text(), Some("two"));
    agent.json(&["apply", "--force"]).unwrap();
    assert!(held.exchange("three").unwrap().errno().is_some(), "it became the workload's");
    record(&agent, &[("event", "revoke"), ("dst.port", "5432"), ("workload", "bot")]);

    let mut held = hold(&pair, "bot.service", 8080);
    load(&format!("{}{}", bot("inherit = false"), allow("bot", "orders", "tcp/8080-8081")));
    agent.json(&["apply"]).unwrap();
    assert_eq!(held.exchange("two").unwrap().text(), Some("two"), "it may still");
    load("");
    agent.json(&["apply", "--force"]).unwrap();
    assert!(held.exchange("three").unwrap().errno().is_some(), "it became the host's");
    assert_eq!(other.exchange("two").unwrap().text(), Some("two"), "another unit is no matter of it");
    assert_eq!(may_reach(&pair, &PORTS, pair.transport.actor_below("bot.service", &["attempt"])), [5432]);
}

/// Also where nothing is enforced; failsafe traffic passes.
#[test]
fn a_workload_that_expires_is_denied_everything() {
    let Some(pair) = Pair::new("expires") else { return };
    let _servers = [5432, 8080].map(|port| pair.orders.tcp_server(port).unwrap());
    let _dns = pair.orders.udp_server(53).unwrap();
    let in_seconds = |n| Timestamp::now().checked_add(SignedDuration::from_secs(n)).unwrap();
    let zones = |ends: Timestamp| {
        let bot = workload("bot", &format!("unit = \"bot.service\"\nexpires = {ends:.3}"));
        pair.zones(&format!("{}{bot}", rule("\"tcp/5432\"")))
    };
    let agent = pair.transport.agent().zones(&zones(in_seconds(3600))).start().unwrap();
    let (mut held, idle) = (hold(&pair, "bot.service", 5432), hold(&pair, "bot.service", 8080));
    let watched = below(&pair, "bot.service", &["watch", &pair.orders.v4_port(8080).to_string()]);
    let mut other = hold(&pair, "other.service", 8080);
    let served = below(&pair, "bot.service", &["tcp-serve", "[::]:7000"]);
    assert!(matches!(served.next().unwrap(), Report::Listening { .. }));
    let mut inbound = pair.orders.hold(pair.transport.v4_port(7000)).unwrap();
    assert_eq!(inbound.exchange("one").unwrap().text(), Some("one"));
    let ends = in_seconds(2);
    agent.write_zones(&zones(ends)).unwrap();
    agent.json(&["apply", "--force"]).unwrap();
    while Timestamp::now() < ends {
        std::thread::sleep(Duration::from_millis(50));
    }

    assert!(held.exchange("two").unwrap().errno().is_some(), "a rule allowed it");
    let cut = loop {
        match watched.next_within(SOON).unwrap() {
            Report::Connected { .. } | Report::Sent | Report::Received { .. } => {}
            other => break other,
        }
    };
    assert_eq!(cut.errno(), Some("ECONNABORTED"), "an idle connection learns of it: {cut:?}");
    assert!(inbound.exchange("two").unwrap().errno().is_some(), "what it serves");
    drop(idle);
    assert_eq!(other.exchange("two").unwrap().text(), Some("two"), "monitor mode for the others");
    let actor = pair.transport.actor_below("bot.service", &["attempt"]);
    assert_eq!(may_reach(&pair, &PORTS, actor), [0_u16; 0]);
    assert_eq!(pair.orders.tcp_connect(pair.transport.v4_port(7000)).unwrap().errno(), Some(TIMEOUT));
    let dns = below(&pair, "bot.service", &["udp-send", &pair.orders.v4_port(53).to_string()]);
    assert!(matches!(dns.next().unwrap(), Report::Sent));
    assert_eq!(dns.next().unwrap().text(), Some("ping"), "failsafe");
    let expired = [("workload", "bot"), ("reason", "workload-expired"), ("verdict", "denied")];
    record(&agent, &[&expired[..], &[("event", "revoke"), ("direction", "outbound")]].concat());
    record(&agent, &[&expired[..], &[("event", "revoke"), ("direction", "inbound")]].concat());
    record(&agent, &[&expired[..], &[("event", "deny"), ("direction", "outbound")]].concat());
    let (code, said) = explain(&agent, "bot", "tcp/5432");
    assert!(code == Some(1) && said.contains("workload-expired"), "{said}");
    // Nothing brings it back but another date.
    agent.json(&["apply", "--force"]).unwrap();
    let agent = agent.restart().unwrap();
    let actor = || pair.transport.actor_below("bot.service", &["attempt"]);
    assert_eq!(may_reach(&pair, &PORTS, actor()), [0_u16; 0]);
    let later = ends.checked_add(SignedDuration::from_hours(1)).unwrap();
    agent.write_zones(&zones(later)).unwrap();
    agent.json(&["apply"]).unwrap();
    assert_eq!(may_reach(&pair, &PORTS, actor()), PORTS);
}
