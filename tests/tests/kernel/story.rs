//! From a flat network to enforced zones, by what segd itself saw: real clients and servers run, `learn` writes the
//! policy, `whatif` finds nothing that it breaks, it is enforced, and nothing breaks; then a client that nobody listed
//! is denied, and named wherever one would look.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use segd_tests::{Agent, Host, Lab, Prometheus, Server, segd};
use serde_json::Value;

use crate::dashboards::packaging;
use crate::support::{ENFORCE, record};

/// How long the traffic runs before its policy is learned, unless `SEGD_STORY_SECONDS` says otherwise.
const TRAFFIC: Duration = Duration::from_secs(15);

/// A real client: who runs what towards whom.
type Client<'a> = (&'a Host, Vec<String>);

struct Estate {
    hosts: [Host; 4],
    _servers: [Server; 3],
    _lab: Lab,
}

impl Estate {
    fn new(lab: Lab) -> Self {
        // In the order in which the lab gives them the addresses of zones/demo.
        let hosts = ["orders", "fulfillment", "transport", "partner"].map(|name| lab.host(name).unwrap());
        let [orders, fulfillment, transport, _] = &hosts;
        let servers = [
            Server::postgres(orders, 5432).unwrap(),
            Server::redis(fulfillment, 6379).unwrap(),
            Server::nginx(transport, 8080, "freight").unwrap(),
        ];
        Self { hosts, _servers: servers, _lab: lab }
    }

    /// What the business does all day.
    fn business(&self) -> Vec<Client<'_>> {
        let [orders, fulfillment, transport, partner] = &self.hosts;
        let (database, stock, freight) = (orders.v4(), fulfillment.v4(), transport.v4());
        let psql = format!("psql -X -At -h {database} -U postgres postgres -c select\u{a0}1");
        let redis = format!("redis-cli -h {stock} ping");
        let curl = format!("curl -sf -m 2 http://{freight}:8080/");
        let words = |line: &str| line.split(' ').map(|word| word.replace('\u{a0}', " ")).collect();
        vec![
            (fulfillment, words(&psql)),
            (orders, words(&redis)),
            (orders, words(&curl)),
            (fulfillment, words(&curl)),
            (partner, words(&curl)),
        ]
    }

    fn agents(&self, zones: &str) -> Vec<Agent> {
        let config = |host: &Host| {
            let builder = host.agent();
            format!(
                "[host]\nname = \"{}\"\n[policy]\ndir = \"{}\"\n[metrics]\nlisten = \"0.0.0.0:9464\"\n\
                 [[sink]]\ntype = \"file\"\npath = \"{}\"\n[[failsafe]]\ndirection = \"inbound\"\nports = [\"tcp/9464\"]\n",
                host.name(),
                builder.zone_dir().display(),
                builder.flow_log().display(),
            )
        };
        self.hosts.iter().map(|h| h.agent().zones(zones).config(&config(h)).start().unwrap()).collect()
    }
}

fn works((from, words): &Client<'_>) -> bool {
    let mut command = from.command(&words[0]).unwrap();
    command.args(&words[1..]).env("PGCONNECT_TIMEOUT", "2");
    from.run(command).unwrap().status.success()
}

