//! `[workload.NAME]`: what is wrong with one, and what its sockets may do.

use std::collections::BTreeMap;

use segd_common::addr::Addr;
use segd_common::decide::{Facts, decide, decide_socket};
use segd_common::table::Subject;
use segd_common::traffic::{Direction, protocol};

use super::*;
use crate::policy::ids::Registry;
use crate::policy::model::Override;
use crate::policy::workload::without_user;
use crate::policy::{Compiled, Host, Resolved, Tables, check, compile};

/// 6 lines.
const BASE: &str = r#"[zone.orders]
cidrs = ["10.1.0.0/16"]
[zone.fulfillment]
cidrs = ["10.2.0.0/16"]

"#;

#[test]
fn each_kind_of_error() {
    let one = |lines: &str| format!("[workload.bot]\nzone = \"orders\"\n{lines}");
    let unit = |name: &str| one(&format!("unit = \"{name}\""));
    let cgroup = |path: &str| one(&format!("cgroup = \"{path}\""));
    let table: Vec<(String, Vec<&str>)> = vec![
        (
            "[workload.bot]".into(),
            vec![
                "6:11: [workload.bot] is missing `zone` [add `zone = \"ZONE\"`]",
                "6:11: workload `bot` selects nothing: `unit`, `cgroup` and `user` are missing",
            ],
        ),
        (one("unit = \"a.service\"\nuser = \"b\""), vec!["6:11: workload `bot` has both `unit` and `user`"]),
        (
            "[workload.bot]\nzone = \"ordes\"\nuser = \"b\"".into(),
            vec!["7:8: unknown zone `ordes` [did you mean `orders`?]"],
        ),
        (
            "[workload.bot]\nzone = \"unknown\"\nuser = \"b\"".into(),
            vec!["7:8: no host is in the built-in zone `unknown` [name a zone of your own]"],
        ),
        (
            "[workload.orders]\nzone = \"orders\"\nuser = \"b\"".into(),
            vec![
                "6:11: `orders` names both a workload and a zone [rename one of them: rules name both kinds alike]",
            ],
        ),
        (
            "[workload.loopback]\nzone = \"orders\"\nuser = \"b\"".into(),
            vec!["6:11: `loopback` is built in and cannot be defined [choose another name]"],
        ),
        (
            unit("bot"),
            vec![
                "8:8: `bot` is not the name of a unit that has sockets [write the whole name, as `bot.service`, .scope or .slice]",
            ],
        ),
        (
            unit("bot.timer"),
            vec![
                "8:8: `bot.timer` is not the name of a unit that has sockets [its sockets are those of the .service that it starts]",
            ],
        ),
        (
            unit("bot-*.service"),
            vec![
                "8:8: `bot-*.service` is not the name of a systemd unit [write a name without wildcards, `agent@.service` for every instance, or use `cgroup`]",
            ],
        ),
        (
            unit(&format!("{}.service", "a".repeat(105))),
            vec!["8:8: `unit` has 113 bytes; 112 is the most [shorten it with `*` in a `cgroup`]"],
        ),
        (
            cgroup("agents/*"),
            vec![
                "8:10: `agents/*` does not begin with `/` [write `/agents/*`: a path from the root of the cgroup2 tree on]",
            ],
        ),
        (
            cgroup("/agents/../x"),
            vec![
                "8:10: `/agents/../x` is not the path of a cgroup [write it without `//`, `.`, `..` and `/` at the end]",
            ],
        ),
        (
            cgroup("/agents/**"),
            vec![
                "8:10: `**` in `/agents/**` has no meaning [write `*`: it stands for any characters but `/`, and what is below a cgroup belongs to it]",
            ],
        ),
        (
            cgroup("/sys/fs/cgroup/a"),
            vec![
                "8:10: `/sys/fs/cgroup/a` is a path of files [write it from the root of the cgroup2 tree on: `/a`]",
            ],
        ),
        (
            cgroup("/"),
            vec![
                "8:10: `/` is every process of the host [what belongs to no workload is decided as the zone of the host; name a cgroup below the root]",
            ],
        ),
        (
            one("user = \"a b\""),
            vec![
                "8:8: `a b` is neither the name of a user nor a uid [write it like `user = \"invbot\"` or `user = 991`]",
            ],
        ),
        (one("user = 4294967295"), vec!["8:8: `user` must be from 0 to 4294967294"]),
        (
            one("user = \"a\"\ninherit = \"no\""),
            vec!["9:11: `inherit` must be `true` or `false`, not a string"],
        ),
        (
            format!("{}\n[workload.cat]\nzone = \"fulfillment\"\nuser = \"7\"", one("user = 7")),
            vec![
                "9:11: workloads `bot` and `cat` are both the user 7 [keep one of them; several rules may name it]",
            ],
        ),
        (
            format!("{}\n[[rollout]]\npeers = [\"bot\"]\nmode = \"enforce\"", one("user = 7")),
            vec![
                "10:10: `bot` is a workload, not a zone [name its zone, `orders`: that is all that others see of it]",
            ],
        ),
    ];
    for (text, wanted) in table {
        let sources = Sources::from_texts([("z", format!("{BASE}{text}"))]);
        let found = load(sources, now()).map(|_| ()).unwrap_err();
        let found: Vec<String> = lines(&found);
        assert_eq!(found.len(), wanted.len(), "{found:?}\n{text}");
        for (found, wanted) in found.iter().zip(wanted) {
            let found = found.replacen("z:", "", 1).replacen("error: ", "", 1);
            assert!(found.starts_with(wanted), "\n{found}\n{wanted}\n{text}");
        }
    }
}

