use std::collections::BTreeMap;

use segd_common::traffic::Verdict::{Allowed, Audited, Denied};

use super::samples::{Seen, hostile, small};
use super::*;
use crate::history::Summary;

fn map(seen: impl IntoIterator<Item = Seen>) -> Map {
    let all: Vec<Summary> = seen.into_iter().map(Seen::summary).collect();
    Map::of(&all, &Terms::default())
}

/// Each edge on a line.
fn lines(map: &Map) -> Vec<String> {
    let line = |e: &Edge| {
        let change = e.change.map_or(String::new(), |c| format!(" {}", picture::told(c)));
        format!("{}>{} {} {} {}{change}", e.from, e.to, e.service, e.verdict, e.flows)
    };
    map.edges.iter().map(line).collect()
}

const APP: &str = "10.20.0.7";
const DB: &str = "10.10.0.5";

fn at_app() -> Seen {
    Seen::out("app-1", "fulfillment", APP, DB, "orders").process("/usr/bin/java")
}

fn at_db() -> Seen {
    Seen::into("db-1", "orders", DB, APP, "fulfillment").process("/usr/sbin/postgres")
}

#[test]
fn what_both_ends_saw_counts_once() {
    let both = map([at_app().flows(7).bytes(100, 20), at_db().flows(7).bytes(20, 100)]);
    assert_eq!(lines(&both), ["fulfillment>orders postgres allowed 7"]);
    let edge = &both.edges[0];
    assert_eq!((edge.bytes.to_server, edge.bytes.to_client), (20, 100));
    let process = |parties: &Parties| {
        parties.most.iter().map(|p| p.process.clone().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(process(&edge.clients), ["/usr/bin/java"]);
    assert_eq!(process(&edge.servers), ["/usr/sbin/postgres"]);
}

#[test]
fn ends_are_joined_by_host_address_port_and_hour_only() {
    for (other, want) in [
        (at_db().flows(5), 7),
        (at_db().flows(9), 9),
        (at_db().flows(5).port(5433, "postgres"), 12),
        (at_db().flows(5).later(1), 12),
        (Seen::into("db-1", "orders", DB, "10.20.0.8", "fulfillment").flows(5), 12),
        // Another host has the client's address too: whose flow it is cannot be told.
        (Seen::into("db-1", "orders", DB, APP, "fulfillment").flows(5), 13),
    ] {
        let mut all = vec![at_app().flows(7), other];
        if want == 13 {
            all.push(Seen::out("app-2", "fulfillment", APP, "10.10.0.6", "orders"));
        }
        let sum: u64 = map(all.clone()).edges.iter().map(|edge| edge.flows).sum();
        assert_eq!(sum, want, "{all:?}");
    }
}

#[test]
fn the_worse_verdict_of_both_ends_counts() {
    for (client, server, want) in [
        (vec![(Allowed, 7)], vec![(Audited, 7)], vec!["audited 7"]),
        (vec![(Audited, 7)], vec![(Allowed, 7)], vec!["audited 7"]),
        (vec![(Allowed, 7)], vec![(Denied, 2), (Allowed, 5)], vec!["allowed 5", "denied 2"]),
        // What the client's host denies never arrives.
        (vec![(Denied, 3), (Allowed, 4)], vec![(Allowed, 4)], vec!["allowed 4", "denied 3"]),
        // One flow that the server's host denied three times: as many attempts.
        (vec![(Allowed, 1)], vec![(Denied, 3)], vec!["denied 3"]),
        (vec![(Allowed, 0)], vec![(Allowed, 0)], vec!["allowed 0"]),
    ] {
        let clients = client.iter().map(|(verdict, flows)| at_app().verdict(*verdict).flows(*flows));
        let servers = server.iter().map(|(verdict, flows)| at_db().verdict(*verdict).flows(*flows));
        let map = map(clients.chain(servers));
        let found: Vec<String> = map.edges.iter().map(|e| format!("{} {}", e.verdict, e.flows)).collect();
        assert_eq!(found, want, "{client:?} {server:?}");
    }
}

#[test]
fn bytes_are_those_of_one_end_and_none_is_lost() {
    let open = at_app().flows(3);
    let closed = Seen::out("app-1", "fulfillment", "10.20.0.70", DB, "orders").flows(0).bytes(50, 5);
    let total = map([open, closed, at_db().flows(3).bytes(5, 50)]).edges[0].bytes;
    assert_eq!((total.to_server, total.to_client), (5, 50));
    let server_only = map([at_app().flows(3), at_db().flows(3).bytes(5, 50)]).edges[0].bytes;
    assert_eq!((server_only.to_server, server_only.to_client), (5, 50));
}

#[test]
fn a_workload_is_in_its_zone_or_a_node_of_its_own() {
    let bot = || at_app().workload("inventory_bot").summary();
    let name = |map: &Map| map.edges[0].from.to_string();
    let alone = [bot()];
    assert_eq!(name(&Map::of(&alone, &Terms::default())), "inventory_bot");
    let with_host = [bot(), Seen::out("app-1", "fulfillment", APP, "10.30.0.1", "transport").summary()];
    assert_eq!(name(&Map::of(&with_host, &Terms::default())), "fulfillment");
    let with_server = [bot(), at_db().summary()];
    assert_eq!(name(&Map::of(&with_server, &Terms::default())), "fulfillment");
    let zones = BTreeMap::from([("inventory_bot".to_owned(), "bots".to_owned())]);
    let terms = Terms { workload_zones: zones, workloads: false };
    assert_eq!(name(&Map::of(&with_server, &terms)), "bots");
    let own = Map::of(&with_server, &Terms { workloads: true, ..terms });
    assert_eq!((name(&own).as_str(), own.nodes[0].kind), ("inventory_bot", NodeKind::Workload));
    assert_eq!(lines(&own), ["inventory_bot>orders postgres allowed 1"]);
}

#[test]
fn scans_are_told_in_few_words() {
    let ports = (1..=300).map(|port| at_app().port(port, "other").flows(u64::from(port)));
    let map_ = map(ports);
    assert_eq!(map_.edges.len(), 13);
    let rest = map_.edges.iter().find(|edge| &*edge.service == "288 more ports").unwrap();
    assert_eq!(rest.flows, (1..=288).sum::<u64>());
    let peers = (0..40).map(|n| Seen::into("db-1", "orders", DB, &format!("192.0.2.{n}"), "unknown"));
    let scan = |n| Seen::into("db-1", "orders", DB, "192.0.2.1", "unknown").peers(n).flows(7);
    // It goes on for an hour, by the same peers for all that is known.
    let map_ = map(peers.chain([scan(999_000), scan(500_000).later(1)]));
    let clients = &map_.edges[0].clients;
    assert_eq!((clients.most.len(), clients.more, clients.unrecorded), (12, 28, 999_000));
    assert_eq!(map_.edges[0].flows, 54);
}

#[test]
fn two_times_are_compared_by_service_and_verdict() {
    let to = |zone: &str| Seen::out("app-1", "fulfillment", APP, "10.30.0.1", zone);
    let before = map([
        to("orders").flows(5),
        to("transport"),
        to("partner").flows(2),
        to("admin"),
        to("admin").verdict(Denied),
    ]);
    let now = map([to("orders").flows(6), to("transport").verdict(Denied), to("reporting"), to("admin")]);
    let compared = compare(&before, now);
    assert_eq!(
        lines(&compared),
        [
            "fulfillment>admin postgres allowed 1",
            "fulfillment>admin postgres denied 1 gone",
            "fulfillment>orders postgres allowed 6",
            "fulfillment>partner postgres allowed 2 gone",
            "fulfillment>reporting postgres allowed 1 new",
            "fulfillment>transport postgres denied 1 was allowed",
        ]
    );
    assert_eq!(compared.edges[2].flows_before, Some(5));
    assert_eq!(compared.flows(), 9);
    assert_eq!(compared.nodes.len(), 6);
    assert_eq!(compared.compared, Some(Compared::Before(before.observed)));
}

#[test]
fn other_zone_files_are_asked_at_the_end_that_recorded() {
    use segd_common::traffic::Direction;
    for (client, server, want) in [
        (Some(Allowed), Some(Allowed), "fulfillment>orders postgres allowed 7"),
        (Some(Allowed), Some(Denied), "fulfillment>orders postgres allowed 7 would be denied"),
        (Some(Audited), Some(Allowed), "fulfillment>orders postgres allowed 7 would be audited"),
        (None, Some(Denied), "fulfillment>orders postgres allowed 7 would be denied"),
        (None, Some(Allowed), "fulfillment>orders postgres allowed 7 cannot be decided"),
    ] {
        let all = [at_app().flows(7).summary(), at_db().flows(7).summary()];
        let map = Map::against(&all, &Terms::default(), |of| match of.direction {
            Direction::Outbound => client,
            Direction::Inbound => server,
        });
        assert_eq!(lines(&map), [want]);
    }
}

#[test]
fn formats_are_as_written() {
    let before = Map::of(&small()[..1], &Terms::default());
    let now = Map::of(&small(), &Terms { workloads: true, ..Terms::default() });
    let map = compare(&before, now);
    for (name, text) in [
        ("small.dot", render::dot(&map)),
        ("small.mmd", render::mermaid(&map)),
        ("small.json", render::json(&map).unwrap()),
    ] {
        golden(name, &text);
    }
}

/// `SEGD_GOLDEN=write` writes them anew.
fn golden(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/insight/map/golden").join(name);
    if std::env::var_os("SEGD_GOLDEN").is_some_and(|v| v == "write") {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap_or_default(), "{}", path.display());
}

#[test]
fn hostile_names_stay_names() {
    let map = Map::of(&hostile(), &Terms::default());
    let (html, svg) = (render::html(&map).unwrap(), render::svg(&map));
    assert_eq!(html.matches("</script>").count(), 2, "those of the page itself");
    for text in [&html, &svg, &render::dot(&map), &render::mermaid(&map), &render::json(&map).unwrap()] {
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'));
    }
    for text in [&html, &svg] {
        assert!(!text.contains("<img") && !text.contains("<script>boom"), "{text}");
    }
    let dot = render::dot(&map);
    assert!(dot.contains(r#""\"]; x [label=\"y\"] //" [label="#), "{dot}");
    assert!(!render::mermaid(&map).contains("|-->|"));
}

#[test]
fn nothing_observed_is_a_map_too() {
    let map = Map::of(&[], &Terms::default());
    assert!(render::svg(&map).contains("nothing was observed"));
    assert!(render::html(&map).unwrap().contains("0 zones, 0 edges"));
    assert_eq!(render::mermaid(&map), "flowchart LR\n");
}

#[test]
fn names_are_over_nothing() {
    let zones = ["orders", "fulfillment", "transport", "partner-edi", "reporting", "admin"];
    let mut all = Vec::new();
    for (n, from) in zones.iter().enumerate() {
        for (m, to) in zones.iter().enumerate() {
            let (a, b) = (format!("10.{n}.0.1"), format!("10.{m}.0.2"));
            all.push(
                Seen::out(from, from, &a, &b, to)
                    .flows(n as u64 * 7 + 1)
                    .port(u16::try_from(1000 + m).unwrap(), "order-api"),
            );
        }
    }
    let picture = picture::picture(&map(all));
    let names: Vec<layout::Area> = picture
        .strands
        .iter()
        .filter_map(|drawn| drawn.name.as_ref())
        .map(|name| {
            let (width, height) = (picture::text_width(&name.text, names::SERVICE_TEXT), names::SERVICE_TEXT);
            layout::Area { x: name.at.0 - width / 2.0, y: name.at.1 - height / 2.0, width, height }
        })
        .collect();
    assert!(names.len() > 15, "{}", names.len());
    for (n, name) in names.iter().enumerate() {
        let others = names.iter().skip(n + 1).chain(&picture.areas);
        assert!(others.clone().all(|other| !names::overlap(*name, *other)), "{name:?}");
    }
}
