//! What is kept of sockets: seats are given back with every kind of end, and where there are none, storage serves.

use aya::maps::{Array, MapData};
use segd_common::flow::{Flow, OPENED};
use segd_common::id::{Generation, SubjectId};
use segd_common::schema;
use segd_common::socket::{Identity, Owner, SEAT_HELD, SEAT_SHIFT, Seat, Socket, UNTIL_RELEASE};
use segd_common::traffic::Verdict;
use segd_tests::{Agent, Host, Report, TIMEOUT, wait_for};

use crate::support::{ENFORCE, Pair, SOON, counted, pinned, record, rule};

fn seats(host: &Host) -> Array<MapData, Seat> {
    pinned(host, schema::SEATS).try_into().unwrap()
}

fn held(host: &Host) -> usize {
    let seats = seats(host);
    seats.iter().filter(|seat| seat.as_ref().unwrap().whose & SEAT_HELD != 0).count()
}

/// Writes over all seats of a host's agent that are free.
fn change_free(host: &Host, change: impl Fn(Seat) -> Seat) {
    let mut seats = seats(host);
    for place in 0..schema::SEAT_ENTRIES {
        let seat = seats.get(&place, 0).unwrap();
        if seat.whose & SEAT_HELD == 0 {
            seats.set(place, change(seat), 0).unwrap();
        }
    }
}

/// As if other sockets had all seats of a host's agent that are free.
pub(crate) fn hold_all(host: &Host) {
    let whose = u64::MAX << SEAT_SHIFT | UNTIL_RELEASE;
    change_free(host, |_| Seat { whose, ..Seat::default() });
}

#[test]
fn every_end_gives_the_seat_back() {
    let Some(pair) = Pair::new("seats") else { return };
    let zones = format!("{}{ENFORCE}", rule("\"tcp/8080\", \"udp/4000\", \"tcp/1\""));
    let (client, server) = (&pair.transport, &pair.orders);
    let agents = [client, server].map(|host| pair.agent(host, &zones));
    let _tcp = pair.orders.tcp_server(8080).unwrap();
    let _udp = pair.orders.udp_server(4000).unwrap();
    assert_eq!((held(client), held(server)), (0, 2), "the servers have theirs");
    let held_by_a_connection = {
        let mut connection = pair.transport.hold(pair.orders.v6_port(8080)).unwrap();
        assert_eq!(connection.exchange("ping").unwrap().text(), Some("ping"));
        (held(client), held(server))
    };
    assert_eq!(held_by_a_connection, (1, 3));
    let to = |port| pair.orders.v4_port(port).to_string();
    let again = ["churn", &to(8080), "--connects", "200"];
    let raw = ["socket", "--kind", "raw", "--protocol", "255"];
    for (arguments, errno) in [
        (&["tcp-connect", &to(8080), "--send", "ping"][..], None),
        // Each ends with a reset.
        (&again, None),
        (&["udp-send", &to(4000)], None),
        (&["udp-connected", &pair.orders.v6_port(4000).to_string()], None),
        // Refused by the peer's kernel, by the policy at connect, and by the policy before it is made.
        (&["tcp-connect", &to(1)], Some("ECONNREFUSED")),
        (&["tcp-connect", &to(2)], Some("EPERM")),
        (&raw, Some("EPERM")),
    ] {
        let reports = pair.transport.act(arguments).unwrap();
        assert_eq!(reports.last().and_then(Report::errno), errno, "{arguments:?}: {reports:?}");
    }
    // The server's part in what the client's agent knows nothing of, and connections that stay within the host.
    for host in [&pair.orders, &pair.transport] {
        host.tcp_connect(pair.orders.v4_port(8080)).unwrap();
    }
    wait_for("the seats of what has ended", SOON, || {
        let held = (held(client), held(server));
        (held == (0, 2)).then_some(())
    })
    .unwrap();
    counted(&agents[0], "segd_lost_events_total", &[], 0.0);
}

