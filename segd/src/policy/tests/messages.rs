use super::*;
use crate::policy::{Resolved, check, default_failsafes};

/// Comes before each text of the table, so that names are defined; 9 lines.
const BASE: &str = r#"[zone.orders]
cidrs = ["10.1.0.0/16"]
[zone.fulfillment]
cidrs = ["10.2.0.0/16"]
[service.postgres]
ports = ["tcp/5432"]
[service.redis]
ports = ["tcp/6379"]

"#;

#[test]
fn each_kind_of_error() {
    let rule = |rest: &str| {
        format!(
            "[[allow]]\nid = \"r\"\nfrom = \"orders\"\nto = \"fulfillment\"\nservices = [\"postgres\"]\n{rest}"
        )
    };
    let with = |from: &str, to: &str, services: &str| {
        format!("[[allow]]\nid = \"r\"\nfrom = \"{from}\"\nto = \"{to}\"\nservices = [{services}]")
    };
    let zone = |cidrs: &str| format!("[zone.new]\ncidrs = [{cidrs}]");
    let table: Vec<(String, Vec<String>)> = vec![
        ("[zones.x]".into(), vec!["10:2: unknown table or key `zones` [did you mean `zone`?]".into()]),
        (
            "[zone.new]\ncidr = [\"10.3.0.0/16\"]".into(),
            vec![
                "10:7: zone `new` has no members: `cidrs` and `names` are missing [add `cidrs = [\"10.20.0.0/16\"]`]".into(),
                "11:1: unknown key `cidr` in [zone.new] [did you mean `cidrs`?]".into(),
            ],
        ),
        (zone(""), vec!["11:9: zone `new` has no members: `cidrs` is empty".into()]),
        (zone("10"), vec!["11:10: `cidrs` must be a list of strings, not an integer".into()]),
        (
            zone("\"10.3.0.0\""),
            vec!["11:10: `10.3.0.0` is not a CIDR [write `10.3.0.0/32` for this one address]".into()],
        ),
        (
            zone("\"10.3.0/16\""),
            vec!["11:10: `10.3.0/16` is not a CIDR [write it like `10.20.0.0/16` or `2001:db8:20::/48`]".into()],
        ),
        (
            zone("\"10.3.0.7/16\""),
            vec![
                "11:10: `10.3.0.7/16` has host bits set [write `10.3.0.0/16`, or `10.3.0.7/32` for this one address]"
                    .into(),
            ],
        ),
        (
            zone("\"::ffff:10.3.0.0/112\""),
            vec![
                "11:10: `::ffff:10.3.0.0/112` is an IPv4-mapped IPv6 prefix [write `10.3.0.0/16`: segd decides \
                 IPv4-mapped addresses as the IPv4 ones they stand for]"
                    .into(),
            ],
        ),
        (
            zone("\"127.1.0.0/16\""),
            vec![
                "11:10: `127.1.0.0/16` belongs to the built-in zone `loopback` [remove it: `loopback` is always allowed]"
                    .into(),
            ],
        ),
        (
            zone("\"224.0.0.0/4\""),
            vec![
                "11:10: `224.0.0.0/4` belongs to the built-in zone `multicast` [remove it: `multicast` is a zone of its own]"
                    .into(),
            ],
        ),
        (
            zone("\"10.1.0.0/16\""),
            vec![
                "11:10: zones `orders` and `new` both claim the prefix `10.1.0.0/16` [leave it in one zone; a longer \
                 prefix inside it may be in another]"
                    .into(),
            ],
        ),
        (
            zone("\"10.3.0.0/16\", \"10.3.0.0/16\""),
            vec![
                "11:25: zone `new` names the prefix `10.3.0.0/16` twice [leave it in one zone; a longer prefix \
                 inside it may be in another]"
                    .into(),
            ],
        ),
        (
            "[zone.new]\nnames = [\"db.example.com\", \"a b\", \"*.example.com\", \"10.1.1.1\", \"DB.example.com.\"]".into(),
            vec![
                "11:28: `a b` is not a DNS name [write it like `wms-db.example.com`]".into(),
                "11:35: `*.example.com` is not a DNS name [name each host: segd cannot ask for all of a domain]".into(),
                "11:52: `10.1.1.1` is an address, not a name [put `10.1.1.1/32` into `cidrs`]".into(),
                "11:64: zone `new` has the name `db.example.com` twice [leave it there once]".into(),
            ],
        ),
        (
            "[zone.new]\nnames = [\"db.example.com\"]\n[zone.other]\nnames = [\"db.example.com\"]".into(),
            vec!["13:10: zones `new` and `other` both have the name `db.example.com` [leave it in one zone]".into()],
        ),
        (
            "[zone.New]\ncidrs = [\"10.3.0.0/16\"]".into(),
            vec!["10:7: `New` cannot name a zone [use [a-z0-9][a-z0-9_.-]*, at most 63 characters]".into()],
        ),
        (
            "[zone.unknown]\ncidrs = [\"10.3.0.0/16\"]".into(),
            vec!["10:7: `unknown` is built in and cannot be defined [choose another name]".into()],
        ),
        (
            "[zone.new]\ncidrs = [\"10.3.0.0/16\"]\nowner = \"a\\u0007b\"".into(),
            vec!["12:9: `owner` holds the control character '\\u{7}'".into()],
        ),
        (
            format!("[zone.new]\ncidrs = [\"10.3.0.0/16\"]\nowner = \"{}\"", "ü".repeat(201)),
            vec!["12:9: `owner` has 201 characters; 200 is the most".into()],
        ),
        (
            "[service.icmp]\nports = [\"icmp\"]".into(),
            vec!["10:10: `icmp` is built in and cannot be defined [choose another name]".into()],
        ),
        ("[service.none]\nports = []".into(), vec!["11:9: service `none` has no ports: `ports` is empty".into()]),
        (
            "[service.web]\nports = [\"tpc/80\", \"tcp/90-80\"]".into(),
            vec![
                "11:10: unknown protocol `tpc` in `tpc/80` [did you mean `tcp/80`?]".into(),
                "11:20: the range `90-80` ends before it starts [write `tcp/80-90`]".into(),
            ],
        ),
        (
            with("order", "unknwon", "\"postgres\""),
            vec![
                "12:8: unknown zone or workload `order` [did you mean `orders`?]".into(),
                "13:6: unknown zone or workload `unknwon` [did you mean `unknown`?]".into(),
            ],
        ),
        (
            with("orders", "fulfillment", "\"postgre\", \"kafka\", \"tcp/0\""),
            vec![
                "14:13: unknown service `postgre` [did you mean `postgres`?]".into(),
                "14:24: unknown service `kafka` [services: `postgres`, `redis`]".into(),
                format!("14:33: port 0 of `tcp/0` is not between 1 and 65535 [{}]", crate::policy::ports::FORMS),
            ],
        ),
        (
            with("loopback", "orders", "\"redis\""),
            vec![
                "12:8: a rule cannot name `loopback` [remove the rule: what a host says to itself is always allowed]"
                    .into(),
            ],
        ),
        (with("orders", "orders", ""), vec!["14:12: the rule allows nothing: `services` is empty".into()]),
        (
            rule("expires = 2026-10-31"),
            vec!["15:11: rule `r` expired at 2026-10-31T00:00:00Z [remove the rule, or give it a later date]".into()],
        ),
        (
            rule("expires = 2026-11-01T01:00:00+02:00"),
            vec!["15:11: rule `r` expired at 2026-10-31T23:00:00Z [remove the rule, or give it a later date]".into()],
        ),
        (
            rule("expires = \"2027-01-01\""),
            vec![
                "15:11: `expires` must be a date or a date and time, not a string [write expires = 2027-01-01, \
                 without quotes]"
                    .into(),
            ],
        ),
        (
            rule("expires = 2027-01-01T00:00:00"),
            vec![
                "15:11: `expires`: a time without its offset from UTC [write it like 2027-06-30 (UTC) or \
                 2027-06-30T18:00:00+02:00]"
                    .into(),
            ],
        ),
        (rule("own = 1"), vec!["15:1: unknown key `own` in [[allow]] [did you mean `owner`?]".into()]),
        (
            "[[allow]]\nowner = \"me\"".into(),
            vec![
                "10:1: [[allow]] is missing `id` [add `id = \"a-stable-name\"`]".into(),
                "10:1: [[allow]] is missing `from` [add `from = \"ZONE\"`]".into(),
                "10:1: [[allow]] is missing `to` [add `to = \"ZONE\"`]".into(),
                "10:1: [[allow]] is missing `services` [add `services = [\"tcp/8443\"]`]".into(),
            ],
        ),
        (
            format!("{}\n{}", rule(""), rule("")),
            vec!["17:6: rule id `r` is used twice [give each rule an id of its own: counters hang on it]".into()],
        ),
        (
            "[allow]\nid = \"r\"".into(),
            vec!["10:1: `allow` must be a list of tables, not a table [begin each one with `[[allow]]`]".into()],
        ),
        (
            "[[rollout]]\nsubject = \"unknown\"\ndirection = \"in\"\nmode = \"enforced\"\ncanary = { percent = 101, hosts = [\"a b\"], peers = \"10.0.0.1/8\", ports = 1 }".into(),
            vec![
                "11:11: no host is in the built-in zone `unknown` [name it under `peers`]".into(),
                "12:13: `in` is not a valid `direction` [write one of `inbound`, `outbound`, `both`]".into(),
                "13:8: `enforced` is not a valid `mode` [write one of `monitor`, `enforce`]".into(),
                "14:22: `percent` must be from 0 to 100".into(),
                "14:36: `a b` is not the name of a host [write it as the host calls itself, `*` for any characters: \
                 `orders-db-*`]"
                    .into(),
                "14:52: `10.0.0.1/8` has host bits set [write `10.0.0.0/8`, or `10.0.0.1/32` for this one address]".into(),
                "14:66: unknown key `ports` in `canary` [valid keys: `percent`, `hosts`, `peers`]".into(),
            ],
        ),
        (
            "[[rollout]]\nmode = \"enforce\"\ncanary = {}".into(),
            vec![
                "12:10: the canary is of nothing [write `{ percent = 10 }`, `{ hosts = [\"NAME\"] }` or `{ peers = \
                 \"10.20.4.0/24\" }`]"
                    .into(),
            ],
        ),
        (
            "[[rollout]]\npeers = []\nguard = {}".into(),
            vec![
                "10:1: [[rollout]] is missing `mode` [add `mode = \"monitor\" or \"enforce\"`]".into(),
                "11:9: the rollout selects nothing: `peers` is empty".into(),
                "12:9: the guard watches nothing [add `max_denied_per_minute`, `probe` or `max_cut`]".into(),
            ],
        ),
        (
            "[[rollout]]\nmode = \"enforce\"\nguard = { max_denied_per_minute = -1, probe = \"tcp://x\", window = \"soon\" }".into(),
            vec![
                "12:35: `max_denied_per_minute` must be from 0 to 4294967294".into(),
                "12:47: `tcp://x` names no host and port [write it like `tcp://127.0.0.1:5432`]".into(),
                "12:67: `soon` is not a time that something can take [write it like `10m`, `90s` or `1h 30m`]".into(),
            ],
        ),
        (
            "[[rollout]]\nmode = \"enforce\"\nguard = { probe = [\"a\"], probe_timeout = \"10m\" }".into(),
            vec![
                "12:9: the guard's probe may take as long as the guard watches [make `probe_timeout` shorter, or \
                 `window` longer]"
                    .into(),
            ],
        ),
        (
            "[[test]]\nfrom = \"orders\"\nto = \"orders\"".into(),
            vec![
                "10:1: [[test]] tests nothing: `allow` and `deny` are both missing [add `allow = [\"tcp/8443\"]` or \
                 `deny = [\"tcp/22\"]`]"
                    .into(),
            ],
        ),
    ];
    for (text, wanted) in &table {
        let sources = Sources::from_texts([("z.toml", format!("{BASE}{text}"))]);
        let found = load(sources, now()).map(|_| ()).unwrap_err();
        let mut wanted: Vec<String> = wanted.clone();
        for line in &mut wanted {
            let (place, message) = line.split_once(": ").unwrap();
            *line = format!("z.toml:{place}: error: {message}");
        }
        assert_eq!(lines(&found), wanted, "\n{text}");
    }
}

