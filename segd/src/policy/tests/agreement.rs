//! Compiled tables and [`naive`] give the same answers for random policies and packets.

use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use segd_common::decide::{Facts, decide};
use segd_common::table::Subject;
use segd_common::traffic::Direction;

use super::*;
use crate::policy::ids::Registry;
use crate::policy::model::{Exception, Override, ServiceRef, Way};
use crate::policy::{Failsafe, Host, Resolved, Tables, compile};
use naive::Packet;

const PREFIXES: [&str; 20] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/9",
    "10.128.0.0/9",
    "10.1.0.0/16",
    "10.1.2.0/23",
    "10.1.2.0/24",
    "10.1.2.2/31",
    "10.1.2.3/32",
    "169.254.1.0/24",
    "169.254.0.0/15",
    "239.1.0.0/16",
    "::/0",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "2001:db8:1::/127",
    "2001:db8:1::1/128",
    "fe80::/64",
    "fe00::/7",
    "::/64",
];

const PEERS: [&str; 24] = [
    "10.0.0.1",
    "10.1.0.1",
    "10.1.1.255",
    "10.1.2.1",
    "10.1.2.2",
    "10.1.2.3",
    "10.1.3.1",
    "10.1.4.0",
    "10.200.0.1",
    "11.0.0.1",
    "::ffff:10.1.2.3",
    "169.254.1.1",
    "169.254.2.1",
    "169.255.0.1",
    "239.1.2.3",
    "224.0.0.1",
    "255.255.255.255",
    "127.0.0.1",
    "2001:db8:1::1",
    "2001:db8:1::2",
    "2001:db8:2::1",
    "fe80::1",
    "ff02::1",
    "::2",
];

const SPECS: [&str; 24] = [
    "tcp/80",
    "tcp/81",
    "tcp/80-90",
    "tcp/85-4095",
    "tcp/4096-8191",
    "tcp/1-65535",
    "tcp/65535",
    "tcp/*",
    "udp/53",
    "udp/50-60",
    "udp/67",
    "udp/*",
    "icmp",
    "icmp/echo",
    "icmp/13",
    "icmpv6",
    "icmpv6/echo",
    "sctp",
    "proto/47",
    "raw",
    "udplite",
    "s0",
    "s1",
    "s2",
];

const PORTS: [u16; 22] =
    [0, 1, 22, 53, 60, 61, 67, 68, 79, 80, 81, 84, 85, 90, 91, 4095, 4096, 8191, 8192, 65535, 0x0800, 0x0d01];

const TIMES: [&str; 3] = ["2027-01-01", "2027-06-30T12:00:00+02:00", "2028-01-01"];

const PEER_ZONES: [&str; 7] = ["z0", "z1", "z2", "z3", "unknown", "multicast", "link-local"];

/// Few, so that several rules match the same packet. `w0` and `w1` are of `z0`, `w2` is of `z1`.
const RULE_ENDS: [&str; 8] = ["z0", "z0", "z0", "z1", "w0", "w1", "unknown", "link-local"];

pub(crate) const SUBJECTS: [&str; 6] = ["z0", "z1", "z2", "w0", "w1", "w2"];

/// Wider and narrower than the zones' prefixes, and beside them.
const COHORTS: [&str; 8] = [
    "10.1.2.0/25",
    "10.0.0.0/15",
    "10.1.2.3/32",
    "11.0.0.0/8",
    "0.0.0.0/0",
    "2001:db8::/33",
    "2001:db8:1::2/128",
    "::/0",
];

fn quoted(list: &[&str]) -> String {
    list.iter().map(|t| format!("\"{t}\"")).collect::<Vec<_>>().join(", ")
}

prop_compose! {
    fn rule()(
        from in select(&RULE_ENDS[..]),
        to in select(&RULE_ENDS[..]),
        services in subsequence(SPECS.to_vec(), 1..4),
        expires in prop::option::of(select(&TIMES[..])),
    ) -> String {
        let expires = expires.map_or(String::new(), |t| format!("expires = {t}\n"));
        format!("from = \"{from}\"\nto = \"{to}\"\nservices = [{}]\n{expires}", quoted(&services))
    }
}

prop_compose! {
    fn canary()(
        percent in prop::option::of(select(&[0, 100][..])),
        hosts in prop::option::of(subsequence(vec!["here", "there"], 1..2)),
        peers in prop::option::of(subsequence(COHORTS.to_vec(), 1..4)),
    ) -> String {
        let lists = [("hosts", hosts), ("peers", peers)];
        let lists = lists.iter().filter_map(|(key, l)| Some(format!("{key} = [{}]", quoted(l.as_ref()?))));
        let keys: Vec<String> = percent.map(|n| format!("percent = {n}")).into_iter().chain(lists).collect();
        if keys.is_empty() { String::new() } else { format!("canary = {{ {} }}\n", keys.join(", ")) }
    }
}

