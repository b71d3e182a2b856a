//! DNS names in zones: the kernel follows what they stand for.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::sys::signal::Signal;
use segd_tests::{Agent, Dnsmasq, Host, segd, wait_for};
use serde_json::Value;

use crate::confirm::actions;
use crate::support::{ENFORCE, Pair, SOON, has, rule};

/// Of the DNS server, on the loopback of the host that asks.
const DNS: u16 = 5353;

const PORT: u16 = 5432;

const LOOK_UP: &str =
    "[names]\nservers = [\"127.0.0.1:5353\"]\nmin_ttl = \"1s\"\nmax_ttl = \"1s\"\ntimeout = \"1s\"\n";

/// Zone transport by its prefixes, orders and edi by names.
fn zones(pair: &Pair, rest: &str) -> String {
    format!(
        "[zone.orders]\nnames = [\"db.test\"]\n[zone.edi]\nnames = [\"edi.test\"]\n\
         [zone.transport]\ncidrs = [\"{}\", \"{}\"]\n{}{ENFORCE}{rest}",
        pair.transport.v4_prefix(),
        pair.transport.v6_prefix(),
        rule("\"tcp/5432\"")
    )
}

fn agent(pair: &Pair) -> Agent {
    pair.transport.agent().zones(&zones(pair, "")).extra(LOOK_UP).start().unwrap()
}

fn errno(from: &Host, to: IpAddr) -> Option<String> {
    let outcome = from.tcp_connect(SocketAddr::from((to, PORT))).unwrap();
    outcome.errno().map(str::to_owned)
}

fn wait_status(agent: &Agent, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, SOON, || agent.status().ok().filter(&wanted))
        .unwrap_or_else(|e| panic!("{e}: {:#}", agent.status().unwrap()))
}

fn warns(status: &Value, of: &str) -> bool {
    status["warnings"].as_array().unwrap().iter().any(|w| w.as_str().unwrap().contains(of))
}

#[test]
fn a_zone_follows_what_its_name_stands_for() {
    let Some(pair) = Pair::new("names") else { return };
    let (old, new): ([IpAddr; 2], [IpAddr; 2]) = (
        [pair.orders.v4(), pair.orders.v6()],
        ["10.78.0.5".parse().unwrap(), "2001:db8:78::5".parse().unwrap()],
    );
    new.iter().for_each(|address| pair.orders.add_address(*address).unwrap());
    let hosts = |[v4, v6]: [IpAddr; 2]| format!("{v4} db.test\n{v6} db.test\n10.79.0.1 edi.test\n");
    let mut dns = Dnsmasq::start(&pair.transport, DNS, &hosts(old)).unwrap();
    let _server = pair.orders.tcp_server(PORT).unwrap();
    let mut agent = agent(&pair);
    let all = |allowed: [IpAddr; 2], other: [IpAddr; 2]| {
        let is = |address: &IpAddr| errno(&pair.transport, *address);
        allowed.iter().all(|a| is(a).is_none()) && other.iter().all(|a| is(a).as_deref() == Some("EPERM"))
    };
    assert!(all(old, new));
    let mut held = pair.transport.hold((old[0], PORT).into()).unwrap();
    assert_eq!(held.exchange("one").unwrap().text(), Some("one"));
    let before = agent.status().unwrap();
    assert!(before["names"][1]["addresses"][old[1].to_string()].is_string(), "{before:#}");

    dns.set_hosts(&hosts(new)).unwrap();
    wait_for("the new addresses", SOON, || all(new, old).then_some(())).unwrap();
    assert!(held.exchange("two").unwrap().errno().is_some(), "who it talks to is in no zone any more");
    let status = agent.status().unwrap();
    assert_eq!(status["policy"]["record"], before["policy"]["record"], "nobody loaded anything");
    assert_eq!(actions(&agent), ["start"]);
    let told =
        agent.wait_flow("a record", SOON, |r| has(r, &[("dst.ip", "10.78.0.5"), ("event", "open")])).unwrap();
    assert_eq!((told["dst"]["zone"].as_str(), told["verdict"].as_str()), (Some("orders"), Some("allowed")));

    drop(dns);
    let failed = |status: &Value| status["names"].as_array().unwrap().iter().all(|n| n["error"].is_string());
    wait_status(&agent, "the failure to show", failed);
    std::thread::sleep(Duration::from_secs(2));
    assert!(all(new, old), "the last addresses stay");
    let shown = agent.segd(&["status"]).unwrap().stdout;
    assert!(
        shown.contains("2 cannot be looked up now") && shown.contains("no look-up of db.test"),
        "{shown}"
    );
    agent.kill(Signal::SIGKILL).unwrap();
    agent = agent.restart().unwrap();
    assert!(all(new, old), "also over a restart while there is no DNS");
    let status = wait_status(&agent, "the failure to show again", failed);
    assert_eq!(status["names"][1]["addresses"].as_object().unwrap().len(), 2, "{status:#}");
    let text =
        agent.segd(&["explain", "transport", "10.78.0.5", "5432", "--config", &config(&agent)]).unwrap();
    assert!(text.stdout.contains("zone orders, by db.test"), "{}{}", text.stdout, text.stderr);
}