const ESTATE: &str = r#"
[zone.orders]
cidrs = ["10.1.0.0/16"]
[zone.fulfillment]
cidrs = ["10.2.0.0/16"]
[workload.bot]
zone = "orders"
unit = "bot.service"
owner = "automation"
purpose = "moves stock"
[workload.lonely]
zone = "orders"
cgroup = "/agents/lonely*"
inherit = false
owner = "automation"
purpose = "reads prices"
[workload.old]
zone = "orders"
user = "old"
expires = 2026-10-01
owner = "automation"
purpose = "none any more"
[workload.elsewhere]
zone = "fulfillment"
unit = "agent@.service"
owner = "automation"
purpose = "prints labels"
[[allow]]
id = "zone"
from = "orders"
to = "fulfillment"
services = ["tcp/1", "raw"]
[[allow]]
id = "bot"
from = "bot"
to = "fulfillment"
services = ["tcp/2"]
[[allow]]
id = "lonely"
from = "lonely"
to = "elsewhere"
services = ["tcp/3"]
[[allow]]
id = "to-lonely"
from = "elsewhere"
to = "lonely"
services = ["tcp/4"]
[[allow]]
id = "to-zone"
from = "fulfillment"
to = "orders"
services = ["tcp/5"]
[[rollout]]
subject = "lonely"
peers = ["fulfillment"]
services = ["tcp/99"]
mode = "monitor"
[[rollout]]
subject = "orders"
mode = "enforce"
[[test]]
from = "bot"
to = "fulfillment"
allow = ["tcp/1", "tcp/2"]
deny = ["tcp/3"]
[[test]]
from = "lonely"
to = "elsewhere"
allow = ["tcp/3"]
deny = ["tcp/1"]
"#;

fn made(zone: &str, overrides: &[Override]) -> (Compiled, Registry) {
    let mut registry = Registry::default();
    let users = [("old".to_owned(), 1007)].into();
    let host = Host { users: &users, ..Host::in_zone(zone, &[]) };
    (compile(&loaded(ESTATE), host, overrides, &[], &mut registry).unwrap(), registry)
}

/// The subject that a workload's tables give a socket, by the name of the workload.
fn subject(compiled: &Compiled, registry: &Registry, name: &str) -> Subject {
    let all = compiled.patterns.iter().map(|p| p.subject).chain(compiled.users.iter().map(|u| u.1));
    let host = std::iter::once(Subject::lasting(compiled.host));
    all.chain(host).find(|s| &*registry.subject_name(s.id) == name).unwrap()
}

