//! One fact at a time.

use super::*;

const ZONES: &str = r#"
[zone.a]
cidrs = ["10.1.0.0/16"]
[zone.b]
cidrs = ["10.2.0.0/16"]
owner = "b@example.com"
[service.web]
ports = ["tcp/80", "tcp/443"]
"#;

const A: Said<'static> = Said { host: "a1", subject: "a", local: "10.1.0.1", ..OUT };
const B: Said<'static> = Said { host: "b1", subject: "b", local: "10.2.0.1", ..OUT };
const A_TO_B: Said<'static> = Said { peer: "10.2.0.1", peer_zone: "b", ..A };

fn proposed(zones: &str, history: &History) -> Proposal {
    history.proposed(&policy(zones), &Options::default())
}

#[test]
fn nothing_seen_is_nothing_proposed() {
    let none = History::default().learn(&policy(ZONES), &Options::default());
    assert!(matches!(none, Err(LearnError::Nothing)));
}

#[test]
fn present_files_must_be_right() {
    let zones = format!("{ZONES}\n[[test]]\nfrom = \"a\"\nto = \"b\"\nallow = [\"web\"]\n");
    let failed = History::default()
        .say(0..3, &Said { port: 80, ..A_TO_B })
        .learn(&policy(&zones), &Options::default());
    assert!(matches!(failed, Err(LearnError::Present(_))), "{failed:?}");
}

#[test]
fn flows_that_both_ends_recorded_count_once() {
    let mut history = History::default();
    history.between(0..48, &A, &B, 5432);
    let one = proposed(ZONES, &history);
    assert_eq!(rules(&one), ["a-to-b-postgres: a -> b postgres"]);
    let evidence = &one.rules[0].evidence;
    assert_eq!((evidence.flows, evidence.bytes, one.flows), (96, 240_000, 96));
    assert_eq!((evidence.clients, evidence.servers, evidence.hours), (1, 1, 48));
    assert_eq!(evidence.hosts, ["a1", "b1"]);
    assert_eq!(one.rules[0].owner_of_to.as_deref(), Some("b@example.com"));
}

#[test]
fn services_are_named_only_if_all_of_them_was_seen() {
    let seen = |ports: &[u16], options: &Options| {
        let mut history = History::default();
        for port in ports {
            history.say(0..3, &Said { port: *port, ..A_TO_B });
        }
        let proposal = history.proposed(&policy(ZONES), options);
        proposal.rules.iter().map(|r| r.services.join(" ")).collect::<Vec<_>>().join("; ")
    };
    let wide = Options { widen_ports: true, ..Options::default() };
    for (ports, narrow, widened) in [
        (&[443][..], "tcp/443", "web"),
        (&[80, 443], "web", "web"),
        (&[6379], "redis", "redis"),
        (&[7001, 7002, 7003, 7010], "tcp/7001-7003 tcp/7010", "tcp/7001-7010"),
        (&[80, 6379, 7001], "tcp/7001; redis; tcp/80", "tcp/7001; redis; web"),
    ] {
        assert_eq!(seen(ports, &Options::default()), narrow, "{ports:?}");
        assert_eq!(seen(ports, &wide), widened, "{ports:?}");
    }
}

#[test]
fn a_well_known_name_that_is_taken_gets_its_port() {
    let zones = format!("{ZONES}\n[service.redis]\nports = [\"tcp/7777\"]\n");
    let proposal = proposed(&zones, History::default().say(0..3, &Said { port: 6379, ..A_TO_B }));
    assert_eq!(rules(&proposal), ["a-to-b-redis-tcp-6379: a -> b redis-tcp-6379"]);
}