prop_compose! {
    fn workloads()(
        inherit in prop::array::uniform3(any::<bool>()),
        expires in prop::array::uniform3(prop::option::of(select(&TIMES[..]))),
    ) -> String {
        let one = |(n, zone)| {
            let line = |(end, inherit): (Option<&str>, bool)| {
                format!("inherit = {inherit}\n{}", end.map_or(String::new(), |t| format!("expires = {t}\n")))
            };
            format!("[workload.w{n}]\nzone = \"{zone}\"\nunit = \"w{n}.service\"\n{}", line((expires[n], inherit[n])))
        };
        [(0, "z0"), (1, "z0"), (2, "z1")].map(one).concat()
    }
}

prop_compose! {
    fn exception()(
        from in select(&["z0", "w0", "w1", "z1", "unknown", "gone"][..]),
        to in select(&["z0", "w0", "z1", "unknown"][..]),
        services in subsequence(vec!["tcp/80-90", "udp/*", "s0", "icmp", "gone"], 1..3),
        expires in select(&["2027-01-01T00:00:00Z", "2027-06-30T10:00:00Z", "2029-01-01T00:00:00Z"][..]),
    ) -> Exception {
        Exception {
            id: String::new(),
            from: from.into(),
            to: to.into(),
            services: services.into_iter().map(|s| ServiceRef::from(s.to_owned())).collect(),
            owner: "me".into(),
            reason: "why".into(),
            created: now(),
            expires: expires.parse().unwrap(),
            created_by: 0,
        }
    }
}

prop_compose! {
    /// Addresses for the names of the zones, each at an instant of its own.
    pub(crate) fn names()(of in prop::collection::vec(subsequence(PEERS.to_vec(), 0..4), 4), order in Just([0, 1, 2, 3]).prop_shuffle()) -> Resolved {
        let mut names = Resolved::new();
        for (n, second) in order.into_iter().enumerate() {
            let addresses: Vec<IpAddr> = of[n].iter().map(|ip| ip.parse().unwrap()).collect();
            names.set(&format!("z{n}.example.com"), addresses, Timestamp::from_second(second).unwrap());
        }
        names
    }
}

prop_compose! {
    pub(crate) fn rollout()(
        subject in prop::option::of(select(&SUBJECTS[..])),
        direction in select(&["inbound", "outbound", "both"][..]),
        peers in prop::option::of(subsequence(PEER_ZONES.to_vec(), 1..4)),
        services in prop::option::of(subsequence(SPECS.to_vec(), 1..3)),
        enforce in any::<bool>(),
        canary in prop::option::of(canary()),
    ) -> (String, Override) {
        let line = |key: &str, list: &Option<Vec<&str>>| {
            list.as_ref().map_or(String::new(), |l| format!("{key} = [{}]\n", quoted(l)))
        };
        let mode = if enforce { "enforce" } else { "monitor" };
        let text = format!(
            "[[rollout]]\nsubject = \"{}\"\ndirection = \"{direction}\"\nmode = \"{mode}\"\n{}{}{}",
            subject.unwrap_or("all"), line("peers", &peers), line("services", &services),
            canary.unwrap_or_default(),
        );
        let strings = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect();
        let as_override = Override {
            subject: subject.map(str::to_owned),
            direction: match direction { "inbound" => Some(Way::Inbound), "outbound" => Some(Way::Outbound), _ => None },
            peers: peers.map(strings),
            services: services.map(|l| l.into_iter().map(|s| ServiceRef::from(s.to_owned())).collect()),
            enforce,
        };
        (text, as_override)
    }
}

