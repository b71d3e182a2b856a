//! Observed flows against other zone files, as facts: `when host direction local peer port verdict`.

use std::collections::BTreeMap;

use segd_common::traffic::{Direction, Reason};

use super::*;
use crate::history::{Conversation, Peer};
use crate::insight::replay::Around;
use crate::policy::Policy;
use crate::policy::tests::loaded;
use crate::telemetry::record::InOut;

const ESTATE: &str = r#"
    [zone.app]
    cidrs = ["10.1.0.0/16"]
    owner = "app-team"
    [zone.db]
    cidrs = ["10.2.0.0/16"]
    owner = "db-team"
    [workload.bot]
    zone = "app"
    unit = "bot.service"
    inherit = false
    [[allow]]
    id = "reads"
    from = "app"
    to = "db"
    services = ["tcp/5432"]
    owner = "reads-team"
    [[allow]]
    id = "web"
    from = "app"
    to = "db"
    services = ["tcp/443"]
    [[allow]]
    id = "web"
    from = "unknown"
    to = "db"
    services = ["tcp/443"]
    [[rollout]]
    mode = "enforce"
"#;

fn estate() -> String {
    ESTATE.replacen("id = \"web\"\n    from = \"unknown\"", "id = \"world\"\n    from = \"unknown\"", 1)
}

/// `allowed` by a rule of that name, `audited` and `denied` by none.
fn seen(line: &str) -> Summary {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [hour, host, direction, local, peer, port, verdict, flows] = words[..] else { panic!("{line}") };
    let (verdict, rule) = match verdict {
        "audited" => (Verdict::Audited, None),
        "denied" => (Verdict::Denied, None),
        rule => (Verdict::Allowed, Some(rule.into())),
    };
    let zone = |ip: &str| if ip.starts_with("10.1.") || ip == "-" { "app" } else { "db" };
    let direction = if direction == "out" { Direction::Outbound } else { Direction::Inbound };
    let (host, unit) = host.split_once('/').map_or((host, None), |(host, unit)| (host, Some(unit.into())));
    let time: Timestamp = format!("2026-11-{hour}:00:00Z").parse().unwrap();
    let none = InOut::NONE;
    Summary {
        of: Conversation {
            host: host.into(),
            subject: zone(local).into(),
            workload: None,
            process: Some(format!("/bin/{host}").into()),
            unit,
            uid: None,
            direction,
            local: local.parse().ok(),
            peer: peer
                .strip_prefix('+')
                .map_or_else(|| Peer::Address(peer.parse().unwrap()), |n| Peer::Others(n.parse().unwrap())),
            peer_zone: zone(peer).into(),
            protocol: "tcp".into(),
            port: port.parse().unwrap(),
            icmp: None,
            service: "other".into(),
            verdict,
            reason: if rule.is_some() { Reason::Rule } else { Reason::NoRule },
            rule,
        },
        hour: time,
        flows: flows.parse().unwrap(),
        packets: none,
        bytes: none,
        first: time,
        last: time,
    }
}

fn compared(policy: &Policy, before: Option<&Policy>, as_if_enforced: bool, lines: &[&str]) -> Comparison {
    let all: Vec<Summary> = lines.iter().map(|line| seen(line)).collect();
    let around = Around::of_files(&[], "2026-11-22T00:00:00Z".parse().unwrap());
    let decider = Decider::new(policy, around, &all).unwrap();
    let options = Options { as_if_enforced, recent: SignedDuration::from_hours(7 * 24) };
    compare(&decider, &all, &Owners::new(policy, before), options)
}

/// `flows conversations recent` of a section.
fn counts(counts: Counts) -> String {
    let Counts { conversations, recent_conversations, flows } = counts;
    format!("{flows} {conversations} {recent_conversations}")
}

/// `from -> to port was->now reason end hosts peers flows`.
fn told(section: &Section) -> Vec<String> {
    let line = |line: &Line| {
        let Line { from, to, port, was, now, reason, at, counts, .. } = line;
        let end = format!("{at:?}").to_lowercase();
        let (hosts, peers) = (line.hosts.some.join(","), line.peers.some.join(","));
        format!("{from} -> {to} {port} {was}->{now} {reason} {end} {hosts} {peers} {}", counts.flows)
    };
    section.lines.iter().map(line).collect()
}

