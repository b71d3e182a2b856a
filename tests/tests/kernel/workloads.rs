//! Whose socket it is: by its cgroup, however young, or by its user.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use segd::datapath::{Datapath, host};
use segd::policy::Compiled;
use segd_common::event::{Event, Kind};
use segd_common::id::SubjectId;
use segd_common::schema;
use segd_common::table::{PATTERN_BYTES, Pattern, PolicyKey, Subject};
use segd_common::traffic::Reason;
use segd_tests::{Actor, Report, TIMEOUT};

use crate::support::{ENFORCE, Pair, pinned, rule};

const WEB: SubjectId = SubjectId(1000);
const JOBS: SubjectId = SubjectId(1001);

/// The host may reach tcp/5432 of orders and nothing else.
fn host_policy(pair: &Pair) -> Compiled {
    pair.compiled(&format!("{}{ENFORCE}", rule("\"tcp/5432\"")))
}

/// Lets a subject reach tcp/`port` of orders and nothing else.
fn add_subject(to: &mut Compiled, pair: &Pair, id: SubjectId, port: u16) {
    let its = pair.compiled(&format!("{}{ENFORCE}", rule(&format!("\"tcp/{port}\""))));
    let own = its.policy.into_iter().filter(|(_, key, _)| key.subject == its.host);
    to.policy.extend(own.map(|(len, key, entry)| (len, PolicyKey { subject: id, ..key }, entry)));
}

fn pattern(subject: Subject, text: &str, anywhere: bool) -> Pattern {
    let mut bytes = [0; PATTERN_BYTES];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    let len = u8::try_from(text.len()).unwrap();
    Pattern { subject, len, anywhere: anywhere.into(), pad: [0; 6], text: bytes }
}

/// A cgroup's path as patterns have it.
pub(crate) fn path_of(cgroup: &Path) -> String {
    let below = cgroup.strip_prefix(host::cgroup2_root().unwrap()).unwrap();
    format!("/{}", below.display())
}

/// Which of these ports of orders an actor that tries (`attempt`) may connect to.
pub(crate) fn may_reach(pair: &Pair, ports: &[u16], actor: Result<Actor, anyhow::Error>) -> Vec<u16> {
    let mut actor = actor.unwrap();
    let mut may = |port: u16| match actor.exchange(&format!("tcp {}", pair.orders.v4_port(port))).unwrap() {
        Report::Sent => true,
        Report::Failed { step, errno } if step == "connect" && errno == "EPERM" => false,
        other => panic!("{port}: {other:?}"),
    };
    ports.iter().copied().filter(|port| may(*port)).collect()
}

/// What came of each job.
pub(crate) fn outcomes(jobs: &Actor, count: usize) -> BTreeMap<String, usize> {
    let mut outcomes = BTreeMap::new();
    for _ in 0..count {
        *outcomes.entry(format!("{:?}", jobs.next().unwrap())).or_default() += 1;
    }
    outcomes
}

