use std::path::Path;

use super::*;
use crate::policy::model::ServiceRef;
use crate::policy::{Exception, Resolved, Situation, check, default_failsafes, explain};

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
    let found = check(&policy, &default_failsafes(), &Resolved::new(), now());
    assert!(found.is_empty(), "{}", found.render(false));
    assert_eq!((policy.zones.len(), policy.workloads.len()), (6, 2));
    assert_eq!(policy.hash().len(), 64);
}

#[test]
fn the_demo_s_estate_is_clean() {
    let policy = example("demo");
    let found = check(&policy, &default_failsafes(), &Resolved::new(), now());
    assert!(found.is_empty(), "{}", found.render(false));
    assert_eq!((policy.zones.len(), policy.rules.len()), (4, 5));
}

#[test]
fn explains_both_ends() {
    let ask = |from: &str, to: &str, port: &str| {
        let port = port.parse().unwrap();
        let failsafes = default_failsafes();
        let at = Situation { host: "wms-app-2", ..Situation::of_files(&failsafes, now()) };
        let mut text = explain(&warehouse(), from, to, port, &at).unwrap().render();
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
    assert_eq!(
        ask("inventory_bot", "fulfillment", "tcp/8444"),
        "\
inventory_bot -> fulfillment  tcp/8444: allowed

from  10.20.0.1  zone fulfillment, by 10.20.0.0/16 at 10-zones.toml:12
      workload inventory_bot at 15-workloads.toml:4: unit inventory-bot.service; has only the rules that name it \
(inherit = false); until 2036-03-31T00:00:00Z
to    10.20.0.1  zone fulfillment, by 10.20.0.0/16 at 10-zones.toml:12

outbound, at workload inventory_bot of fulfillment: allowed (rule)
  service  wms-api
  rule     bot-to-wms-api at 30-rules.toml:149
  owner    automation-team@example.com
  reason   reads stock and proposes moves
  expires  2036-03-31T00:00:00Z
  mode     enforce, by 40-rollout.toml:18

inbound, at a host of fulfillment: allowed (rule)
  service  wms-api
  rule     wms-internal at 30-rules.toml:39
  owner    wms-platform@example.com
  reason   application servers, pick stations and label printers
  mode     monitor, by default
  note     the other side is seen as its zone here: what is allowed it, all of fulfillment is allowed
"
    );
    let canary = ask("10.20.0.9", "reporting", "tcp/9");
    assert!(
        canary.contains(
            "\n  canary   host wms-app-2 is not in the canary of 40-rollout.toml:24, enforce: its bucket"
        ),
        "{canary}"
    );
    let hole = ask("10.30.99.5", "orders", "tcp/8443");
    assert!(hole.contains("zone partner-edi, by 10.30.99.0/28"), "{hole}");
    let own = ask("10.10.3.4", "10.10.3.4", "tcp/9");
    assert!(own.contains("outbound, at a host of orders: allowed (loopback)"), "{own}");
}

#[test]
fn explain_says_what_it_cannot_answer() {
    let policy = warehouse();
    let none =
        explain(&policy, "unknown", "8.8.8.8", "tcp/1".parse().unwrap(), &Situation::of_files(&[], now()));
    assert_eq!(none.unwrap_err().to_string(), "segd runs at neither end: both are in built-in zones");
    for (from, port, wanted) in [
        ("order", "tcp/1", "`order` is neither a zone, a workload nor an IP address; did you mean `orders`?"),
        ("orders", "tcp/*", "the ports of `tcp/*` are not all decided alike; name one of them"),
    ] {
        let port = port.parse().unwrap();
        let error =
            explain(&policy, from, "fulfillment", port, &Situation::of_files(&[], now())).unwrap_err();
        assert_eq!(error.to_string(), wanted);
    }
}

#[test]
fn explains_raw_sockets() {
    let raw = |from| {
        let port = "raw".parse().unwrap();
        let answer = explain(&warehouse(), from, "orders", port, &Situation::of_files(&[], now())).unwrap();
        assert_eq!(answer.inbound, None);
        let end = answer.outbound.unwrap();
        (end.verdict, end.reason, end.mode, end.mode_from)
    };
    let enforced = Some("what is enforced towards admin".to_owned());
    assert_eq!(raw("partner-edi"), ("denied", "socket-type", "enforce", enforced));
    assert_eq!(raw("reporting"), ("audited", "socket-type", "monitor", None));
}

#[test]
fn explain_shows_exceptions() {
    let exceptions = [Exception {
        id: "7".into(),
        from: "reporting".into(),
        to: "transport".into(),
        services: vec![ServiceRef::from("tcp/9".to_owned())],
        owner: "on-call".into(),
        reason: "incident 7".into(),
        created: now(),
        expires: "2026-11-01T04:00:00Z".parse().unwrap(),
        created_by: 1000,
    }];
    let at = Situation { exceptions: &exceptions, ..Situation::of_files(&[], now()) };
    let said = explain(&warehouse(), "reporting", "transport", "tcp/9".parse().unwrap(), &at).unwrap();
    assert_eq!(said.verdict, "allowed");
    let shown = "  rule     exception/7, made at 2026-11-01T00:00:00Z by uid 1000\n  owner    on-call\n  \
                 reason   incident 7\n  expires  2026-11-01T04:00:00Z\n";
    assert_eq!(said.render().matches(shown).count(), 2, "{}", said.render());
    let json = serde_json::to_value(&said).unwrap();
    assert_eq!(json["inbound"]["rule"]["id"], "exception/7");
    assert_eq!(json["inbound"]["rule"]["created_by"], 1000);
}
