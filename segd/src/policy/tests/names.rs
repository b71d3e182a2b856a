//! DNS names in zones.

use std::net::IpAddr;

use segd_common::decide::zone_of;

use super::*;
use crate::policy::check::claims;
use crate::policy::ids::Registry;
use crate::policy::{Host, Resolved, Situation, Tables, check, compile, conflicts, explain};

const ESTATE: &str = r#"[zone.orders]
cidrs = ["10.1.0.0/16", "10.1.0.9/32"]
names = ["orders.example.com"]
[zone.edi]
names = ["edi.example.com"]
[zone.yard]
names = ["yard.example.com"]
[[allow]]
id = "edi-to-yard"
from = "edi"
to = "yard"
services = ["tcp/1"]
[[allow]]
id = "orders-to-edi"
from = "orders"
to = "edi"
services = ["tcp/1"]
[[test]]
from = "edi"
to = "yard"
allow = ["tcp/1"]
deny = ["tcp/2"]
"#;

fn resolved(answers: &[(&str, &str, i64)]) -> Resolved {
    let mut all = Resolved::new();
    for (name, addresses, second) in answers {
        let addresses: Vec<IpAddr> = addresses.split(' ').map(|t| t.parse().unwrap()).collect();
        all.set(name, addresses, Timestamp::from_second(*second).unwrap());
    }
    all
}

#[test]
fn the_earlier_owner_keeps_an_address() {
    let policy = loaded(ESTATE);
    let names = resolved(&[
        ("orders.example.com", "10.9.0.1 10.9.0.2", 1),
        ("edi.example.com", "10.9.0.1 10.9.0.3 10.1.0.9 10.1.0.10 127.0.1.1", 2),
        ("yard.example.com", "10.9.0.2 10.9.0.3 2001:db8::7", 1),
    ]);
    let said: Vec<String> = conflicts(&policy, &names).iter().map(ToString::to_string).collect();
    let by = |zone: &str, line: u8| {
        let at = format!("zones.toml:{line}");
        if line == 2 { format!("10.1.0.9/32 at {at}") } else { format!("{zone}.example.com at {at}") }
    };
    let line = |ip: &str, keeps: (&str, u8), other: (&str, u8)| {
        let ((zone, at), (second, there)) = (keeps, other);
        format!(
            "{ip} stays in zone `{zone}` (by {}); zone `{second}` claims it too, by {}",
            by(zone, at),
            by(second, there)
        )
    };
    assert_eq!(
        said,
        [
            line("10.1.0.9", ("orders", 2), ("edi", 5)),
            line("10.9.0.1", ("orders", 3), ("edi", 5)),
            line("10.9.0.2", ("orders", 3), ("yard", 7)),
            line("10.9.0.3", ("yard", 7), ("edi", 5)),
        ]
    );

    let mut registry = Registry::default();
    let own: [IpAddr; 1] = ["2001:db8::7".parse().unwrap()];
    let host = Host { names: &names, ..Host::in_zone("yard", &own) };
    let compiled = compile(&policy, host, &[], &[], &mut registry).unwrap();
    let tables = Tables::new(&compiled, 1);
    for (address, zone) in [
        ("10.1.0.9", "orders"),
        ("10.1.0.10", "edi"),
        ("10.1.0.11", "orders"),
        ("10.9.0.1", "orders"),
        ("10.9.0.3", "yard"),
        ("127.0.1.1", "loopback"),
        ("2001:db8::7", "loopback"),
        ("10.9.0.4", "unknown"),
    ] {
        let ip: IpAddr = address.parse().unwrap();
        assert_eq!(&*registry.zone_name(zone_of(&tables, &ip.into()).zone), zone, "{address}");
    }
    assert!(compiled.hosts.is_sorted());
}

#[test]
fn an_address_of_two_zones_is_an_error_at_check() {
    let policy = loaded(ESTATE);
    let clean = check(&policy, &[], &Resolved::new(), now());
    assert!(clean.is_empty(), "{}", clean.render(false));
    let names = resolved(&[("edi.example.com", "10.1.0.9", 1)]);
    assert_eq!(
        lines(&claims(&policy, &names)),
        [
            "zones.toml:5:10: error: zones `orders` and `edi` both claim 10.1.0.9, by 10.1.0.9/32 and edi.example.com \
          [leave it in one zone]"
        ]
    );
}

#[test]
fn explain_shows_the_name() {
    let policy = loaded(ESTATE);
    let names = resolved(&[("edi.example.com", "10.9.0.3", 1)]);
    let at = Situation { names: &names, ..Situation::of_files(&[], now()) };
    let text = explain(&policy, "10.9.0.3", "yard", "tcp/1".parse().unwrap(), &at).unwrap().render();
    let heads: Vec<&str> = text.lines().filter(|l| l.starts_with("from ") || l.starts_with("to ")).collect();
    assert_eq!(
        heads,
        [
            "from  10.9.0.3  zone edi, by edi.example.com at zones.toml:5",
            "to    100::1  zone yard, by yard.example.com at zones.toml:7, for which no address is known here",
        ]
    );
    assert!(text.starts_with("edi -> yard  tcp/1: allowed"), "{text}");
}