/// `segd` on log files, which needs no agent.
fn on_logs(words: &[&str], logs: &[PathBuf]) -> Output {
    let mut command = std::process::Command::new(segd().unwrap());
    command.args(words).arg("--input").args(logs).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Waits until every log has the end of all that was begun.
fn settle(agents: &[Agent]) {
    for agent in agents {
        let open = |agent: &Agent| {
            let flows = agent.flows().unwrap();
            let count = |event: &str| flows.iter().filter(|f| f["event"] == event).count();
            count("open") > 0 && count("open") == count("close")
        };
        segd_tests::wait_for("all flows to end", crate::support::SOON, || open(agent).then_some(())).unwrap();
    }
}

#[test]
fn learned_from_traffic_enforced_without_harm_and_a_stranger_is_denied() {
    let Some(lab) = Lab::or_skip("story") else { return };
    let estate = Estate::new(lab);
    let zones = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../zones/demo/10-zones.toml"))
        .unwrap();
    let agents = estate.agents(&zones);
    let business = estate.business();
    let time = std::env::var("SEGD_STORY_SECONDS").ok().and_then(|s| s.parse().ok());
    let (begun, time) = (Instant::now(), time.map_or(TRAFFIC, Duration::from_secs));
    while begun.elapsed() < time {
        assert!(business.iter().all(works), "nothing is denied while segd watches");
    }
    settle(&agents);
    let logs: Vec<PathBuf> = agents.iter().map(|agent| agent.builder().flow_log()).collect();

    // What is learned is sound, and enforcing it breaks nothing.
    let dir = estate.hosts[0].directory().join("learned");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("10-zones.toml"), format!("{zones}{ENFORCE}")).unwrap();
    let present = dir.to_str().unwrap();
    let learned = on_logs(&["learn", "--zones", present], &logs);
    assert!(learned.status.success(), "{}", text(&learned));
    fs::write(dir.join("20-learned.toml"), &learned.stdout).unwrap();
    let check = std::process::Command::new(segd().unwrap()).args(["check", present]).output().unwrap();
    assert!(check.status.success(), "{}\n{}", text(&check), text(&learned));
    let whatif = on_logs(&["whatif", present], &logs);
    assert_eq!(whatif.status.code(), Some(0), "{}", text(&whatif));

    for agent in &agents {
        let policy = fs::read_to_string(dir.join("20-learned.toml")).unwrap();
        agent.write_zones(&format!("{zones}{ENFORCE}{policy}")).unwrap();
        agent.json(&["apply"]).unwrap();
    }
    for _ in 0..3 {
        for client in &business {
            assert!(works(client), "{:?} from {}", client.1, client.0.name());
        }
    }
    let denied = |agent: &Agent| agent.metrics().unwrap().sum("segd_flows_total", &[("verdict", "denied")]);
    assert_eq!(agents.iter().map(denied).sum::<f64>(), 0.0);

    // A client that nobody listed: the partner reaches for the database.
    let [orders, .., partner] = &estate.hosts;
    let psql = format!("psql -X -h {} -U postgres postgres -c select", orders.v4());
    let prometheus = watch(&estate);
    assert!(!works(&(partner, psql.split(' ').map(str::to_owned).collect())));
    let at_partner = &agents[3];
    let told = record(at_partner, &[("event", "deny"), ("dst.port", "5432")]);
    assert_eq!(
        (&told["src"]["zone"], &told["dst"]["zone"]),
        (&"partner".into(), &"orders".into()),
        "{told:#}"
    );
    assert_eq!(told["process"]["comm"], "psql");

    let flows = at_partner.segd(&["flows", "--verdict", "denied"]).unwrap().stdout;
    assert!(flows.contains("partner -> orders") && flows.contains("psql"), "{flows}");
    let map = on_logs(&["map", "--format", "json"], &logs);
    let map: Value = serde_json::from_slice(&map.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&map)));
    assert!(denied_edge(&map).contains("psql"), "{map:#}");
    let panels = crate::dashboards::expressions(
        packaging("grafana", "json").iter().find(|f| f.ends_with("segd-on-call.json")).unwrap(),
    );
    let (_, now) = panels.iter().find(|(title, _)| title.ends_with(": Denied now")).unwrap();
    let shown = segd_tests::wait_for("the dashboard to show it", 3 * crate::support::SOON, || {
        let shown = prometheus.query(now).unwrap();
        shown
            .into_iter()
            .find(|s| s["metric"]["src_zone"] == "partner" && s["metric"]["dst_zone"] == "orders")
    });
    assert_eq!(shown.unwrap()["metric"]["instance"], "partner");
}

/// A Prometheus beside the partner's agent.
fn watch(estate: &Estate) -> Prometheus {
    let [.., partner] = &estate.hosts;
    let rules: Vec<_> = packaging("prometheus", "yml")
        .iter()
        .map(|file| crate::dashboards::faster(&fs::read_to_string(file).unwrap()))
        .collect();
    let prometheus =
        Prometheus::start(partner, 9090, &[("partner", ([127, 0, 0, 1], 9464).into())], &rules).unwrap();
    // A counter that is new counts only where the host was scraped before.
    segd_tests::wait_for("some scrapes", 3 * crate::support::SOON, || {
        let scrapes = prometheus.query("count_over_time(segd_build_info[20s]) > 8").unwrap();
        (!scrapes.is_empty()).then_some(())
    })
    .unwrap();
    prometheus
}

/// The one denied edge from the partner to orders, as text.
fn denied_edge(map: &Value) -> String {
    let edges = map["edges"].as_array().unwrap();
    let mut found = edges
        .iter()
        .filter(|e| e["from"] == "partner" && e["to"] == "orders")
        .map(ToString::to_string)
        .filter(|e| e.contains("denied"));
    let edge = found.next().unwrap_or_default();
    assert_eq!(found.next(), None);
    edge
}
