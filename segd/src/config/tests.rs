use super::*;
use crate::telemetry::Filter;
use crate::telemetry::sink::Detail;
use segd_common::traffic::Direction;

fn filter(parts: &[(&str, &str)]) -> Filter {
    let mut filter = Filter::default();
    parts.iter().for_each(|(key, value)| filter.set(key, value).unwrap());
    filter
}

fn facility(word: &str) -> Facility {
    Facility::words().into_iter().find(|(name, _)| *name == word).unwrap().1
}

/// What the README shows; every key there is.
const FULL: &str = r#"
[host]
name = "wms-app-1"
zone = "fulfillment"
labels = { site = "rotterdam" }

[policy]
dir = "/etc/segd/zones"

[enforcement]
on_revoke = "drop"
max_exception_ttl = "4h"

[[failsafe]]
direction = "inbound"
ports = ["tcp/22"]
cidrs = ["10.0.9.0/24"]

[metrics]
listen = "[::1]:9464"

[[sink]]
type = "file"
path = "/var/log/segd/flows.jsonl"
verdicts = ["denied", "audited"]
rotate = { size = "64MiB", age = "24h", keep = 3 }

[[sink]]
type = "stdout"

[[sink]]
type = "journald"
detail = "summary"
window = "5m"

[[sink]]
type = "syslog"
name = "siem"
address = "tcp://logs.example.com:6514"
facility = "local4"
filter = { verdict = ["denied"], port = 5432, to = "orders" }
queue = 1000

[[sink]]
type = "syslog"

[control]
group = "wheel"

[names]
servers = ["10.0.0.53", "127.0.0.1:5353", "[2001:db8::53]:53"]
min_ttl = "10s"
max_ttl = "2h"
timeout = "3s"

[history]
enabled = false
days = 90
size = "1GiB"
"#;

#[test]
fn every_key() {
    let config = parse("segd.toml", FULL).unwrap();
    let window = Duration::from_secs(300);
    let rotate = Rotate { size: 64 << 20, age: Some(Duration::from_secs(86_400)), keep: 3 };
    assert_eq!(
        config,
        Config {
            host: HostConfig {
                name: Some("wms-app-1".into()),
                zone: Some("fulfillment".into()),
                labels: [("site".into(), "rotterdam".into())].into(),
            },
            policy_dir: "/etc/segd/zones".into(),
            failsafes: vec![Failsafe {
                direction: Direction::Inbound,
                ports: vec!["tcp/22".parse().unwrap()],
                cidrs: vec!["10.0.9.0/24".parse().unwrap()],
            }],
            metrics_listen: "[::1]:9464".parse().unwrap(),
            sinks: vec![
                Sink {
                    options: Options {
                        filter: filter(&[("verdict", "denied,audited")]),
                        ..Options::named("/var/log/segd/flows.jsonl")
                    },
                    target: SinkTarget::File { path: "/var/log/segd/flows.jsonl".into(), rotate },
                },
                Sink { options: Options::named("stdout"), target: SinkTarget::Stdout },
                Sink {
                    options: Options { detail: Detail::Summary { window }, ..Options::named("journald") },
                    target: SinkTarget::Journald { socket: "/run/systemd/journal/socket".into() },
                },
                Sink {
                    options: Options {
                        filter: filter(&[("verdict", "denied"), ("port", "5432"), ("to", "orders")]),
                        queue: 1000,
                        ..Options::named("siem")
                    },
                    target: SinkTarget::Syslog {
                        address: "tcp://logs.example.com:6514".parse().unwrap(),
                        facility: facility("local4"),
                    },
                },
                Sink {
                    options: Options::named("unix:/dev/log"),
                    target: SinkTarget::Syslog {
                        address: Address::Unix("/dev/log".into()),
                        facility: facility("daemon"),
                    },
                },
            ],
            control_group: "wheel".into(),
            on_revoke: OnRevoke::Drop,
            max_exception_ttl: Duration::from_secs(4 * 3600),
            names: NamesConfig {
                servers: ["10.0.0.53:53", "127.0.0.1:5353", "[2001:db8::53]:53"]
                    .map(|text| text.parse().unwrap())
                    .into(),
                min_ttl: Duration::from_secs(10),
                max_ttl: Duration::from_secs(7200),
                timeout: Duration::from_secs(3),
            },
            history: HistoryConfig { enabled: false, days: 90, size: 1 << 30 },
        }
    );
}

#[test]
fn an_empty_file_means_the_defaults() {
    let config = parse("segd.toml", "").unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.metrics_listen.to_string(), "127.0.0.1:9464");
    assert_eq!(config.failsafes.len(), 2);
}

#[test]
fn a_named_file_must_be_there() {
    let error = read(Some(Path::new("/nonexistent/segd.toml"))).unwrap_err().to_string();
    assert_eq!(error, "cannot read /nonexistent/segd.toml: No such file or directory (os error 2)");
}

#[test]
fn what_happens_to_revoked_flows() {
    let words = [("reset", OnRevoke::Reset), ("drop", OnRevoke::Drop), ("keep", OnRevoke::Keep)];
    for (word, meaning) in words {
        let config = parse("segd.toml", &format!("[enforcement]\non_revoke = \"{word}\"\n")).unwrap();
        assert_eq!(config.on_revoke, meaning, "{word}");
    }
    assert_eq!(Config::default().on_revoke, OnRevoke::Reset);
}

