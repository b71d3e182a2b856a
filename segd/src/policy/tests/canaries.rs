//! `canary` of a rollout: which hosts, and which peers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use segd_common::decide::{Facts, decide, zone_of};
use segd_common::id::ZoneId;
use segd_common::table::Subject;
use segd_common::traffic::Direction;

use super::*;
use crate::policy::canary::canaries;
use crate::policy::compile::enforcing;
use crate::policy::ids::Registry;
use crate::policy::{CompileError, Compiled, Host, Resolved, Situation, Tables, check, compile, explain};

const ZONES: &str = r#"[zone.orders]
cidrs = ["10.1.0.0/16"]
[zone.fulfillment]
cidrs = ["10.20.0.0/16", "2001:db8:20::/48"]
[service.db]
ports = ["tcp/5432"]
"#;

fn rollout(rest: &str) -> String {
    format!("[[rollout]]\nsubject = \"orders\"\nmode = \"enforce\"\n{rest}\n")
}

/// The names of hosts 0 to 199 that are in.
fn inside(entry: &str) -> BTreeSet<String> {
    let policy = loaded(&format!("{ZONES}{entry}"));
    let hosts = (0..200).map(|n| format!("orders-{n}"));
    hosts.filter(|host| canaries(&policy, host)[0].is_in).collect()
}

#[test]
fn a_percentage_grows_by_the_same_hosts() {
    let mut former = BTreeSet::new();
    for percent in [0, 1, 10, 50, 99, 100] {
        let now = inside(&rollout(&format!("canary = {{ percent = {percent} }}")));
        assert!(now.is_superset(&former), "{percent}");
        // Of 200, three standard deviations around the mean at most.
        let (mean, spread) = (2 * percent, 22);
        assert!(
            (mean - spread..=mean + spread).contains(&i32::try_from(now.len()).unwrap()),
            "{}",
            now.len()
        );
        former = now;
    }
    assert_eq!(former.len(), 200);
    let percent = "canary = { percent = 30 }";
    let one = inside(&rollout(percent));
    let shuffled = rollout(&format!("services = [\"tcp/1\", \"db\"]\n{percent}"));
    let other = rollout(&format!("services = [\"db\", \"tcp/1\"]\n{percent}"));
    assert_ne!(one, inside(&shuffled), "entries that say different things pick different hosts");
    assert_eq!(inside(&shuffled), inside(&other), "the order of a list says nothing");
    let second = loaded(&format!(
        "{ZONES}{}{}",
        rollout("peers = [\"orders\"]\ncanary = { percent = 1 }"),
        rollout(percent)
    ));
    let moved: BTreeSet<String> =
        (0..200).map(|n| format!("orders-{n}")).filter(|h| canaries(&second, h)[1].is_in).collect();
    assert_eq!(one, moved, "nor does the place of the entry");
}

#[test]
fn buckets_are_the_same_for_ever() {
    let policy = loaded(&format!("{ZONES}{}", rollout("canary = { percent = 10 }")));
    let bucket = |host| canaries(&policy, host)[0].bucket;
    // By hand: SHA-256 of the texts that the module names, each with a zero byte behind it.
    assert_eq!(
        ["orders-1", "ORDERS-1", "orders-2", "wms-app-1"].map(bucket),
        [Some(4), Some(4), Some(51), Some(73)]
    );
}

#[test]
fn hosts_are_named_and_peers_restrict() {
    let text = [
        rollout("canary = { hosts = [\"db-*\", \"Web-1\"] }"),
        rollout("canary = { percent = 0, hosts = [\"web-1\"], peers = \"10.20.4.0/24\" }"),
        rollout("canary = { peers = [\"10.20.4.0/24\", \"2001:db8:20::/64\"] }"),
    ];
    let policy = loaded(&format!("{ZONES}{}", text.concat()));
    let said = |host| canaries(&policy, host).into_iter().map(|c| (c.is_in, c.why)).collect::<Vec<_>>();
    assert_eq!(
        said("WEB-1"),
        [
            (true, "named by `web-1`".to_owned()),
            (true, "named by `web-1`".to_owned()),
            (true, "every host is".to_owned())
        ]
    );
    let other = said("mail");
    assert_eq!(other[0], (false, "`hosts` does not name it".to_owned()));
    assert!(!other[1].0 && other[1].1.ends_with("is not below percent = 0"), "{other:?}");
    let json = serde_json::to_value(&canaries(&policy, "db-7")[1]).unwrap();
    assert_eq!(json["in"], false);
    assert_eq!(json["place"], "zones.toml:11");
    assert_eq!(json["peers"], serde_json::json!(["10.20.4.0/24"]));
}