fn config(agent: &Agent) -> String {
    agent.host().directory().join("segd.toml").display().to_string()
}

#[test]
fn an_address_of_two_names_stays_where_it_was() {
    let Some(pair) = Pair::new("claims") else { return };
    let shared = pair.orders.v4();
    let mut dns =
        Dnsmasq::start(&pair.transport, DNS, &format!("{shared} edi.test\n10.79.0.1 db.test\n")).unwrap();
    let _server = pair.orders.tcp_server(PORT).unwrap();
    let agent = agent(&pair);
    assert_eq!(errno(&pair.transport, shared).as_deref(), Some("EPERM"), "it is edi's");
    dns.set_hosts(&format!("{shared} edi.test\n10.79.0.1 db.test\n{shared} db.test\n")).unwrap();
    let stays = format!("{shared} stays in zone `edi`");
    wait_status(&agent, "a warning", |status| warns(status, &stays));
    assert_eq!(errno(&pair.transport, shared).as_deref(), Some("EPERM"), "it is edi's still");
    let explain =
        || agent.segd(&["explain", "transport", &shared.to_string(), "5432", "--config", &config(&agent)]);
    assert!(explain().unwrap().stdout.contains("zone edi, by edi.test"), "explain says what the kernel does");

    // Whoever writes files is told, whoever runs the agent goes on.
    let check = |options: &[&str]| {
        let mut check = pair.transport.command(segd().unwrap()).unwrap();
        check.args(["check", "--config", &config(&agent)]).args(options);
        pair.transport.run(check).unwrap()
    };
    let found = check(&[]);
    assert_eq!(found.status.code(), Some(1), "{}", found.stdout);
    assert!(found.stdout.contains("both claim") && found.stdout.contains("zones.toml:4"), "{}", found.stdout);
    assert_eq!(check(&["--no-resolve"]).status.code(), Some(0));
    agent.json(&["apply"]).unwrap();
    let agent = agent.restart().unwrap();
    assert!(warns(&agent.status().unwrap(), &stays));
    assert_eq!(
        errno(&pair.transport, shared).as_deref(),
        Some("EPERM"),
        "the next agent knows who was first"
    );

    dns.set_hosts(&format!("10.79.0.2 edi.test\n{shared} db.test\n")).unwrap();
    wait_for("the address to be free", SOON, || errno(&pair.transport, shared).is_none().then_some(()))
        .unwrap();
    wait_status(&agent, "no warning any more", |status| !warns(status, "stays in zone"));
}

/// A policy without names comes and goes: what the former one's names stood for is there when it returns.
#[test]
fn names_are_there_when_a_former_policy_returns() {
    let Some(pair) = Pair::new("return") else { return };
    let to = pair.orders.v4();
    let _dns = Dnsmasq::start(&pair.transport, DNS, &format!("{to} db.test\n10.79.0.1 edi.test\n")).unwrap();
    let _server = pair.orders.tcp_server(PORT).unwrap();
    let mut agent = agent(&pair);
    assert_eq!(errno(&pair.transport, to), None);
    let nameless = pair.zones(ENFORCE);
    agent.write_zones(&nameless).unwrap();
    agent.json(&["apply", "--force"]).unwrap();
    assert_eq!(errno(&pair.transport, to).as_deref(), Some("EPERM"));
    std::thread::sleep(Duration::from_secs(2));
    agent.json(&["rollback"]).unwrap();
    assert_eq!(errno(&pair.transport, to), None, "at once");

    agent.json(&["apply", "--force"]).unwrap();
    agent = agent.restart().unwrap();
    agent.json(&["rollback"]).unwrap();
    assert_eq!(errno(&pair.transport, to), None, "also if this agent never knew them");

    agent.json(&["apply", "--force", "--confirm", "3s"]).unwrap();
    assert_eq!(errno(&pair.transport, to).as_deref(), Some("EPERM"));
    agent.kill(Signal::SIGKILL).unwrap();
    wait_for("the kernel to go back", SOON, || errno(&pair.transport, to).is_none().then_some(())).unwrap();
    agent = agent.restart().unwrap();
    assert_eq!(errno(&pair.transport, to), None);
    assert!(agent.status().unwrap()["policy"]["held"].is_string());

    // A name that comes with a load is looked up by it.
    agent.write_zones(&zones(&pair, "[zone.late]\nnames = [\"edi2.test\"]\n")).unwrap();
    let late = agent.json(&["apply", "--force"]).unwrap();
    assert_eq!(errno(&pair.transport, to), None, "{late:#}");
}
