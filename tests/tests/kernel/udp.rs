//! Datagrams have no connection, so replies are known by the flow of their request.

use std::time::Duration;

use crate::support::{ENFORCE, Pair, record, rule};
use segd_tests::{Report, TIMEOUT};

#[test]
fn a_reply_passes_and_an_unsolicited_datagram_does_not() {
    let Some(pair) = Pair::new("reply") else { return };
    // transport may ask orders; orders may begin nothing towards transport.
    let zones = format!("{}{ENFORCE}", rule("\"udp/4000\""));
    let _orders = pair.agent(&pair.orders, &zones);
    let transport = pair.agent(&pair.transport, &zones);
    let _server = pair.orders.udp_server(4000).unwrap();

    let outcome = pair.transport.udp_send(pair.orders.v4_port(4000)).unwrap();
    assert_eq!(outcome.text(), Some("ping"), "both ends let the request and its reply pass: {outcome:?}");

    let listener = pair.transport.udp_server(4000).unwrap();
    let outcome = pair.orders.udp_send(pair.transport.v4_port(4000)).unwrap();
    assert_eq!(outcome.errno(), Some("EPERM"), "orders' own agent refuses it: {outcome:?}");

    // The same datagram from a host without an agent.
    let stranger = pair.lab.host("stranger").unwrap();
    let outcome = stranger.udp_send(pair.transport.v4_port(4000)).unwrap();
    assert_eq!(outcome.errno(), Some(TIMEOUT), "{outcome:?}");
    record(&transport, &[("event", "deny"), ("direction", "inbound"), ("src.zone", "unknown")]);
    assert!(listener.next_within(Duration::from_millis(200)).is_err(), "nothing reached the socket");
}

#[test]
fn a_server_may_answer_from_a_connected_socket_and_only_its_client() {
    let Some(pair) = Pair::new("answer") else { return };
    let zones = format!("{}{ENFORCE}", rule("\"udp/4000\""));
    let agent = pair.agent(&pair.orders, &zones);
    let server = pair.orders.udp_server(4000).unwrap();
    assert_eq!(pair.transport.udp_send(pair.orders.v4_port(4000)).unwrap().text(), Some("ping"));
    assert!(matches!(server.next().unwrap(), Report::Received { .. }));
    // A datagram from the server's port to a port that never asked is a flow of its own.
    drop(server);
    let to = pair.transport.v4_port(9).to_string();
    let bind = pair.orders.v4_port(4000).to_string();
    let outcome = pair.orders.act(&["udp-send", &to, "--bind", &bind]).unwrap();
    assert_eq!(outcome.last().unwrap().errno(), Some("EPERM"), "{outcome:?}");
    record(&agent, &[("event", "deny"), ("direction", "outbound"), ("dst.port", "9")]);
}

/// A server that answers each client from a socket of its own, and names the client's address all the same, began nothing
/// in the next generation either.
#[test]
fn an_answer_by_sendto_on_a_connected_socket_passes_after_a_swap() {
    let Some(pair) = Pair::new("sendto") else { return };
    let zones = format!("{}{ENFORCE}", rule("\"udp/4000\""));
    let agent = pair.agent(&pair.orders, &zones);
    let address = pair.orders.v4_port(4000).to_string();
    let server = pair.orders.actor(&["udp-serve", &address, "--again", "2000", "--connected"]).unwrap();
    assert!(matches!(server.next().unwrap(), Report::Listening { .. }));
    let client =
        pair.transport.actor(&["udp-send", &address, "--answers", "2", "--timeout", "5000"]).unwrap();
    assert!(matches!(client.next().unwrap(), Report::Sent));
    assert_eq!(client.next().unwrap().text(), Some("ping"));
    let other = "[zone.other]\ncidrs = [\"172.16.0.0/24\"]\n";
    agent.write_zones(&pair.zones(&format!("{other}{}{ENFORCE}", rule("\"udp/4000\"")))).unwrap();
    assert!(agent.segd(&["apply", "--force"]).unwrap().status.success());
    let late = client.next().unwrap();
    assert_eq!(late.text(), Some("ping"), "{late:?}");
    let began = agent.metrics().unwrap().sum("segd_flows_total", &[("protocol", "udp")]);
    assert!((began - 1.0).abs() < f64::EPSILON, "one flow, in both generations: {began}");
}

/// Every datagram is counted when the counters are read, and once only, also when the server's socket is gone.
#[test]
fn datagrams_of_an_unconnected_socket_are_counted_while_it_lives_and_add_up() {
    let Some(pair) = Pair::new("udp-counts") else { return };
    let agent = pair.agent(&pair.orders, &format!("{}{ENFORCE}", rule("\"udp/4000\"")));
    let server = pair.orders.udp_server(4000).unwrap();
    let (to, bind) = (pair.orders.v4_port(4000).to_string(), pair.transport.v4_port(5000).to_string());
    let counted =
        |name: &str| agent.metrics().unwrap().sum(name, &[("direction", "inbound"), ("protocol", "udp")]);
    for datagrams in [2.0, 4.0, 6.0, 8.0] {
        let outcome = pair.transport.act(&["udp-send", &to, "--bind", &bind]).unwrap();
        assert_eq!(outcome.last().unwrap().text(), Some("ping"), "{outcome:?}");
        assert_eq!(counted("segd_packets_total"), datagrams, "requests and answers");
    }
    // Four bytes behind the headers of IPv4 and UDP.
    let bytes = 8.0 * (20.0 + 8.0 + 4.0);
    assert_eq!(counted("segd_bytes_total"), bytes);
    drop(server);
    assert_eq!((counted("segd_packets_total"), counted("segd_bytes_total")), (8.0, bytes));
    assert_eq!(counted("segd_flows_total"), 1.0, "from one port to another");
}

#[test]
fn ping_passes_where_a_rule_names_it() {
    let Some(pair) = Pair::new("ping") else { return };
    let zones = format!("{}{ENFORCE}", rule("\"icmp/echo\", \"icmpv6/echo\""));
    let agent = pair.agent(&pair.transport, &zones);
    for to in [pair.orders.v4(), pair.orders.v6()] {
        let outcome = pair.transport.ping(to).unwrap();
        assert_eq!(outcome.errno(), None, "{to}: {outcome:?}");
    }
    record(&agent, &[("event", "open"), ("verdict", "allowed"), ("protocol", "icmp"), ("icmp_type", "8")]);
    record(
        &agent,
        &[("event", "open"), ("verdict", "allowed"), ("protocol", "icmpv6"), ("icmp_type", "128")],
    );
    let stranger = pair.lab.host("stranger").unwrap();
    let outcome = pair.transport.ping(stranger.v4()).unwrap();
    assert_eq!(outcome.errno(), Some("EPERM"), "{outcome:?}");
    record(&agent, &[("event", "deny"), ("protocol", "icmp"), ("dst.zone", "unknown")]);
}