#[test]
fn all_errors_of_all_files_in_one_run() {
    let sources = Sources::from_texts([
        ("a.toml", "[zone.orders]\ncidrs = [\"10.1.0.1/16\"]\n[zone.b\n[service.x]\nports = \"tcp/1\"\n"),
        ("b.toml", "[zone.c]\ncidrs = [\"10.3.0.0/16\"\n[[allow]]\nid = \"r\"\nfrom = \"c\"\nto = \"d\"\n"),
        ("c.toml", "[zone.orders]\ncidrs = []\n[[test]]\nfrom = \"d\"\nto = \"orders\"\nallow = [\"y\"]\n"),
    ]);
    let found = load(sources, now()).unwrap_err();
    assert_eq!(
        lines(&found),
        [
            "a.toml:2:10: error: `10.1.0.1/16` has host bits set [write `10.1.0.0/16`, or `10.1.0.1/32` for this one address]",
            "a.toml:3:8: error: unclosed table, expected `]`",
            "a.toml:5:9: error: `ports` must be a list of strings, not a string",
            "b.toml:3:1: error: missing comma between array elements, expected `,` [look for a bracket or quote before it that is not closed]",
            "c.toml:1:7: error: zone `orders` is defined twice",
            "c.toml:2:9: error: zone `orders` has no members: `cidrs` is empty",
            "c.toml:4:8: error: unknown zone or workload `d` [did you mean `c`? Or correct a.toml, b.toml first, where it may be defined]",
            "c.toml:6:10: error: unknown service `y` [did you mean `x`? Or correct a.toml, b.toml first, where it may be defined]",
        ]
    );
}

