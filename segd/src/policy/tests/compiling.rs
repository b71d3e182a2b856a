use segd_common::addr::Addr;
use segd_common::decide::{Facts, decide, decide_socket, decide_unreadable};
use segd_common::id::{RuleId, ZoneId};
use segd_common::table::{PolicyKey, Subject};
use segd_common::traffic::{Direction, Reason, Verdict, protocol};

use super::*;
use crate::policy::compile::enforcing;
use crate::policy::ids::Registry;
use crate::policy::model::{Override, ServiceRef, Way};
use crate::policy::{CompileError, Compiled, Host, Tables, compile, default_failsafes};

const ESTATE: &str = r#"
[zone.a]
cidrs = ["10.1.0.0/16", "2001:db8:1::/48"]
[zone.b]
cidrs = ["10.2.0.0/16", "10.1.7.0/24"]
[zone.c]
cidrs = ["10.1.7.7/32", "126.0.0.0/7"]
[service.db]
ports = ["tcp/5432"]
[service.high]
ports = ["tcp/5000-6000"]
[[allow]]
id = "until"
from = "a"
to = "b"
services = ["tcp/5432"]
expires = 2027-01-01
[[allow]]
id = "forever"
from = "a"
to = "b"
services = ["tcp/5000-5432", "icmp/echo", "raw"]
[[rollout]]
subject = "a"
direction = "outbound"
peers = ["b"]
services = ["db"]
mode = "monitor"
[[rollout]]
subject = "a"
direction = "outbound"
peers = ["b", "c"]
mode = "enforce"
"#;

fn made(zone: &str, addresses: &[&str], overrides: &[Override]) -> (Compiled, Registry) {
    let mut registry = Registry::default();
    let addresses: Vec<_> = addresses.iter().map(|a| a.parse().unwrap()).collect();
    let host = Host::in_zone(zone, &addresses);
    let compiled = compile(&loaded(ESTATE), host, overrides, &default_failsafes(), &mut registry).unwrap();
    (compiled, registry)
}

fn nanos(text: &str) -> u64 {
    text.parse::<Timestamp>().unwrap().as_nanosecond().try_into().unwrap()
}

#[test]
fn verdicts() {
    let (compiled, registry) = made("a", &["10.1.0.5"], &[]);
    let rule = |id: &RuleId| registry.rule_name(*id).unwrap_or_default();
    for (peer, protocol, port, at, verdict, reason, by, service) in [
        ("10.2.0.1", 6, 5432, "2026-12-01T00:00:00Z", Verdict::Allowed, Reason::Rule, "forever", "db"),
        ("10.2.0.1", 6, 5432, "2028-12-01T00:00:00Z", Verdict::Allowed, Reason::Rule, "forever", "db"),
        ("10.2.0.1", 6, 5433, "2026-12-01T00:00:00Z", Verdict::Denied, Reason::NoRule, "", "high"),
        (
            "::ffff:10.2.0.1",
            6,
            5000,
            "2026-12-01T00:00:00Z",
            Verdict::Allowed,
            Reason::Rule,
            "forever",
            "high",
        ),
        ("10.1.7.1", 6, 4999, "2026-12-01T00:00:00Z", Verdict::Denied, Reason::NoRule, "", "other"),
        ("10.1.7.7", 6, 5432, "2026-12-01T00:00:00Z", Verdict::Denied, Reason::NoRule, "", "db"),
        ("10.1.7.7", 17, 53, "2026-12-01T00:00:00Z", Verdict::Allowed, Reason::Failsafe, "", "other"),
        ("10.1.0.9", 6, 5432, "2026-12-01T00:00:00Z", Verdict::Audited, Reason::NoRule, "", "db"),
        ("10.1.0.5", 6, 5432, "2026-12-01T00:00:00Z", Verdict::Allowed, Reason::Loopback, "", "other"),
        ("127.0.0.1", 6, 5432, "2026-12-01T00:00:00Z", Verdict::Allowed, Reason::Loopback, "", "other"),
        ("0.0.0.0", 6, 5432, "2026-12-01T00:00:00Z", Verdict::Allowed, Reason::Loopback, "", "other"),
        ("126.0.0.1", 6, 5432, "2026-12-01T00:00:00Z", Verdict::Denied, Reason::NoRule, "", "db"),
        ("10.2.0.1", 1, 0x0800, "2026-12-01T00:00:00Z", Verdict::Allowed, Reason::Rule, "forever", "other"),
        ("10.2.0.1", 1, 0x0d00, "2026-12-01T00:00:00Z", Verdict::Denied, Reason::NoRule, "", "other"),
        ("10.2.0.1", 1, 0x0304, "2026-12-01T00:00:00Z", Verdict::Allowed, Reason::Control, "", "other"),
        ("2001:db8:9::1", 6, 5432, "2026-12-01T00:00:00Z", Verdict::Audited, Reason::NoRule, "", "db"),
    ] {
        let tables = Tables::new(&compiled, nanos(at));
        let peer = Addr::from(peer.parse::<std::net::IpAddr>().unwrap());
        let direction = Direction::Outbound;
        let d = decide(
            &tables,
            &Facts { subject: Subject::lasting(compiled.host), direction, protocol, peer, port },
        );
        let got = (d.verdict, d.reason, rule(&d.rule), registry.service_name(d.service));
        assert_eq!(got, (verdict, reason, by.into(), service.into()), "{peer} {protocol} {port}");
    }
}