prop_compose! {
    pub(crate) fn estate()(
        owners in prop::collection::vec(0usize..6, PREFIXES.len()),
        services in prop::collection::vec(subsequence(SPECS[..21].to_vec(), 1..4), 3),
        workloads in workloads(),
        rules in prop::collection::vec(rule(), 0..24),
        rollouts in prop::collection::vec(rollout(), 0..5),
    ) -> String {
        let mut text = String::new();
        for zone in 0..4 {
            let mut cidrs = vec![format!("172.16.{zone}.0/24")];
            let own = PREFIXES.iter().zip(&owners).filter(|(_, owner)| **owner == zone);
            cidrs.extend(own.map(|(p, _)| (*p).to_owned()));
            let cidrs: Vec<&str> = cidrs.iter().map(String::as_str).collect();
            text += &format!("[zone.z{zone}]\ncidrs = [{}]\nnames = [\"z{zone}.example.com\"]\n", quoted(&cidrs));
        }
        text += &workloads;
        for (n, ports) in services.iter().enumerate() {
            text += &format!("[service.s{n}]\nports = [{}]\n", quoted(ports));
        }
        for (n, rule) in rules.iter().enumerate() {
            text += &format!("[[allow]]\nid = \"r{n}\"\n{rule}");
        }
        text + &rollouts.iter().map(|(t, _)| t.as_str()).collect::<String>()
    }
}

prop_compose! {
    pub(crate) fn failsafe()(
        outbound in any::<bool>(),
        ports in subsequence(vec!["tcp/80", "udp/50-60", "tcp/22", "icmp/echo"], 1..3),
        cidrs in subsequence(vec!["10.1.0.0/16", "2001:db8::/32", "::/0", "0.0.0.0/0", "10.1.2.3/32"], 0..3),
    ) -> Failsafe {
        Failsafe {
            direction: if outbound { Direction::Outbound } else { Direction::Inbound },
            ports: ports.iter().map(|p| p.parse().unwrap()).collect(),
            cidrs: cidrs.iter().map(|c| c.parse().unwrap()).collect(),
        }
    }
}

prop_compose! {
    pub(crate) fn packet()(
        outbound in any::<bool>(),
        peer in select(&PEERS[..]),
        protocol in select(&[6u8, 6, 17, 17, 1, 58, 132, 136, 47, 50][..]),
        port in prop_oneof![4 => select(&PORTS[..]), 1 => any::<u16>(), 1 => Just(0x8000u16)],
    ) -> Packet {
        Packet {
            direction: if outbound { Direction::Outbound } else { Direction::Inbound },
            peer: peer.parse().unwrap(),
            protocol,
            port,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn compiled_tables_agree_with_a_naive_matcher(
        text in estate(),
        overrides in prop::collection::vec(rollout().prop_map(|(_, o)| o), 0..2),
        failsafes in prop::collection::vec(failsafe(), 0..3),
        mut exceptions in prop::collection::vec(exception(), 0..4),
        names in names(),
        subject in select(&SUBJECTS[..]),
        own in any::<Index>(),
        packets in prop::collection::vec(packet(), 48),
        at in select(&["2026-12-31T23:59:59.999999999Z", "2027-01-01T00:00:00Z", "2027-06-30T10:00:00Z", "2030-01-01T00:00:00Z"][..]),
    ) {
        for (n, exception) in exceptions.iter_mut().enumerate() {
            exception.id = n.to_string();
        }
        let policy = loaded(&text);
        let now: Timestamp = at.parse().unwrap();
        let own: [IpAddr; 1] = [PEERS[own.index(14)].parse().unwrap()];
        let mut registry = Registry::default();
        // The host of a workload may be in another zone than the workload.
        let zone = if subject.starts_with('w') { "z1" } else { subject };
        let host = Host { name: "here", names: &names, exceptions: &exceptions, ..Host::in_zone(zone, &own) };
        let compiled = compile(&policy, host, &overrides, &failsafes, &mut registry).unwrap();
        let tables = Tables::new(&compiled, now.as_nanosecond().try_into().unwrap());
        let mut of_workload = compiled.patterns.iter().map(|p| p.subject);
        let of_workload = of_workload.find(|s| &*registry.subject_name(s.id) == subject);
        let world = naive::World {
            subject, host: "here", own: &own, names: &names, exceptions: &exceptions,
            overrides: &overrides, failsafes: &failsafes, now,
        };
        for p in &packets {
            let Packet { direction, protocol, port, .. } = *p;
            let local = of_workload.unwrap_or(Subject::lasting(compiled.host));
            let d = decide(&tables, &Facts { subject: local, direction, protocol, peer: p.peer.into(), port });
            let got: naive::Answer = (
                d.verdict.name(),
                d.reason.name(),
                registry.zone_name(d.zone).to_string(),
                registry.rule_name(d.rule).map(|rule| rule.to_string()),
                registry.service_name(d.service).to_string(),
            );
            let wanted = naive::answer(&policy, &world, p);
            prop_assert_eq!(got, wanted, "{} {:?} {} {} {}\n{}", subject, direction, p.peer, protocol, port, text);
        }
    }
}