#[test]
fn rendering_shows_the_lines_and_the_other_place() {
    let sources = Sources::from_texts([
        ("a.toml", "[zone.orders]\ncidrs = [\"10.1.0.0/16\"]\n"),
        ("b.toml", "[zone.billing]\ncidrs = [\"10.1.0.0/16\", \"10.2.0.1/16\"]\n"),
    ]);
    let found = load(sources, now()).unwrap_err();
    assert_eq!(
        found.render(false),
        r#"b.toml:2:10: error: zones `orders` and `billing` both claim the prefix `10.1.0.0/16`
  |
2 | cidrs = ["10.1.0.0/16", "10.2.0.1/16"]
  |          ^^^^^^^^^^^^^
  |
 ::: a.toml:2:10
  |
2 | cidrs = ["10.1.0.0/16"]
  |          ------------- first claimed by `orders` here
  |
  = help: leave it in one zone; a longer prefix inside it may be in another

b.toml:2:25: error: `10.2.0.1/16` has host bits set
  |
2 | cidrs = ["10.1.0.0/16", "10.2.0.1/16"]
  |                         ^^^^^^^^^^^^^
  |
  = help: write `10.2.0.0/16`, or `10.2.0.1/32` for this one address

"#
    );
    assert!(found.render(true).contains("\x1b["));
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json[0]["file"], "b.toml");
    assert_eq!(json[0]["line"], 2);
    assert_eq!(json[0]["column"], 10);
    assert_eq!(json[0]["severity"], "error");
    assert_eq!(json[0]["related"]["file"], "a.toml");
}

