//! Connections older than the agent: known by who began them, with which zone, and by which process.

use segd_tests::{Actor, Agent};

use crate::support::{ENFORCE, Pair, record, rule};

/// Four connections of the host transport, made before there is an agent: a rule allows one of each direction. The
/// servers' ports tell nothing of who began: they are those of clients, too.
struct Older {
    _servers: [Actor; 4],
    out_allowed: Actor,
    out_denied: Actor,
    in_allowed: Actor,
    in_denied: Actor,
}

const OUT_ALLOWED: u16 = 5432;
const OUT_DENIED: u16 = 6379;
const IN_ALLOWED: u16 = 60_999;
const IN_DENIED: u16 = 60_998;

impl Older {
    fn new(pair: &Pair) -> Self {
        let (orders, transport) = (&pair.orders, &pair.transport);
        Self {
            _servers: [
                orders.tcp_server(OUT_ALLOWED).unwrap(),
                orders.tcp_server(OUT_DENIED).unwrap(),
                transport.tcp_server(IN_ALLOWED).unwrap(),
                transport.tcp_server(IN_DENIED).unwrap(),
            ],
            out_allowed: transport.hold(orders.v4_port(OUT_ALLOWED)).unwrap(),
            out_denied: transport.hold(orders.v6_port(OUT_DENIED)).unwrap(),
            in_allowed: orders.hold(transport.v6_port(IN_ALLOWED)).unwrap(),
            in_denied: orders.hold(transport.v4_port(IN_DENIED)).unwrap(),
        }
    }

    fn all_live(&mut self, text: &str) {
        for held in [&mut self.out_allowed, &mut self.out_denied, &mut self.in_allowed, &mut self.in_denied] {
            assert_eq!(held.exchange(text).unwrap().text(), Some(text));
        }
    }

    /// The allowed ones live, the others are cut, each at its own end.
    fn enforced(&mut self) {
        for held in [&mut self.out_allowed, &mut self.in_allowed] {
            assert_eq!(held.exchange("live").unwrap().text(), Some("live"), "a rule allows it");
        }
        let cut = self.out_denied.exchange("cut").unwrap();
        assert!(matches!(cut.errno(), Some("ECONNABORTED" | "EPIPE")), "{cut:?}");
        let cut = self.in_denied.exchange("cut").unwrap();
        assert!(matches!(cut.errno(), Some("ECONNRESET" | "EPIPE")), "{cut:?}");
    }
}

fn rules() -> String {
    format!(
        "{}[[allow]]\nid = \"orders-to-transport\"\nfrom = \"orders\"\nto = \"transport\"\nservices = [\"tcp/{IN_ALLOWED}\"]\n",
        rule(&format!("\"tcp/{OUT_ALLOWED}\""))
    )
}

fn revoked(agent: &Agent) {
    let (out, inn) = (OUT_DENIED.to_string(), IN_DENIED.to_string());
    record(
        agent,
        &[("event", "revoke"), ("direction", "outbound"), ("dst.port", &out), ("process.comm", "lab-actor")],
    );
    record(
        agent,
        &[("event", "revoke"), ("direction", "inbound"), ("dst.port", &inn), ("process.comm", "lab-actor")],
    );
}

#[test]
fn they_are_known_in_monitor_and_decided_when_enforced() {
    let Some(pair) = Pair::new("seeds") else { return };
    let mut older = Older::new(&pair);
    let agent = pair.agent(&pair.transport, &rules());
    older.all_live("monitor");
    for (port, direction, verdict) in [
        (OUT_ALLOWED, "outbound", "allowed"),
        (OUT_DENIED, "outbound", "audited"),
        (IN_ALLOWED, "inbound", "allowed"),
        (IN_DENIED, "inbound", "audited"),
    ] {
        let (src, dst) =
            if direction == "outbound" { ("transport", "orders") } else { ("orders", "transport") };
        let port = port.to_string();
        let found = record(&agent, &[("event", "open"), ("direction", direction), ("dst.port", &port)]);
        assert_eq!(found["verdict"], verdict, "{found:#}");
        assert_eq!((&found["src"]["zone"], &found["dst"]["zone"]), (&src.into(), &dst.into()), "{found:#}");
        assert_eq!(found["process"]["comm"], "lab-actor", "{found:#}");
    }
    agent.mode(&["enforce"]).unwrap();
    older.enforced();
    revoked(&agent);
}

#[test]
fn idle_ones_are_decided_too_and_by_a_later_agent() {
    let Some(pair) = Pair::new("idleseeds") else { return };
    let mut older = Older::new(&pair);
    let agent = pair.agent(&pair.transport, &rules());
    let agent = agent.restart().unwrap();
    agent.mode(&["enforce"]).unwrap();
    revoked(&agent);
    older.enforced();
}

#[test]
fn an_agent_that_starts_in_enforce_cuts_what_no_rule_allows_and_nothing_else() {
    let Some(pair) = Pair::new("hardstart") else { return };
    let mut older = Older::new(&pair);
    let agent = pair.agent(&pair.transport, &format!("{}{ENFORCE}", rules()));
    older.enforced();
    revoked(&agent);
}

#[test]
fn a_server_older_than_the_agent_is_known_by_its_process() {
    let Some(pair) = Pair::new("oldserver") else { return };
    let _tcp = pair.transport.tcp_server(8080).unwrap();
    let _udp = pair.transport.udp_server(8080).unwrap();
    let agent = pair.agent(&pair.transport, "");
    assert_eq!(pair.orders.tcp_connect(pair.transport.v4_port(8080)).unwrap().errno(), None);
    assert_eq!(pair.orders.udp_send(pair.transport.v4_port(8080)).unwrap().text(), Some("ping"));
    for protocol in ["tcp", "udp"] {
        record(
            &agent,
            &[
                ("protocol", protocol),
                ("direction", "inbound"),
                ("process.comm", "lab-actor"),
                ("dst.port", "8080"),
            ],
        );
    }
}

#[test]
fn a_connected_udp_socket_is_decided_by_who_began() {
    let Some(pair) = Pair::new("udpseeds") else { return };
    let _server = pair.orders.udp_server(4000).unwrap();
    let idle = pair.transport.watch(pair.orders.v4_port(4000), &["--udp"]).unwrap();
    let agent = pair.agent(&pair.transport, "");
    agent.mode(&["enforce"]).unwrap();
    let report = idle.next().unwrap();
    assert_eq!(report.errno(), Some("ECONNABORTED"), "{report:?}");
    record(
        &agent,
        &[("event", "revoke"), ("protocol", "udp"), ("direction", "outbound"), ("dst.zone", "orders")],
    );
}
