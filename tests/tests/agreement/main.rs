//! One policy, one packet, one answer: the programs in the kernel, the tables in user space, `explain` and `check`
//! say the same as a naive matcher that knows the policy from its data and nothing of segd.
//!
//! `SEGD_SEED=N` runs other policies and packets than the usual ones; a failure names the seed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and so do its parts")]

mod disguise;
mod estate;
mod kernel;
mod naive;
mod random;
mod rng;
mod said;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use jiff::{SignedDuration, Timestamp};
use segd::datapath::{Datapath, Place};
use segd::policy::ids::Registry;
use segd_common::traffic::Direction;
use segd_tests::{Host, Lab, Report};

use disguise::Disguise;
use estate::{Estate, Expiry, Ports, Rollout, Rule, Service};
use kernel::{Counts, Kernel};
use naive::{Answer, Flow};
use rng::Rng;
use wire::Shown;

const POLICIES: u64 = 125;
const PACKETS: usize = 80;
/// Inbound TCP is decided by the socket that it arrives at; these pairs are user space's alone.
const INBOUND_TCP: usize = 8;
/// Flows of each policy that become `[[test]]`s.
const TESTS: usize = 6;

fn seed() -> u64 {
    std::env::var("SEGD_SEED").map_or(0x5e9d, |text| text.parse().unwrap())
}

/// An instant after the end of the test, in whole seconds.
fn soon(now: Timestamp) -> String {
    let later = Timestamp::from_second((now + SignedDuration::from_hours(2)).as_second()).unwrap();
    later.to_string()
}

/// Runs `work` for each policy in turn; a panic in it says which.
fn for_each_policy(
    policies: u64,
    strict: impl Fn(u64) -> bool,
    mut work: impl FnMut(&mut Rng, &Estate, &str),
) {
    /// Speaks up when it is dropped by a panic.
    struct Running<'a>(u64, u64, &'a str);
    impl Drop for Running<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let Self(seed, policy, text) = self;
                eprintln!("policy {policy} of SEGD_SEED={seed}:\n{text}");
            }
        }
    }
    let (seed, soon) = (seed(), soon(Timestamp::now()));
    for policy in 0..policies {
        let mut rng = Rng::new(seed.wrapping_mul(1_000_003).wrapping_add(policy));
        let estate = random::estate(&mut rng, &soon, strict(policy));
        let text = estate.text();
        let _running = Running(seed, policy, &text);
        work(&mut rng, &estate, &text);
    }
}

#[test]
fn kernel_tables_explain_and_check_agree_with_a_naive_matcher() {
    let Some(lab) = Lab::or_skip("agreement") else { return };
    let host = lab.host("orders").unwrap();
    let seen = host.observe(|| compare(&host)).unwrap();
    println!("{seen:#?}");
    let of = |what: &str| seen.get(what).copied().unwrap_or(0);
    assert_eq!(of("packets"), 10_000);
    // Else the policies or packets are so odd that the agreement says little.
    for (what, least) in [
        ("allowed rule", 1500),
        ("audited no-rule", 1000),
        ("denied no-rule", 1500),
        ("audited rule-expired", 100),
        ("denied rule-expired", 100),
        ("denied workload-expired", 500),
        ("allowed failsafe", 100),
        ("allowed control", 100),
        ("tests", 500),
    ] {
        assert!(of(what) >= least, "{what}: {}", of(what));
    }
}

