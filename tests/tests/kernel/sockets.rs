//! Kinds of sockets and ways to use them that would pass by a careless firewall.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use segd_tests::{Report, TIMEOUT, skip};

use crate::seats;
use crate::support::{ENFORCE, Pair, record, rule};

fn outcome(reports: &[Report]) -> Option<&str> {
    reports.last().and_then(Report::errno)
}

#[test]
fn sockets_that_the_policy_cannot_judge_need_a_rule_that_names_them() {
    let Some(pair) = Pair::new("raw") else { return };
    let kinds = [
        ("raw", &["socket", "--kind", "raw", "--protocol", "255"][..]),
        ("raw", &["socket", "--kind", "raw", "--protocol", "6"]),
        ("udplite", &["socket", "--kind", "dgram", "--protocol", "136"]),
    ];
    let agent = pair.agent(&pair.transport, ENFORCE);
    for (_, arguments) in kinds {
        let reports = pair.transport.act(arguments).unwrap();
        assert_eq!(outcome(&reports), Some("EPERM"), "{arguments:?}");
    }
    record(&agent, &[("event", "deny"), ("reason", "socket-type"), ("protocol", "raw")]);
    for (name, arguments) in kinds {
        agent.write_zones(&pair.zones(&format!("{}{ENFORCE}", rule(&format!("\"{name}\""))))).unwrap();
        assert!(agent.segd(&["apply", "--force"]).unwrap().status.success());
        let reports = pair.transport.act(arguments).unwrap();
        // A kernel without the protocol says so; that is not segd's refusal.
        assert!(matches!(outcome(&reports), None | Some("EPROTONOSUPPORT")), "{arguments:?}: {reports:?}");
    }
    for kind in ["stream", "dgram"] {
        let protocol = if kind == "stream" { "6" } else { "17" };
        let reports = pair.transport.act(&["socket", "--kind", kind, "--protocol", protocol]).unwrap();
        assert_eq!(outcome(&reports), None, "{kind}");
    }
}

#[test]
fn monitor_mode_lets_any_socket_be_made_and_says_so() {
    let Some(pair) = Pair::new("rawmon") else { return };
    let agent = pair.agent(&pair.transport, "");
    let reports = pair.transport.act(&["socket", "--kind", "raw", "--protocol", "255"]).unwrap();
    assert_eq!(outcome(&reports), None);
    record(&agent, &[("verdict", "audited"), ("reason", "socket-type")]);
}

#[test]
fn a_raw_ping_is_judged_by_its_packet() {
    let Some(pair) = Pair::new("rawping") else { return };
    let stranger = pair.lab.host("stranger").unwrap();
    let zones = format!("{}{ENFORCE}", rule("\"icmp/echo\""));
    let agent = pair.agent(&pair.transport, &zones);
    let ping = |to: IpAddr| pair.transport.act(&["icmp-ping", "--raw", &to.to_string()]).unwrap();
    assert_eq!(outcome(&ping(pair.orders.v4())), None);
    assert_eq!(outcome(&ping(stranger.v4())), Some("EPERM"));
    record(&agent, &[("event", "deny"), ("protocol", "icmp"), ("dst.zone", "unknown")]);
}

#[test]
fn the_host_reaches_itself_whatever_the_policy() {
    let Some(pair) = Pair::new("self") else { return };
    let agent = pair.agent(&pair.transport, ENFORCE);
    let _tcp = pair.transport.tcp_server(8080).unwrap();
    let _udp = pair.transport.udp_server(8080).unwrap();
    let own: [IpAddr; 6] = [
        Ipv4Addr::LOCALHOST.into(),
        Ipv6Addr::LOCALHOST.into(),
        // The wildcard as a destination means this host.
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv6Addr::UNSPECIFIED.into(),
        pair.transport.v4(),
        pair.transport.v6(),
    ];
    for address in own {
        let to = (address, 8080).into();
        let outcome = pair.transport.tcp_connect(to).unwrap();
        assert_eq!(outcome.errno(), None, "tcp {to}: {outcome:?}");
        let outcome = pair.transport.udp_send(to).unwrap();
        assert_eq!(outcome.errno(), None, "udp {to}: {outcome:?}");
    }
    let status = agent.status().unwrap();
    assert_eq!(status["flows"]["allowed"], 0, "loopback is not logged: {status}");
    assert_eq!(status["flows"]["denied"], 0, "{status}");
}