#[test]
fn all_errors_at_once() {
    let text = r#"
[hots]
[host]
name = 3
[enforcement]
on_revoke = "cut"
max_exception_ttl = "soon"
[[failsafe]]
ports = ["tcp/1-2000", "raw"]
cidrs = ["10.0.9.1/24"]
direction = "in"
[[failsafe]]
direction = "inbound"
ports = ["tcp/1-2000"]
cidrs = ["10.0.9.0/24"]
[metrics]
listen = "9464"
[[sink]]
type = "file"
verdicts = ["refused"]
rotate = { size = "64mb", age = "soon", keep = -1, keeep = 3 }
[[sink]]
type = "stdout"
path = "/tmp/x"
[names]
servers = ["dns.example.com"]
min_ttl = "2h"
timeout = "10m"
ttl = "1s"
[history]
enabled = "no"
days = 0
size = "1MiB"
keep = 3
"#;
    let found = parse("segd.toml", text).unwrap_err();
    let lines: Vec<String> =
        found.items().iter().map(|d| format!("{}:{}: {}", d.line, d.column, d.message)).collect();
    assert_eq!(
        lines,
        [
            "2:2: unknown table or key `hots`",
            "4:8: `name` must be a string, not an integer",
            "6:13: `cut` is not a valid `on_revoke`",
            "7:21: `soon` is not a valid `max_exception_ttl`",
            "9:24: `raw` cannot be a failsafe",
            "10:10: `10.0.9.1/24` has host bits set",
            "11:13: `in` is not a valid `direction`",
            "12:1: failsafe entries with CIDRs name 2000 ports in all; 1024 is the most",
            "17:10: `9464` is not an address and port",
            "18:1: [[sink]] is missing `path`",
            "20:13: unknown verdict `refused`",
            "21:19: `64mb` is not a valid `size`",
            "21:33: `soon` is not a valid `age`",
            "21:48: `keep` must be from 0 to 10000",
            "21:52: unknown key `keeep` in [rotate]",
            "24:8: `path` has no meaning for a sink of type `stdout`",
            "26:12: `dns.example.com` is not an address, or an address and port",
            "27:11: `min_ttl` is more than `max_ttl`",
            "28:11: `10m` is not a valid `timeout`",
            "29:1: unknown key `ttl` in [names]",
            "31:11: `enabled` must be `true` or `false`, not a string",
            "32:8: `days` must be from 1 to 3650",
            "33:8: `1MiB` is not a valid `size`",
            "34:1: unknown key `keep` in [history]",
        ]
    );
}

#[test]
fn sinks_at_fault() {
    let text = r#"
[[sink]]
name = "a"
type = "jornald"
detail = "sumary"
[[sink]]
type = "syslog"
address = "tls://logs.example.com"
facility = "local8"
queue = 0
[[sink]]
type = "journald"
name = "wms logs"
window = "1m"
address = "udp://10.0.0.5"
filter = { prot = "tcp", port = "70000", from = { zone = "orders" } }
[[sink]]
type = "syslog"
address = "udp://10.0.0.5"
verdicts = ["denied"]
filter = { verdict = "audited" }
[[sink]]
type = "syslog"
address = "udp://10.0.0.5:514"
detail = "summary"
window = "2h"
[[sink]]
type = "file"
path = "/var/log/flows"
[[sink]]
type = "file"
path = "/var/log/flows"
name = "again"
rotate = 3
[[sink]]
type = "stdout"
name = "again"
queue = "many"
"#;
    // Without the words that a filter takes, which are its own tests' matter.
    let what = |message: &str| {
        message.split(": the filters").next().and_then(|m| m.split("; ex").next()).map(str::to_owned)
    };
    let what = |message: &str| what(message).unwrap();
    let found = parse("segd.toml", text).unwrap_err();
    let lines: Vec<String> =
        found.items().iter().map(|d| format!("{}:{}: {}", d.line, d.column, what(&d.message))).collect();
    assert_eq!(
        lines,
        [
            "4:8: `jornald` is not a valid `type`",
            "5:10: `sumary` is not a valid `detail`",
            "8:11: `tls://logs.example.com` is no address of a syslog server",
            "9:12: `local8` is not a valid `facility`",
            "10:9: `queue` must be from 1 to 1000000",
            "13:8: `wms logs` is no name for a sink",
            "14:10: `window` has no meaning without `detail = \"summary\"`",
            "15:11: `address` has no meaning for a sink of type `journald`",
            "16:12: unknown filter `prot`",
            "16:33: `70000` is no port: `70000` is no number from 0 to 65535",
            "16:49: filter `from` must be a string, a number or a list of them",
            "21:12: `verdicts` says already which ones",
            "22:1: there are two sinks called `udp://10.0.0.5:514`",
            "26:10: `2h` is not a valid `window`",
            "33:8: two sinks write to /var/log/flows",
            "34:10: `rotate` must be a table, not an integer",
            "37:8: there are two sinks called `again`",
            "38:9: `queue` must be a whole number, not a string",
        ]
    );
}