#[test]
fn a_seat_says_nothing_of_who_had_it_before() {
    let Some(pair) = Pair::new("again") else { return };
    let zones = format!("{}{ENFORCE}", rule("\"tcp/8080\", \"udp/4000\""));
    let agents = [&pair.transport, &pair.orders].map(|host| pair.agent(host, &zones));
    let exchange = |port: u16| {
        let bound = format!("{}:{port}", pair.transport.v4());
        let to = pair.orders.v4_port(8080).to_string();
        let mut server = pair.orders.tcp_server(8080).unwrap();
        let reports = pair.transport.act(&["tcp-connect", &to, "--send", "ping", "--bind", &bound]).unwrap();
        assert_eq!(reports.last().and_then(Report::text), Some("ping"), "{reports:?}");
        let port = port.to_string();
        let of = |agent, event| record(agent, &[("event", event), ("src.port", &port)]);
        assert_eq!(of(&agents[1], "open")["process"]["pid"], u64::from(server.process().pid()));
        agents.each_ref().map(|agent| {
            let closed = of(agent, "close");
            ["packets", "bytes", "rule", "verdict", "direction"].map(|field| closed[field].clone())
        })
    };
    let before = exchange(40_123);
    assert!(before[0][0].is_object() || before[0][0].is_number(), "{before:?}");
    let owner = Owner { cgroup: 1, pid: 1, ..Owner::NONE };
    let identity = Identity::new(Generation(1), SubjectId(u16::MAX), false);
    let flow = Flow {
        protocol: 6,
        generation: Generation(1),
        flags: OPENED,
        verdict: Verdict::Denied as u8,
        packets_in: 7,
        counted_packets: 3,
        ..Flow::NONE
    };
    let socket = Socket { flow, owner, identity, ..Socket::default() };
    for host in [&pair.transport, &pair.orders] {
        change_free(host, |former| Seat { socket, ..former });
    }
    assert_eq!(exchange(40_124), before);
    let _udp = pair.orders.udp_server(4000).unwrap();
    assert_eq!(pair.transport.udp_send(pair.orders.v4_port(4000)).unwrap().text(), Some("ping"));
}

#[test]
fn without_a_seat_a_socket_has_storage() {
    let Some(pair) = Pair::new("storage") else { return };
    let zones = format!("{}{ENFORCE}", rule("\"tcp/8080\", \"udp/4000\""));
    let agents = [&pair.transport, &pair.orders].map(|host| pair.agent(host, &zones));
    // One listener has a seat, whose connections find none; another has storage, which its connections inherit.
    let mut seated = pair.orders.tcp_server(8080).unwrap();
    for host in [&pair.transport, &pair.orders] {
        hold_all(host);
    }
    let mut before = pair.transport.hold(pair.orders.v4_port(8080)).unwrap();
    assert_eq!(before.exchange("one").unwrap().text(), Some("one"));
    let pid = |agent: &Agent| {
        let fields = [("event", "open"), ("protocol", "tcp"), ("direction", "inbound")];
        record(agent, &fields)["process"]["pid"].clone()
    };
    let own = u64::from(seated.process().pid());
    assert_eq!(pid(&agents[1]), own, "the listener's process");
    drop((before, seated));
    record(&agents[1], &[("event", "close"), ("protocol", "tcp"), ("direction", "inbound")]);
    let mut stored = pair.orders.tcp_server(8080).unwrap();
    let _udp = pair.orders.udp_server(4000).unwrap();
    let bound = format!("{}:40123", pair.transport.v4());
    let to = pair.orders.v4_port(8080).to_string();
    pair.transport.act(&["tcp-connect", &to, "--send", "ping", "--bind", &bound]).unwrap();
    let opened = record(&agents[1], &[("event", "open"), ("src.port", "40123")]);
    assert_eq!(opened["process"]["pid"], u64::from(stored.process().pid()), "{opened}");
    record(&agents[0], &[("event", "close"), ("src.port", "40123")]);
    assert_eq!(pair.transport.udp_send(pair.orders.v4_port(4000)).unwrap().text(), Some("ping"));
    let outcome = pair.transport.tcp_connect(pair.orders.v4_port(9)).unwrap();
    assert_eq!(outcome.errno(), Some("EPERM"), "{outcome:?}");
    let outcome = pair.orders.tcp_connect(pair.transport.v4_port(9)).unwrap();
    assert!(matches!(outcome, Report::Failed { .. }) && outcome.errno() != Some(TIMEOUT), "{outcome:?}");
}