#[test]
fn failsafe_passes_whatever_the_policy() {
    let Some(pair) = Pair::new("failsafe") else { return };
    let agent = pair.agent(&pair.orders, ENFORCE);
    let _ssh = pair.orders.tcp_server(22).unwrap();
    let _dns = pair.transport.udp_server(53).unwrap();
    let outcome = pair.transport.tcp_connect(pair.orders.v4_port(22)).unwrap();
    assert_eq!(outcome.errno(), None, "inbound ssh: {outcome:?}");
    let outcome = pair.orders.udp_send(pair.transport.v4_port(53)).unwrap();
    assert_eq!(outcome.errno(), None, "outbound DNS: {outcome:?}");
    record(&agent, &[("verdict", "allowed"), ("reason", "failsafe"), ("dst.port", "22")]);
    record(&agent, &[("verdict", "allowed"), ("reason", "failsafe"), ("dst.port", "53")]);
}

/// What a socket keeps counts against this limit, which is a network namespace's own since Linux 6.8.
#[test]
fn failsafe_passes_where_the_kernel_has_no_memory_for_sockets() {
    const LIMIT: &str = "/proc/sys/net/core/optmem_max";
    let Some(pair) = Pair::new("nomemory") else { return };
    if pair.orders.observe(|| fs::write(LIMIT, "1")).unwrap().is_err() {
        return skip(&format!("{LIMIT} is that of the whole machine here"));
    }
    let zones = format!("{}{ENFORCE}", rule("\"udp/4000\""));
    let agent = pair.agent(&pair.orders, &zones);
    seats::hold_all(&pair.orders);
    let _servers = [22, 8080].map(|port| pair.orders.tcp_server(port).unwrap());
    let _udp = pair.orders.udp_server(4000).unwrap();
    let mut ssh = pair.transport.hold(pair.orders.v4_port(22)).unwrap();
    assert_eq!(ssh.exchange("ping").unwrap().text(), Some("ping"), "a connection to a failsafe port");
    assert_eq!(pair.transport.udp_send(pair.orders.v4_port(4000)).unwrap().text(), Some("ping"), "a rule");
    for (to, from) in [(&pair.orders, &pair.transport), (&pair.transport, &pair.orders)] {
        let outcome = from.tcp_connect(to.v4_port(8080)).unwrap();
        assert_eq!(outcome.errno(), Some(TIMEOUT), "no rule: {outcome:?}");
    }
    record(&agent, &[("event", "deny"), ("direction", "inbound"), ("dst.port", "8080")]);
}

/// What is in this host's cgroups but in another network, as a container is: to it the host's own address is one like
/// others.
#[test]
fn a_containers_connection_from_the_host_is_decided_by_each_policy() {
    let Some(pair) = Pair::new("container") else { return };
    let inbound =
        "[[allow]]\nid = \"in\"\nfrom = \"transport\"\nto = \"transport\"\nservices = [\"tcp/8080\"]\n";
    let zones = |more: &str| pair.zones(&format!("{}{more}{ENFORCE}", rule("\"tcp/8080\"")));
    let drop = "[enforcement]\non_revoke = \"drop\"\n";
    let agent = pair.transport.agent().zones(&zones(inbound)).extra(drop).start().unwrap();
    let _server = pair.transport.container(&pair.orders).tcp_server(8080).unwrap();
    let mut held = pair.transport.hold(pair.orders.v4_port(8080)).unwrap();
    assert_eq!(held.exchange("one").unwrap().text(), Some("one"));
    record(&agent, &[("event", "open"), ("direction", "inbound"), ("rule", "in"), ("reason", "rule")]);
    agent.write_zones(&zones("")).unwrap();
    assert!(agent.segd(&["apply", "--force"]).unwrap().status.success());
    assert_eq!(held.exchange("two").unwrap().errno(), Some(TIMEOUT), "the container may no longer take it");
    record(&agent, &[("event", "revoke"), ("direction", "inbound"), ("dst.port", "8080")]);
}

#[test]
fn a_failsafe_may_be_limited_to_addresses() {
    let Some(pair) = Pair::new("limited") else { return };
    let stranger = pair.lab.host("stranger").unwrap();
    let extra = format!(
        "[[failsafe]]\ndirection = \"inbound\"\nports = [\"tcp/22\"]\ncidrs = [\"{}\"]\n",
        pair.transport.v4_prefix()
    );
    let agent = pair.orders.agent().zones(&pair.zones(ENFORCE)).extra(&extra).start().unwrap();
    let _ssh = pair.orders.tcp_server(22).unwrap();
    assert_eq!(pair.transport.tcp_connect(pair.orders.v4_port(22)).unwrap().errno(), None);
    assert!(stranger.tcp_connect(pair.orders.v4_port(22)).unwrap().errno().is_some());
    record(&agent, &[("event", "deny"), ("src.zone", "unknown"), ("dst.port", "22")]);
}
