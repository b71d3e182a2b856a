//! Whatever was seen, under whatever policy: the proposal is a zone file, denies nothing that was not left out, and
//! allows no port that nobody used.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::super::Why;
use super::*;
use crate::insight::replay::Decider;
use crate::policy::Resolved;
use crate::policy::ports::PortSpec;

/// Hosts: name, zone, addresses. The last one was told its zone.
const HOSTS: [(&str, &str, &str); 5] = [
    ("h0", "z0", "10.0.0.1"),
    ("h1", "z0", "10.0.0.2"),
    ("h2", "z1", "10.1.0.1"),
    ("h3", "z2", "2001:db8:2::1"),
    ("h4", "z2", "172.31.0.9"),
];

const PEERS: [(&str, &str); 16] = [
    ("10.0.0.1", "z0"),
    ("10.0.0.2", "z0"),
    ("10.0.3.3", "z0"),
    ("10.1.0.1", "z1"),
    ("10.1.0.77", "z3"),
    ("10.9.9.9", "gone"),
    ("2001:db8:2::1", "z2"),
    ("2001:db8:2::ff", "z2"),
    ("172.31.0.9", "unknown"),
    ("192.0.2.4", "unknown"),
    ("192.0.2.5", "unknown"),
    ("192.0.2.6", "unknown"),
    ("2001:db8:99::1", "unknown"),
    ("224.0.0.251", "multicast"),
    ("fe80::7", "link-local"),
    ("10.0.0.99", "z4"),
];

const SPECS: [&str; 10] = [
    "tcp/80",
    "tcp/443",
    "tcp/80-90",
    "udp/53",
    "udp/5000-5010",
    "icmp/echo",
    "icmp",
    "tcp/22",
    "sctp",
    "proto/47",
];

const ENDS: [&str; 9] = ["z0", "z1", "z2", "z3", "z4", "w0", "w1", "unknown", "multicast"];

fn quoted(list: &[&str]) -> String {
    list.iter().map(|t| format!("\"{t}\"")).collect::<Vec<_>>().join(", ")
}

prop_compose! {
    fn zone_files()(
        named in any::<bool>(),
        inherit in any::<bool>(),
        expired in any::<bool>(),
        services in prop::collection::vec(subsequence(SPECS.to_vec(), 1..3), 0..3),
        rules in prop::collection::vec((select(&ENDS[..]), select(&ENDS[..]), subsequence(SPECS.to_vec(), 1..3)), 0..8),
        tests in prop::collection::vec((select(&ENDS[..7]), select(&ENDS[..7]), select(&SPECS[..])), 0..3),
    ) -> String {
        let z4 = if named { "names = [\"z4.example.com\"]" } else { "cidrs = [\"10.0.0.99/32\"]" };
        let expires = if expired { "expires = 2026-01-01\n" } else { "" };
        let mut text = format!(
            "[zone.z0]\ncidrs = [\"10.0.0.0/16\"]\n[zone.z1]\ncidrs = [\"10.1.0.0/16\"]\n[zone.z2]\ncidrs = [\"2001:db8:2::/48\"]\n\
             [zone.z3]\ncidrs = [\"10.1.0.64/26\"]\n[zone.z4]\n{z4}\n[workload.w0]\nzone = \"z0\"\nunit = \"w0.service\"\ninherit = {inherit}\n\
             [workload.w1]\nzone = \"z1\"\ncgroup = \"/w1\"\n{expires}"
        );
        for (n, ports) in services.iter().enumerate() {
            text += &format!("[service.s{n}]\nports = [{}]\n", quoted(ports));
        }
        for (n, (from, to, ports)) in rules.iter().enumerate() {
            text += &format!("[[allow]]\nid = \"r{n}\"\nfrom = \"{from}\"\nto = \"{to}\"\nservices = [{}]\n", quoted(ports));
        }
        for (from, to, port) in &tests {
            text += &format!("[[test]]\nfrom = \"{from}\"\nto = \"{to}\"\ndeny = [\"{port}\"]\n");
        }
        text
    }
}

