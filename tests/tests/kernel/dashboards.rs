//! Dashboards and alerts, tried with a real Prometheus on the agents of a lab: every expression of every panel gives
//! something, every alert fires.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use segd_tests::{Agent, Host, Lab, Prometheus};
use serde_json::Value;

use crate::support::SOON;

pub(crate) fn packaging(directory: &str, extension: &str) -> Vec<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../segd/packaging").join(directory);
    let files = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Rules and expressions whose times (ranges, offsets, `for`) are a sixtieth: minutes become seconds.
pub(crate) fn faster(text: &str) -> String {
    let mut fast = String::new();
    let mut rest = text;
    while let Some((at, before)) = ["[", "offset ", "for: "]
        .iter()
        .filter_map(|before| rest.find(before).map(|at| (at + before.len(), before)))
        .min()
    {
        fast.push_str(&rest[..at]);
        rest = &rest[at..];
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match rest[digits..].chars().next() {
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => 86400,
            _ => continue,
        };
        assert!(digits > 0 || *before == "[", "{before}{rest}");
        let Ok(number) = rest[..digits].parse::<u64>() else { continue };
        fast.push_str(&format!("{}s", number * seconds / 60));
        rest = &rest[digits + 1..];
    }
    fast + rest
}

/// Every expression of a dashboard, with its panel's title, as Prometheus gets it from Grafana.
pub(crate) fn expressions(dashboard: &Path) -> Vec<(String, String)> {
    let name = dashboard.file_stem().unwrap().to_string_lossy().into_owned();
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(dashboard).unwrap()).unwrap();
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = format!("{name}: {}", panel["title"].as_str().unwrap());
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        assert!(["row", "text"].contains(&panel["type"].as_str().unwrap()) || !targets.is_empty(), "{title}");
        for target in targets {
            let expr = target["expr"].as_str().unwrap();
            let expr =
                expr.replace("$__rate_interval", "4m").replace("$instance", ".*").replace("$direction", ".*");
            assert!(!expr.contains('$'), "{title}: {expr}");
            found.push((title.clone(), faster(&expr)));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["definition"].as_str() {
            let (metric, _) = query.strip_prefix("label_values(").unwrap().split_once(',').unwrap();
            found.push((format!("{name}: {}", variable["name"]), metric.to_owned()));
        }
    }
    found
}

