//! What keeps the agent from starting: each a clear message and an exit code, and nothing left attached.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::Signal;
use segd_tests::{AgentBuilder, Finished, Refusal};

use crate::support::Pair;

/// Starts an agent that must refuse, and sees that it left nothing behind.
fn refused(pair: &Pair, agent: AgentBuilder, code: i32, says: &[&str]) {
    let Err(Refusal { status, stderr }) = agent.try_start().unwrap() else {
        panic!("it started, though it should have said {says:?}");
    };
    assert_eq!(status.code(), Some(code), "{stderr}");
    for words in says {
        assert!(stderr.contains(words), "{words:?} is not in: {stderr}");
    }
    nothing_attached(pair);
}

fn nothing_attached(pair: &Pair) {
    let pins = pair.orders.bpffs().join(format!("v{}", segd_common::schema::VERSION));
    assert!(!pins.exists(), "pins are left");
    assert!(!pair.orders.run_dir().join("segd.sock").exists(), "the control socket is left");
    let outcome = pair.orders.tcp_connect(pair.transport.v4_port(1)).unwrap();
    assert_eq!(outcome.errno(), Some("ECONNREFUSED"), "something still judges: {outcome:?}");
}

#[test]
fn a_host_in_no_zone() {
    let Some(pair) = Pair::new("nozone") else { return };
    let agent = pair.orders.agent().zones("[zone.elsewhere]\ncidrs = [\"192.0.2.0/24\"]\n");
    let says = ["no address of this host is in a zone", "10.77.1.10", "set `zone` under [host] in segd.toml"];
    refused(&pair, agent, 2, &says);
}

#[test]
fn zone_files_with_errors() {
    let Some(pair) = Pair::new("badzones") else { return };
    let zones = pair
        .zones("[[allow]]\nid = \"x\"\nfrom = \"order\"\nto = \"transport\"\nservices = [\"tcp/99999\"]\n");
    let says = ["did you mean `orders`?", "tcp/99999", "zones.toml:7:", "zones.toml:9:"];
    refused(&pair, pair.orders.agent().zones(&zones), 2, &says);
}

#[test]
fn a_cgroup_that_is_none() {
    let Some(pair) = Pair::new("nocgroup") else { return };
    let agent = || pair.orders.agent().zones(&pair.zones(""));
    refused(&pair, agent().cgroup("/tmp"), 2, &["/tmp is not a directory of a cgroup2 file system"]);
    refused(&pair, agent().cgroup("/no/such"), 2, &["cannot open the cgroup /no/such"]);
}

#[test]
fn no_cgroup2_mount() {
    let Some(pair) = Pair::new("nomount") else { return };
    // In a mount namespace where every cgroup2 file system is unmounted.
    let root = segd::datapath::host::cgroup2_root().unwrap();
    let script = format!(
        "umount -l {} && exec \"$0\" run --config {} --bpffs {} --state-dir {} --run-dir {}",
        root.display(),
        pair.orders.directory().join("segd.toml").display(),
        pair.orders.bpffs().display(),
        pair.orders.state_dir().display(),
        pair.orders.run_dir().display(),
    );
    let finished = without(&pair, &["unshare", "--mount", "sh", "-c", &script]);
    assert_eq!(finished.status.code(), Some(2), "{}", finished.stderr);
    assert!(finished.stderr.contains("no cgroup2 file system is mounted"), "{}", finished.stderr);
    nothing_attached(&pair);
}

#[test]
fn a_missing_capability() {
    let Some(pair) = Pair::new("nocap") else { return };
    for capability in ["bpf", "net_admin", "perfmon"] {
        // CAP_SYS_ADMIN stands for all of them, so it has to go too.
        let less = format!("-{capability},-sys_admin");
        let orders = &pair.orders;
        let arguments = [
            ("--config", orders.directory().join("segd.toml")),
            ("--cgroup", orders.cgroup().to_owned()),
            ("--bpffs", orders.bpffs()),
            ("--state-dir", orders.state_dir()),
            ("--run-dir", orders.run_dir()),
        ];
        let arguments: Vec<String> =
            arguments.iter().flat_map(|(k, v)| [(*k).to_owned(), v.display().to_string()]).collect();
        let mut command = vec![
            "setpriv",
            "--bounding-set",
            &less,
            "--inh-caps",
            &less,
            "sh",
            "-c",
            "exec \"$0\" run \"$@\"",
        ];
        let segd = segd_tests::segd().unwrap().display().to_string();
        command.push(&segd);
        command.extend(arguments.iter().map(String::as_str));
        let finished = without(&pair, &command);
        assert_eq!(finished.status.code(), Some(4), "{}", finished.stderr);
        let wanted = format!("CAP_{}", capability.to_uppercase());
        assert!(finished.stderr.contains(&wanted), "{wanted}: {}", finished.stderr);
        nothing_attached(&pair);
    }
}

