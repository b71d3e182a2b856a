//! Flow logs of estates, as the agents of all their hosts would write them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

/// Flows of one service from one host to another, as both hosts record them.
pub(crate) struct Talk<'a> {
    pub(crate) from: &'a Host,
    pub(crate) to: &'a Host,
    pub(crate) service: &'a str,
    pub(crate) port: u16,
    pub(crate) client: &'a str,
    pub(crate) server: &'a str,
    pub(crate) verdict: &'a str,
    pub(crate) flows: u32,
    /// Since the beginning of the day.
    pub(crate) minute: u32,
}

/// A host and its log.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) zone: String,
    pub(crate) ip: String,
}

impl Host {
    pub(crate) fn new(name: &str, zone: &str, ip: &str) -> Self {
        Self { name: name.to_owned(), zone: zone.to_owned(), ip: ip.to_owned() }
    }
}

/// Writes a log for each host and gives their paths.
pub(crate) fn write(dir: &Path, talks: &[Talk<'_>]) -> Vec<PathBuf> {
    let mut logs: std::collections::BTreeMap<String, String> = Default::default();
    for talk in talks {
        for flow in 0..talk.flows {
            // What the client's host denies never reaches the server.
            let ends: &[bool] = if talk.verdict == "denied" { &[true] } else { &[true, false] };
            for outbound in ends {
                let host = if *outbound { talk.from } else { talk.to };
                let log = logs.entry(host.name.clone()).or_default();
                for event in if talk.verdict == "denied" { &["deny"][..] } else { &["open", "close"] } {
                    let _ = writeln!(log, "{}", record(talk, flow, *outbound, event));
                }
            }
        }
    }
    let paths = logs.into_iter().enumerate().map(|(n, (_, log))| {
        let path = dir.join(format!("host-{n}.jsonl"));
        fs::write(&path, log).unwrap();
        path
    });
    paths.collect()
}

fn record(talk: &Talk<'_>, flow: u32, outbound: bool, event: &str) -> serde_json::Value {
    let (host, exe) = if outbound { (talk.from, talk.client) } else { (talk.to, talk.server) };
    let (minute, second) = (talk.minute + flow % 50, flow % 60);
    let end = u32::from(event == "close");
    let (received, sent) = if outbound { (5200, 900) } else { (900, 5200) };
    let weight = |n: u32| n * end;
    let allowed = talk.verdict == "allowed";
    let comm = exe.rsplit('/').next().unwrap_or(exe);
    json!({
        "schema": 1,
        "time": format!("2026-11-22T{:02}:{:02}:{second:02}.{end}00000Z", minute / 60 % 24, minute % 60),
        "host": host.name,
        "labels": {},
        "event": event,
        "verdict": talk.verdict,
        "reason": if allowed { "rule" } else { "no-rule" },
        "direction": if outbound { "outbound" } else { "inbound" },
        "protocol": "tcp",
        "src": {"ip": talk.from.ip, "port": 40_000 + flow, "zone": talk.from.zone},
        "dst": {"ip": talk.to.ip, "port": talk.port, "zone": talk.to.zone},
        "service": talk.service,
        "rule": allowed.then(|| format!("{}-to-{}-{}", talk.from.zone, talk.to.zone, talk.service)),
        "rule_owner": null,
        "generation": 3,
        "subject": host.zone,
        "workload": null,
        "process": {"pid": 1000 + flow, "comm": comm, "exe": exe, "unit": format!("{comm}.service"), "uid": 1000},
        "count": 1,
        "packets": {"in": weight(9), "out": weight(8)},
        "bytes": {"in": weight(received), "out": weight(sent)},
        "duration_ms": (end == 1).then_some(100),
        "rtt_us": (end == 1).then_some(310),
        "retransmits": (end == 1).then_some(0),
    })
}

/// The estate of zones/demo on a day: five flows that its rules allow, and a partner that tries what it should not.
pub(crate) fn demo(dir: &Path) -> Vec<PathBuf> {
    let orders = Host::new("orders-1", "orders", "10.77.1.1");
    let fulfillment = Host::new("wms-1", "fulfillment", "10.77.2.1");
    let second = Host::new("wms-2", "fulfillment", "10.77.2.2");
    let transport = Host::new("tms-1", "transport", "10.77.3.1");
    let partner = Host::new("edi-1", "partner", "10.77.4.1");
    let (java, node, curl) = ("/usr/bin/java", "/usr/bin/node", "/usr/bin/curl");
    let (postgres, redis, nginx) =
        ("/usr/lib/postgresql/15/bin/postgres", "/usr/bin/redis-server", "/usr/sbin/nginx");
    let talk = |from, to, (service, port, server), client, verdict, flows, minute| Talk {
        from,
        to,
        service,
        port,
        client,
        server,
        verdict,
        flows,
        minute,
    };
    let (db, stock, freight) =
        (("postgres", 5432, postgres), ("redis", 6379, redis), ("freight-api", 8080, nginx));
    let all = [
        talk(&fulfillment, &orders, db, java, "allowed", 420, 480),
        talk(&orders, &fulfillment, stock, node, "allowed", 1300, 480),
        talk(&orders, &transport, freight, node, "allowed", 96, 500),
        talk(&fulfillment, &transport, freight, java, "allowed", 60, 510),
        talk(&partner, &transport, freight, "/usr/bin/python3", "allowed", 12, 540),
        talk(&partner, &orders, db, "/usr/bin/psql", "audited", 6, 545),
        talk(&partner, &orders, ("other", 22, "/usr/sbin/sshd"), "/usr/bin/ssh", "denied", 4, 900),
        talk(&fulfillment, &second, ("other", 9100, "/usr/bin/node_exporter"), curl, "audited", 24, 480),
    ];
    write(dir, &all)
}

const ZONES: [&str; 40] = [
    "web-shop",
    "mobile-api",
    "call-centre",
    "partner-edi",
    "marketplace",
    "supplier-portal",
    "orders",
    "pricing",
    "promotions",
    "payments",
    "fraud-check",
    "customer-data",
    "catalogue",
    "search",
    "stock",
    "fulfillment",
    "wave-planning",
    "pick-robots",
    "conveyors",
    "packing",
    "labelling",
    "yard",
    "dock-doors",
    "transport",
    "route-planning",
    "telematics",
    "carrier-gateway",
    "customs",
    "returns",
    "billing",
    "ledger",
    "reporting",
    "data-lake",
    "machine-learning",
    "identity",
    "secrets",
    "monitoring",
    "logging",
    "backup",
    "admin",
];

const SERVICES: [(&str, u16, &str); 12] = [
    ("https", 443, "/usr/sbin/nginx"),
    ("postgres", 5432, "/usr/lib/postgresql/15/bin/postgres"),
    ("redis", 6379, "/usr/bin/redis-server"),
    ("kafka", 9092, "/usr/bin/java"),
    ("amqp", 5672, "/usr/sbin/rabbitmq-server"),
    ("grpc", 50_051, "/opt/app/bin/server"),
    ("ldaps", 636, "/usr/sbin/slapd"),
    ("metrics", 9464, "/usr/bin/segd"),
    ("syslog-tls", 6514, "/usr/sbin/rsyslogd"),
    ("s3", 9000, "/usr/bin/minio"),
    ("mssql", 1433, "/opt/mssql/bin/sqlservr"),
    ("other", 8081, "/opt/app/bin/server"),
];

/// 40 zones and 400 edges: shared services that most zones use, and business traffic in the order of the supply chain.
pub(crate) fn large(dir: &Path) -> Vec<PathBuf> {
    let hosts: Vec<Host> = (1..)
        .zip(ZONES)
        .map(|(n, zone)| Host::new(&format!("{zone}-1"), zone, &format!("10.{n}.0.5")))
        .collect();
    let mut seed = 20_261_122_u64;
    let mut next = |limit: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % limit
    };
    let mut edges = BTreeSet::new();
    let at = |zone: &str| ZONES.iter().position(|z| *z == zone).unwrap();
    // Of everybody: identity, monitoring, logging.
    for from in 0..34 {
        if from % 2 == 0 {
            edges.insert((from, at("identity"), 6, "allowed"));
        }
        if from % 3 == 0 {
            edges.insert((at("monitoring"), from, 7, "allowed"));
        }
        if from % 4 == 0 {
            edges.insert((from, at("logging"), 8, "allowed"));
        }
    }
    for to in 0..34 {
        if to % 5 == 0 {
            edges.insert((at("admin"), to, 0, "allowed"));
            edges.insert((to, at("secrets"), 5, "allowed"));
        }
        if to % 7 == 0 {
            edges.insert((at("backup"), to, 9, if to == 7 { "audited" } else { "allowed" }));
        }
    }
    // Of neighbours in the chain, several services each.
    while edges.len() < 400 {
        let from = next(32);
        let to = (from + 1 + next(7)).min(33);
        let verdict = match next(12) {
            0 => "denied",
            1 | 2 => "audited",
            _ => "allowed",
        };
        for _ in 0..1 + next(4) {
            if edges.len() < 400 && from != to {
                edges.insert((from, to, next(SERVICES.len()), verdict));
            }
        }
    }
    let clients = ["/usr/bin/java", "/usr/bin/node", "/opt/app/bin/worker", "/usr/bin/python3"];
    let talks: Vec<Talk<'_>> = edges
        .into_iter()
        .map(|(from, to, service, verdict)| {
            let (service, port, server) = SERVICES[service];
            Talk {
                from: &hosts[from],
                to: &hosts[to],
                service,
                port,
                client: clients[(from + to) % 4],
                server,
                verdict,
                flows: u32::try_from(1 + next(3) * next(12) + next(2) * next(40)).unwrap(),
                minute: u32::try_from(next(1300)).unwrap(),
            }
        })
        .collect();
    write(dir, &talks)
}

/// Zones and programs whose names try to leave the places that they are put in.
pub(crate) fn hostile(dir: &Path) -> Vec<PathBuf> {
    let names = ["</script><script>boom()</script>", "\"><img src=x onerror=boom()>", "{{x}} `${boom()}` \\"];
    let hosts: Vec<Host> =
        names.iter().enumerate().map(|(n, name)| Host::new(name, name, &format!("10.0.0.{n}"))).collect();
    let talks: Vec<Talk<'_>> = (0..names.len())
        .map(|n| Talk {
            from: &hosts[n],
            to: &hosts[(n + 1) % names.len()],
            service: names[n],
            port: 443,
            client: names[n],
            server: "</style><script>boom()</script>",
            verdict: "allowed",
            flows: 2,
            minute: 5,
        })
        .collect();
    write(dir, &talks)
}