#[test]
fn rules_name_workloads_at_both_ends() {
    let zones = format!(
        "{ZONES}\n[workload.bot]\nzone = \"a\"\nunit = \"bot.service\"\ninherit = false\nowner = \"o\"\npurpose = \"p\"\n\
         [workload.db]\nzone = \"b\"\nunit = \"db.service\"\nowner = \"o\"\npurpose = \"p\"\n"
    );
    let bot = Said { subject: "bot", workload: true, unit: Some("bot.service"), ..A };
    let db = Said { subject: "db", workload: true, unit: Some("db.service"), ..B };
    let mut history = History::default();
    // Each sees of the other its zone only.
    history.say(0..9, &Said { peer: "10.2.0.1", peer_zone: "b", port: 5432, ..bot.clone() });
    let inbound = Said { direction: Direction::Inbound, peer: "10.1.0.1", peer_zone: "a", port: 5432, ..db };
    history.say(0..9, &inbound);
    history.say(0..9, &Said { port: 9999, ..A_TO_B });
    history.say(0..9, &Said { port: 9999, peer: "10.2.0.1", peer_zone: "b", ..bot });
    let proposal = proposed(&zones, &history);
    assert_eq!(
        rules(&proposal),
        [
            "bot-to-db-postgres: bot -> db postgres",
            "bot-to-b-other: bot -> b tcp/9999",
            "a-to-b-other: a -> b tcp/9999"
        ]
    );
    assert_eq!(proposal.self_check.warnings, 1, "`web` is used by nothing, and no rule is shadowed");
}

#[test]
fn what_tests_deny_is_left_out() {
    let zones = format!("{ZONES}\n[[test]]\nfrom = \"a\"\nto = \"b\"\ndeny = [\"tcp/22-25\"]\n");
    let mut history = History::default();
    for port in [23, 7000] {
        history.between(0..9, &A, &B, port);
    }
    let proposal = proposed(&zones, &history);
    assert_eq!(rules(&proposal), ["a-to-b-other: a -> b tcp/7000"]);
    assert_eq!(left_out(&proposal), ["tested: a -> b tcp/23"]);
    assert_eq!(proposal.self_check.left_out_denied, 18);
}

#[test]
fn ports_are_not_widened_to_what_tests_deny() {
    let zones = format!("{ZONES}\n[[test]]\nfrom = \"a\"\nto = \"b\"\ndeny = [\"tcp/443\"]\n");
    let mut history = History::default();
    history.between(0..9, &A, &B, 80);
    let proposal = history.proposed(&policy(&zones), &Options { widen_ports: true, ..Options::default() });
    assert_eq!(rules(&proposal), ["a-to-b-web: a -> b tcp/80"]);
    assert_eq!(proposal.notes, ["ports are not widened: tests of the zone files deny what that would allow"]);
}

#[test]
fn what_unknown_may_do_it_may_still_do_in_a_zone_of_its_own() {
    let zones = format!(
        "{ZONES}\n[[allow]]\nid = \"world\"\nfrom = \"unknown\"\nto = \"b\"\nservices = [\"tcp/443\"]\n\
         [[rollout]]\npeers = [\"unknown\"]\nmode = \"enforce\"\n"
    );
    let peer = Said { direction: Direction::Inbound, peer: "192.0.2.7", ..B };
    let mut history = History::default();
    // Allowed, though seen once; only the other port makes a zone of it.
    history.say(
        [5],
        &Said { port: 443, flows: 1, verdict: Verdict::Allowed, reason: Reason::Rule, ..peer.clone() },
    );
    history.say(0..30, &Said { port: 8883, ..peer.clone() });
    history.say(0..30, &Said { port: 443, peer: "192.0.2.99", ..peer });
    let proposal = proposed(&zones, &history);
    assert_eq!(
        rules(&proposal),
        [
            "peer-192-0-2-7-to-b-mqtts: peer-192-0-2-7 -> b mqtts",
            "peer-192-0-2-7-to-b-web: peer-192-0-2-7 -> b tcp/443"
        ]
    );
    assert!(proposal.notes[0].starts_with("zones.toml:"), "{:?}", proposal.notes);
}