/// What is said, in how many hours from which on, and whether it is of many peers.
type Told = (Said<'static>, i64, i64);

prop_compose! {
    fn told()(
        host in select(&HOSTS[..]),
        workload in prop::option::weighted(0.3, select(&["w0", "w1", "w9"][..])),
        inbound in any::<bool>(),
        peer in select(&PEERS[..]),
        others in prop::bool::weighted(0.05),
        (protocol, port, icmp) in select(&[
            ("tcp", 80, None), ("tcp", 443, None), ("tcp", 6379, None), ("tcp", 7001, None), ("tcp", 7002, None),
            ("udp", 53, None), ("udp", 5005, None), ("udp", 5353, None), ("icmp", 0, Some((8, 0))), ("tcp", 22, None),
            ("icmp", 0, Some((3, 1))), ("sctp", 0, None), ("47", 0, None), ("raw", 0, None), ("tcp", 0, None),
        ][..]),
        verdict in select(&[Verdict::Audited, Verdict::Audited, Verdict::Allowed, Verdict::Denied][..]),
        reason in select(&[Reason::NoRule, Reason::NoRule, Reason::NoRule, Reason::Preexisting, Reason::Fragment, Reason::SocketType][..]),
        from in 0..200_i64,
        hours in 1..6_i64,
        (flows, packets, bytes) in select(&[(2, 20, 9000), (1, 0, 0), (0, 10, 4000), (3, 4, 100), (90, 900, 90_000)][..]),
    ) -> Told {
        let (host, zone, local) = host;
        let said = Said {
            host,
            subject: workload.unwrap_or(zone),
            workload: workload.is_some(),
            unit: workload.filter(|w| *w == "w0").map(|_| "w0.service"),
            direction: if inbound { Direction::Inbound } else { Direction::Outbound },
            local,
            peer: if others { "+70" } else { peer.0 },
            peer_zone: peer.1,
            protocol, port, icmp, verdict, reason, flows, packets, bytes,
            ..OUT
        };
        (said, from, hours)
    }
}

prop_compose! {
    fn options()(
        from_scratch in any::<bool>(),
        widen_ports in any::<bool>(),
        widen_peers in any::<bool>(),
        dense in select(&[1, 50, 75, 100][..]),
        min_hours in prop::option::of(0..3_u32),
        [scans, denied, unanswered] in prop::array::uniform3(any::<bool>()),
        scan_ports in select(&[2, 20][..]),
    ) -> Options {
        Options {
            from_scratch, widen_ports, widen_peers, dense, min_hours, scans, denied, unanswered, scan_ports,
            ..Options::default()
        }
    }
}

/// Whether it is nothing that could be left out without being said to be a test's, or denied at the other end.
fn is_plain(summary: &Summary) -> bool {
    let of = &summary.of;
    let ports = matches!(&*of.protocol, "tcp" | "udp") && of.port != 0 && of.port != 22;
    let reason = matches!(of.reason, Reason::NoRule | Reason::Preexisting);
    let busy = summary.flows > 1 && summary.bytes.received > 600 * summary.flows;
    ports && reason && busy && of.verdict != Verdict::Denied && matches!(of.peer, Peer::Address(_))
}

/// The ports of the protocol that a file may name for what was seen.
fn is_seen(said: &[Told], port: &PortSpec) -> bool {
    said.iter().any(|(said, ..)| {
        let number = crate::telemetry::protocol::number(said.protocol).unwrap();
        let seen = match said.icmp {
            Some((kind, _)) => u16::from(kind) << 8,
            None => said.port,
        };
        port.contains(number, seen)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn proposals_hold(
        files in zone_files(),
        none in prop::bool::weighted(0.1),
        told in prop::collection::vec(told(), 1..40),
        options in options(),
    ) {
        let present = if none { Policy::default() } else { policy(&files) };
        let mut history = History::default();
        for (said, from, hours) in &told {
            history.say(*from..from + hours, said);
        }
        let proposal = match history.learn(&present, &options) {
            Ok(proposal) => proposal,
            // A test of the random files fails without any proposal.
            Err(LearnError::Present(_)) => return Ok(()),
            Err(error) => return Err(TestCaseError::fail(format!("{error}\n{files}"))),
        };
        let own = ("learned.toml", proposal.toml.as_str());
        let texts = if options.from_scratch || none { vec![own] } else { vec![("zones.toml", files.as_str()), own] };
        let both = load(Sources::from_texts(texts), at(0));
        let both = both.map_err(|e| TestCaseError::fail(format!("{}\n{}", e.render(false), proposal.toml)))?;
        let ids: BTreeSet<&str> = proposal.rules.iter().map(|r| r.id.as_str()).collect();
        prop_assert_eq!(ids.len(), proposal.rules.len());

        // Not by what the command says of itself: what was plainly in use is allowed.
        let failsafes = default_failsafes();
        let names = super::super::remembered(&history.0, &both, &Resolved::new());
        let around = Around { names: &names, ..Around::of_files(&failsafes, at(400)) };
        let decider = Decider::new(&both, around, &history.0).unwrap();
        let held = decider.decide(&history.0[0].of).is_ok();
        prop_assert!(held || !proposal.left_out.is_empty());
        for summary in history.0.iter().filter(|s| is_plain(s)) {
            let denied = decider.decide(&summary.of).is_ok_and(|d| d.enforced() == Verdict::Denied);
            let port = format!("{}/{}", summary.of.protocol, summary.of.port);
            let said = |l: &super::super::LeftOut| {
                matches!(l.why, Why::Tested | Why::OwnAddress | Why::Undecided(_) | Why::Denied | Why::Rare)
                    && (l.port_count > l.ports.len() || l.ports.contains(&port))
            };
            prop_assert!(!denied || proposal.left_out.iter().any(said), "{:?}\n{}", summary, proposal.toml);
        }
        for (rule, parsed) in proposal.rules.iter().zip(both.rules.iter().rev().take(proposal.rules.len()).rev()) {
            prop_assert_eq!(&rule.id, &parsed.id);
            if !options.widen_ports {
                for port in both.all_ports(&parsed.services) {
                    prop_assert!(is_seen(&told, &port), "{} {}\n{}", rule.id, port, proposal.toml);
                }
            }
            prop_assert!(rule.evidence.flows > 0 || rule.seen.iter().all(|p| is_seen(&told, p)));
        }
    }
}
