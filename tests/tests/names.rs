//! Names of zones against real DNS servers on loopback, each on a port of its own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use segd::config::NamesConfig;
use segd::names::{Resolver, State, refresh};
use segd_tests::{skip, wait_for};
use tempfile::TempDir;

const TIMEOUT: Duration = Duration::from_secs(20);

/// dnsmasq with one file of hosts. Killed with the value, and if this process is killed.
struct Dnsmasq {
    child: Child,
    home: TempDir,
    address: SocketAddr,
}

fn program() -> Option<PathBuf> {
    let found = ["/usr/sbin/dnsmasq", "/usr/bin/dnsmasq"].map(PathBuf::from).into_iter().find(|p| p.exists());
    if found.is_none() {
        skip("dnsmasq is not installed: cargo xtask setup");
    }
    found
}

/// A port on which nothing listens, neither TCP nor UDP.
fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = tcp.local_addr().unwrap().port();
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

impl Dnsmasq {
    /// Answers for `.test` with these hosts, and TTLs of 77 seconds but for what `arguments` say.
    fn start(program: &Path, hosts: &str, arguments: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("hosts"), hosts).unwrap();
        let port = free_port();
        // setpriv: the kernel kills it when the thread ends that started it, which is this test's.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--pid-file=",
        ]);
        command.args(["--bind-interfaces", "--listen-address=127.0.0.1", "--local=/test/", "--local-ttl=77"]);
        command.args(["--cache-size=0", "--user=root", "--log-facility=-"]);
        command.arg(format!("--port={port}"));
        command.arg(format!("--addn-hosts={}", home.path().join("hosts").display())).args(arguments);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { child, home, address: (Ipv4Addr::LOCALHOST, port).into() };
        // It binds both before it answers either.
        wait_for("dnsmasq", TIMEOUT, || std::net::TcpStream::connect(server.address).ok()).unwrap();
        server
    }

    /// Replaces the hosts. They are in force as soon as the signal was handled.
    fn set_hosts(&self, hosts: &str) {
        fs::write(self.home.path().join("hosts"), hosts).unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        // Both fail only when it ended and was waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that takes every question and answers it by this response code, or, if that is 255, with silence.
fn stub(code: &Arc<AtomicU8>) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let code = Arc::clone(code);
    thread::spawn(move || {
        let mut packet = [0; 1500];
        while let Ok((length @ 12.., peer)) = socket.recv_from(&mut packet) {
            // RFC 1035 section 4.1.1: a response, with the question alone.
            packet[2] |= 0x80;
            packet[3] = 0x80 | code.load(Ordering::Relaxed);
            packet[6..12].fill(0);
            let question = packet[12..length].iter().position(|b| *b == 0).unwrap_or(0) + 12 + 5;
            if code.load(Ordering::Relaxed) != 255 {
                let _ = socket.send_to(&packet[..question.min(length)], peer);
            }
        }
    });
    address
}

fn resolver(server: SocketAddr) -> Resolver {
    let timeout = Duration::from_secs(2);
    Resolver::new(&NamesConfig { servers: vec![server], timeout, ..NamesConfig::default() })
}

fn followed(names: &[&str]) -> State {
    let mut state = State::default();
    state.follow(names.iter().copied());
    state
}

/// As `10.0.0.1 2001:db8::1`.
fn addresses(state: &State, name: &str) -> String {
    let list: Vec<_> = state.get(name).unwrap().addresses.keys().map(ToString::to_string).collect();
    list.join(" ")
}

fn error(state: &State, name: &str) -> Option<String> {
    state.get(name).unwrap().failed.clone().map(|failure| failure.error)
}

/// Seconds until the name is due.
fn wait(state: &State, name: &str) -> i64 {
    state.get(name).unwrap().refresh_at.duration_since(Timestamp::now()).as_secs()
}