#[test]
fn peers_that_do_different_things_are_in_different_zones() {
    let mut history = History::default();
    for (peer, port) in [("192.0.2.4", 443), ("192.0.2.5", 443), ("192.0.2.6", 8883), ("2001:db8::9", 443)] {
        let local = if peer.contains(':') { "2001:db8:b::1" } else { "10.2.0.1" };
        history.say(0..30, &Said { direction: Direction::Inbound, peer, port, local, ..B });
    }
    let zones = |options: &Options| {
        let proposal = history.proposed(&policy(ZONES), options);
        let text = |z: &super::super::ProposedZone| {
            let cidrs: Vec<String> = z.cidrs.iter().map(ToString::to_string).collect();
            format!("{}: {}", z.name, cidrs.join(" "))
        };
        proposal.zones.iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(
        zones(&Options::default()),
        [
            "net-192-0-2-4-31: 192.0.2.4/31",
            "peer-192-0-2-6: 192.0.2.6/32",
            "peer-2001-db8--9: 2001:db8::9/128"
        ]
    );
    assert_eq!(
        zones(&Options { widen_peers: true, ..Options::default() }),
        ["net-192-0-2-0-24: 192.0.2.0/24", "net-2001-db8---64: 2001:db8::/64"]
    );
}

#[test]
fn addresses_of_hosts_in_another_zone_get_no_zone_of_their_own() {
    // `b2` was told that it is in `b`; its address is in no zone.
    let b2 = Said { host: "b2", local: "172.16.0.5", ..B };
    let mut history = History::default();
    history.say(0..9, &Said { peer: "172.16.0.5", port: 5432, ..A });
    history.say(
        0..9,
        &Said { direction: Direction::Inbound, peer: "10.1.0.1", peer_zone: "a", port: 5432, ..b2 },
    );
    let proposal = proposed(ZONES, &history);
    assert_eq!(left_out(&proposal), ["own-address: a -> unknown tcp/5432"]);
    assert_eq!(rules(&proposal), ["a-to-b-postgres: a -> b postgres"]);
    assert_eq!(
        proposal.notes,
        ["hosts of zone `b` have addresses that it does not claim; add them to its `cidrs`: 172.16.0.5/32"]
    );
    let scratch = history.proposed(&policy(ZONES), &Options { from_scratch: true, ..Options::default() });
    assert!(scratch.left_out.is_empty());
    assert!(scratch.toml.contains(r#"cidrs = ["10.2.0.0/16", "172.16.0.5/32"]"#), "{}", scratch.toml);
}

#[test]
fn noise_is_left_out_unless_it_is_wanted() {
    let mut history = History::default();
    history.say(0..48, &Said { port: 5432, ..A_TO_B });
    history.say([3], &Said { port: 9001, flows: 7, bytes: 90_000, ..A_TO_B });
    history.say([3, 4], &Said { port: 9002, verdict: Verdict::Denied, packets: 0, bytes: 0, ..A_TO_B });
    history.say(3..9, &Said { port: 9003, packets: 4, bytes: 100, ..A_TO_B });
    for port in 100..130 {
        history.say([7, 8], &Said { port, peer: "10.2.0.2", bytes: 200, packets: 6, ..A_TO_B });
    }
    history.say([9], &Said { port: 0, peer: "+5000", ..A_TO_B });
    history.say([9], &Said { port: 9004, peer: "10.2.0.1", reason: Reason::Fragment, ..A_TO_B });
    // Opened once and open since.
    history.say([3], &Said { port: 9005, flows: 1, packets: 0, bytes: 0, ..A_TO_B });
    let proposal = proposed(ZONES, &history);
    assert_eq!(rules(&proposal), ["a-to-b-other: a -> b tcp/9005", "a-to-b-postgres: a -> b postgres"]);
    assert_eq!(
        left_out(&proposal),
        [
            "scan: a -> b tcp/100 tcp/101 tcp/102 tcp/103 tcp/104",
            "denied: a -> b tcp/9002",
            "unanswered: a -> b tcp/9003",
            "rare: a -> b tcp/9001",
            "others: a -> b ",
            "unreadable: a -> b ",
        ]
    );
    let scan = &proposal.left_out[0];
    assert_eq!((scan.port_count, scan.flows, scan.allowed), (30, 120, false));
    assert_eq!(proposal.left_out[4].others, 5000);
    let all =
        Options { scans: true, denied: true, unanswered: true, min_hours: Some(1), ..Options::default() };
    let proposal = history.proposed(&policy(ZONES), &all);
    let kinds: Vec<String> =
        left_out(&proposal).iter().map(|l| l.split(':').next().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["others", "unreadable"]);
}

#[test]
fn many_peers_with_real_traffic_are_no_scan() {
    let mut history = History::default();
    for n in 1..=200 {
        let peer = format!("10.2.1.{n}");
        history.say(0..3, &Said { peer: &peer, port: 9100, bytes: 900_000, ..A_TO_B });
    }
    let proposal = proposed(ZONES, &history);
    assert_eq!(rules(&proposal), ["a-to-b-other: a -> b tcp/9100"]);
    assert_eq!(proposal.rules[0].evidence.servers, 200);
}

#[test]
fn a_scan_that_goes_on_is_a_scan() {
    let mut history = History::default();
    history.say(0..30, &Said { port: 80, ..A_TO_B });
    let tried = Said { port: 445, flows: 1, ..A_TO_B };
    for n in 1..=100 {
        let peer = format!("10.2.1.{n}");
        // Some wait for an answer yet.
        let packets = if n > 40 { 0 } else { 2 };
        history.say([29], &Said { peer: &peer, packets, bytes: packets * 44, ..tried });
    }
    for waiting in history.0.iter_mut().filter(|s| s.of.port == 445) {
        waiting.first = waiting.last;
    }
    let proposal = proposed(ZONES, &history);
    assert_eq!(rules(&proposal), ["a-to-b-web: a -> b tcp/80"]);
    assert_eq!(left_out(&proposal), ["scan: a -> b tcp/445"]);
}

#[test]
fn what_ends_with_an_address_that_it_began_without_is_one_talk() {
    let mut history = History::default();
    history.say(0..30, &Said { port: 80, ..A_TO_B });
    let begun = Said { flows: 1, packets: 0, bytes: 0, ..A_TO_B };
    let ended = Said { flows: 0, packets: 12, bytes: 600, ..A_TO_B };
    // A scan, and a flow over the hour's end that was seen once.
    for n in 1..=60 {
        let peer = format!("10.2.1.{n}");
        history.say([8], &Said { peer: &peer, port: 445, ..begun });
        history.say([8], &Said { peer: &peer, port: 445, ..ended });
    }
    history.say([8], &Said { port: 9001, ..begun }).say([9], &Said { port: 9001, bytes: 90_000, ..ended });
    for summary in history.0.iter_mut().filter(|s| s.packets.sent == 0) {
        summary.of.local = None;
    }
    let proposal = history.proposed(&policy(ZONES), &Options { min_hours: Some(1), ..Options::default() });
    assert_eq!(rules(&proposal), ["a-to-b-web: a -> b tcp/80"]);
    assert_eq!(left_out(&proposal), ["scan: a -> b tcp/445", "rare: a -> b tcp/9001"]);
    assert_eq!((proposal.left_out[0].flows, proposal.left_out[1].flows), (60, 1));
}

#[test]
fn readiness_tells_how_far_the_watching_has_come() {
    use super::super::Readiness::{Learning, Stabilising, Stable};
    let of = |hours: std::ops::Range<i64>, new: i64| {
        let mut history = History::default();
        history.say(hours.clone(), &Said { port: 80, ..A_TO_B });
        history.say(new..hours.end, &Said { port: 443, ..A_TO_B });
        let proposal = proposed(ZONES, &history);
        (proposal.maturity.readiness, proposal.maturity.watched)
    };
    assert_eq!(of(0..20, 0), (Learning, 20));
    assert_eq!(of(0..100, 90), (Learning, 100));
    assert_eq!(of(0..100, 0), (Stabilising, 100));
    assert_eq!(of(0..336, 250), (Stabilising, 168));
    assert_eq!(of(0..336, 10), (Stable, 168));
}

#[test]
fn names_from_records_cannot_break_out_of_comments() {
    let mut history = History::default();
    let process = "/bin/x\n[[allow]]\nid = \"evil\"\u{1b}[2J";
    history.say(0..9, &Said { port: 80, process, host: "a\n1", unit: Some("u\r\nv"), ..A_TO_B });
    history.say([1], &Said { port: 81, process, host: "a\n1", flows: 1, ..A_TO_B });
    history.say(0..9, &Said { port: 81, peer: "192.0.2.1", peer_zone: "x\"]\n[zone.y", ..A });
    let proposal = proposed(ZONES, &history);
    assert!(!proposal.toml.contains('\u{1b}') && !proposal.toml.contains("\nid = \"evil\""));
    assert_eq!(proposal.rules.len(), 2, "{}", proposal.toml);
}

#[test]
fn sockets_without_a_peer_get_a_rule_within_their_zone() {
    let raw =
        Said { peer: "0.0.0.0", protocol: "raw", reason: Reason::SocketType, packets: 0, bytes: 0, ..A };
    let proposal = proposed(ZONES, History::default().say(0..9, &raw));
    assert_eq!(rules(&proposal), ["a-to-a-other: a -> a raw"]);
}