#[test]
fn each_subject_has_the_rules_that_name_it_or_that_it_inherits() {
    let (compiled, registry) = made("orders", &[]);
    let tables = Tables::new(&compiled, now().as_nanosecond().try_into().unwrap());
    for (name, direction, port, wanted) in [
        ("orders", Direction::Outbound, 1, "allowed zone"),
        ("orders", Direction::Outbound, 2, "denied no-rule"),
        ("orders", Direction::Outbound, 3, "denied no-rule"),
        ("orders", Direction::Inbound, 4, "denied no-rule"),
        ("orders", Direction::Inbound, 5, "allowed to-zone"),
        ("bot", Direction::Outbound, 1, "allowed zone"),
        ("bot", Direction::Outbound, 2, "allowed bot"),
        ("bot", Direction::Outbound, 3, "denied no-rule"),
        ("bot", Direction::Inbound, 5, "allowed to-zone"),
        ("lonely", Direction::Outbound, 1, "denied no-rule"),
        ("lonely", Direction::Outbound, 3, "allowed lonely"),
        ("lonely", Direction::Outbound, 99, "audited no-rule"),
        ("lonely", Direction::Inbound, 4, "allowed to-lonely"),
        ("lonely", Direction::Inbound, 5, "denied no-rule"),
        ("old", Direction::Outbound, 1, "denied workload-expired"),
        ("old", Direction::Inbound, 5, "denied workload-expired"),
        // Of another zone: that of its own rules, in the mode of its own rollouts.
        ("elsewhere", Direction::Inbound, 1, "audited no-rule"),
    ] {
        let facts = Facts {
            subject: subject(&compiled, &registry, name),
            direction,
            protocol: 6,
            peer: Addr::v4([10, 2, 0, 1]),
            port,
        };
        let d = decide(&tables, &facts);
        let by = registry.rule_name(d.rule).unwrap_or_else(|| d.reason.to_string().into());
        assert_eq!(format!("{} {by}", d.verdict), wanted, "{name} {direction} {port}");
    }
    let raw =
        |name| decide_socket(&tables, subject(&compiled, &registry, name), protocol::RAW).verdict.name();
    assert_eq!(["orders", "bot", "lonely", "old"].map(raw), ["allowed", "allowed", "denied", "denied"]);
}

#[test]
fn at_the_other_end_a_workload_is_its_zone() {
    let (compiled, registry) = made("fulfillment", &[]);
    let tables = Tables::new(&compiled, 1);
    for (name, direction, port, wanted) in [
        ("fulfillment", Direction::Inbound, 2, Some("bot")),
        ("fulfillment", Direction::Inbound, 3, None),
        ("elsewhere", Direction::Inbound, 3, Some("lonely")),
        ("fulfillment", Direction::Outbound, 4, None),
        ("elsewhere", Direction::Outbound, 4, Some("to-lonely")),
    ] {
        let facts = Facts {
            subject: subject(&compiled, &registry, name),
            direction,
            protocol: 6,
            peer: Addr::v4([10, 1, 0, 1]),
            port,
        };
        let rule = registry.rule_name(decide(&tables, &facts).rule);
        assert_eq!(rule.as_deref(), wanted, "{name} {direction} {port}");
    }
}

#[test]
fn patterns_and_users_find_the_subjects() {
    let (compiled, registry) = made("orders", &[]);
    let patterns: Vec<_> = compiled
        .patterns
        .iter()
        .map(|p| {
            let text = std::str::from_utf8(&p.text[..p.len.into()]).unwrap().to_owned();
            (registry.subject_name(p.subject.id), text, p.anywhere, p.subject.expires)
        })
        .collect();
    let wanted =
        [("bot", "bot.service", 1), ("elsewhere", "agent@*.service", 1), ("lonely", "/agents/lonely*", 0)];
    assert_eq!(patterns, wanted.map(|(name, text, anywhere)| (name.into(), text.into(), anywhere, 0)));
    let [(1007, old)] = compiled.users[..] else { panic!("{:?}", compiled.users) };
    assert_eq!(&*registry.subject_name(old.id), "old");
    assert_eq!(
        old.expires,
        u64::try_from("2026-10-01T00:00:00Z".parse::<Timestamp>().unwrap().as_nanosecond()).unwrap()
    );
    let wanted = ["workload `old` selects nothing: this host has no user old"];
    assert_eq!(without_user(&loaded(ESTATE), &BTreeMap::new()), wanted);
    let same = ESTATE.replace("unit = \"bot.service\"", "user = 1007");
    assert_eq!(
        without_user(&loaded(&same), &[("old".to_owned(), 1007)].into()),
        ["workload `old` selects nothing: its user old is uid 1007, which workload `bot` has"]
    );
    let unknown = compile(&loaded(ESTATE), Host::in_zone("orders", &[]), &[], &[], &mut Registry::default());
    assert_eq!(unknown.unwrap().users, []);
}