#[test]
fn times_become_faster() {
    let text = "for: 2m\nrate(x:rate5m[5m]) offset 10m + y[1d] and z{a=\"b\"}";
    assert_eq!(faster(text), "for: 2s\nrate(x:rate5m[5s]) offset 10s + y[1440s] and z{a=\"b\"}");
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_pass() {
    for (what, files) in
        [("check", packaging("prometheus", "yml")), ("test", packaging("prometheus/tests", "yml"))]
    {
        let output = Command::new("promtool").args([what, "rules"]).args(&files).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
}

/// Three hosts with agents, one with Prometheus, and what they are to say.
struct Estate {
    zones: String,
    orders: Host,
    transport: Host,
    reporting: Host,
    admin: Host,
}

impl Estate {
    fn new(lab: &Lab) -> Self {
        let [orders, transport, reporting, admin] =
            ["orders", "transport", "reporting", "admin"].map(|name| lab.host(name).unwrap());
        let zone = |host: &Host| format!("[zone.{}]\ncidrs = [\"{}\"]\n", host.name(), host.v4_prefix());
        let rule = |id: &str, from: &str, to: &str, port: u16, more: &str| {
            format!(
                "[[allow]]\nid = \"{id}\"\nfrom = \"{from}\"\nto = \"{to}\"\nservices = [\"tcp/{port}\"]\nowner = \"team\"\n{more}"
            )
        };
        let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(48);
        let zones = [&orders, &transport, &reporting, &admin].map(zone).concat()
            + &rule("database", "transport", "orders", 5432, &format!("expires = {soon}\n"))
            + &rule("never-used", "reporting", "orders", 9999, "")
            + &["orders", "transport", "reporting"]
                .map(|to| rule(&format!("metrics-{to}"), "admin", to, 9464, ""))
                .concat();
        Self { zones, orders, transport, reporting, admin }
    }

    /// An agent that shows its metrics to Prometheus, with a sink that cannot work.
    fn agent(&self, host: &Host) -> Agent {
        let builder = host.agent();
        let broken = host.directory().join("broken");
        fs::create_dir(&broken).unwrap();
        let config = format!(
            "[host]\nname = \"{}\"\n[policy]\ndir = \"{}\"\n[metrics]\nlisten = \"0.0.0.0:9464\"\n\
             [[sink]]\ntype = \"file\"\npath = \"{}\"\n\
             [[sink]]\ntype = \"file\"\npath = \"{}\"\nqueue = 100\nrotate = {{ size = \"4KiB\", keep = 1 }}\n",
            host.name(),
            builder.zone_dir().display(),
            builder.flow_log().display(),
            broken.join("flows.jsonl").display(),
        );
        builder.zones(&self.zones).config(&config).start().unwrap()
    }
}

/// What has been seen to give something, and what has not yet.
struct Tried<'a> {
    prometheus: &'a Prometheus,
    expressions: Vec<(String, String)>,
    alerts: BTreeSet<String>,
}

impl Tried<'_> {
    fn look(&mut self) {
        let firing = self.prometheus.firing().unwrap();
        self.alerts.retain(|alert| !firing.contains(alert));
        self.expressions.retain(|(title, expression)| {
            let found =
                self.prometheus.query(expression).unwrap_or_else(|error| panic!("{title}: {error:#}"));
            found.is_empty()
        });
    }

    /// Goes on until these alerts have fired.
    fn until(&mut self, fired: &[&str], mut traffic: impl FnMut()) {
        let deadline = Instant::now() + 6 * SOON;
        while fired.iter().any(|alert| self.alerts.contains(*alert)) {
            assert!(Instant::now() < deadline, "of {fired:?}, not fired: {:?}", self.alerts);
            traffic();
            self.look();
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

#[test]
fn every_panel_shows_something_and_every_alert_fires() {
    let Some(lab) = Lab::or_skip("dash") else { return };
    let estate = Estate::new(&lab);
    let Estate { orders, transport, reporting, admin, .. } = &estate;
    let servers = [5432, 6379].map(|port| orders.tcp_server(port).unwrap());
    let (_at_orders, at_transport) = (estate.agent(orders), estate.agent(transport));
    let mut at_reporting = estate.agent(reporting);
    let rules: Vec<_> =
        packaging("prometheus", "yml").iter().map(|f| faster(&fs::read_to_string(f).unwrap())).collect();
    let places = [orders, transport, reporting].map(|host| (host.name(), host.v4_port(9464)));
    let prometheus = Prometheus::start(admin, 9090, &places, &rules).unwrap();
    let mut tried = Tried {
        prometheus: &prometheus,
        expressions: packaging("grafana", "json").iter().flat_map(|file| expressions(file)).collect(),
        alerts: alerts(&rules),
    };
    assert!(tried.expressions.len() > 40 && tried.alerts.len() >= 10, "{:?}", tried.alerts);
    let connect = |from: &Host, to: SocketAddr| drop(from.tcp_connect(to).unwrap());
    let traffic = || {
        connect(transport, orders.v4_port(5432));
        connect(transport, orders.v4_port(6379));
        connect(reporting, orders.v4_port(6379));
    };

    // Watching: what flows is counted, and a sink in whose directory's place there is a file fails.
    let broken = transport.directory().join("broken");
    fs::remove_dir_all(&broken).unwrap();
    fs::write(&broken, "").unwrap();
    tried.until(&["SegdRuleExpiring", "SegdSinkDown", "SegdLostEvents"], || (0..10).for_each(|_| traffic()));
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(12) {
        traffic();
        tried.look();
    }

    // Enforcing, to be confirmed and guarded, with an exception: what flowed is denied.
    let guarded = ["--confirm", "30m", "--guard-denied", "100000", "--guard-window", "30m"];
    at_transport.mode(&[&["enforce"], &guarded[..]].concat()).unwrap();
    let exception = [
        "exception",
        "add",
        "--from",
        "transport",
        "--to",
        "orders",
        "--services",
        "tcp/7777",
        "--ttl",
        "2h",
    ];
    at_transport.json(&[&exception[..], &["--owner", "on-call", "--reason", "INC-7"]].concat()).unwrap();
    tried.until(&["SegdDeniesWhatUsedToFlow", "SegdConfirmPending"], traffic);

    // A guard that trips, and files that are held back after it.
    at_reporting.mode(&["enforce", "--guard-denied", "1", "--guard-window", "10m"]).unwrap();
    tried.until(&["SegdGuardRolledBack"], traffic);
    at_reporting.json(&["apply", "--force"]).unwrap();
    at_reporting.write_zones(&format!("{}[zone.new]\ncidrs = [\"192.0.2.0/24\"]\n", estate.zones)).unwrap();
    at_reporting.json(&["apply", "--force"]).unwrap();
    at_reporting.json(&["rollback"]).unwrap();
    tried.until(&["SegdPolicyHeld"], traffic);

    // A hook that somebody takes away while enforcing, and an agent that is killed.
    at_reporting.mode(&["enforce"]).unwrap();
    let version = format!("v{}", segd_common::schema::VERSION);
    fs::remove_file(reporting.bpffs().join(version).join("links/sendmsg6")).unwrap();
    tried.until(&["SegdTampering", "SegdEnforcementWithoutProof"], traffic);
    at_reporting.kill(Signal::SIGKILL).unwrap();
    tried.until(&["SegdAgentDown"], traffic);

    assert_eq!(tried.alerts, BTreeSet::new(), "alerts that did not fire");
    assert!(tried.expressions.is_empty(), "expressions without data: {:#?}", tried.expressions);
    drop(servers);
}

fn alerts(rules: &[String]) -> BTreeSet<String> {
    let lines = rules.iter().flat_map(|text| text.lines());
    lines.filter_map(|line| line.trim().strip_prefix("- alert: ").map(str::to_owned)).collect()
}