#[test]
fn each_flow_is_newly_denied_or_audited_or_allowed_or_unchanged() {
    let policy = loaded(&estate());
    let lines = [
        "01T10 a out 10.1.0.1 10.2.0.1 5432 reads 5",
        "01T10 a out 10.1.0.1 10.2.0.1 80 old 7",
        "20T10 a out 10.1.0.1 10.2.0.1 81 audited 3",
        "20T10 a out 10.1.0.1 10.2.0.1 443 audited 2",
        "20T10 a out 10.1.0.1 10.2.0.1 82 denied 9",
        "20T10 b in 10.2.0.2 192.0.2.1 443 denied 1",
    ];
    let found = compared(&policy, None, false, &lines);
    assert_eq!(counts(found.observed), "27 6 4");
    assert_eq!(
        told(&found.newly_denied),
        [
            "app -> db 80 allowed->denied no-rule client a 10.2.0.1 7",
            "app -> db 81 audited->denied no-rule client a 10.2.0.1 3",
        ]
    );
    assert_eq!(counts(found.newly_denied.counts), "10 2 1");
    assert!(found.breaks());
    assert_eq!(
        told(&found.newly_allowed),
        [
            "app -> db 443 audited->allowed rule client a 10.2.0.1 2",
            "unknown -> db 443 denied->allowed rule server b 192.0.2.1 1",
        ]
    );
    assert_eq!(counts(found.newly_audited.counts), "0 0 0");
    assert_eq!(counts(found.unchanged.counts), "14 2 1");
    assert_eq!(counts(found.if_enforced), "10 2 1");

    // Without the rollout everything is in monitor mode.
    let monitor = loaded(&estate().replace("\"enforce\"", "\"monitor\""));
    let found = compared(&monitor, None, false, &lines);
    assert!(!found.breaks());
    assert_eq!(counts(found.newly_denied.counts), "0 0 0");
    assert_eq!(
        told(&found.newly_audited),
        [
            "app -> db 82 denied->audited no-rule client a 10.2.0.1 9",
            "app -> db 80 allowed->audited no-rule client a 10.2.0.1 7",
        ]
    );
    assert_eq!(counts(found.if_enforced), "10 2 1");
    let found = compared(&monitor, None, true, &lines);
    assert_eq!(counts(found.newly_denied.counts), "10 2 1");
    assert_eq!(counts(found.newly_audited.counts), "0 0 0");
    assert!(found.breaks());
}

#[test]
fn what_was_seen_long_ago_breaks_nothing() {
    let policy = loaded(&estate());
    let old = "01T10 a out 10.1.0.1 10.2.0.1 80 old 7";
    let new = "20T10 a out 10.1.0.1 10.2.0.1 5432 reads 1";
    let found = compared(&policy, None, false, &[old, new]);
    assert_eq!(counts(found.newly_denied.counts), "7 1 0");
    assert!(!found.breaks());
    assert_eq!(found.recent_since, Some("2026-11-13T10:00:00Z".parse().unwrap()));
    // The newest record counts, not the clock.
    assert!(compared(&policy, None, false, &[old]).breaks());
    assert!(!compared(&policy, None, false, &[]).breaks());
}

#[test]
fn the_last_verdict_is_what_it_is_compared_with() {
    let policy = loaded(&estate());
    let found = compared(
        &policy,
        None,
        false,
        &[
            "20T10 a out 10.1.0.1 10.2.0.1 80 old 7",
            "20T11 a out 10.1.0.1 10.2.0.1 80 denied 2",
            "20T11 a out 10.1.0.1 10.2.0.1 81 old 1",
            "20T10 a out 10.1.0.1 10.2.0.1 81 audited 4",
            "20T12 a out 10.1.0.1 10.2.0.1 82 old 0",
            // Its end, when its address is known, which it was not at the beginning.
            "20T12 a out - 10.2.0.1 5432 reads 4",
            "20T12 a out 10.1.0.1 10.2.0.1 5432 reads 0",
        ],
    );
    assert_eq!(counts(found.unchanged.counts), "13 2 2");
    assert_eq!(
        told(&found.newly_denied),
        [
            "app -> db 81 allowed->denied no-rule client a 10.2.0.1 5",
            "app -> db 82 allowed->denied no-rule client a 10.2.0.1 1",
        ]
    );
}