/// The state as if this much time had passed, so that every name is due.
fn aged(state: &State) -> State {
    let mut json = serde_json::to_value(state).unwrap();
    for name in json.as_object_mut().unwrap().values_mut() {
        name["refresh_at"] = "1970-01-01T00:00:00Z".into();
    }
    serde_json::from_value(json).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_both_families_with_their_ttl() {
    let Some(program) = program() else { return };
    let hosts =
        "10.1.0.1 db.test\n10.1.0.2 db.test\n2001:db8::1 db.test\n10.1.0.3 v4.test\n2001:db8::3 v6.test\n";
    let short = ["--host-record=short.test,10.1.0.9,3", "--host-record=long.test,10.1.0.8,90000"];
    let alias = ["--host-record=target.test,10.1.0.7,900", "--cname=alias.test,target.test,50"];
    let server = Dnsmasq::start(&program, hosts, &[short, alias].concat());
    let names =
        ["db.test", "v4.test", "v6.test", "short.test", "long.test", "alias.test", "DB.Test.", "none.test"];
    let mut state = followed(&names);
    assert!(refresh(&resolver(server.address), &mut state).await);
    for (name, wanted, ttl) in [
        ("db.test", "10.1.0.1 10.1.0.2 2001:db8::1", 77),
        ("v4.test", "10.1.0.3", 77),
        ("v6.test", "2001:db8::3", 77),
        ("short.test", "10.1.0.9", 30),
        ("long.test", "10.1.0.8", 3600),
        ("alias.test", "10.1.0.7", 50),
    ] {
        assert_eq!(addresses(&state, name), wanted, "{name}");
        assert_eq!(error(&state, name), None, "{name}");
        assert!((ttl - 10..=ttl).contains(&wait(&state, name)), "{name}: {}", wait(&state, name));
    }
    assert_eq!(addresses(&state, "none.test"), "");
    assert_eq!(error(&state, "none.test").as_deref(), Some("there is no such name"));
    assert_eq!(state.names().count(), 7);
    let before = state.clone();
    assert!(!refresh(&resolver(server.address), &mut state).await, "nothing is due");
    assert_eq!(state, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_taken_and_what_is_gone_is_kept() {
    let Some(program) = program() else { return };
    let server = Dnsmasq::start(&program, "10.1.0.1 db.test\n10.1.0.2 db.test\n", &[]);
    let resolver = resolver(server.address);
    let mut state = followed(&["db.test"]);
    refresh(&resolver, &mut state).await;
    assert_eq!(addresses(&state, "db.test"), "10.1.0.1 10.1.0.2");
    for (hosts, wanted, failure) in [
        ("10.1.0.2 db.test\n10.1.0.3 db.test\n", "10.1.0.2 10.1.0.3", None),
        ("2001:db8::9 db.test\n", "2001:db8::9", None),
        ("10.1.0.1 other.test\n", "2001:db8::9", Some("there is no such name")),
        ("10.1.0.4 db.test\n", "10.1.0.4", None),
        ("127.0.0.1 db.test\n", "10.1.0.4", Some("it has no address that another host can have")),
        ("10.1.0.4 db.test\n169.254.169.254 db.test\nfe80::1 db.test\n", "10.1.0.4", None),
    ] {
        server.set_hosts(hosts);
        let began = Instant::now();
        loop {
            let mut next = aged(&state);
            let changed = refresh(&resolver, &mut next).await;
            let is_new = addresses(&next, "db.test") != addresses(&state, "db.test");
            assert_eq!(changed, is_new);
            state = next;
            let refused = state.get("db.test").unwrap().refused.len();
            let settled = hosts.contains("fe80") == (refused == 2);
            if addresses(&state, "db.test") == wanted
                && error(&state, "db.test").as_deref() == failure
                && settled
            {
                break;
            }
            assert!(began.elapsed() < TIMEOUT, "{hosts}: {state:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    drop(server);
    state = aged(&state);
    assert!(!refresh(&resolver, &mut state).await);
    assert_eq!(addresses(&state, "db.test"), "10.1.0.4");
    assert!(error(&state, "db.test").is_some());
    assert!((20..=30).contains(&wait(&state, "db.test")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_too_long_for_udp_comes_by_tcp() {
    let Some(program) = program() else { return };
    let hosts: String = (1..=150).map(|n| format!("10.2.0.{n} many.test\n")).collect();
    let server = Dnsmasq::start(&program, &hosts, &["--edns-packet-max=512"]);
    let mut state = followed(&["many.test"]);
    refresh(&resolver(server.address), &mut state).await;
    let name = state.get("many.test").unwrap();
    assert_eq!((name.addresses.len(), name.left_out), (64, 86), "{name:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_fail_leave_what_was_there() {
    const SERVFAIL: u8 = 2;
    const REFUSED: u8 = 5;
    const SILENCE: u8 = 255;
    let code = Arc::new(AtomicU8::new(SERVFAIL));
    let resolver = resolver(stub(&code));
    let known = r#"{"db.test":{"addresses":{"10.1.0.1":"2026-01-01T00:00:00Z"},"refresh_at":"2026-01-01T00:00:00Z",
                    "failed":null,"refused":[],"left_out":0}}"#;
    for (answer, wanted) in [(SERVFAIL, "Server Failure"), (REFUSED, "Refused"), (SILENCE, "")] {
        code.store(answer, Ordering::Relaxed);
        let mut state: State = serde_json::from_str(known).unwrap();
        let began = Instant::now();
        assert!(!refresh(&resolver, &mut state).await);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert_eq!(addresses(&state, "db.test"), "10.1.0.1");
        let failure = error(&state, "db.test").unwrap();
        assert!(failure.to_lowercase().contains(&wanted.to_lowercase()), "{answer}: {failure}");
        assert!((20..=30).contains(&wait(&state, "db.test")));
        let warnings = state.warnings();
        assert!(warnings[0].contains("its last address stays in force"), "{warnings:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_ends_however_many_names_wait() {
    let code = Arc::new(AtomicU8::new(255));
    let timeout = Duration::from_secs(1);
    let resolver =
        Resolver::new(&NamesConfig { servers: vec![stub(&code)], timeout, ..NamesConfig::default() });
    let names: Vec<String> = (0..40).map(|n| format!("host{n}.test")).collect();
    let mut state = State::default();
    state.follow(names.iter().map(String::as_str));
    let began = Instant::now();
    refresh(&resolver, &mut state).await;
    // Eight at a time.
    assert!((4..20).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert!(state.names().all(|(_, name)| name.failed.is_some()));
}

/// Nothing is sent to anybody but the server that was named.
#[tokio::test(flavor = "multi_thread")]
async fn questions_are_for_the_name_as_it_stands() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let server = socket.local_addr().unwrap();
    let questions = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&questions);
    thread::spawn(move || {
        let mut packet = [0; 1500];
        while let Ok((length @ 12.., peer)) = socket.recv_from(&mut packet) {
            let end = packet[12..length].iter().position(|b| *b == 0).unwrap() + 12;
            seen.lock().unwrap().push((packet[12..end].to_vec(), packet[end + 2]));
            packet[2] |= 0x80;
            packet[3] = 0x83;
            packet[6..12].fill(0);
            let _ = socket.send_to(&packet[..end + 5], peer);
        }
    });
    let mut state = followed(&["single", "db.test"]);
    refresh(&resolver(server), &mut state).await;
    let mut asked = questions.lock().unwrap().clone();
    asked.sort();
    asked.dedup();
    const A: u8 = 1;
    const AAAA: u8 = 28;
    let wanted = [
        (b"\x02db\x04test".to_vec(), A),
        (b"\x02db\x04test".to_vec(), AAAA),
        (b"\x06single".to_vec(), A),
        (b"\x06single".to_vec(), AAAA),
    ];
    assert_eq!(asked, wanted);
}

/// Runs `segd check` over these zones with this server, and gives its exit code and what it printed.
fn check(server: SocketAddr, zones: &str, options: &[&str]) -> (Option<i32>, String) {
    let home = tempfile::tempdir().unwrap();
    let (config, dir) = (home.path().join("segd.toml"), home.path().join("zones"));
    let failsafe = "[[failsafe]]\ndirection = \"inbound\"\nports = [\"tcp/22\"]\ncidrs = [\"10.0.9.0/24\"]\n";
    fs::write(&config, format!("[names]\nservers = [\"{server}\"]\ntimeout = \"1s\"\n{failsafe}")).unwrap();
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("zones.toml"), zones).unwrap();
    let mut check = Command::new(segd_tests::segd().unwrap());
    check.arg("check").arg(&dir).arg("--config").arg(&config).args(options);
    let output = check.output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn check_looks_names_up() {
    let Some(program) = program() else { return };
    let server = Dnsmasq::start(&program, "10.1.0.1 db.test\n10.1.0.1 edi.test\n2001:db8::1 six.test\n", &[]);
    let zones = "[zone.orders]\nowner = \"o\"\nnames = [\"db.test\"]\n\
                 [zone.edi]\nowner = \"o\"\nnames = [\"edi.test\", \"six.test\", \"gone.test\"]\n\
                 [[allow]]\nid = \"a\"\nowner = \"o\"\nfrom = \"edi\"\nto = \"orders\"\nservices = [\"tcp/1\"]\n";
    let (code, said) = check(server.address, zones, &[]);
    assert_eq!(code, Some(1), "{said}");
    for wanted in [
        "both claim 10.1.0.1, by db.test and edi.test",
        "zone `orders` has it by this",
        "zones.toml:6:10",
        "`gone.test` cannot be looked up: there is no such name",
        "--no-resolve",
        "1 error, 1 warning",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    let (code, said) = check(server.address, zones, &["--no-resolve"]);
    assert_eq!((code, said.contains("0 warnings")), (Some(0), true), "{said}");
    server.set_hosts("10.1.0.1 db.test\n10.1.0.2 edi.test\n10.1.0.3 gone.test\n2001:db8::1 six.test\n");
    wait_for("other answers", TIMEOUT, || (check(server.address, zones, &[]).0 == Some(0)).then_some(()))
        .unwrap();
    let address = server.address;
    drop(server);
    let (code, said) = check(address, zones, &[]);
    assert_eq!((code, said.contains("4 warnings")), (Some(0), true), "{said}");
}