#[test]
fn sockets_without_a_peer() {
    let (compiled, registry) = made("a", &[], &[]);
    let tables = Tables::new(&compiled, nanos("2026-12-01T00:00:00Z"));
    for (number, verdict) in [
        (protocol::RAW, Verdict::Allowed),
        (protocol::ICMP, Verdict::Allowed),
        (protocol::ICMPV6, Verdict::Denied),
        (protocol::SCTP, Verdict::Denied),
    ] {
        let decision = decide_socket(&tables, Subject::lasting(compiled.host), number);
        assert_eq!(decision.verdict, verdict, "{number}");
        let by = registry.rule_name(decision.rule);
        assert_eq!(by.as_deref(), (verdict == Verdict::Allowed).then_some("forever"));
    }
    let unreadable = |direction, peer: Option<&str>| {
        let peer = peer.map(|p| Addr::from(p.parse::<std::net::IpAddr>().unwrap()));
        decide_unreadable(
            &tables,
            Subject::lasting(compiled.host),
            direction,
            peer.as_ref(),
            Reason::Malformed,
        )
        .verdict
    };
    assert_eq!(unreadable(Direction::Outbound, None), Verdict::Denied);
    assert_eq!(unreadable(Direction::Inbound, None), Verdict::Audited);
    assert_eq!(unreadable(Direction::Outbound, Some("10.2.0.1")), Verdict::Denied);
    assert_eq!(unreadable(Direction::Outbound, Some("192.0.2.1")), Verdict::Audited);
}

#[test]
fn tables_are_small_sorted_and_distinct() {
    let (compiled, registry) = made("a", &[], &[]);
    assert!(compiled.policy.is_sorted_by_key(|(len, key, _)| (*len, *key)));
    assert!(compiled.services.is_sorted());
    assert!(compiled.failsafes.is_sorted());
    let mut names = registry.clone();
    let (b, c) = (names.zone("b").unwrap(), names.zone("c").unwrap());
    let towards = |zone: ZoneId, direction: Direction| {
        let of = |(len, k, _): &&(u32, PolicyKey, _)| {
            *len > PolicyKey::ANY_PEER && k.peer == zone && k.direction == direction as u8
        };
        compiled.policy.iter().filter(of).count()
    };
    assert_eq!(towards(c, Direction::Outbound), 1, "the default and nothing else");
    assert_eq!(towards(c, Direction::Inbound), 0, "as everywhere");
    assert_eq!(towards(ZoneId::UNKNOWN, Direction::Outbound), 0, "as everywhere");
    // Default, raw, echo, and 5000-5432 in prefixes with the mode of one port in it.
    assert!(towards(b, Direction::Outbound) <= 16, "{}", towards(b, Direction::Outbound));
}

#[test]
fn overrides_come_first_and_stale_ones_select_nothing() {
    let set = |services: Option<&str>, enforce| Override {
        subject: None,
        direction: Some(Way::Outbound),
        peers: None,
        services: services.map(|s| vec![ServiceRef::from(s.to_owned())]),
        enforce,
    };
    let verdict = |overrides: &[Override], port| {
        let (compiled, _) = made("a", &[], overrides);
        let tables = Tables::new(&compiled, 1);
        let peer = Addr::v4([10, 2, 0, 1]);
        let (subject, direction) = (Subject::lasting(compiled.host), Direction::Outbound);
        decide(&tables, &Facts { subject, direction, protocol: 6, peer, port }).verdict
    };
    assert_eq!(verdict(&[], 9), Verdict::Denied);
    assert_eq!(verdict(&[set(None, false)], 9), Verdict::Audited);
    assert_eq!(verdict(&[set(Some("tcp/9"), false)], 9), Verdict::Audited);
    assert_eq!(verdict(&[set(Some("tcp/9"), false)], 10), Verdict::Denied);
    assert_eq!(verdict(&[set(Some("gone"), false)], 9), Verdict::Denied);
    let json = serde_json::to_string(&set(Some("tcp/9"), true)).unwrap();
    assert_eq!(
        json,
        r#"{"subject":null,"direction":"outbound","peers":null,"services":["tcp/9"],"enforce":true}"#
    );
    assert_eq!(serde_json::from_str::<Override>(&json).unwrap(), set(Some("tcp/9"), true));
}

#[test]
fn enforcing_means_towards_every_zone_on_every_port() {
    let policy = loaded(ESTATE);
    let on = |overrides: &[Override]| -> Vec<String> {
        let rows = enforcing(&policy, Host::in_zone("a", &[]), overrides);
        let rows = rows.iter().filter(|r| r.enforcing);
        rows.map(|r| format!("{} {}", r.direction, r.service)).collect()
    };
    assert_eq!(on(&[]), [""; 0]);
    let all = |services: Option<Vec<ServiceRef>>| Override {
        subject: Some("a".into()),
        direction: None,
        peers: None,
        services,
        enforce: true,
    };
    let every =
        ["outbound db", "outbound high", "outbound other", "inbound db", "inbound high", "inbound other"];
    assert_eq!(on(&[all(None)]), every);
    assert_eq!(on(&[all(Some(vec![ServiceRef::Named("db".into())]))]), ["outbound db", "inbound db"]);
    let half = ServiceRef::from("tcp/5000-5999".to_owned());
    assert_eq!(on(&[all(Some(vec![half]))]), ["outbound db", "inbound db"]);
}

#[test]
fn a_host_zone_must_be_defined() {
    let host = Host::in_zone("nope", &[]);
    let error = compile(&loaded(ESTATE), host, &[], &[], &mut Registry::default()).unwrap_err();
    assert_eq!(error, CompileError::UnknownZone("nope".into()));
}
