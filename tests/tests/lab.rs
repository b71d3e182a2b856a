//! The lab itself: hosts reach each other, labs do not, and nothing is left of one however its process ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::panic::catch_unwind;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use segd_tests::{Lab, Report, Server, TIMEOUT, wait_for};

/// Every place of this machine in which something is named after lab `id`.
fn traces(id: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(mounts.lines().filter(|line| line.contains(id)).map(str::to_owned));
    let cgroups =
        mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    for place in ["/run", "/run/netns", cgroups.unwrap_or_default()] {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path().display().to_string());
        found.extend(paths.filter(|path| path.contains(id)));
    }
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let read = |file| fs::read_to_string(process.path().join(file)).unwrap_or_default();
        // A zombie is gone but for its exit status, which is for its parent to fetch.
        if read("cgroup").contains(id) && !read("stat").contains(") Z ") {
            found.push(process.path().display().to_string());
        }
    }
    found
}

#[test]
fn hosts_of_a_lab_reach_each_other_by_every_protocol() {
    let Some(lab) = Lab::or_skip("reach") else { return };
    let (orders, transport) = (lab.host("orders").unwrap(), lab.host("transport").unwrap());
    let _tcp = orders.tcp_server(8443).unwrap();
    let _udp = orders.udp_server(4000).unwrap();
    for port in [orders.v4_port(8443), orders.v6_port(8443), orders.mapped_port(8443)] {
        let outcome = transport.tcp_connect(port).unwrap();
        assert!(matches!(outcome, Report::Connected { .. }), "{port}: {outcome:?}");
    }
    for port in [orders.v4_port(4000), orders.v6_port(4000), orders.mapped_port(4000)] {
        assert_eq!(transport.udp_send(port).unwrap().text(), Some("ping"), "{port}");
        assert_eq!(transport.udp_connected(port).unwrap().text(), Some("ping"), "{port}");
    }
    for address in [orders.v4(), orders.v6()] {
        assert_eq!(transport.ping(address).unwrap().text(), Some("echo reply"), "{address}");
        let raw = transport.act(&["icmp-ping", &address.to_string(), "--raw"]).unwrap();
        assert_eq!(raw.last().and_then(Report::text), Some("echo reply"), "{address} raw");
    }
}

#[test]
fn an_actor_names_what_refused_it() {
    let Some(lab) = Lab::or_skip("refused") else { return };
    let (orders, transport) = (lab.host("orders").unwrap(), lab.host("transport").unwrap());
    let mut held = {
        let _server = orders.tcp_server(8443).unwrap();
        let mut held = transport.hold(orders.v4_port(8443)).unwrap();
        assert_eq!(held.exchange("one").unwrap().text(), Some("one"));
        assert_eq!(held.exchange("two").unwrap().text(), Some("two"));
        held
    };
    assert_eq!(held.exchange("three").unwrap(), Report::Closed);
    assert_eq!(transport.tcp_connect(orders.v4_port(8443)).unwrap().errno(), Some("ECONNREFUSED"));
    assert_eq!(transport.udp_connected(orders.v4_port(4000)).unwrap().errno(), Some("ECONNREFUSED"));
    let nobody: IpAddr = "10.77.99.1".parse().unwrap();
    let silent = Report::Failed { step: "connect".into(), errno: TIMEOUT.into() };
    assert_eq!(transport.tcp_connect(SocketAddr::new(nobody, 80)).unwrap(), silent);
    assert_eq!(transport.ping(nobody).unwrap().errno(), Some(TIMEOUT));
}

#[test]
fn a_host_may_have_any_address_and_use_it() {
    let Some(lab) = Lab::or_skip("address") else { return };
    let (orders, partner) = (lab.host("orders").unwrap(), lab.host("partner").unwrap());
    for (address, bind) in [("192.0.2.7", "192.0.2.7:0"), ("2001:db8:ffff::7", "[2001:db8:ffff::7]:0")] {
        partner.add_address(address.parse().unwrap()).unwrap();
        let server = orders.tcp_server(8443).unwrap();
        let to = if address.contains(':') { orders.v6_port(8443) } else { orders.v4_port(8443) };
        let reports = partner.act(&["tcp-connect", &to.to_string(), "--bind", bind]).unwrap();
        assert!(matches!(reports[..], [Report::Connected { .. }]), "{reports:?}");
        let Report::Accepted { peer } = server.next().unwrap() else { panic!("not accepted") };
        assert_eq!(peer.ip().to_canonical(), address.parse::<IpAddr>().unwrap());
    }
}

#[test]
fn a_process_is_in_the_cgroup_of_its_host() {
    let Some(lab) = Lab::or_skip("cgroup") else { return };
    let host = lab.host("orders").unwrap();
    let read = |command| {
        let mut command: Command = command;
        command.arg("/proc/self/cgroup");
        host.run(command).unwrap().stdout
    };
    let path = format!("/{}.slice/hosts.slice/orders.slice", lab.id());
    let of_host = read(host.command("cat").unwrap());
    assert!(of_host.lines().any(|line| line == format!("0::{path}")), "{of_host}");
    let of_bot = read(host.command_below("agents/bot", "cat").unwrap());
    assert!(of_bot.lines().any(|line| line == format!("0::{path}/agents/bot")), "{of_bot}");
    let mut whoami = host.command_as("nobody", "id").unwrap();
    whoami.arg("-un");
    assert_eq!(host.run(whoami).unwrap().stdout.trim(), "nobody");
}

