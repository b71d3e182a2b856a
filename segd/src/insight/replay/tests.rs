use proptest::prelude::*;
use proptest::sample::select;
use segd_common::traffic::Direction;

use super::*;
use crate::history::summary;
use crate::policy::ids::OTHER_SERVICE;
use crate::policy::tests::agreement::{SUBJECTS, estate, failsafe, names, packet, rollout};
use crate::policy::tests::naive::{self, Packet};
use crate::policy::{explain, tests::loaded};

const NOW: &str = "2026-11-22T12:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// An allowed flow to tcp/5432 from `orders`.
fn conversation(host: &str, direction: Direction, local: &str, peer: &str) -> Conversation {
    summary::tests::conversation(direction, (host, "orders", local), (peer, "transport"))
}

fn seen(of: &Conversation) -> Summary {
    let none = crate::telemetry::record::InOut::NONE;
    Summary { of: of.clone(), hour: now(), flows: 1, packets: none, bytes: none, first: now(), last: now() }
}

fn decide_one(policy: &Policy, around: Around<'_>, of: &Conversation) -> Result<Replayed, Undecided> {
    Decider::new(policy, around, &[seen(of)]).unwrap().decide(of)
}

const ESTATE: &str = r#"
    [zone.orders]
    cidrs = ["10.1.0.0/16", "2001:db8:1::/48"]
    [zone.transport]
    cidrs = ["10.2.0.0/16"]
    [workload.bot]
    zone = "orders"
    unit = "bot@.service"
    inherit = false
    [workload.agents]
    zone = "orders"
    cgroup = "/agents/*"
    inherit = false
    [workload.batch]
    zone = "orders"
    user = 900
    inherit = false
    expires = 2027-01-01
    [workload.named]
    zone = "orders"
    user = "named"
    inherit = false
    [service.postgres]
    ports = ["tcp/5432"]
    [[allow]]
    id = "db"
    from = "orders"
    to = "transport"
    services = ["postgres"]
    expires = 2027-06-01
    [[allow]]
    id = "all-udp"
    from = "orders"
    to = "transport"
    services = ["udp/*"]
    [[rollout]]
    subject = "transport"
    mode = "enforce"
    canary = { hosts = ["t-1"] }
"#;