/// The comparison; what was seen, counted.
fn compare(host: &Host) -> BTreeMap<String, u64> {
    let mut kernel = Kernel::open(host).unwrap();
    let mut registry = Registry::default();
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut wanted = Counts::new();
    for_each_policy(
        POLICIES,
        |policy| policy % 2 == 0,
        |rng, estate, text| {
            let policy = said::load(text);
            let mut compiled = said::compile(estate, &policy, &mut registry);
            let disguise = Disguise::put_on(rng, &mut compiled, &mut registry, estate.host);
            kernel.apply(&compiled).unwrap();
            let now = Timestamp::now();
            let mut tests = Vec::new();
            for n in 0..PACKETS + INBOUND_TCP {
                let (flow, shown) = random::flow(rng, estate, n < PACKETS);
                let zone = naive::peer_zone(estate, flow.peer, true);
                let answer = naive::answer(estate, estate.host, zone, &flow);

                let disguised = disguise.answer(estate, &flow, &answer);
                let tables = said::by_tables(&compiled, disguise.subject, &registry, now, &flow, true);
                assert_eq!(tables, disguised, "left: tables, right: naive; {flow:?} {shown:?}");
                // `explain` takes both addresses at their word; only a packet can be forged.
                if zone == naive::peer_zone(estate, flow.peer, false) {
                    let (explained, enforces) = said::explained(estate, &policy, now, &flow);
                    assert_eq!(explained, answer, "left: explain, right: naive; {flow:?}");
                    let naively = naive::enforces(estate, estate.host, zone, &flow);
                    assert!(
                        zone == "loopback" || enforces == naively,
                        "mode by explain: {enforces}; {flow:?}"
                    );
                    tests.extend((tests.len() < TESTS).then(|| test_of(estate, &flow)).flatten());
                }
                if n < PACKETS {
                    let answer = disguised;
                    ask_kernel(&mut kernel, &registry, estate, &flow, shown, &answer, &disguise.name);
                    *seen.entry("packets".into()).or_default() += 1;
                    *seen.entry(format!("{} {}", answer.verdict, answer.reason)).or_default() += 1;
                    if answer.reason != "control" {
                        *wanted.entry(kernel::counter_of(&disguise.name, &flow, &answer)).or_default() += 1;
                    }
                }
            }
            assert_eq!(difference(&kernel.counts(&registry).unwrap(), &wanted), [""; 0], "counters");
            let right: String = tests.iter().map(|(right, _)| right.as_str()).collect();
            let wrong: String = tests.iter().map(|(_, wrong)| wrong.as_str()).collect();
            assert_eq!(said::failures(estate, &format!("{text}{right}"), now), 0, "{right}");
            assert_eq!(said::failures(estate, &format!("{text}{wrong}"), now), tests.len(), "{wrong}");
            *seen.entry("tests".into()).or_default() += u64::try_from(tests.len()).unwrap();
        },
    );
    seen
}

fn ask_kernel(
    kernel: &mut Kernel,
    registry: &Registry,
    estate: &Estate,
    flow: &Flow,
    shown: Shown,
    answer: &Answer,
    subject: &str,
) {
    let (passes, told) = kernel.ask(flow, shown, estate.own).unwrap();
    assert_eq!(passes, answer.verdict != "denied", "kernel passes {flow:?} {shown:?}, naive {answer:?}");
    let Some(told) = told else {
        assert_eq!(answer.reason, "control", "the kernel said nothing; {flow:?} {shown:?}, naive {answer:?}");
        return;
    };
    assert_eq!(kernel::answer(&told, registry), *answer, "left: kernel, right: naive; {flow:?} {shown:?}");
    let told = told.flow;
    assert_eq!(&*registry.subject_name(told.subject), subject);
    assert_eq!((told.protocol, IpAddr::from(told.peer)), (flow.protocol, flow.peer), "{flow:?} {shown:?}");
    assert_eq!(told.direction, flow.direction as u8, "{flow:?} {shown:?}");
}

/// A `[[test]]` that must pass for this flow, and its opposite that must fail. A test asks both ends, and no
/// addresses: where those matter there is none.
fn test_of(estate: &Estate, flow: &Flow) -> Option<(String, String)> {
    let peer = naive::peer_zone(estate, flow.peer, false);
    let direction = match flow.direction {
        Direction::Outbound => Direction::Inbound,
        Direction::Inbound => Direction::Outbound,
    };
    let other_end = Flow { direction, ..*flow };
    let by_address = |flow| naive::failsafes_of(estate, flow).iter().any(|f| !f.cidrs.is_empty());
    if peer == "loopback" || by_address(flow) || by_address(&other_end) {
        return None;
    }
    let allows = |at, from, flow| naive::answer(estate, at, from, flow).verdict == "allowed";
    let allowed = allows(estate.host, peer, flow)
        && (!estate.zones.contains_key(peer) || allows(peer, estate.host, &other_end));
    Some((said::as_test(estate, flow, allowed)?, said::as_test(estate, flow, !allowed)?))
}