#[test]
fn churn_counts_every_connect() {
    let Some(lab) = Lab::or_skip("churn") else { return };
    let (orders, transport) = (lab.host("orders").unwrap(), lab.host("transport").unwrap());
    let _server = orders.tcp_server(8443).unwrap();
    let (good, bad) = (orders.v4_port(8443).to_string(), orders.v4_port(8444).to_string());
    let reports = transport.act(&["churn", &good, &bad, "--connects", "2000"]).unwrap();
    let [Report::Counted { outcomes }] = &reports[..] else { panic!("{reports:?}") };
    let outcomes: Vec<_> = outcomes.iter().map(|(outcome, count)| (outcome.as_str(), *count)).collect();
    assert_eq!(outcomes, [("ECONNREFUSED", 1000), ("ok", 1000)]);
}

#[test]
fn labs_side_by_side_do_not_see_each_other_and_leave_nothing() {
    let Some(one) = Lab::or_skip("one") else { return };
    let two = Lab::new("two").unwrap();
    let ids = [one.id().to_owned(), two.id().to_owned()];
    assert_ne!(ids[0], ids[1]);
    {
        let (here, there) = (one.host("orders").unwrap(), two.host("orders").unwrap());
        assert_eq!(here.v4(), there.v4(), "the first host of a lab has the same address in each");
        let client = one.host("transport").unwrap();
        let _elsewhere = there.tcp_server(8443).unwrap();
        assert_eq!(client.tcp_connect(here.v4_port(8443)).unwrap().errno(), Some("ECONNREFUSED"));
        let _here = here.tcp_server(8443).unwrap();
        assert_eq!(client.tcp_connect(here.v4_port(8443)).unwrap().errno(), None);
        assert!(traces(&ids[0]).len() > 5, "{:?}", traces(&ids[0]));
    }
    drop(one);
    assert_eq!(traces(&ids[0]), [""; 0]);
    assert!(!traces(&ids[1]).is_empty());
    drop(two);
    assert_eq!(traces(&ids[1]), [""; 0]);
}

#[test]
fn nothing_is_left_after_a_panic() {
    let Some(lab) = Lab::or_skip("panic") else { return };
    let id = lab.id().to_owned();
    let panicked = catch_unwind(move || {
        let host = lab.host("orders").unwrap();
        let _server = host.tcp_server(8443).unwrap();
        host.command_below("a/b/c", "true").unwrap();
        panic!("on purpose");
    });
    assert!(panicked.is_err());
    assert_eq!(traces(&id), [""; 0]);
}

#[test]
fn nothing_is_left_after_a_signal() {
    let Some(_lab) = Lab::or_skip("before") else { return };
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let (mut child, id) = child_with_a_lab().unwrap();
        assert!(!traces(&id).is_empty());
        send(&child, signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(signal as i32), "{status}");
        assert_eq!(traces(&id), [""; 0], "after {signal}");
    }
}

#[test]
fn the_next_lab_removes_that_of_a_killed_process() {
    let Some(_lab) = Lab::or_skip("before") else { return };
    let (mut child, id) = child_with_a_lab().unwrap();
    send(&child, Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    let processes = || traces(&id).into_iter().filter(|trace| trace.starts_with("/proc/")).count();
    wait_for("its processes to die with it", Duration::from_secs(5), || (processes() == 0).then_some(()))
        .unwrap();
    let _next = Lab::new("next").unwrap();
    // A lab of another test may have begun to remove it a moment before.
    wait_for("the rest to go", Duration::from_secs(5), || traces(&id).is_empty().then_some(()))
        .unwrap_or_else(|_| panic!("{:#?}", traces(&id)));
}

#[test]
fn a_lab_of_four_hosts_is_quick_to_build() {
    let Some(lab) = Lab::or_skip("quick") else { return };
    let begun = Instant::now();
    for name in ["orders", "fulfillment", "transport", "partner"] {
        lab.host(name).unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn real_servers_answer_from_another_host() {
    let Some(lab) = Lab::or_skip("servers") else { return };
    let (orders, transport) = (lab.host("orders").unwrap(), lab.host("transport").unwrap());
    let (_postgres, _redis, _nginx) = (
        Server::postgres(&orders, 5432).unwrap(),
        Server::redis(&orders, 6379).unwrap(),
        Server::nginx(&orders, 8080, "pick list {7}; \"$x\"").unwrap(),
    );
    let address = orders.v4().to_string();
    let mut psql = transport.command("psql").unwrap();
    psql.args(["-h", &address, "-U", "postgres", "-Atc", "select 6 * 7"]);
    let answer = transport.run(psql).unwrap();
    assert_eq!(answer.stdout.trim(), "42", "{}", answer.stderr);
    let mut redis = transport.command("redis-cli").unwrap();
    redis.args(["-h", &orders.v6().to_string(), "incrby", "picked", "5"]);
    assert_eq!(transport.run(redis).unwrap().stdout.trim(), "5");
    assert_eq!(transport.get(orders.v6_port(8080), "/").unwrap().body, "pick list {7}; \"x\"");
}

fn send(child: &Child, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(child.id().try_into()?), signal)?)
}

/// Another process of this test binary that has a lab, and its lab's id.
fn child_with_a_lab() -> Result<(Child, String)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "in_a_child_process", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().into_iter();
    let mut lines = stdout.flat_map(|pipe| BufReader::new(pipe).lines().map_while(Result::ok));
    let id = lines.find_map(|line| line.split_once("LAB ").map(|(_, id)| id.to_owned()));
    if id.is_none() {
        child.wait()?;
    }
    Ok((child, id.context("the child process made no lab")?))
}

#[test]
#[ignore = "not a test: other tests run it as a process that they may kill"]
fn in_a_child_process() {
    let lab = Lab::new("child").unwrap();
    let host = lab.host("orders").unwrap();
    let _server = host.tcp_server(8443).unwrap();
    let _below = host.spawn(host.command_below("agents/bot", "cat").unwrap()).unwrap();
    println!("LAB {}", lab.id());
    std::thread::sleep(Duration::from_secs(60));
}
