//! Rules that people add at run time.

use segd_common::addr::Addr;
use segd_common::decide::{Facts, decide};
use segd_common::table::Subject;
use segd_common::traffic::Direction;

use super::*;
use crate::policy::exceptions::{stale, validate};
use crate::policy::ids::Registry;
use crate::policy::model::ServiceRef;
use crate::policy::{Exception, Host, Tables, compile, load_stored};

const ESTATE: &str = r#"
[zone.orders]
cidrs = ["10.1.0.0/16"]
[zone.fulfillment]
cidrs = ["10.2.0.0/16"]
[workload.bot]
zone = "orders"
unit = "bot.service"
[workload.old]
zone = "orders"
user = 7
expires = 2026-10-01
[service.postgres]
ports = ["tcp/5432"]
[[allow]]
id = "permanent"
from = "orders"
to = "fulfillment"
services = ["tcp/1"]
[[rollout]]
subject = "orders"
mode = "enforce"
"#;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn exception(id: &str, from: &str, to: &str, services: &[&str]) -> Exception {
    Exception {
        id: id.into(),
        from: from.into(),
        to: to.into(),
        services: services.iter().map(|s| ServiceRef::from((*s).to_owned())).collect(),
        owner: "on-call".into(),
        reason: "incident 7".into(),
        created: now(),
        expires: at("2026-11-01T04:00:00Z"),
        created_by: 0,
    }
}

#[test]
fn an_exception_is_a_rule_that_ends() {
    let policy = loaded(ESTATE);
    let exceptions = [
        exception("7", "orders", "fulfillment", &["postgres", "tcp/1"]),
        exception("8", "bot", "fulfillment", &["tcp/8"]),
        exception("9", "gone", "fulfillment", &["tcp/9"]),
        exception("10", "orders", "fulfillment", &["tcp/9", "gone"]),
    ];
    let mut registry = Registry::default();
    let host = Host { exceptions: &exceptions, ..Host::in_zone("orders", &[]) };
    let compiled = compile(&policy, host, &[], &[], &mut registry).unwrap();
    let bot = compiled.patterns[0].subject;
    for (subject, port, when, wanted) in [
        (None, 5432, "2026-11-01T03:59:59Z", "allowed exception/7"),
        (None, 5432, "2026-11-01T04:00:00Z", "denied exception/7"),
        (None, 1, "2026-11-01T03:59:59Z", "allowed permanent"),
        (None, 8, "2026-11-01T00:00:00Z", "denied none"),
        (None, 9, "2026-11-01T00:00:00Z", "denied none"),
        (Some(bot), 8, "2026-11-01T00:00:00Z", "allowed exception/8"),
        (Some(bot), 5432, "2026-11-01T00:00:00Z", "allowed exception/7"),
    ] {
        let tables = Tables::new(&compiled, u64::try_from(at(when).as_nanosecond()).unwrap());
        let subject = subject.unwrap_or(Subject::lasting(compiled.host));
        let peer = Addr::v4([10, 2, 0, 1]);
        let d = decide(&tables, &Facts { subject, direction: Direction::Outbound, protocol: 6, peer, port });
        let rule = registry.rule_name(d.rule).unwrap_or_else(|| "none".into());
        assert_eq!(format!("{} {rule}", d.verdict), wanted, "{port} {when}");
    }
    assert_eq!(
        stale(&policy, &exceptions),
        [
            "exception `9` allows nothing: the zone files define no zone or workload `gone`",
            "exception `10` allows nothing: the zone files define no service `gone`",
        ]
    );
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let policy = loaded(ESTATE);
    let said = |e: Exception| validate(&policy, &e, now()).map_err(|e| e.to_string());
    assert_eq!(said(exception("1", "orders", "fulfillment", &["postgres"])), Ok(()));
    assert_eq!(said(exception("1", "unknown", "bot", &["tcp/1-9"])), Ok(()));
    for (e, wanted) in [
        (
            Exception {
                owner: " ".into(),
                reason: "a\u{1b}b".into(),
                expires: now(),
                ..exception("1", "order", "loopback", &["postgre", "tcp/0"])
            },
            "unknown zone or workload `order`; did you mean `orders`?\n\
             `to` is `loopback`: what a host says to itself is always allowed\n\
             unknown service `postgre`; did you mean `postgres`?\n\
             port 0 of `tcp/0` is not between 1 and 65535; write it like `tcp/5432`, `udp/4000-4010`, `tcp/*`, \
             `icmp/echo`, `icmpv6`, `raw`, `sctp` or `proto/47`\n\
             it has no owner; say who answers for it\n\
             `reason` holds the control character '\\u{1b}'\n\
             it expires at 2026-11-01T00:00:00Z, which is past; give it some time to live",
        ),
        (
            exception("1", "unknown", "multicast", &[]),
            "both ends are in built-in zones, where segd does not run; name a zone of your own\n\
             it is for no service; name ports as `tcp/5432`, or a service",
        ),
        (
            exception("1", "old", "fulfillment", &["tcp/1"]),
            "workload `old` expired at 2026-10-01T00:00:00Z: an exception allows it nothing; give the workload a \
             later date",
        ),
    ] {
        assert_eq!(said(e), Err(wanted.to_owned()));
    }
}

#[test]
fn exceptions_are_stored_as_they_are() {
    let e = exception("7", "orders", "fulfillment", &["postgres", "tcp/1-9"]);
    let json = serde_json::to_string(&e).unwrap();
    assert_eq!(
        json,
        r#"{"id":"7","from":"orders","to":"fulfillment","services":["postgres","tcp/1-9"],"owner":"on-call","reason":"incident 7","created":"2026-11-01T00:00:00Z","expires":"2026-11-01T04:00:00Z","created_by":0}"#
    );
    assert_eq!(serde_json::from_str::<Exception>(&json).unwrap(), e);
}

#[test]
fn stored_files_load_though_rules_in_them_have_expired() {
    let rule = "services = [\"tcp/1\"]\n";
    let text = ESTATE.replace(rule, &format!("{rule}expires = 2026-01-01\n"));
    let sources = || Sources::from_texts([("z.toml", text.clone())]);
    assert!(load(sources(), now()).unwrap_err().items()[0].message.contains("`permanent` expired"));
    let policy = load_stored(sources()).unwrap();
    let mut registry = Registry::default();
    let compiled = compile(&policy, Host::in_zone("orders", &[]), &[], &[], &mut registry).unwrap();
    let tables = Tables::new(&compiled, u64::try_from(now().as_nanosecond()).unwrap());
    let (subject, peer) = (Subject::lasting(compiled.host), Addr::v4([10, 2, 0, 1]));
    let d = decide(&tables, &Facts { subject, direction: Direction::Outbound, protocol: 6, peer, port: 1 });
    assert_eq!((d.verdict.name(), d.reason.name()), ("denied", "rule-expired"));
}