fn made(text: &str, host: &str, own: &[IpAddr]) -> (Compiled, Registry) {
    let mut registry = Registry::default();
    let host = Host { name: host, ..Host::in_zone("orders", own) };
    (compile(&loaded(text), host, &[], &[], &mut registry).unwrap(), registry)
}

#[test]
fn cohorts_cut_zones_into_groups() {
    let text = [
        // In `fulfillment`, across its edge, around all of it, and in no zone; v6 likewise.
        rollout("direction = \"inbound\"\nservices = [\"tcp/1\"]\ncanary = { peers = [\"10.20.4.0/24\", \"2001:db8:20:1::/64\"] }"),
        rollout("direction = \"inbound\"\nservices = [\"tcp/2\"]\ncanary = { peers = \"10.0.0.0/8\" }"),
        rollout("direction = \"inbound\"\nservices = [\"tcp/3\"]\ncanary = { peers = [\"10.20.4.7/32\", \"192.0.2.0/24\"] }"),
        rollout("direction = \"inbound\"\nservices = [\"tcp/4\"]\ncanary = { hosts = [\"other\"], peers = \"10.20.9.0/24\" }"),
    ]
    .concat();
    let own = ["10.20.4.5".parse().unwrap()];
    let (compiled, registry) = made(&format!("{ZONES}{text}"), "orders-1", &own);
    let tables = Tables::new(&compiled, 1);
    let mut groups = BTreeSet::new();
    for (peer, zone, enforced) in [
        ("10.20.4.7", "fulfillment", &[1, 2, 3][..]),
        ("10.20.4.8", "fulfillment", &[1, 2]),
        ("10.20.5.1", "fulfillment", &[2]),
        ("10.20.9.1", "fulfillment", &[2]),
        ("10.99.0.1", "unknown", &[2]),
        ("10.1.0.1", "orders", &[2]),
        ("192.0.2.9", "unknown", &[3]),
        ("11.0.0.1", "unknown", &[]),
        ("2001:db8:20:1::1", "fulfillment", &[1]),
        ("2001:db8:20:2::1", "fulfillment", &[]),
    ] {
        let ip: IpAddr = peer.parse().unwrap();
        let at = zone_of(&tables, &ip.into());
        assert_eq!(&*registry.zone_name(at.zone), zone, "{peer}");
        assert_eq!(at.group == at.zone, enforced.is_empty(), "{peer}");
        groups.insert(at.group);
        for port in 1..=4 {
            let subject = Subject::lasting(compiled.host);
            let facts = Facts { subject, direction: Direction::Inbound, protocol: 6, peer: ip.into(), port };
            let denied = decide(&tables, &facts).verdict.name() == "denied";
            assert_eq!(denied, enforced.contains(&port), "{peer} {port}");
        }
    }
    assert_eq!(groups.len(), 9, "two of the peers are alike: {groups:?}");
    assert_eq!(groups.last(), Some(&ZoneId(0xfffe)));
    assert_eq!(zone_of(&tables, &own[0].into()).zone, ZoneId::LOOPBACK);
}

