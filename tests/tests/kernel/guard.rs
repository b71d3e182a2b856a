//! The guard: a wrong rule breaks real clients, and the former policy comes back by itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use segd_tests::{Agent, Host, Server, wait_for};

use crate::confirm::journal;
use crate::support::{ENFORCE, Pair, SOON, counted, record, rule};

/// How long a guard may take to see a breach and undo it.
const SOME_TIME: Duration = Duration::from_secs(30);

fn query(from: &Host, database: &Host) -> bool {
    let mut psql = from.command("psql").unwrap();
    let address = database.v4().to_string();
    psql.args(["-X", "-At", "-h", &address, "-U", "postgres", "postgres", "-c", "select 1"]);
    psql.env("PGCONNECT_TIMEOUT", "2");
    from.run(psql).unwrap().status.success()
}

fn guard_line(agent: &Agent) -> serde_json::Value {
    wait_for("the guard to be journaled", SOON, || {
        journal(agent).into_iter().find(|l| l["action"] == "guard")
    })
    .unwrap()
}

#[test]
fn a_wrong_rule_that_breaks_postgresql_is_undone() {
    let Some(pair) = Pair::new("guard") else { return };
    let agent = pair.agent(&pair.transport, &format!("{}{ENFORCE}", rule("\"tcp/5432\"")));
    let _server = Server::postgres(&pair.orders, 5432).unwrap();
    assert!(query(&pair.transport, &pair.orders));
    record(&agent, &[("event", "open"), ("dst.port", "5432")]);
    let good = agent.status().unwrap()["policy"]["record"].as_u64().unwrap();

    // Somebody mistypes the port. Other denials than those of what was flowing do not count.
    agent.write_zones(&pair.zones(&format!("{}{ENFORCE}", rule("\"tcp/5433\"")))).unwrap();
    let applied = agent.json(&["apply", "--force", "--guard-denied", "2", "--guard-window", "5m"]).unwrap();
    assert_eq!(applied["guard"]["former"].as_u64(), Some(good), "{applied:#}");
    for _ in 0..10 {
        let outcome = pair.transport.tcp_connect(pair.orders.v4_port(9999)).unwrap();
        assert_eq!(outcome.errno(), Some("EPERM"));
    }
    assert!(!query(&pair.transport, &pair.orders), "the rule is wrong");
    wait_for("the client to work again", SOME_TIME, || query(&pair.transport, &pair.orders).then_some(()))
        .unwrap();

    let told = guard_line(&agent);
    assert!(told["reason"].as_str().unwrap().contains("denials in a minute"), "{told:#}");
    let offender = &told["details"]["offenders"][0];
    assert!(offender["flow"].as_str().unwrap().ends_with("tcp/5432"), "{told:#}");
    assert!(offender["process"].as_str().unwrap().starts_with("psql"), "{told:#}");
    counted(&agent, "segd_guard_rollbacks_total", &[], 1.0);
    let status = agent.status().unwrap();
    assert_eq!(status["policy"]["record"].as_u64(), Some(good));
    assert!(
        status["guard"].is_null() && status["policy"]["held"].as_str().unwrap().contains("guard"),
        "{status:#}"
    );
}

#[test]
fn a_probe_that_worked_before_and_fails_after_undoes_the_change() {
    let Some(pair) = Pair::new("probe") else { return };
    // The agent of a lab is in no cgroup that it judges, as one on a host is: the probe goes there first.
    let script = pair.transport.directory().join("probe");
    let text = format!(
        "#!/bin/bash\necho $$ > {}/cgroup.procs && exec timeout 2 bash -c '</dev/tcp/{}/5432'\n",
        pair.transport.cgroup().display(),
        pair.orders.v4(),
    );
    fs::write(&script, text).unwrap();
    let zones = |mode: &str| {
        let probe = format!("[\"/bin/bash\", \"{}\"]", script.display());
        pair.zones(&format!(
            "{}[[rollout]]\nmode = \"{mode}\"\nguard = {{ probe = {probe}, window = \"5m\" }}\n",
            rule("\"tcp/80\"")
        ))
    };
    let mut agent = pair.transport.agent().zones(&zones("monitor")).start().unwrap();
    let _server = pair.orders.tcp_server(5432).unwrap();
    agent.write_zones(&zones("enforce")).unwrap();
    let applied = agent.json(&["apply", "--force"]).unwrap();
    assert!(applied["guard"]["probe"].as_str().unwrap().contains("/probe"), "{applied:#}");
    assert_eq!(applied["warnings"], serde_json::json!([]), "the probe works before the change");
    // The guard outlives the agent that began it.
    agent.kill(Signal::SIGKILL).unwrap();
    agent = agent.restart().unwrap();
    let came_back = wait_for("the former mode", SOME_TIME, || {
        pair.transport.tcp_connect(pair.orders.v4_port(5432)).unwrap().errno().is_none().then_some(())
    });
    came_back.unwrap_or_else(|e| panic!("{e}: {:#} {}", agent.status().unwrap(), agent.process().stderr()));
    let told = guard_line(&agent);
    assert_eq!(told["details"]["cause"]["what"], "probe", "{told:#}");
}