/// Runs a command on the host `orders`, with its configuration written and `$0` of a shell the `segd` under test.
fn without(pair: &Pair, command: &[&str]) -> Finished {
    let config = format!(
        "[policy]\ndir = \"{}\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n",
        pair.orders.agent().zone_dir().display()
    );
    fs::create_dir_all(pair.orders.agent().zone_dir()).unwrap();
    fs::write(pair.orders.agent().zone_dir().join("zones.toml"), pair.zones("")).unwrap();
    fs::write(pair.orders.directory().join("segd.toml"), config).unwrap();
    let mut made = pair.orders.command(command[0]).unwrap();
    made.args(&command[1..]);
    if command.last().is_some_and(|last| last.contains("\"$0\"")) {
        made.arg(segd_tests::segd().unwrap());
    }
    pair.orders.run(made).unwrap()
}

#[test]
fn a_metrics_port_in_use() {
    let Some(pair) = Pair::new("port") else { return };
    let taken = pair.orders.observe(|| TcpListener::bind("127.0.0.1:9464")).unwrap().unwrap();
    let says = ["cannot serve metrics on 127.0.0.1:9464", "[metrics]"];
    refused(&pair, pair.orders.agent().zones(&pair.zones("")), 2, &says);
    drop(taken);
}

#[test]
fn a_state_directory_that_cannot_be_written() {
    let Some(pair) = Pair::new("state") else { return };
    let state = pair.orders.state_dir();
    fs::remove_dir(&state).unwrap();
    fs::write(&state, "a file").unwrap();
    let agent = pair.orders.agent().zones(&pair.zones(""));
    refused(&pair, agent, 2, &["state directory", "--state-dir"]);
}

#[test]
fn a_directory_for_pins_that_is_no_bpffs() {
    let Some(pair) = Pair::new("nobpffs") else { return };
    nix::mount::umount(&pair.orders.bpffs()).unwrap();
    let agent = pair.orders.agent().zones(&pair.zones(""));
    refused(&pair, agent, 2, &["is not on a BPF file system", "mount -t bpf"]);
}

#[test]
fn a_second_agent() {
    let Some(pair) = Pair::new("second") else { return };
    let mut first = pair.agent(&pair.orders, "");
    let config = format!(
        "[policy]\ndir = \"{}\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n",
        pair.orders.agent().zone_dir().display()
    );
    let second = pair.orders.agent().zones(&pair.zones("")).config(&config).try_start().unwrap();
    let Err(Refusal { status, stderr }) = second else { panic!("two agents run") };
    assert_eq!(status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("segd runs already (pid "), "{stderr}");
    assert!(first.status().is_ok(), "the first one goes on");
    first.kill(Signal::SIGTERM).unwrap();
}

#[test]
fn detach_takes_everything_off_also_without_the_agent() {
    let Some(pair) = Pair::new("detach") else { return };
    let mut agent = pair.agent(&pair.orders, crate::support::ENFORCE);
    let refused = pair.orders.tcp_connect(pair.transport.v4_port(1)).unwrap();
    assert_eq!(refused.errno(), Some("EPERM"));
    agent.kill(Signal::SIGKILL).unwrap();
    let refused = pair.orders.tcp_connect(pair.transport.v4_port(1)).unwrap();
    assert_eq!(refused.errno(), Some("EPERM"));
    agent.detach().unwrap();
    fs::remove_file(pair.orders.run_dir().join("segd.sock")).unwrap();
    nothing_attached(&pair);
}

#[test]
fn other_users_get_exit_code_4() {
    let Some(pair) = Pair::new("users") else { return };
    let agent = pair.agent(&pair.orders, "");
    let run_dir = pair.orders.run_dir();
    for dir in run_dir.ancestors().take(2) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let segd = segd_tests::segd().unwrap();
    // Where an unprivileged user can execute it.
    let copy = pair.orders.directory().join("segd");
    fs::copy(&segd, &copy).unwrap();
    let as_nobody = |arguments: &[&str]| {
        let mut command = pair.orders.command_as("nobody", &copy).unwrap();
        command.args(arguments).arg("--run-dir").arg(&run_dir);
        pair.orders.run(command).unwrap()
    };
    for arguments in [&["status"][..], &["mode", "enforce"], &["flows"], &["apply"]] {
        let finished = as_nobody(arguments);
        assert_eq!(finished.status.code(), Some(4), "{arguments:?}: {}", finished.stderr);
    }
    assert!(agent.status().is_ok());
    drop(agent);
    let mut command = pair.orders.command(&segd).unwrap();
    command.args(["status", "--run-dir", "/no/such"]);
    let finished = pair.orders.run(command).unwrap();
    assert_eq!(finished.status.code(), Some(3), "no agent: {}", finished.stderr);
}