#[test]
fn a_host_outside_of_the_canary_takes_the_next_entry() {
    let text = format!(
        "{ZONES}{}{}",
        rollout("canary = { hosts = [\"orders-1\"] }"),
        rollout("services = [\"db\"]\ndirection = \"inbound\"")
    );
    let policy = loaded(&text);
    let ask = |host, port: &str| {
        let at = Situation { host, ..Situation::of_files(&[], now()) };
        let said = explain(&policy, "fulfillment", "orders", port.parse().unwrap(), &at).unwrap();
        (said.inbound.clone().unwrap().mode, said.render())
    };
    assert_eq!(ask("orders-1", "tcp/1").0, "enforce");
    assert_eq!(ask("orders-2", "tcp/5432").0, "enforce");
    let (mode, text) = ask("orders-2", "tcp/1");
    assert_eq!(mode, "monitor");
    let canary = "\n  mode     monitor, by default\n  canary   host orders-2 is not in the canary of zones.toml:7, enforce: \
                  `hosts` does not name it\n";
    assert!(text.contains(canary), "{text}");
    let rows = |host| {
        let host = Host { name: host, ..Host::in_zone("orders", &[]) };
        enforcing(&policy, host, &[]).iter().filter(|r| r.enforcing).count()
    };
    assert_eq!((rows("orders-1"), rows("orders-2")), (4, 1));
}

#[test]
fn explain_says_whom_a_canary_is_for() {
    let policy = loaded(&format!("{ZONES}{}", rollout("canary = { peers = \"10.20.4.0/24\" }")));
    let ask = |from| {
        let port = "tcp/1".parse().unwrap();
        let said = explain(&policy, from, "orders", port, &Situation::of_files(&[], now())).unwrap();
        said.inbound.unwrap()
    };
    assert_eq!(ask("10.20.4.1").mode_from.as_deref(), Some("zones.toml:7"));
    let other = ask("10.20.5.1");
    assert_eq!((other.mode, other.mode_from), ("monitor", None));
    assert_eq!(other.passed_over, ["enforce by zones.toml:7 is for the peers 10.20.4.0/24 only"]);
    let raw =
        explain(&policy, "orders", "fulfillment", "raw".parse().unwrap(), &Situation::of_files(&[], now()));
    let end = raw.unwrap().outbound.unwrap();
    assert_eq!((end.verdict, end.mode), ("denied", "enforce"), "towards a part of a zone is enough");
}

#[test]
fn canaries_of_all_or_none_are_warned_of() {
    let all = [
        "percent = 0",
        "percent = 0, hosts = [\"a\"]",
        "percent = 50",
        "percent = 100, peers = \"10.20.0.0/16\"",
    ];
    let guard = "[[rollout]]\nmode = \"monitor\"\nguard = { max_cut = 0 }";
    let found = check(&loaded(&format!("{ZONES}{guard}")), &[], &Resolved::new(), now());
    assert!(lines(&found).iter().any(|l| l.starts_with("zones.toml:9:9: warning: the guard never acts")));
    let text: String = all.map(|c| rollout(&format!("canary = {{ {c} }}"))).concat();
    let found = check(&loaded(&format!("{ZONES}{text}")), &[], &Resolved::new(), now());
    let found: Vec<String> = lines(&found).into_iter().filter(|l| l.contains("canary")).collect();
    assert_eq!(
        found,
        [
            "zones.toml:10:10: warning: no host is in this canary: `percent` is 0 [the entry does nothing yet; begin with \
             `percent = 1` or a host by name]",
            "zones.toml:22:10: warning: every host is in this canary: `percent` is 100 [leave `percent` out once the \
             rollout is done]",
        ]
    );
}

#[test]
fn groups_must_not_meet_zones() {
    let text = format!("{ZONES}{}", rollout("canary = { peers = \"10.20.4.0/24\" }"));
    let mut registry: Registry =
        serde_json::from_str(r#"{"subjects":{"last":65533},"services":{},"rules":{}}"#).unwrap();
    let host = Host::in_zone("orders", &[]);
    let full = compile(&loaded(&text), host, &[], &[], &mut registry).unwrap_err();
    assert!(matches!(full, CompileError::Full(_)), "{full}");
    let mut registry: Registry =
        serde_json::from_str(r#"{"subjects":{"orders":16,"fulfillment":65534},"services":{},"rules":{}}"#)
            .unwrap();
    assert_eq!(compile(&loaded(&text), host, &[], &[], &mut registry).unwrap_err(), CompileError::Cohorts);
}