#[test]
fn both_ends_of_a_flow_are_one_flow() {
    let both = [
        "20T10 a out 10.1.0.1 10.2.0.1 80 old 7",
        "20T10 b in 10.2.0.1 10.1.0.1 80 old 8",
        "20T10 a out 10.1.0.1 10.2.0.1 5432 reads 3",
        "20T10 b in 10.2.0.1 10.1.0.1 5432 reads 3",
        // Its host has no log here.
        "20T10 b in 10.2.0.1 10.1.0.9 80 old 2",
    ];
    let found = compared(&loaded(&estate()), None, false, &both);
    assert_eq!(counts(found.observed), "12 3 3");
    assert_eq!(
        told(&found.newly_denied),
        [
            "app -> db 80 allowed->denied no-rule both a 10.2.0.1 7",
            "app -> db 80 allowed->denied no-rule server b 10.1.0.9 2",
        ]
    );
    assert_eq!(counts(found.unchanged.counts), "3 1 1");

    // Only the server's side is enforced: that end is told, and what the client counted.
    let server = estate().replace("mode = \"enforce\"", "subject = \"db\"\nmode = \"enforce\"");
    let found = compared(&loaded(&server), None, false, &both);
    assert_eq!(
        told(&found.newly_denied),
        ["app -> db 80 allowed->denied no-rule server b 10.1.0.1,10.1.0.9 9"]
    );

    // The same workload's flow is another one for the server, which cannot tell it from those of its zone.
    let bot = ["20T10 a/bot.service out 10.1.0.1 10.2.0.1 5432 reads 1", both[2], both[3]];
    let found = compared(&loaded(&estate()), None, false, &bot);
    assert_eq!(told(&found.newly_denied), ["bot -> db 5432 allowed->denied no-rule client a 10.2.0.1 1"]);
    assert_eq!(counts(found.unchanged.counts), "3 1 1");

    // An address that several hosts have tells nothing.
    let bridged = [both[0], both[1], "20T10 c in 10.1.0.1 10.9.0.1 1 old 1"];
    let found = compared(&loaded(&estate()), None, false, &bridged);
    assert_eq!(counts(found.observed), "16 3 3");
}

#[test]
fn rules_have_owners_also_when_they_are_gone() {
    let before = loaded(&estate());
    let after = loaded(&estate().replace("id = \"reads\"", "id = \"other\"").replace("5432", "5433"));
    let lines = [
        "20T10 a out 10.1.0.1 10.2.0.1 5432 reads 5",
        "20T10 c out 10.1.0.3 10.2.0.1 5432 reads 5",
        "20T10 a out 10.1.0.1 10.2.0.1 443 web 1",
    ];
    let found = compared(&after, Some(&before), false, &lines);
    let [rule] = &found.newly_denied.rules[..] else { panic!() };
    assert_eq!((rule.rule.as_deref(), rule.owner.as_deref()), (Some("reads"), Some("reads-team")));
    assert_eq!((rule.defined, rule.hosts.some.join(" ")), (false, "a c".into()));
    let [line] = &found.newly_denied.lines[..] else { panic!() };
    assert_eq!(line.processes.some, ["/bin/a", "/bin/c"]);
    assert_eq!(line.rule_before_owner.as_deref(), Some("reads-team"));
    assert_eq!((line.from_owner.as_deref(), line.to_owner.as_deref()), (Some("app-team"), Some("db-team")));
    let [rule] = &found.unchanged.rules[..] else { panic!() };
    assert_eq!((rule.rule.as_deref(), rule.owner.as_deref(), rule.defined), (Some("web"), None, true));
    // Nobody knows of it any more.
    let found = compared(&after, None, false, &lines);
    assert_eq!(found.newly_denied.rules[0].owner, None);
}