/// What is not the same in both, a line each.
fn difference(counted: &Counts, wanted: &Counts) -> Vec<String> {
    let keys = counted.keys().chain(wanted.keys().filter(|key| !counted.contains_key(*key)));
    let differs = |key: &&String| counted.get(*key) != wanted.get(*key);
    let line = |key: &String| format!("{key}: counted {:?}, wanted {:?}", counted.get(key), wanted.get(key));
    keys.filter(differs).map(line).collect()
}

/// A rule of one port that ends soon, and a strict rollout.
fn ending(expires: Timestamp) -> Estate {
    let zone = |text: &str| vec![random::prefix(text)];
    let services = vec![Service::Ports(Ports { protocol: 17, first: 4000, last: 4010 })];
    Estate {
        zones: [("orders", zone("10.10.0.0/16")), ("transport", zone("10.20.0.0/16"))].into(),
        services: [("web".to_owned(), vec![Ports { protocol: 17, first: 4005, last: 4005 }])].into(),
        rules: vec![Rule {
            id: "r0".into(),
            from: "orders",
            to: "transport",
            services,
            expires: Expiry::Soon,
        }],
        rollouts: vec![Rollout {
            subject: None,
            direction: None,
            peers: None,
            services: None,
            enforce: true,
        }],
        failsafes: None,
        host: "orders",
        own: ["10.10.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        soon: expires.to_string(),
    }
}

#[test]
fn kernel_and_explain_end_a_rule_at_the_same_instant() {
    let Some(lab) = Lab::or_skip("expiry") else { return };
    let host = lab.host("orders").unwrap();
    host.observe(|| {
        let (mut kernel, mut registry) = (Kernel::open(&host).unwrap(), Registry::default());
        let expires = Timestamp::now() + SignedDuration::from_secs(3);
        let estate = ending(expires);
        let policy = said::load(&estate.text());
        kernel.apply(&said::compile(&estate, &policy, &mut registry)).unwrap();
        let peer = "10.20.0.1".parse().unwrap();
        let flow = Flow { direction: Direction::Outbound, peer, protocol: 17, port: 4005 };
        let shown = Shown { answer: false, mapped: false };
        let mut reasons = BTreeSet::new();
        loop {
            let before = Timestamp::now();
            let (passes, told) = kernel.ask(&flow, shown, estate.own).unwrap();
            let after = Timestamp::now();
            let by_kernel = kernel::answer(&told.unwrap(), &registry);
            assert_eq!(passes, by_kernel.verdict == "allowed");
            assert_eq!(by_kernel.rule.as_deref(), Some("r0"));
            // The kernel counts from its start, and the two clocks are read one after the other.
            let slack = SignedDuration::from_millis(20);
            for (at, sure) in [(before, before > expires + slack), (after, after < expires - slack)] {
                if sure {
                    assert_eq!(by_kernel, said::explained(&estate, &policy, at, &flow).0, "{at}, {expires}");
                }
            }
            reasons.insert(by_kernel.reason);
            if before > expires + SignedDuration::from_secs(1) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(Vec::from_iter(reasons), ["rule", "rule-expired"]);
    })
    .unwrap();
}

#[test]
fn naive_defaults_are_those_of_the_agent() {
    let mut rng = Rng::new(1);
    let mut estate = random::estate(&mut rng, "2100-01-01", true);
    estate.failsafes = Some(naive::default_failsafes());
    assert_eq!(said::failsafes(&estate), segd::policy::default_failsafes());
}

#[test]
fn sockets_get_eperm_exactly_where_a_naive_matcher_denies() {
    const ROUNDS: u64 = 20;
    const ATTEMPTS: usize = 60;
    let Some(lab) = Lab::or_skip("errno") else { return };
    let host = lab.host("orders").unwrap();
    // By one gateway that is not there: the kernel would look for each address by itself, and keeps few at a time.
    let gateway = "lladdr 02:00:00:00:00:01 dev eth0 nud permanent";
    host.ip(&format!(
        "neigh add 10.77.255.254 {gateway}\nneigh add fe80::fe {gateway}\n\
         route replace default via 10.77.255.254 dev eth0 onlink src {}\n\
         route replace default via fe80::fe dev eth0 src {}\n",
        host.v4(),
        host.v6()
    ))
    .unwrap();
    let place = Place { cgroup: host.cgroup().to_owned(), bpffs: host.bpffs(), log_level: 0 };
    let mut datapath = Datapath::open(&place, false).unwrap();
    let mut registry = Registry::default();
    let mut actor = host.actor(&["attempt"]).unwrap();
    let mut outcomes: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for_each_policy(
        ROUNDS,
        |_| true,
        |rng, estate, text| {
            let compiled = said::compile(estate, &said::load(text), &mut registry);
            datapath.apply(&compiled, None).unwrap();
            if !datapath.is_attached() {
                datapath.attach().unwrap();
            }
            for _ in 0..ATTEMPTS {
                let (flow, to) = target(rng, estate);
                let zone = naive::peer_zone(estate, flow.peer, false);
                let answer = naive::answer(estate, estate.host, zone, &flow);
                // Connecting UDP sends nothing, so there the kernel's own refusal comes first.
                let how = match flow.protocol {
                    6 => "tcp",
                    _ if is_unconnectable(flow.peer) => "udp",
                    _ => rng.pick(&["udp", "udp-connected"]),
                };
                let report = actor.exchange(&format!("{how} {to}")).unwrap();
                let errno = report.errno();
                let denied = answer.verdict == "denied";
                assert_eq!(errno == Some("EPERM"), denied, "{how} {to}: {report:?}, naive {answer:?}");
                // Elsewhere the kernel may refuse for reasons of its own: multicast over TCP, addresses without scope.
                if !denied && estate.zones.contains_key(zone) && is_plain(flow.peer) {
                    assert_eq!(report, Report::Sent, "{how} {to}, naive {answer:?}");
                }
                *outcomes.entry((how, if denied { "EPERM" } else { "passes" })).or_default() += 1;
            }
        },
    );
    println!("{outcomes:?}");
    assert_eq!(outcomes.values().sum::<usize>(), 1_200);
    assert!(outcomes.len() == 6 && outcomes.values().all(|n| *n >= 50), "{outcomes:?}");
}

/// Whether the kernel itself lets no socket connect to an address: it lacks its interface, or is broadcast.
fn is_unconnectable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast(),
    }
}

/// A random TCP or UDP flow from the host, and the address as a socket names it.
fn target(rng: &mut Rng, estate: &Estate) -> (Flow, SocketAddr) {
    loop {
        let (flow, shown) = random::flow(rng, estate, true);
        // The host has not really all of its estate's addresses.
        let own = estate.own.contains(&flow.peer.to_canonical());
        if !own && flow.direction == Direction::Outbound && matches!(flow.protocol, 6 | 17) && flow.port != 0
        {
            let to = match flow.peer {
                IpAddr::V4(v4) if shown.mapped => v4.to_ipv6_mapped().into(),
                peer => peer,
            };
            return (flow, SocketAddr::new(to, flow.port));
        }
    }
}

/// Whether a socket may be connected to it, as far as routing goes.
fn is_plain(peer: IpAddr) -> bool {
    match peer {
        IpAddr::V4(v4) => (1..224).contains(&v4.octets()[0]),
        IpAddr::V6(v6) => matches!(v6.segments()[0], 0x2001 | 0xfc00..0xfe00),
    }
}
