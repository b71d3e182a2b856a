//! The estate of `cargo xtask demo`: what a fortnight there makes of its zones without rules, word by word.

use super::*;

const ORDERS: Said<'static> =
    Said { host: "orders-1", subject: "orders", local: "10.77.1.1", process: "/usr/sbin/redis-cli", ..OUT };
const WMS: Said<'static> =
    Said { host: "wms-1", subject: "fulfillment", local: "10.77.2.1", process: "/usr/bin/psql", ..OUT };
const FREIGHT: Said<'static> = Said {
    host: "freight-1",
    subject: "transport",
    local: "10.77.3.1",
    process: "/usr/sbin/nginx",
    unit: Some("nginx.service"),
    ..OUT
};
const CARRIER: Said<'static> =
    Said { host: "carrier-1", subject: "partner", local: "10.77.4.1", process: "/usr/bin/curl", ..OUT };

fn zone_files(names: &[&str]) -> Policy {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../zones/demo");
    let text = |name: &&str| (format!("zones/demo/{name}"), std::fs::read_to_string(dir.join(name)).unwrap());
    load(Sources::from_texts(names.iter().map(text)), at(0)).unwrap()
}

/// Two weeks, around the clock but for the carrier, who comes on working days.
fn fortnight() -> History {
    let all = 0..336;
    let shifts = all.clone().filter(|hour| hour % 168 < 120 && (6..18).contains(&(hour % 24)));
    let postgres = Said {
        process: "/usr/lib/postgresql/15/bin/postgres",
        unit: Some("postgresql@15-main.service"),
        ..ORDERS
    };
    let redis = Said { process: "/usr/bin/redis-server", unit: Some("redis-server.service"), ..WMS };
    let curl = |said: &Said<'static>| Said { process: "/usr/bin/curl", ..said.clone() };
    let mut history = History::default();
    history
        .between(all.clone(), &WMS, &postgres, 5432)
        .between(all.clone(), &ORDERS, &redis, 6379)
        .between(all.clone(), &curl(&ORDERS), &FREIGHT, 8080)
        .between(all.clone(), &curl(&WMS), &FREIGHT, 8080)
        .between(shifts.clone(), &CARRIER, &FREIGHT, 8080);
    // Drivers' phones behind a provider's addresses, which nobody put into a zone.
    for phone in ["198.51.100.8", "198.51.100.9", "198.51.100.10", "198.51.100.77"] {
        let said = Said { direction: Direction::Inbound, peer: phone, port: 443, ..FREIGHT };
        history.say(shifts.clone(), &said);
    }
    // A new label printer, since the second week, at a port of its own.
    history
        .say((200..330).step_by(9), &Said { peer: "10.77.3.40", peer_zone: "transport", port: 9101, ..WMS });
    // Noise: a scan by the carrier, a query by hand, what was refused, and a flood.
    for n in 1..=80 {
        let peer = format!("10.77.1.{n}");
        let probe = Said { peer: &peer, peer_zone: "orders", flows: 1, packets: 4, bytes: 240, ..CARRIER };
        history.say([100], &Said { port: 22, process: "/usr/bin/nmap", ..probe });
    }
    let more = Said { peer: "+4000", peer_zone: "orders", process: "/usr/bin/nmap", port: 22, ..CARRIER };
    history.say([100], &more);
    history.say([50], &Said { peer: "10.77.3.1", peer_zone: "transport", port: 5432, flows: 1, ..WMS });
    let refused = Said { verdict: Verdict::Denied, packets: 0, bytes: 0, ..CARRIER };
    history.say(20..40, &Said { peer: "10.77.1.1", peer_zone: "orders", port: 5432, ..refused });
    let silent = Said { packets: 4, bytes: 100, ..ORDERS };
    history.say(20..40, &Said { peer: "10.77.4.9", peer_zone: "partner", port: 4443, ..silent });
    history
}

#[test]
fn a_fortnight_s_flows_become_the_rules_that_people_wrote() {
    let proposal = fortnight().proposed(&zone_files(&["10-zones.toml"]), &Options::default());
    assert_eq!(proposal.toml, include_str!("demo.toml"), "\n{}", proposal.toml);
}

#[test]
fn what_the_rules_allow_needs_none() {
    let proposal =
        fortnight().proposed(&zone_files(&["10-zones.toml", "20-rules.toml"]), &Options::default());
    assert_eq!(
        rules(&proposal),
        [
            "fulfillment-to-transport-other: fulfillment -> transport tcp/9101",
            "net-198-51-100-0-25-to-transport-https: net-198-51-100-0-25 -> transport https",
        ]
    );
    // 672 hours at both ends of four pairs, and the carrier's.
    assert_eq!(proposal.covered, 4 * 672 + 240);
}

#[test]
fn without_any_zone_file_the_records_name_the_zones() {
    let options = Options { from_scratch: true, ..Options::default() };
    let proposal = fortnight().proposed(&Policy::default(), &options);
    let zones: Vec<_> = proposal.zones.iter().map(|z| (z.name.as_str(), z.recorded)).collect();
    assert_eq!(
        zones,
        [
            ("fulfillment", true),
            ("orders", true),
            ("partner", true),
            ("transport", true),
            ("net-198-51-100-0-25", false)
        ]
    );
    assert_eq!(proposal.rules.len(), 7, "{:?}", rules(&proposal));
    let alone = load(Sources::from_texts([("all.toml", proposal.toml.as_str())]), at(400)).unwrap();
    assert_eq!((alone.zones.len(), alone.rules.len()), (5, 7));
}

#[test]
fn from_scratch_keeps_what_is_no_rule() {
    let options = Options { from_scratch: true, ..Options::default() };
    let present = zone_files(&["10-zones.toml", "20-rules.toml"]);
    let proposal = fortnight().proposed(&present, &options);
    let alone = load(Sources::from_texts([("all.toml", proposal.toml.as_str())]), at(400)).unwrap();
    assert_eq!((alone.zones.len(), alone.services.len(), alone.rules.len()), (5, 4, 7));
    assert_eq!(alone.tests.len(), 1, "what must be denied, and not what must be allowed");
    let owner = &alone.zones.get("orders").unwrap().owner;
    assert_eq!(owner.as_deref(), Some("orders-team@example.com"));
}