#[test]
fn two_hundred_cgroups_are_workloads_before_they_connect() {
    let Some(pair) = Pair::new("cgroups") else { return };
    let _server = pair.orders.tcp_server(8080).unwrap();
    let mut compiled = host_policy(&pair);
    add_subject(&mut compiled, &pair, JOBS, 8080);
    let below = path_of(pair.transport.cgroup());
    let text = format!("{below}/jobs/job-*.service");
    compiled.patterns = vec![pattern(Subject::lasting(JOBS), &text, false)];
    let mut datapath = Datapath::open(&pair.place(), true).unwrap();
    datapath.apply(&compiled, None).unwrap();
    datapath.attach().unwrap();

    let cgroup = pair.transport.cgroup().join("jobs");
    std::fs::create_dir(&cgroup).unwrap();
    let (cgroup, to) = (cgroup.display().to_string(), pair.orders.v4_port(8080).to_string());
    let jobs = pair.transport.actor(&["jobs", &cgroup, &to, "--count", "200"]).unwrap();
    let all = |n: usize| BTreeMap::from([(format!("{:?}", Report::Sent), n)]);
    assert_eq!(outcomes(&jobs, 200), all(200), "every job is a workload, which may");
    let other = pair.transport.actor_below("jobs/other.service", &["attempt"]);
    assert_eq!(may_reach(&pair, &[8080], other), [0_u16; 0], "another cgroup is the host's, which may not");
    assert_eq!(subjects(&pair), BTreeMap::new(), "what is removed leaves nothing behind");

    // A new generation, made while cgroups come and go, knows them all: those before it and those after. How many there are
    // depends on the machine; the first is begun when the first cgroup was there.
    let mut jobs = pair.transport.actor(&["jobs", &cgroup, &to, "--count", "300", "--keep"]).unwrap();
    assert_eq!(outcomes(&jobs, 1), all(1));
    let mut swaps = 0;
    while swaps == 0 || jobs.process().ended().unwrap().is_none() {
        // Other patterns each time, so that the tables of workloads are made anew.
        let unused = pattern(Subject::lasting(WEB), &format!("/none-{swaps}"), false);
        compiled.patterns.truncate(1);
        compiled.patterns.push(unused);
        datapath.apply(&compiled, None).unwrap();
        swaps += 1;
    }
    assert_eq!(outcomes(&jobs, 299), all(299), "{swaps} swaps");
    datapath.apply(&compiled, None).unwrap();
    let left = subjects(&pair);
    assert_eq!((left.len(), left.values().all(|id| *id == JOBS)), (300, true), "{left:?}");
}

