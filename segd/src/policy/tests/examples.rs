use std::path::Path;

use super::*;
use crate::policy::{check, default_failsafes, explain};

fn warehouse() -> Policy {
    example("warehouse")
}

fn example(name: &str) -> Policy {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../zones").join(name);
    load(Sources::read_dir(&dir).unwrap(), now()).unwrap_or_else(|found| panic!("{}", found.render(false)))
}

#[test]
fn the_example_estate_is_clean() {
    let policy = warehouse();
    let found = check(&policy, &default_failsafes(), now());
    assert!(found.is_empty(), "{}", found.render(false));
    assert_eq!(policy.zones.len(), 6);
    assert_eq!(policy.hash().len(), 64);
}

#[test]
fn the_demo_s_estate_is_clean() {
    let policy = example("demo");
    let found = check(&policy, &default_failsafes(), now());
    assert!(found.is_empty(), "{}", found.render(false));
    assert_eq!((policy.zones.len(), policy.rules.len()), (4, 5));
}

#[test]
fn explains_both_ends() {
    let ask = |from: &str, to: &str, port: &str| {
        let port = port.parse().unwrap();
        let mut text =
            explain(&warehouse(), from, to, port, &[], &default_failsafes(), now()).unwrap().render();
        // The directory depends on where the tests run.
        while let Some(end) = text.find("/warehouse/") {
            let start = text[..end].rfind(' ').unwrap() + 1;
            text.replace_range(start..=end + "/warehouse".len(), "");
        }
        text
    };
    assert_eq!(
        ask("transport", "10.10.3.4", "tcp/5432"),
        "\
transport -> orders  tcp/5432: denied

from  10.30.0.1  zone transport, by 10.30.0.0/16 at 10-zones.toml:17
to    10.10.3.4  zone orders, by 10.10.0.0/16 at 10-zones.toml:7

outbound, at a host of transport: audited (no-rule)
  service  postgres
  mode     monitor, by default

inbound, at a host of orders: denied (no-rule)
  service  postgres
  mode     enforce, by 40-rollout.toml:4
"
    );
    assert_eq!(
        ask("unknown", "fulfillment", "tcp/22"),
        "\
unknown -> fulfillment  tcp/22: allowed

from  192.0.2.1  zone unknown, no zone claims it
to    10.20.0.1  zone fulfillment, by 10.20.0.0/16 at 10-zones.toml:12

outbound: no host of segd is in `unknown`

inbound, at a host of fulfillment: allowed (failsafe)
  service  ssh
  mode     monitor, by default
"
    );
    assert_eq!(
        ask("fulfillment", "orders", "tcp/6432"),
        "\
fulfillment -> orders  tcp/6432: allowed

from  10.20.0.1  zone fulfillment, by 10.20.0.0/16 at 10-zones.toml:12
to    10.10.0.1  zone orders, by 10.10.0.0/16 at 10-zones.toml:7

outbound, at a host of fulfillment: allowed (rule)
  service  postgres
  rule     wms-to-orders-db at 30-rules.toml:22
  owner    orders-team@example.com
  reason   order release reads, until the WMS uses the API for them
  expires  2036-06-30T00:00:00Z
  mode     monitor, by default

inbound, at a host of orders: allowed (rule)
  service  postgres
  rule     wms-to-orders-db at 30-rules.toml:22
  owner    orders-team@example.com
  reason   order release reads, until the WMS uses the API for them
  expires  2036-06-30T00:00:00Z
  mode     enforce, by 40-rollout.toml:4
"
    );
    let hole = ask("10.30.99.5", "orders", "tcp/8443");
    assert!(hole.contains("zone partner-edi, by 10.30.99.0/28"), "{hole}");
    let own = ask("10.10.3.4", "10.10.3.4", "tcp/9");
    assert!(own.contains("outbound, at a host of orders: allowed (loopback)"), "{own}");
}

#[test]
fn explain_says_what_it_cannot_answer() {
    let policy = warehouse();
    let none = explain(&policy, "unknown", "8.8.8.8", "tcp/1".parse().unwrap(), &[], &[], now());
    assert_eq!(none.unwrap_err().to_string(), "segd runs at neither end: both are in built-in zones");
    for (from, port, wanted) in [
        ("order", "tcp/1", "`order` is neither a zone nor an IP address; did you mean `orders`?"),
        ("orders", "tcp/*", "the ports of `tcp/*` are not all decided alike; name one of them"),
    ] {
        let port = port.parse().unwrap();
        let error = explain(&policy, from, "fulfillment", port, &[], &[], now()).unwrap_err();
        assert_eq!(error.to_string(), wanted);
    }
}

#[test]
fn explains_raw_sockets() {
    let raw = |from| {
        let port = "raw".parse().unwrap();
        let answer = explain(&warehouse(), from, "orders", port, &[], &[], now()).unwrap();
        assert_eq!(answer.inbound, None);
        let end = answer.outbound.unwrap();
        (end.verdict, end.reason, end.mode, end.mode_from)
    };
    let enforced = Some("what is enforced towards admin".to_owned());
    assert_eq!(raw("partner-edi"), ("denied", "socket-type", "enforce", enforced));
    assert_eq!(raw("reporting"), ("audited", "socket-type", "monitor", None));
}