#[test]
fn live_flows_that_a_change_cuts_undo_it() {
    let Some(pair) = Pair::new("cuts") else { return };
    let mut agent = pair.agent(&pair.transport, &rule("\"tcp/80\""));
    let _server = pair.orders.tcp_server(5432).unwrap();
    let mut first = pair.transport.hold(pair.orders.v4_port(5432)).unwrap();
    let mut second = pair.transport.hold(pair.orders.v4_port(5432)).unwrap();
    assert_eq!(first.exchange("one").unwrap().text(), Some("one"));
    assert_eq!(second.exchange("one").unwrap().text(), Some("one"));
    agent.json(&["mode", "enforce", "--force", "--guard-cut", "1"]).unwrap();
    let came_back = wait_for("the former mode", SOME_TIME, || {
        pair.transport.tcp_connect(pair.orders.v4_port(5432)).unwrap().errno().is_none().then_some(())
    });
    came_back.unwrap_or_else(|e| panic!("{e}: {:#} {}", agent.status().unwrap(), agent.process().stderr()));
    let told = guard_line(&agent);
    assert_eq!(told["details"]["cause"]["what"], "cut", "{told:#}");
}

/// The number of the policy in force.
fn in_force(agent: &Agent) -> u64 {
    agent.status().unwrap()["policy"]["record"].as_u64().unwrap()
}

/// Tries a port again and again until it works.
fn wait_until_it_works(pair: &Pair, agent: &mut Agent, port: u16) {
    let came_back = wait_for("the former policy", SOME_TIME, || {
        pair.transport.tcp_connect(pair.orders.v4_port(port)).unwrap().errno().is_none().then_some(())
    });
    came_back.unwrap_or_else(|e| panic!("{e}: {:#} {}", agent.status().unwrap(), agent.process().stderr()));
}

#[test]
fn a_flow_that_never_falls_silent_is_counted_as_cut() {
    let Some(pair) = Pair::new("busycut") else { return };
    let mut agent = pair.agent(&pair.transport, &rule("\"tcp/80\""));
    let _server = pair.orders.tcp_server(5432).unwrap();
    let mut busy = pair.transport.hold(pair.orders.v4_port(5432)).unwrap();
    thread::scope(|scope| {
        let sends = scope.spawn(|| (0..).find(|_| busy.exchange("more").unwrap().errno().is_some()));
        agent.json(&["mode", "enforce", "--force", "--guard-cut", "0"]).unwrap();
        wait_until_it_works(&pair, &mut agent, 5432);
        assert!(sends.join().unwrap().unwrap() > 0);
    });
    let told = guard_line(&agent);
    assert_eq!(
        (&told["details"]["cause"]["what"], &told["details"]["cause"]["count"]),
        (&"cut".into(), &1.into())
    );
}

#[test]
fn a_guard_goes_on_counting_after_the_agent_was_killed() {
    let Some(pair) = Pair::new("guardkill") else { return };
    let agent = pair.agent(&pair.transport, &format!("{}{ENFORCE}", rule("\"tcp/5432\"")));
    let _server = pair.orders.tcp_server(5432).unwrap();
    assert_eq!(pair.transport.tcp_connect(pair.orders.v4_port(5432)).unwrap().errno(), None);
    record(&agent, &[("event", "open"), ("dst.port", "5432")]);
    let good = in_force(&agent);
    agent.write_zones(&pair.zones(&format!("{}{ENFORCE}", rule("\"tcp/5433\"")))).unwrap();
    agent.json(&["apply", "--force", "--guard-denied", "2", "--guard-window", "5m"]).unwrap();
    let mut agent = agent;
    agent.kill(Signal::SIGKILL).unwrap();
    let mut agent = agent.restart().unwrap();
    assert_eq!(agent.status().unwrap()["guard"]["former"].as_u64(), Some(good));
    wait_until_it_works(&pair, &mut agent, 5432);
    wait_for("the agent to say so", SOON, || (in_force(&agent) == good).then_some(())).unwrap();
    assert_eq!(guard_line(&agent)["details"]["cause"]["what"], "denied");
}