/// The cgroups in the tables of all slots together.
fn subjects(pair: &Pair) -> BTreeMap<u64, SubjectId> {
    use aya::maps::{ArrayOfMaps, HashMap, Map, MapData};
    let outer = pinned(&pair.transport, schema::WORKLOADS);
    let outer: ArrayOfMaps<MapData, MapData> = outer.try_into().unwrap();
    let inner = (0..schema::SLOTS).filter_map(|slot| outer.get(&slot, 0).ok());
    inner
        .flat_map(|map| {
            let map: HashMap<MapData, u64, Subject> = Map::from_map_data(map).unwrap().try_into().unwrap();
            let entries = map.iter().map(|entry| entry.unwrap());
            let cgroups = entries.filter(|(id, _)| !Subject::is_key(*id));
            cgroups.map(|(id, subject)| (id, subject.id)).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn units_templates_nested_cgroups_and_users() {
    let Some(pair) = Pair::new("units") else { return };
    let mut compiled = host_policy(&pair);
    add_subject(&mut compiled, &pair, WEB, 8080);
    add_subject(&mut compiled, &pair, JOBS, 9090);
    let below = path_of(pair.transport.cgroup());
    compiled.patterns = vec![
        pattern(Subject::lasting(WEB), "segd-web@*.service", true),
        pattern(Subject::lasting(JOBS), &format!("{below}/batch"), false),
    ];
    let nobody = 65534;
    compiled.users = vec![(nobody, Subject::lasting(JOBS))];
    // Half of them are there before the policy, half come after it.
    let cgroups = [
        ("web.slice/segd-web@1.service", Some(WEB)),
        ("web.slice/segd-web@2.service/worker/deep", Some(WEB)),
        ("web.slice/segd-web@3.service.d", None),
        ("web.slice/not-segd-web@1.service", None),
        ("batch", Some(JOBS)),
        ("batch/night/one", Some(JOBS)),
        ("batch/segd-web@4.service/x", Some(JOBS)),
        ("batches", None),
    ];
    for (path, _) in cgroups {
        std::fs::create_dir_all(pair.transport.cgroup().join("before.slice").join(path)).unwrap();
    }
    let before = format!("{below}/before.slice/batch");
    compiled.patterns.push(pattern(Subject::lasting(JOBS), &before, false));
    let mut datapath = Datapath::open(&pair.place(), true).unwrap();
    datapath.apply(&compiled, None).unwrap();
    datapath.attach().unwrap();

    let reach = |actor| may_reach(&pair, &[5432, 8080, 9090], actor);
    let as_nobody = || reach(pair.transport.actor_as("nobody", &["attempt"]));
    let port_of = |subject: Option<SubjectId>| match subject {
        None => 5432,
        Some(WEB) => 8080,
        Some(_) => 9090,
    };
    for (path, subject) in cgroups {
        for path in [path.to_owned(), format!("before.slice/{path}")] {
            let may = reach(pair.transport.actor_below(&path, &["attempt"]));
            assert_eq!(may, [port_of(subject)], "{path}");
        }
    }
    assert_eq!(as_nobody(), [port_of(Some(JOBS))], "a user");
    compiled.patterns.push(pattern(Subject::lasting(WEB), &below, false));
    datapath.apply(&compiled, None).unwrap();
    assert_eq!(as_nobody(), [port_of(Some(WEB))], "the cgroup goes before the user");
    datapath.apply(&host_policy(&pair), None).unwrap();
    assert_eq!(as_nobody(), [port_of(None)], "without any workload everybody is the host");
}

#[test]
fn a_socket_stays_its_workloads_when_its_cgroup_is_gone() {
    let Some(pair) = Pair::new("leave") else { return };
    let _servers = [5432, 8080].map(|port| pair.orders.tcp_server(port).unwrap());
    let mut compiled = host_policy(&pair);
    add_subject(&mut compiled, &pair, WEB, 8080);
    let below = path_of(pair.transport.cgroup());
    let delegated = pattern(Subject::lasting(WEB), &format!("{below}/web"), false);
    let ended = pattern(Subject::lasting(WEB), &format!("{below}/ended"), false);
    compiled.patterns = vec![delegated, ended];
    std::fs::create_dir(pair.transport.cgroup().join("web")).unwrap();
    let mut datapath = Datapath::open(&pair.place(), true).unwrap();
    datapath.apply(&compiled, None).unwrap();
    datapath.attach().unwrap();
    let known = subjects(&pair);
    assert_eq!(known.len(), 1, "{known:?}");
    let leave = |path: &str, top: &str| {
        let [path, top] = [path, top].map(|p| pair.transport.cgroup().join(p).display().to_string());
        pair.transport.actor(&["leave", &path, &top]).unwrap()
    };
    // A part of a workload's cgroup, made by whom that is delegated to; and a whole one, as of a unit that has ended.
    let mut sockets = [leave("web/sub/deep", "web/sub"), leave("ended/sub", "ended")];
    let deny = |socket: &mut Actor, when: &str| {
        let outcome = socket.exchange(&pair.orders.v4_port(5432).to_string()).unwrap();
        assert_eq!(outcome.errno(), Some("EPERM"), "{when}: the host may, the workload may not: {outcome:?}");
    };
    for socket in &mut sockets {
        deny(socket, "at once");
    }
    assert_eq!(subjects(&pair), known, "who may make cgroups in a workload's takes no room");
    // Tables made anew, for there are other patterns.
    compiled.patterns.push(pattern(Subject::lasting(JOBS), "/none", false));
    datapath.apply(&compiled, None).unwrap();
    for socket in &mut sockets {
        deny(socket, "in the next generation");
        let outcome = socket.exchange(&pair.orders.v4_port(8080).to_string()).unwrap();
        assert!(matches!(outcome, Report::Sent), "what the workload may: {outcome:?}");
    }
}

/// The events so far.
fn events(from: &mut aya::maps::RingBuf<aya::maps::MapData>) -> Vec<Event> {
    std::iter::from_fn(|| from.next().map(|item| segd::datapath::event(&item).unwrap())).collect()
}

#[test]
fn a_workload_ends_with_its_live_flows() {
    ends_with_its_live_flows("ends", false);
}

#[test]
fn a_workload_ends_with_its_live_flows_although_revoked_ones_are_kept() {
    ends_with_its_live_flows("ends-kept", true);
}

fn ends_with_its_live_flows(lab: &str, keep_revoked: bool) {
    let Some(pair) = Pair::new(lab) else { return };
    let _server = pair.orders.tcp_server(8080).unwrap();
    let whole = path_of(pair.transport.cgroup());
    let unix = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    // Slow machines get more time for what must be done before.
    let began = Instant::now();
    let mut datapath = Datapath::open(&pair.place(), true).unwrap();
    let mut told = datapath.take_events().unwrap();
    let ends = SystemTime::now() + Duration::from_secs(3) + 10 * began.elapsed();
    let expires = u64::try_from(unix(ends).as_nanos()).unwrap();
    let mut compiled = host_policy(&pair);
    add_subject(&mut compiled, &pair, WEB, 8080);
    let subject = Subject { expires, ..Subject::lasting(WEB) };
    compiled.patterns = vec![pattern(subject, &whole, false)];
    compiled.keep_revoked = keep_revoked;
    datapath.apply(&compiled, None).unwrap();
    datapath.attach().unwrap();
    let mut hold = pair.transport.hold(pair.orders.v4_port(8080)).unwrap();
    assert_eq!(hold.exchange("one").unwrap().text(), Some("one"));
    assert!(SystemTime::now() < ends, "this machine is too slow for this test");
    std::thread::sleep(ends.duration_since(SystemTime::now()).unwrap_or_default());
    assert_eq!(hold.exchange("two").unwrap().errno(), Some(TIMEOUT), "keep: {keep_revoked}");
    let refused = pair.transport.tcp_connect(pair.orders.v4_port(8080)).unwrap();
    assert_eq!(refused.errno(), Some("EPERM"));
    let events = events(&mut told);
    let of = |kind: Kind| events.iter().filter(move |e| e.kind == kind as u8 && e.flow.subject == WEB);
    let revoked: Vec<&Event> = of(Kind::Revoke).collect();
    assert_eq!(revoked.len(), 1, "{events:#?}");
    assert_eq!(revoked[0].flow.reason, Reason::WorkloadExpired as u8);
    let opened = of(Kind::Open).next().unwrap();
    assert!(opened.cookie != 0 && opened.cookie == revoked[0].cookie, "{events:#?}");
    assert_eq!(of(Kind::Deny).next().unwrap().flow.reason, Reason::WorkloadExpired as u8);
}

#[test]
fn a_kept_flow_goes_on_until_a_policy_says_otherwise() {
    let Some(pair) = Pair::new("kept") else { return };
    let _server = pair.orders.tcp_server(8080).unwrap();
    let allows = pair.compiled(&format!("{}{ENFORCE}", rule("\"tcp/8080\"")));
    let mut denies = host_policy(&pair);
    denies.keep_revoked = true;
    let mut datapath = Datapath::open(&pair.place(), true).unwrap();
    let mut told = datapath.take_events().unwrap();
    datapath.apply(&allows, None).unwrap();
    datapath.attach().unwrap();
    let mut hold = pair.transport.hold(pair.orders.v4_port(8080)).unwrap();
    assert_eq!(hold.exchange("one").unwrap().text(), Some("one"));
    for text in ["two", "three"] {
        datapath.apply(&denies, None).unwrap();
        assert_eq!(hold.exchange(text).unwrap().text(), Some(text));
        let refused = pair.transport.tcp_connect(pair.orders.v4_port(8080)).unwrap();
        assert_eq!(refused.errno(), Some("EPERM"), "only what lives is kept");
    }
    denies.keep_revoked = false;
    datapath.apply(&denies, None).unwrap();
    assert_eq!(hold.exchange("four").unwrap().errno(), Some(TIMEOUT));
    let events = events(&mut told);
    let revoked: Vec<u8> =
        events.iter().filter(|e| e.kind == Kind::Revoke as u8).map(|e| e.flow.reason).collect();
    assert_eq!(revoked, [Reason::NoRule as u8], "{events:#?}");
}

#[test]
fn a_socket_older_than_the_agent_is_its_cgroups() {
    let Some(pair) = Pair::new("older") else { return };
    let mut inbound = pair.compiled(&format!(
        "[[allow]]\nid = \"in\"\nfrom = \"orders\"\nto = \"transport\"\nservices = [\"tcp/5432\"]\n{ENFORCE}"
    ));
    let web = pair.compiled(&format!(
        "[[allow]]\nid = \"in\"\nfrom = \"orders\"\nto = \"transport\"\nservices = [\"tcp/8080\", \"udp/8080\"]\n{ENFORCE}"
    ));
    let own = web.policy.iter().filter(|(_, key, _)| key.subject == web.host);
    inbound.policy.extend(own.map(|(len, key, entry)| (*len, PolicyKey { subject: WEB, ..*key }, *entry)));
    let whole = path_of(pair.transport.cgroup());
    inbound.patterns = vec![pattern(Subject::lasting(WEB), &whole, false)];
    let _servers = [5432, 8080].map(|port| pair.transport.tcp_server(port).unwrap());
    let udp = pair.transport.actor(&["udp-serve", &pair.transport.v4_port(8080).to_string()]).unwrap();
    assert!(matches!(udp.next().unwrap(), Report::Listening { .. }));
    let mut datapath = Datapath::open(&pair.place(), true).unwrap();
    let mut told = datapath.take_events().unwrap();
    datapath.apply(&inbound, None).unwrap();
    datapath.attach().unwrap();
    let mut hold = pair.orders.hold(pair.transport.v4_port(8080)).unwrap();
    assert_eq!(hold.exchange("one").unwrap().text(), Some("one"));
    let refused = pair.orders.tcp_connect(pair.transport.v4_port(5432)).unwrap();
    assert_eq!(refused.errno(), Some(TIMEOUT), "the host's policy is not the workload's");
    let answers = pair.orders.actor(&["udp-send", &pair.transport.v4_port(8080).to_string()]).unwrap();
    assert!(matches!(answers.next().unwrap(), Report::Sent));
    assert_eq!(answers.next().unwrap().text(), Some("ping"));
    let events = events(&mut told);
    assert!(events.iter().all(|e| e.flow.subject == WEB), "{events:#?}");
    assert_eq!(events.iter().filter(|e| e.kind == Kind::Open as u8).count(), 2, "{events:#?}");
}

/// An answer to a flow that a peer began passes, though the socket became a workload's in between, which may send
/// nothing of its own accord.
#[test]
fn a_datagram_finds_its_flow_when_its_socket_becomes_a_workloads() {
    let Some(pair) = Pair::new("becomes") else { return };
    let policy = |port: u16| {
        pair.compiled(&format!(
            "[[allow]]\nid = \"in\"\nfrom = \"orders\"\nto = \"transport\"\nservices = [\"udp/{port}\"]\n{ENFORCE}"
        ))
    };
    let host = policy(4000);
    let cgroup: PathBuf = pair.transport.cgroup().to_owned();
    let becomes = |allowed: u16| {
        let its = policy(allowed);
        let mut compiled = policy(4000);
        let own = its.policy.iter().filter(|(_, key, _)| key.subject == its.host);
        compiled
            .policy
            .extend(own.map(|(len, key, entry)| (*len, PolicyKey { subject: WEB, ..*key }, *entry)));
        compiled.patterns = vec![pattern(Subject::lasting(WEB), &path_of(&cgroup), false)];
        compiled
    };
    let mut datapath = Datapath::open(&pair.place(), true).unwrap();
    datapath.apply(&host, None).unwrap();
    datapath.attach().unwrap();
    // Its late answer comes when the next generation is in force.
    let address = pair.transport.v4_port(4000).to_string();
    let late = |compiled: &Compiled, datapath: &mut Datapath| {
        let server = pair.transport.actor(&["udp-serve", &address, "--again", "1500"]).unwrap();
        assert!(matches!(server.next().unwrap(), Report::Listening { .. }));
        let client =
            pair.orders.actor(&["udp-send", &address, "--answers", "2", "--timeout", "3000"]).unwrap();
        assert!(matches!(client.next().unwrap(), Report::Sent));
        assert_eq!(client.next().unwrap().text(), Some("ping"));
        datapath.apply(compiled, None).unwrap();
        client.next().unwrap()
    };
    assert_eq!(late(&becomes(4000), &mut datapath).text(), Some("ping"), "host, then workload");
    assert_eq!(late(&host, &mut datapath).text(), Some("ping"), "workload, then host");
    assert_eq!(late(&becomes(4001), &mut datapath).errno(), Some(TIMEOUT), "a workload that may not");
}