#[test]
fn what_cannot_be_decided_is_said() {
    let zones = "[zone.app]\ncidrs = [\"10.1.0.0/16\"]\n[[rollout]]\nmode = \"enforce\"";
    let found = compared(
        &loaded(zones),
        None,
        false,
        &[
            "20T10 a out 10.1.0.1 +900 80 old 7",
            "20T11 a out 10.1.0.1 +300 80 old 1",
            "20T10 b in 10.2.0.1 10.9.0.1 80 old 8",
            "20T10 a out 10.1.0.1 10.2.0.9 80 old 1",
        ],
    );
    let unsaid: Vec<(String, String)> =
        found.undecided.iter().map(|u| (u.why.chars().take(42).collect(), counts(u.counts))).collect();
    assert_eq!(
        unsaid,
        [
            ("the zone of host `b` is not known: none of".into(), "8 1 1".into()),
            ("too many peers in zone `db` to record thei".into(), "8 1 1".into()),
        ]
    );
    assert_eq!(told(&found.newly_denied), ["app -> unknown 80 allowed->denied no-rule client a 10.2.0.9 1"]);
    assert_eq!(found.newly_denied.lines[0].to_before.as_deref(), Some("db"));
    let hosts: BTreeMap<&str, (Option<&str>, &str)> =
        found.hosts.iter().map(|(name, h)| (name.as_str(), (h.zone.as_deref(), h.by))).collect();
    assert_eq!(hosts, BTreeMap::from([("a", (Some("app"), "addresses")), ("b", (None, "nothing"))]));
}

#[test]
fn peers_without_addresses_count() {
    let found = compared(
        &loaded(&estate()),
        None,
        false,
        &["20T10 a out 10.1.0.1 +900 80 old 7", "20T10 a out 10.1.0.1 10.2.0.1 80 old 1"],
    );
    let peers: Vec<(bool, u64)> =
        found.newly_denied.lines.iter().map(|line| (line.approximate, line.peers.count)).collect();
    assert_eq!(peers, [(true, 900), (false, 1)]);
}

#[test]
fn lines_are_limited_and_counted() {
    let policy = loaded(&estate());
    let lines: Vec<String> = (1..=9).map(|n| format!("20T10 a out 10.1.0.1 10.2.0.1 {n} old {n}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut found = compared(&policy, None, false, &lines);
    found.limit(2);
    let shown: Vec<u64> = found.newly_denied.lines.iter().map(|line| line.counts.flows).collect();
    assert_eq!((shown, found.newly_denied.more_lines), (vec![9, 8], 7));
    assert_eq!(counts(found.newly_denied.counts), "45 9 9");
}

#[test]
fn a_denial_that_names_no_process_is_the_last_word_for_every_process() {
    let policy = loaded(&estate());
    // As it is after enforcing: what was allowed before, and denials that were told together.
    let mut all = [
        seen("20T10 a out 10.1.0.1 10.2.0.1 80 old 7"),
        seen("20T11 a out 10.1.0.1 10.2.0.1 80 denied 3"),
        seen("20T11 a out 10.1.0.1 10.2.0.1 81 denied 3"),
        seen("20T12 a out 10.1.0.1 10.2.0.1 81 old 7"),
    ];
    for denied in &mut all[1..3] {
        denied.of.process = None;
    }
    let around = Around::of_files(&[], "2026-11-22T00:00:00Z".parse().unwrap());
    let decider = Decider::new(&policy, around, &all).unwrap();
    let options = Options { as_if_enforced: false, recent: SignedDuration::from_hours(24) };
    let found = compare(&decider, &all, &Owners::new(&policy, None), options);
    // Port 81 was denied once, but flowed when it was last seen.
    assert_eq!(told(&found.newly_denied), ["app -> db 81 allowed->denied no-rule client a 10.2.0.1 10"]);
    assert_eq!(told(&found.unchanged), ["app -> db 80 denied->denied no-rule client a 10.2.0.1 10"]);
}