fn answer(of: &Conversation, policy: &Policy, at: &str) -> String {
    let around = Around::of_files(&[], at.parse().unwrap());
    match decide_one(policy, around, of) {
        Ok(r) => {
            let rule = r.rule.as_deref().unwrap_or("-");
            format!("{} {} {} {rule} {} {}", r.subject, r.verdict, r.reason, r.peer_zone, r.service)
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_conversation_is_decided_as_the_host_that_recorded_it_would() {
    let policy = loaded(ESTATE);
    let out = || conversation("o-1", Direction::Outbound, "10.1.0.1", "10.2.0.1");
    let unit = |unit: &str| Conversation { unit: Some(unit.into()), ..out() };
    let of = |workload: &str| Conversation { workload: Some(workload.into()), ..out() };
    let inbound = |host| conversation(host, Direction::Inbound, "10.2.0.1", "10.9.9.9");
    for (what, conversation, wanted) in [
        ("by the host's zone", out(), "orders allowed rule db transport postgres"),
        (
            "a workload that is new, by its unit",
            unit("bot@7.service"),
            "bot audited no-rule - transport postgres",
        ),
        ("a unit of nobody", unit("bot.service"), "orders allowed rule db transport postgres"),
        ("a workload by name, of a cgroup", of("agents"), "agents audited no-rule - transport postgres"),
        ("a workload by name, its unit not known", of("bot"), "bot audited no-rule - transport postgres"),
        (
            "a workload whose unit is another now",
            Conversation { unit: Some("old.service".into()), ..of("bot") },
            "orders allowed rule db transport postgres",
        ),
        ("a workload that is gone", of("gone"), "orders allowed rule db transport postgres"),
        (
            "a workload that is new, by its user",
            Conversation { uid: Some(900), ..out() },
            "batch audited no-rule - transport postgres",
        ),
        (
            "a unit comes before a user",
            Conversation { uid: Some(900), ..unit("bot@1.service") },
            "bot audited no-rule - transport postgres",
        ),
        (
            "a user's workload whose user is another now",
            Conversation { uid: Some(901), ..of("batch") },
            "orders allowed rule db transport postgres",
        ),
        ("a user by name, as recorded", of("named"), "named audited no-rule - transport postgres"),
        ("a host outside the canary", inbound("t-2"), "transport audited no-rule - unknown postgres"),
        ("a host in the canary", inbound("t-1"), "transport denied no-rule - unknown postgres"),
        (
            "itself",
            conversation("o-1", Direction::Outbound, "10.1.0.1", "10.1.0.1"),
            "orders allowed loopback - loopback other",
        ),
        (
            "loopback",
            conversation("o-1", Direction::Outbound, "10.1.0.1", "127.0.0.1"),
            "orders allowed loopback - loopback other",
        ),
        (
            "multicast",
            conversation("o-1", Direction::Outbound, "10.1.0.1", "239.1.1.1"),
            "orders audited no-rule - multicast postgres",
        ),
        (
            "an address in a longer notation",
            conversation("o-1", Direction::Outbound, "::ffff:10.1.0.1", "::ffff:10.2.0.1"),
            "orders allowed rule db transport postgres",
        ),
        (
            "unreachable, which no policy cuts",
            Conversation { protocol: "icmp".into(), port: 0, icmp: Some((3, 1)), ..out() },
            "orders allowed control - transport other",
        ),
        (
            "echo",
            Conversation { protocol: "icmp".into(), port: 0, icmp: Some((8, 0)), ..out() },
            "orders audited no-rule - transport other",
        ),
        (
            "several ports that are decided alike",
            Conversation { protocol: "udp".into(), port: 0, ..out() },
            "orders allowed rule all-udp transport other",
        ),
        (
            "several ports that are not",
            Conversation { port: 0, ..out() },
            "flows to several ports were recorded as one, and the zone files do not decide them all alike",
        ),
        (
            "a raw socket",
            Conversation { protocol: "raw".into(), port: 0, reason: Reason::SocketType, ..out() },
            "orders audited socket-type - unknown other",
        ),
        (
            "a protocol of a later version",
            Conversation { protocol: "quic".into(), ..out() },
            "`quic` is no protocol that segd knows",
        ),
        (
            "peers without addresses",
            Conversation { peer: Peer::Others(999), ..out() },
            "orders allowed rule db transport postgres",
        ),
        (
            "peers without addresses in a zone that is gone",
            Conversation { peer: Peer::Others(999), peer_zone: "wms".into(), ..out() },
            "too many peers in zone `wms` to record their addresses, and the zone files do not define it",
        ),
    ] {
        assert_eq!(answer(&conversation, &policy, NOW), wanted, "{what}");
    }
}

#[test]
fn what_expires_counts_until_then() {
    let policy = loaded(ESTATE);
    let out = conversation("o-1", Direction::Outbound, "10.1.0.1", "10.2.0.1");
    assert_eq!(
        answer(&out, &policy, "2027-06-01T00:00:00Z"),
        "orders audited rule-expired db transport postgres"
    );
    let batch = Conversation { workload: Some("batch".into()), ..out };
    assert_eq!(
        answer(&batch, &policy, "2027-01-01T00:00:00Z"),
        "batch denied workload-expired - transport postgres"
    );
}

#[test]
fn failsafes_come_before_every_mode() {
    let policy = loaded(ESTATE);
    let failsafes = crate::policy::default_failsafes();
    let ssh = conversation("t-1", Direction::Inbound, "10.2.0.1", "10.9.9.9");
    let ssh = Conversation { port: 22, ..ssh };
    let found = decide_one(&policy, Around::of_files(&failsafes, now()), &ssh).unwrap();
    assert_eq!((found.verdict, found.reason), (Verdict::Allowed, Reason::Failsafe));
    let found = decide_one(&policy, Around::of_files(&[], now()), &ssh).unwrap();
    assert_eq!((found.verdict, found.reason), (Verdict::Denied, Reason::NoRule));
}

/// Where a host is that recorded flows of these local addresses, as `orders`.
fn placed(policy: &Policy, locals: &[&str], said: &[(&str, &str)]) -> (Option<String>, Placed) {
    let all: Vec<Summary> =
        locals.iter().map(|ip| seen(&conversation("h", Direction::Outbound, ip, "10.2.0.1"))).collect();
    let zones = said.iter().map(|(h, z)| ((*h).to_owned(), (*z).to_owned())).collect();
    let around = Around { zones: &zones, ..Around::of_files(&[], now()) };
    let decider = Decider::new(policy, around, &all).unwrap();
    let placement = decider.hosts()["h"];
    assert_eq!(placement.was.as_deref(), Some("orders"));
    (placement.zone.clone(), placement.by)
}

#[test]
fn a_host_moves_with_its_addresses() {
    let policy = loaded(ESTATE);
    let moved = loaded(&ESTATE.replace("10.1.0.0/16", "10.3.0.0/16").replace("10.2.0.0/16", "10.0.0.0/14"));
    let gone = loaded("[zone.other]\ncidrs = [\"10.3.0.0/16\"]");
    let some = |zone: &str| Some(zone.to_owned());
    for (policy, locals, said, wanted) in [
        (&policy, &["10.1.0.1", "2001:db8:1::1"][..], &[][..], (some("orders"), Placed::Addresses)),
        (
            &policy,
            &["10.1.0.1", "192.0.2.1", "169.254.0.1", "239.0.0.1"],
            &[],
            (some("orders"), Placed::Addresses),
        ),
        (&moved, &["10.1.0.1"], &[], (some("transport"), Placed::Addresses)),
        // Its configuration must name the zone.
        (&policy, &["10.1.0.1", "10.2.0.1"], &[], (some("orders"), Placed::Recorded)),
        (&policy, &["192.0.2.1"], &[], (some("orders"), Placed::Recorded)),
        (&policy, &["10.1.0.1"], &[("h", "transport")], (some("transport"), Placed::Said)),
        (&policy, &["10.1.0.1"], &[("h", "transpot")], (None, Placed::Said)),
        (&gone, &["192.0.2.1"], &[], (None, Placed::Nothing)),
    ] {
        assert_eq!(placed(policy, locals, said), wanted, "{locals:?} {said:?}");
    }
    let out = conversation("h", Direction::Outbound, "192.0.2.1", "10.2.0.1");
    assert_eq!(
        answer(&out, &gone, NOW),
        "the zone of host `h` is not known: none of its addresses is in a zone, and `orders`, in which it was, is gone; \
         say it with --host-zone, or put its address into the `cidrs` of one zone"
    );
    let empty = loaded("[service.x]\nports = [\"tcp/1\"]");
    assert!(answer(&out, &empty, NOW).contains("the zone files define no zone"));
}

#[test]
fn what_only_the_host_knows_counts_there_only() {
    let policy = loaded(ESTATE);
    let users = BTreeMap::from([("named".to_owned(), 77)]);
    let enforce = Override { subject: None, direction: None, peers: None, services: None, enforce: true };
    let overrides = [enforce];
    let own = OwnHost { name: "o-1", users: &users, overrides: &overrides, exceptions: &[] };
    let around = Around { own: Some(own), ..Around::of_files(&[], now()) };
    let at = |host, uid| Conversation {
        uid: Some(uid),
        port: 80,
        ..conversation(host, Direction::Outbound, "10.1.0.1", "10.2.0.1")
    };
    for (host, uid, wanted) in [
        ("o-1", 77, ("named", Verdict::Denied)),
        ("o-1", 78, ("orders", Verdict::Denied)),
        ("o-2", 77, ("orders", Verdict::Audited)),
    ] {
        let found = decide_one(&policy, around, &at(host, uid)).unwrap();
        assert_eq!((&*found.subject, found.verdict, found.enforced()), (wanted.0, wanted.1, Verdict::Denied));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// The tables are shared by hosts, hold no addresses of their own and answer for enforcement by themselves: none of
    /// that may make a difference.
    #[test]
    fn it_agrees_with_a_naive_matcher_and_with_explain(
        text in estate(),
        overrides in prop::collection::vec(rollout().prop_map(|(_, o)| o), 0..2),
        failsafes in prop::collection::vec(failsafe(), 0..3),
        names in names(),
        subject in select(&SUBJECTS[..]),
        host in select(&["here", "there", "elsewhere"][..]),
        packets in prop::collection::vec(packet(), 24),
        at in select(&["2026-12-31T23:59:59.999999999Z", "2027-01-01T00:00:00Z", "2030-01-01T00:00:00Z"][..]),
    ) {
        let policy = loaded(&text);
        let now: Timestamp = at.parse().unwrap();
        let zone = if subject.starts_with('w') { "z1" } else { subject };
        let workload = subject.starts_with('w').then(|| Arc::from(subject));
        // Found in the new files by name, by unit, or by both.
        let of = |n: usize, p: &Packet| Conversation {
            host: host.into(),
            subject: subject.into(),
            workload: workload.clone().filter(|_| n % 3 < 2),
            unit: workload.as_ref().map(|w| format!("{w}.service").into()).filter(|_| !n.is_multiple_of(3)),
            local: None,
            peer: Peer::Address(p.peer),
            peer_zone: "z3".into(),
            protocol: protocols::name(p.protocol),
            port: if protocols::is_icmp(p.protocol) { 0 } else { p.port },
            icmp: protocols::is_icmp(p.protocol).then(|| p.port.to_be_bytes().into()),
            service: OTHER_SERVICE.into(),
            ..conversation(host, p.direction, "10.1.0.1", "10.1.0.1")
        };
        let decided_once = |p: &&Packet| !DECIDED_TWICE.contains(&p.protocol) && (p.port != 0 || protocols::is_icmp(p.protocol));
        let packets: Vec<(Conversation, &Packet)> = packets
            .iter().filter(decided_once).enumerate().map(|(n, p)| (of(n, p), p)).collect();
        let seen: Vec<Summary> = packets.iter().map(|(of, _)| seen(of)).collect();
        let own = OwnHost { name: host, users: &BTreeMap::new(), overrides: &overrides, exceptions: &[] };
        let zones = BTreeMap::from([(host.to_owned(), zone.to_owned())]);
        let around =
            Around { names: &names, zones: &zones, own: Some(own), ..Around::of_files(&failsafes, now) };
        let decider = Decider::new(&policy, around, &seen).unwrap();

        let everywhere = [Override { subject: None, direction: None, peers: None, services: None, enforce: true }];
        let world = |overrides| naive::World {
            subject, host, own: &[], names: &names, exceptions: &[], overrides, failsafes: &failsafes, now,
        };
        for (of, p) in &packets {
            let found = decider.decide(of).unwrap();
            // Without ports there is none in the question either.
            let asked = Packet { port: if WITH_PORTS.contains(&p.protocol) { p.port } else { 0 }, ..**p };
            let got: naive::Answer = (
                found.verdict.name(), found.reason.name(), found.peer_zone.to_string(),
                found.rule.as_ref().map(|r| r.to_string()), found.service.to_string(),
            );
            prop_assert_eq!(&got, &naive::answer(&policy, &world(&overrides), &asked), "{:?}\n{}", of, text);
            let enforced = naive::answer(&policy, &world(&everywhere), &asked).0;
            prop_assert_eq!(found.enforced().name(), enforced, "{:?}\n{}", of, text);
            prop_assert_eq!(&*found.subject, subject);
        }
        let explained = packets.iter().filter(|(of, p)| p.peer.to_canonical() == p.peer && !of.protocol.starts_with("icmp"));
        for (of, p) in explained.take(3) {
            let found = decider.decide(of).unwrap();
            let spec = PortSpec { protocol: p.protocol, first: p.port, last: p.port };
            let spec = if WITH_PORTS.contains(&p.protocol) { spec } else { PortSpec::whole(p.protocol) };
            let at = Situation { overrides: &overrides, names: &names, host, ..Situation::of_files(&failsafes, now) };
            let peer = p.peer.to_string();
            let (from, to) = match p.direction {
                Direction::Outbound => (subject, peer.as_str()),
                Direction::Inbound => (peer.as_str(), subject),
            };
            let answer = explain(&policy, from, to, spec, &at).unwrap();
            let end = match p.direction { Direction::Outbound => answer.outbound, Direction::Inbound => answer.inbound };
            let end = end.unwrap();
            prop_assert_eq!((end.verdict, end.reason), (found.verdict.name(), found.reason.name()), "{:?}\n{}", of, text);
            prop_assert_eq!(end.rule.map(|r| r.id), found.rule.map(|r| r.to_string()));
        }
    }
}
