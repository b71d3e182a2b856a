//! Flow records in the real syslog server and the real journal, beside files; one of them fails and comes back.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use segd::history::logs;
use segd_tests::{Agent, Journald, Rsyslog, skip, wait_for};
use serde_json::Value;

use crate::support::{ENFORCE, Pair, SOON, rule};

const PORT: u16 = 5514;

fn installed() -> bool {
    for (there, what) in [
        (Rsyslog::is_installed(), "rsyslog is not installed: cargo xtask setup"),
        (
            Journald::is_installed(),
            "this machine has no systemd-journald, which the project does not install",
        ),
    ] {
        if !there {
            skip(what);
            return false;
        }
    }
    true
}

/// Records told apart: how often each one is there.
fn counted(records: impl IntoIterator<Item = Value>) -> BTreeMap<String, u32> {
    let mut counted = BTreeMap::new();
    for record in records {
        *counted.entry(record.to_string()).or_default() += 1;
    }
    counted
}

/// A host in zone `transport` with a syslog server, a journal and an agent that uses both.
struct Logged {
    pair: Pair,
    rsyslog: Rsyslog,
    journald: Journald,
}

impl Logged {
    fn new(name: &str) -> Option<Self> {
        if !installed() {
            return None;
        }
        let pair = Pair::new(name)?;
        let rsyslog = Rsyslog::start(&pair.transport, PORT).unwrap();
        let journald = Journald::start(&pair.transport).unwrap();
        Some(Self { pair, rsyslog, journald })
    }

    fn in_journal(&self) -> Vec<Value> {
        let entries = self.journald.entries().unwrap();
        let records = entries.iter().map(|entry| entry["SEGD_RECORD"].as_str().unwrap());
        records.map(|record| serde_json::from_str(record).unwrap()).collect()
    }

    fn in_syslog(&self, input: &str) -> Vec<Value> {
        self.rsyslog.logged(input).unwrap().into_iter().map(|message| message.record).collect()
    }

    /// Connections to a port that is allowed, and one to a port that is not.
    fn flow(&self, connects: &str, denied: u16) {
        let (orders, transport) = (&self.pair.orders, &self.pair.transport);
        transport.act(&["churn", &orders.v4_port(8443).to_string(), "--connects", connects]).unwrap();
        assert_eq!(transport.tcp_connect(orders.v4_port(denied)).unwrap().errno(), Some("EPERM"));
    }

    /// Waits until the file has this many records, and every sink has or has lost each that is for it.
    fn settled(&self, agent: &Agent, events: usize) {
        wait_for("the file", SOON, || (agent.flows().unwrap().len() >= events).then_some(())).unwrap();
        let state = || {
            let all = agent.flows().unwrap();
            let denied = all.iter().filter(|record| record["verdict"] == "denied").count();
            [
                ("journald", self.in_journal().len(), lost(agent, "journald"), all.len()),
                ("stream", self.in_syslog("imtcp").len(), lost(agent, "stream"), all.len()),
                ("local", self.in_syslog("imuxsock").len(), lost(agent, "local"), all.len()),
                ("denials", self.in_syslog("imudp").len(), lost(agent, "denials"), denied),
            ]
        };
        let adds_up = |(_, got, lost, of): &(&str, usize, usize, usize)| got + lost == *of;
        wait_for("every sink to have or have lost each", SOON, || state().iter().all(adds_up).then_some(()))
            .unwrap_or_else(|_| panic!("{:?} {:#?}", state(), agent.status()));
    }
}

/// Records that a sink lost, whether its queue was full or it could not write them.
fn lost(agent: &Agent, sink: &str) -> usize {
    let lost = agent.status().unwrap()["lost"].clone();
    let of = |stage: &str| {
        lost.as_array().unwrap().iter().find(|one| one["stage"] == *stage).unwrap()["lost"].as_u64()
    };
    let count = |stage: String| usize::try_from(of(&stage).unwrap()).unwrap();
    count(format!("sink:{sink}")) + count(format!("sink:{sink}:write"))
}

fn up(agent: &Agent, sinks: &[&str], wanted: f64) {
    for sink in sinks {
        let what = format!("segd_sink_up of {sink} = {wanted}");
        let labels = [("sink", *sink)];
        agent.wait_metrics(&what, SOON, |m| m.get("segd_sink_up", &labels) == Some(wanted)).unwrap();
    }
}

