//! The longest prefix decides: a host of one zone inside another's range, and a hole in a zone.

use std::net::IpAddr;

use crate::support::{ENFORCE, Pair, record};

#[test]
fn a_host_and_a_hole_inside_a_zone() {
    let Some(pair) = Pair::new("prefix") else { return };
    let addresses = ["10.200.1.1", "10.200.1.2", "10.200.2.1", "2001:db8:200::1", "2001:db8:200::2"];
    for address in addresses {
        pair.orders.add_address(address.parse::<IpAddr>().unwrap()).unwrap();
    }
    let zones = format!(
        "[zone.wide]\ncidrs = [\"10.200.0.0/16\", \"2001:db8:200::/48\"]\n\
         [zone.single]\ncidrs = [\"10.200.1.2/32\", \"2001:db8:200::2/128\"]\n\
         [zone.hole]\ncidrs = [\"10.200.2.0/24\"]\n\
         [[allow]]\nid = \"to-wide\"\nfrom = \"transport\"\nto = \"wide\"\nservices = [\"tcp/80\"]\n\
         [[allow]]\nid = \"to-single\"\nfrom = \"transport\"\nto = \"single\"\nservices = [\"tcp/81\"]\n{ENFORCE}"
    );
    let agent = pair.agent(&pair.transport, &zones);
    let _servers = [80, 81].map(|port| pair.orders.tcp_server(port).unwrap());
    // Address, zone, and whether ports 80 and 81 are allowed there.
    let table = [
        ("10.200.1.1", "wide", [true, false]),
        ("10.200.1.2", "single", [false, true]),
        ("10.200.2.1", "hole", [false, false]),
        ("2001:db8:200::1", "wide", [true, false]),
        ("2001:db8:200::2", "single", [false, true]),
    ];
    for (address, zone, allowed) in table {
        for (port, allowed) in [80, 81].into_iter().zip(allowed) {
            let to = (address.parse::<IpAddr>().unwrap(), port).into();
            let outcome = pair.transport.tcp_connect(to).unwrap();
            assert_eq!(outcome.errno(), (!allowed).then_some("EPERM"), "{to}: {outcome:?}");
            let verdict = if allowed { "allowed" } else { "denied" };
            let port = port.to_string();
            let facts =
                [("dst.ip", address), ("dst.port", port.as_str()), ("dst.zone", zone), ("verdict", verdict)];
            record(&agent, &facts);
        }
    }
}

#[test]
fn large_tables_follow_small_changes_and_their_way_back() {
    let Some(pair) = Pair::new("large") else { return };
    let addresses = ["10.200.1.1", "10.200.2.1"];
    for address in addresses {
        pair.orders.add_address(address.parse::<IpAddr>().unwrap()).unwrap();
    }
    // Enough hosts and enough prefixes for tables that are changed by what has changed.
    let many = (0..5000).map(|n| {
        let (a, b) = (n / 64, n % 64 * 4);
        format!("\"172.20.{a}.{b}/32\", \"172.20.{a}.{}/31\"", b + 2)
    });
    let many = many.collect::<Vec<_>>().join(",");
    let zones = |more: &[&str]| {
        let more: String = more.iter().map(|cidr| format!(",\"{cidr}\"")).collect();
        format!(
            "[zone.wide]\ncidrs = [\"10.200.0.0/16\"]\n[zone.many]\ncidrs = [{many}{more}]\n\
             [[allow]]\nid = \"r\"\nfrom = \"transport\"\nto = \"many\"\nservices = [\"tcp/80\"]\n{ENFORCE}"
        )
    };
    let agent = pair.agent(&pair.transport, &zones(&[]));
    let _server = pair.orders.tcp_server(80).unwrap();
    let allowed = || {
        addresses.map(|address| {
            let to = (address.parse::<IpAddr>().unwrap(), 80).into();
            pair.transport.tcp_connect(to).unwrap().errno().is_none()
        })
    };
    assert_eq!(allowed(), [false, false]);
    let apply = |more: &[&str], arguments: &[&str]| {
        agent.write_zones(&pair.zones(&zones(more))).unwrap();
        let applied = agent.segd(&[&["apply", "--force"], arguments].concat()).unwrap();
        assert!(applied.status.success(), "{}", applied.stderr);
    };
    for (more, wanted) in [
        (&["10.200.1.1/32"][..], [true, false]),
        (&["10.200.2.0/24"], [false, true]),
        (&["10.200.1.0/24", "10.200.2.1/32"], [true, true]),
        (&["10.200.2.1/32"], [false, true]),
        (&[], [false, false]),
    ] {
        apply(more, &[]);
        assert_eq!(allowed(), wanted, "{more:?}");
    }
    // Three different ones at a time, of which two are in the kernel's slots.
    apply(&["10.200.1.1/32"], &["--confirm", "1h"]);
    assert_eq!(allowed(), [true, false]);
    apply(&["10.200.2.1/32"], &["--confirm", "1h"]);
    assert_eq!(allowed(), [false, true]);
    assert!(agent.segd(&["rollback"]).unwrap().status.success());
    assert_eq!(allowed(), [false, false]);
    apply(&["10.200.1.1/32", "10.200.2.1/32"], &["--confirm", "1h"]);
    assert!(agent.segd(&["confirm"]).unwrap().status.success());
    apply(&["10.200.1.1/32"], &[]);
    assert_eq!(allowed(), [true, false]);
}