#[test]
fn zone_files_that_sighup_loads_are_guarded_and_another_policy_ends_the_guard() {
    let Some(pair) = Pair::new("hupguard") else { return };
    let zones = |port: &str, limit: u64| {
        let guard = format!("guard = {{ max_denied_per_minute = {limit}, window = \"5m\" }}\n");
        pair.zones(&format!("{}{ENFORCE}{guard}", rule(port)))
    };
    let mut agent = pair.transport.agent().zones(&zones("\"tcp/5432\"", 2)).start().unwrap();
    let _server = pair.orders.tcp_server(5432).unwrap();
    assert_eq!(pair.transport.tcp_connect(pair.orders.v4_port(5432)).unwrap().errno(), None);
    record(&agent, &[("event", "open"), ("dst.port", "5432")]);
    let good = in_force(&agent);
    let reload = |agent: &mut Agent, text: &str| {
        let before = in_force(agent);
        agent.write_zones(text).unwrap();
        let pid = agent.status().unwrap()["pid"].as_i64().unwrap();
        kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGHUP).unwrap();
        wait_for("the reload", SOON, || (in_force(agent) != before).then_some(())).unwrap();
    };
    reload(&mut agent, &zones("\"tcp/5433\"", 2));
    assert_eq!(agent.status().unwrap()["guard"]["former"].as_u64(), Some(good));
    wait_until_it_works(&pair, &mut agent, 5432);
    wait_for("the agent to say so", SOON, || (in_force(&agent) == good).then_some(())).unwrap();

    // What nobody guards ends a guard: it has nothing to bring back any more.
    reload(&mut agent, &zones("\"tcp/5434\"", 1000));
    assert!(agent.status().unwrap()["guard"].is_object());
    agent.json(&["mode", "monitor"]).unwrap();
    assert!(agent.status().unwrap()["guard"].is_null());
    let ended = journal(&agent).into_iter().find(|l| l["action"] == "guard-end").unwrap();
    assert!(ended["reason"].as_str().unwrap().contains("which was watched"), "{ended:#}");
}

#[test]
fn only_root_may_have_the_agent_run_a_command() {
    let Some(pair) = Pair::new("probeuser") else { return };
    let group = "[control]\ngroup = \"nogroup\"\n";
    let agent = pair.transport.agent().zones(&pair.zones("")).extra(group).start().unwrap();
    let run_dir = pair.transport.run_dir();
    for dir in run_dir.ancestors().take(2) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let copy = pair.transport.directory().join("segd");
    fs::copy(segd_tests::segd().unwrap(), &copy).unwrap();
    let (script, ran) = (pair.transport.directory().join("probe"), pair.transport.directory().join("ran"));
    fs::write(&script, format!("#!/bin/sh\ntouch {}\n", ran.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let before = in_force(&agent);
    let ask = |arguments: &[&str], probe: &str| {
        let mut command = pair.transport.command_as("nobody", &copy).unwrap();
        command.args(arguments).args(["--guard-probe", probe, "--run-dir"]).arg(&run_dir);
        pair.transport.run(command).unwrap()
    };
    let script = script.display().to_string();
    for arguments in
        [&["mode", "enforce", "--force"][..], &["mode", "enforce", "--dry-run"], &["apply", "--force"]]
    {
        let refused = ask(arguments, &script);
        assert!(!refused.status.success(), "{arguments:?}: {}", refused.stdout);
        assert!(refused.stderr.contains("only root"), "{arguments:?}: {}", refused.stderr);
    }
    assert!(ask(&["mode", "monitor"], &script).status.success(), "nothing is watched then");
    assert!(!ran.exists(), "it was run");
    let dry = agent.segd(&["mode", "enforce", "--dry-run", "--guard-probe", &script]).unwrap();
    assert!(dry.status.success() && !ran.exists(), "root only looks: {}", dry.stderr);
    let network = ask(&["mode", "enforce", "--force"], "tcp://127.0.0.1:9");
    assert!(network.status.success(), "{}", network.stderr);
    assert_ne!(in_force(&agent), before);
}