#[test]
fn several_sinks_at_once_of_which_one_fails_and_comes_back() {
    let Some(mut logged) = Logged::new("sinks") else { return };
    let (orders, transport) = (logged.pair.orders.clone(), logged.pair.transport.clone());
    let brief = transport.directory().join("brief.jsonl");
    let sinks = format!(
        r#"
[[sink]]
type = "journald"
socket = "{journal}"

[[sink]]
type = "syslog"
name = "stream"
address = "tcp://127.0.0.1:{PORT}"
facility = "local4"
queue = 50

[[sink]]
type = "syslog"
name = "local"
address = "unix:{local}"

[[sink]]
type = "syslog"
name = "denials"
address = "udp://127.0.0.1:{PORT}"
filter = {{ verdict = "denied", to = "orders" }}

[[sink]]
type = "file"
name = "brief"
path = "{brief}"
detail = "summary"
window = "1s"
"#,
        journal = logged.journald.socket().display(),
        local = logged.rsyslog.socket().display(),
        brief = brief.display(),
    );
    let zones = logged.pair.zones(&format!("{}{ENFORCE}", rule("\"tcp/8443\"")));
    let mut agent = transport.agent().zones(&zones).extra(&sinks).start().unwrap();
    let names = ["journald", "stream", "local", "denials", "brief"];
    up(&agent, &names, 1.0);
    let _server = orders.tcp_server(8443).unwrap();
    // Each connection is told of when it begins and when it ends.
    logged.flow("20", 9991);
    logged.settled(&agent, 41);
    assert_eq!(names.map(|name| lost(&agent, name)), [0; 5]);
    let told = counted(agent.flows().unwrap());
    assert_eq!(counted(logged.in_journal()), told);
    assert_eq!(counted(logged.in_syslog("imtcp")), told);
    assert_eq!(counted(logged.in_syslog("imuxsock")), told);
    let message = logged.rsyslog.logged("imudp").unwrap().remove(0);
    assert_eq!([&*message.host, &*message.app, &*message.id], ["transport", "segd", "deny"]);
    assert_eq!(message.priority, "daemon.warning");
    let streamed = logged.rsyslog.logged("imtcp").unwrap();
    assert!(streamed.iter().all(|message| message.priority.starts_with("local4.")));
    let entries = logged.journald.entries().unwrap();
    let entry = entries.iter().find(|entry| entry["SEGD_VERDICT"] == "denied").unwrap();
    assert_eq!((&entry["PRIORITY"], &entry["SEGD_DST_PORT"]), (&"4".into(), &"9991".into()));

    logged.rsyslog.stop().unwrap();
    up(&agent, &["stream", "local"], 0.0);
    logged.flow("600", 9992);
    wait_for("the stream to lose some", SOON, || (lost(&agent, "stream") > 0).then_some(())).unwrap();
    let status = agent.segd(&["status"]).unwrap().stdout;
    let shown = status.lines().find(|line| line.contains("stream is down: ")).unwrap();
    assert!(shown.contains("Connection refused") && shown.ends_with(" records lost"), "{status}");
    assert!(status.lines().any(|line| line.ends_with("journald is up")), "{status}");
    logged.rsyslog.go_on().unwrap();
    up(&agent, &names, 1.0);
    logged.flow("20", 9993);
    logged.settled(&agent, 41 + 1201 + 41);
    assert!(lost(&agent, "stream") > 0);
    assert_eq!(counted(logged.in_journal()), counted(agent.flows().unwrap()), "the others lost nothing");

    logged.journald.stop().unwrap();
    up(&agent, &["journald"], 0.0);
    logged.flow("5", 9994);
    logged.journald.go_on().unwrap();
    up(&agent, &["journald"], 1.0);
    logged.settled(&agent, 41 + 1201 + 41 + 11);
    assert_eq!(lost(&agent, "journald"), 0);
    let (streamed, told) = (counted(logged.in_syslog("imtcp")), counted(agent.flows().unwrap()));
    assert!(streamed.iter().all(|(record, n)| *n == 1 && told.contains_key(record)), "none twice");

    // One that hangs holds up nobody else.
    logged.rsyslog.signal(Signal::SIGSTOP).unwrap();
    logged.flow("300", 9995);
    up(&agent, &["local"], 0.0);
    let status = agent.segd(&["status"]).unwrap().stdout;
    assert!(status.contains("local is down: the receiver takes nothing"), "{status}");
    logged.rsyslog.signal(Signal::SIGCONT).unwrap();
    up(&agent, &names, 1.0);
    logged.settled(&agent, 41 + 1201 + 41 + 11 + 601);
    assert_eq!([lost(&agent, "local"), lost(&agent, "journald")], [0, 0]);

    let log = agent.builder().flow_log();
    agent.kill(Signal::SIGTERM).unwrap();
    let sums = |path: &PathBuf| {
        let read = logs::summarise(std::slice::from_ref(path), &logs::Wanted::default(), |_, _| ());
        read.unwrap().summaries
    };
    assert_eq!(sums(&brief), sums(&log), "summaries add up to the same");
    let lines = |path: &PathBuf| fs::read_to_string(path).unwrap().lines().count();
    assert!(lines(&brief) * 10 < lines(&log), "{} of {}", lines(&brief), lines(&log));
}