#[test]
fn an_override_for_the_zone_holds_for_its_workloads() {
    let set = |subject: Option<&str>| Override {
        subject: subject.map(str::to_owned),
        direction: None,
        peers: None,
        services: None,
        enforce: false,
    };
    for (at, name, wanted) in [
        (Some("orders"), "bot", "audited"),
        (Some("bot"), "bot", "audited"),
        (Some("bot"), "orders", "denied"),
        (Some("lonely"), "bot", "denied"),
        (None, "lonely", "audited"),
    ] {
        let (compiled, registry) = made("orders", &[set(at)]);
        let subject = subject(&compiled, &registry, name);
        let peer = Addr::v4([10, 2, 0, 1]);
        let facts = Facts { subject, direction: Direction::Outbound, protocol: 6, peer, port: 9 };
        assert_eq!(decide(&Tables::new(&compiled, 1), &facts).verdict.name(), wanted, "{at:?} {name}");
    }
}

#[test]
fn warnings() {
    let text = format!(
        r#"{BASE}[workload.old]
zone = "orders"
user = 7
expires = 2026-11-01
owner = "me"
purpose = "x"
[workload.soon]
zone = "orders"
user = 8
inherit = false
expires = 2026-11-03
[[allow]]
id = "temporary"
from = "orders"
to = "fulfillment"
services = ["tcp/1"]
expires = 2026-11-15
[[allow]]
id = "bot-again"
from = "old"
to = "fulfillment"
services = ["tcp/1"]
[[allow]]
id = "zone"
from = "orders"
to = "fulfillment"
services = ["tcp/1"]
[[allow]]
id = "reply"
from = "fulfillment"
to = "orders"
services = ["tcp/1"]
[[test]]
from = "old"
to = "fulfillment"
allow = ["tcp/1"]
[[test]]
from = "soon"
to = "fulfillment"
allow = ["tcp/1"]
"#
    );
    let found = check(&loaded(&text), &[], &Resolved::new(), now());
    let wanted = [
        "6:11: warning: workload `old` expired at 2026-11-01T00:00:00Z: it is denied everything but failsafe traffic",
        "12:11: warning: no rule names workload `soon`, and it inherits none",
        "12:11: warning: workload `soon` expires in 2 days, at 2026-11-03T00:00:00Z; then it is denied everything",
        "12:11: warning: workload `soon` has no owner and no purpose",
        "18:6: warning: rule `temporary` expires in 14 days, at 2026-11-15T00:00:00Z",
        // Inbound at fulfillment `bot-again` does, for the whole zone: it is seen as that.
        "18:6: warning: rule `temporary` never decides: rule `zone` allows the same",
        "41:10: error: test failed: `tcp/1` from `old` to `fulfillment` must be allowed, but the workload `old` has expired",
        "45:10: error: test failed: `tcp/1` from `soon` to `fulfillment` must be allowed, but no rule allows it outbound at the workload `soon`",
    ];
    let found: Vec<String> = lines(&found).iter().map(|l| l.replacen("zones.toml:", "", 1)).collect();
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
    for wanted in wanted {
        assert!(found.iter().any(|f| f.starts_with(wanted)), "{wanted}\n{found:#?}");
    }
    let clean = check(&loaded(ESTATE), &[], &Resolved::new(), now());
    let found: Vec<String> = lines(&clean);
    assert_eq!(found.len(), 1, "only `old`: {found:#?}");
}