#[test]
fn warnings_and_failing_tests() {
    let text = format!(
        r#"{BASE}[zone.lonely]
cidrs = ["10.9.0.0/16"]
[[allow]]
id = "temporary"
from = "orders"
to = "fulfillment"
services = ["tcp/5432"]
expires = 2027-01-01
[[allow]]
id = "wide"
from = "orders"
to = "fulfillment"
services = ["tcp/*"]
[[allow]]
id = "world"
from = "unknown"
to = "fulfillment"
services = ["postgres"]
[[allow]]
id = "nowhere"
from = "unknown"
to = "multicast"
services = ["postgres"]
[[test]]
from = "orders"
to = "fulfillment"
allow = ["udp/53", "udp/9", "raw", "icmp/3"]
deny = ["postgres"]
[[test]]
from = "unknown"
to = "orders"
deny = ["tcp/20-30", "udp/*", "icmp"]
"#
    );
    let policy = loaded(&text);
    assert_eq!(
        lines(&check(&policy, &default_failsafes(), &Resolved::new(), now())),
        [
            "zones.toml:7:10: warning: nothing uses service `redis` [it still labels its ports; remove it if that is not wanted]",
            "zones.toml:10:7: warning: no rule names zone `lonely` [its hosts may talk to no other host once they enforce; add [[allow]] rules]",
            "zones.toml:13:6: warning: rule `temporary` never decides: rule `wide` allows the same [remove one of them; `wide` is at zones.toml:19 and lives as long or longer]",
            "zones.toml:22:13: warning: rule `wide` allows every port: `tcp/*`",
            "zones.toml:25:8: warning: rule `world` allows from every address that no zone claims",
            "zones.toml:29:6: warning: rule `nowhere` never decides: no host is in a built-in zone",
            "zones.toml:30:8: warning: rule `nowhere` allows from every address that no zone claims",
            "zones.toml:36:10: error: test failed: `udp/53` from `orders` to `fulfillment` must be allowed, but no rule allows it inbound at the hosts of `fulfillment`",
            "zones.toml:36:20: error: test failed: `udp/9` from `orders` to `fulfillment` must be allowed, but no rule allows it outbound at the hosts of `orders`",
            "zones.toml:36:29: error: test failed: `raw` from `orders` to `fulfillment` must be allowed, but no rule allows it outbound at the hosts of `orders`",
            "zones.toml:37:9: error: test failed: `tcp/5432` from `orders` to `fulfillment` must be denied, but it is allowed: outbound by rule `wide`, inbound by rule `wide`",
            "zones.toml:41:9: error: test failed: `tcp/20-30` from `unknown` to `orders` must be denied, but it is allowed: inbound as failsafe (seen at `tcp/22`)",
            "zones.toml:41:22: error: test failed: `udp/*` from `unknown` to `orders` must be denied, but it is allowed: inbound as failsafe (seen at `udp/68`)",
        ]
        .map(|l| if l.contains("warning: rule `wide` allows every") {
            format!("{l} [name the ports that are needed]")
        } else if l.contains("every address that no zone claims") {
            format!("{l} [define a zone for the addresses that are meant]")
        } else if l.contains("no host is in") {
            format!("{l} [name a zone of your own at one end]")
        } else {
            l.to_owned()
        })
    );
}