#[test]
fn a_process_cannot_write_into_a_log_by_its_name() {
    let Some(Logged { pair, rsyslog, journald }) = Logged::new("sink-names") else { return };
    let (orders, transport) = (&pair.orders, &pair.transport);
    let sinks = format!(
        "[[sink]]\ntype = \"journald\"\nsocket = \"{}\"\n[[sink]]\ntype = \"syslog\"\naddress = \"unix:{}\"\n\
         [[sink]]\ntype = \"syslog\"\naddress = \"tcp://127.0.0.1:{PORT}\"\n\
         [[sink]]\ntype = \"syslog\"\naddress = \"udp://127.0.0.1:{PORT}\"\n",
        journald.socket().display(),
        rsyslog.socket().display(),
    );
    let agent = transport.agent().zones(&pair.zones(ENFORCE)).extra(&sinks).start().unwrap();
    // A program whose name begins with a line end, a syslog header and a field of the journal.
    let name = "\n<8>1 - - su - - -\x1b[2J\nMESSAGE=\nPRIORITY=0\n\u{202e}";
    let program = transport.directory().join(name);
    fs::copy(segd_tests::actor_program().unwrap(), &program).unwrap();
    let mut command = transport.command(&program).unwrap();
    command.arg("attempt");
    let mut process = transport.spawn(command).unwrap();
    process.write_line(&format!("tcp {}", orders.v4_port(9999))).unwrap();
    assert!(process.next_line(SOON).unwrap().contains("EPERM"));

    let denied = |record: &Value| record["verdict"] == "denied" && record["dst"]["port"] == 9999;
    let told = agent.wait_flow("the denial", SOON, denied).unwrap();
    let comm = told["process"]["comm"].as_str().unwrap();
    assert!(comm.contains("<8>1 - -") && !comm.contains('\n'), "{comm:?}");
    let exe = told["process"]["exe"].as_str().unwrap();
    assert!(exe.contains("PRIORITY=0") && !exe.contains(['\n', '\x1b', '\u{202e}']), "{exe:?}");
    for input in ["imtcp", "imudp", "imuxsock"] {
        let one = || Some(rsyslog.logged(input).unwrap()).filter(|messages| !messages.is_empty());
        let messages = wait_for(input, SOON, one).unwrap();
        let [message] = &messages[..] else { panic!("{messages:#?}") };
        assert_eq!((&*message.app, &*message.priority, &message.record), ("segd", "daemon.warning", &told));
    }
    let one = || Some(journald.entries().unwrap()).filter(|entries| !entries.is_empty());
    let entries = wait_for("the journal", SOON, one).unwrap();
    let [entry] = &entries[..] else { panic!("{entries:#?}") };
    assert_eq!((&entry["PRIORITY"], &entry["SEGD_PROCESS_COMM"]), (&"4".into(), &comm.into()));
    assert!(
        entry["MESSAGE"].as_str().unwrap().starts_with("denied outbound transport -> orders "),
        "{entry}"
    );
    assert_eq!(serde_json::from_str::<Value>(entry["SEGD_RECORD"].as_str().unwrap()).unwrap(), told);
}
