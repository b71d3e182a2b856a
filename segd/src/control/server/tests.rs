//! Server and client together, in one process, over a socket in a temporary directory.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use segd_common::event::{Event, Kind};
use segd_common::traffic::Mode;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::*;
use crate::control::api::{FlowCounts, FlowLine, HostStatus, ModeOverride};
use crate::control::changes::ZoneFile;
use crate::control::client::{Client, ClientError, FlowStream};
use crate::telemetry::process::NoProcesses;
use crate::telemetry::record::tests::{context, denied, event};

fn body(error: &str, help: Option<&str>) -> ErrorBody {
    ErrorBody { error: error.into(), help: help.map(str::to_owned), breaks: vec![] }
}

struct Fake {
    collector: Collector,
    callers: Mutex<Vec<Caller>>,
    previews: Semaphore,
}

impl Agent for Fake {
    fn rule_hits(&self) -> Vec<(Arc<str>, u64, Option<Timestamp>)> {
        Vec::new()
    }

    fn status(&self) -> Status {
        Status {
            version: "0.1.0".into(),
            pid: 42,
            started: "2026-01-01T00:00:00Z".parse().unwrap(),
            host: HostStatus { name: "wms-app-1".into(), zone: None, addresses: vec![] },
            generation: 3,
            policy: None,
            pending: None,
            guard: None,
            canaries: vec![],
            exceptions: vec![],
            names: vec![],
            modes: vec![],
            overrides: vec![],
            hooks: vec![],
            flows: FlowCounts { allowed: 1, audited: 2, denied: 3 },
            lost: vec![],
            sinks: vec![],
            history: None,
            metrics: Some("127.0.0.1:9464".into()),
            warnings: vec![],
        }
    }

    async fn apply(&self, _: Safety, _: Caller) -> Result<Applied, ControlError> {
        Err(ControlError::Invalid(body("z.toml:3:1: error: unknown key", None)))
    }

    async fn preview(&self, request: PreviewRequest, _: Caller) -> Result<Previewed, ControlError> {
        let _only = self.previews.try_acquire().expect("one at a time");
        tokio::time::sleep(Duration::from_millis(20)).await;
        let told = |file: &ZoneFile| format!("{}: {} bytes", file.name, file.text.len());
        Ok(Previewed { warnings: request.files.iter().map(told).collect(), ..Previewed::default() })
    }

    async fn confirm(&self, request: ConfirmRequest, _: Caller) -> Result<ChangeOutcome, ControlError> {
        match request.extend_s {
            Some(_) => Err(ControlError::Refused(body("nothing waits to be confirmed", None))),
            None => Ok(ChangeOutcome { changed: true, generation: 5, ..ChangeOutcome::default() }),
        }
    }

    async fn roll_back(&self, _: RollbackRequest, _: Caller) -> Result<Applied, ControlError> {
        Err(ControlError::Refused(body("there is no former policy", None)))
    }

    async fn add_exception(
        &self,
        request: ExceptionRequest,
        _: Caller,
    ) -> Result<ExceptionOutcome, ControlError> {
        Err(ControlError::Invalid(body(&format!("there is no zone `{}`", request.from), None)))
    }

    async fn revoke_exception(
        &self,
        request: ExceptionRevoke,
        _: Caller,
    ) -> Result<ExceptionOutcome, ControlError> {
        Err(ControlError::Invalid(body(&format!("there is no exception `{}`", request.id), None)))
    }

    fn policies(&self) -> Result<History, ControlError> {
        Ok(History { policies: vec![], problems: vec!["3.json is damaged".into()] })
    }

    async fn set_mode(&self, request: ModeRequest, caller: Caller) -> Result<ModeOutcome, ControlError> {
        self.callers.lock().unwrap().push(caller);
        let body = |error| body(error, Some("run `segd check`"));
        match request.subject.as_deref() {
            Some("nowhere") => Err(ControlError::Invalid(body("there is no zone `nowhere`"))),
            Some("busy") => Err(ControlError::Refused(body("a load is under way"))),
            Some("full") => Err(ControlError::Failed(body("the map is full"))),
            _ => {
                let ModeRequest { mode, subject, service, direction, .. } = request;
                let mode = mode.unwrap_or(Mode::Monitor);
                let set_at = "2026-01-01T00:00:00Z".parse().unwrap();
                let set_by = caller.uid;
                let set = ModeOverride { mode, subject, service, direction, set_by, set_at };
                let change = ChangeOutcome { generation: 4, ..ChangeOutcome::default() };
                Ok(ModeOutcome { change, modes: vec![], overrides: vec![set] })
            }
        }
    }

    fn hub(&self) -> &Collector {
        &self.collector
    }
}

struct Running {
    dir: TempDir,
    agent: Arc<Fake>,
    client: Client,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

fn start(group: &str) -> Running {
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let socket = ControlSocket::bind(dir.path(), group).unwrap();
    let collector = Collector::new(context(), Box::new(NoProcesses), Vec::new());
    let agent = Arc::new(Fake { collector, callers: Mutex::default(), previews: Semaphore::new(1) });
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serve(socket, Arc::clone(&agent), shutdown.clone()));
    let client = Client::new(dir.path());
    Running { dir, agent, client, shutdown, task }
}

fn enforce(subject: &str) -> ModeRequest {
    ModeRequest {
        mode: Some(Mode::Enforce),
        subject: Some(subject.into()),
        service: None,
        direction: None,
        safety: Safety::default(),
    }
}

fn numbered(n: u64) -> Event {
    Event { count: n, ..event(Kind::Open) }
}

async fn count(stream: &mut FlowStream) -> u64 {
    match timeout(Duration::from_secs(5), stream.next()).await.unwrap().unwrap() {
        Some(FlowLine::Record(record)) => record.count,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn status_and_mode() {
    let running = start("no-such-group");
    assert_eq!(running.client.status().await.unwrap(), running.agent.status());

    let outcome = running.client.set_mode(&enforce("orders")).await.unwrap();
    assert_eq!((outcome.change.generation, outcome.overrides[0].set_by), (4, 0));
    let pid = i32::try_from(std::process::id()).unwrap();
    assert_eq!(*running.agent.callers.lock().unwrap(), [Caller { uid: 0, pid: Some(pid) }]);

    for (subject, code, message) in [
        ("nowhere", 2, "there is no zone `nowhere`; run `segd check`"),
        ("busy", 1, "a load is under way; run `segd check`"),
        ("full", 1, "the map is full; run `segd check`"),
    ] {
        let error = running.client.set_mode(&enforce(subject)).await.unwrap_err();
        assert_eq!((error.exit_code(), error.to_string().as_str()), (code, message));
    }
}

#[tokio::test]
async fn changes_come_through_with_their_answers() {
    let running = start("no-such-group");
    let client = &running.client;
    let outcome = client.confirm(&ConfirmRequest::default()).await.unwrap();
    assert_eq!((outcome.changed, outcome.generation), (true, 5));
    // Zone files may be larger than any other request.
    let files = vec![ZoneFile { name: "z.toml".into(), text: "#".repeat(1 << 20) }];
    let request = PreviewRequest { files, names: crate::policy::Resolved::new() };
    let (one, other) = tokio::join!(client.preview(&request), client.preview(&request));
    for previewed in [one, other] {
        assert_eq!(previewed.unwrap().warnings, ["z.toml: 1048576 bytes"]);
    }
    assert_eq!(client.policies().await.unwrap().problems, ["3.json is damaged"]);
    let exception = ExceptionRequest {
        from: "mars".into(),
        to: "orders".into(),
        services: vec!["tcp/1".into()],
        ttl_s: 60,
        owner: "o".into(),
        reason: "r".into(),
    };
    let later = ConfirmRequest { extend_s: Some(60), reason: None };
    let revoke = ExceptionRevoke { id: "x".into(), reason: None };
    for (error, code, message) in [
        (client.confirm(&later).await.unwrap_err(), 1, "nothing waits to be confirmed"),
        (client.roll_back(&RollbackRequest::default()).await.unwrap_err(), 1, "there is no former policy"),
        (client.apply(&Safety::default()).await.unwrap_err(), 2, "z.toml:3:1: error: unknown key"),
        (client.add_exception(&exception).await.unwrap_err(), 2, "there is no zone `mars`"),
        (client.revoke_exception(&revoke).await.unwrap_err(), 2, "there is no exception `x`"),
    ] {
        assert_eq!((error.exit_code(), error.to_string().as_str()), (code, message));
    }
}

#[tokio::test]
async fn flows_of_the_past_and_then_live() {
    let running = start("no-such-group");
    for n in 0..200 {
        running.agent.collector.take(&numbered(n));
    }
    running.agent.collector.take(&denied());
    let query = |text: &str| FlowsQuery::from_query(text).unwrap();

    let mut all = running.client.flows(&query("verdict=allowed")).await.unwrap();
    for n in 0..200 {
        assert_eq!(count(&mut all).await, n);
    }
    assert_eq!(all.next().await.unwrap(), None);

    let mut live = running.client.flows(&query("follow=true&last=2&verdict=allowed")).await.unwrap();
    assert_eq!([count(&mut live).await, count(&mut live).await], [198, 199]);
    timeout(Duration::from_millis(50), live.next()).await.unwrap_err();
    running.agent.collector.take(&denied());
    running.agent.collector.take(&numbered(200));
    assert_eq!(count(&mut live).await, 200);

    // The agent ends: so does the stream, at once and without an error.
    running.shutdown.cancel();
    assert_eq!(timeout(Duration::from_secs(2), live.next()).await.unwrap().unwrap(), None);
    timeout(Duration::from_secs(2), running.task).await.unwrap().unwrap();
    let error = running.client.status().await.unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(fs::read_dir(running.dir.path()).unwrap().all(|e| e.unwrap().file_name() == "segd.lock"));
}

#[tokio::test]
async fn a_slow_reader_holds_nobody_up_and_learns_what_it_lost() {
    let running = start("no-such-group");
    let mut slow = running.client.flows(&FlowsQuery::from_query("follow=true").unwrap()).await.unwrap();
    let began = Instant::now();
    for n in 0..50_000 {
        running.agent.collector.take(&numbered(n));
        if n % 1000 == 0 {
            tokio::task::yield_now().await;
        }
    }
    assert!(began.elapsed() < Duration::from_secs(20));
    let (mut records, mut lost, mut last) = (0, 0, None);
    while last != Some(49_999) {
        match timeout(Duration::from_secs(5), slow.next()).await.unwrap().unwrap() {
            Some(FlowLine::Record(record)) => {
                assert!(last < Some(record.count));
                last = Some(record.count);
                records += 1;
            }
            Some(FlowLine::Lost { lost: n }) => lost += n,
            None => panic!("the stream ended"),
        }
    }
    assert!(lost > 0);
    assert_eq!(running.agent.collector.lost()[1], ("stream".to_owned(), lost));
    assert_eq!(records + lost, 50_000);
}

#[tokio::test]
async fn a_reader_that_goes_away_frees_its_place() {
    let running = start("no-such-group");
    let query = FlowsQuery { follow: true, ..FlowsQuery::default() };
    let mut readers = Vec::new();
    for _ in 0..STREAMS {
        readers.push(running.client.flows(&query).await.unwrap());
    }
    let error = running.client.flows(&query).await.unwrap_err();
    assert!(matches!(error, ClientError::Failed(_)), "{error}");
    assert!(error.to_string().contains("32 readers follow"), "{error}");
    running.client.status().await.unwrap();
    readers.clear();
    let end = Instant::now() + Duration::from_secs(5);
    while running.client.flows(&query).await.is_err() {
        assert!(Instant::now() < end);
        running.agent.collector.take(&denied());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn raw(dir: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(dir.join("segd.sock")).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

#[tokio::test]
async fn bad_requests_are_explained() {
    let running = start("no-such-group");
    let big = "x".repeat(MAX_BODY + 1);
    for (method, path, body, status, want) in [
        ("GET", "/v2/status", "", 404, "of another version"),
        ("DELETE", "/v1/status", "", 405, "another HTTP method"),
        ("POST", "/v1/mode", "{", 400, "this is no request for a mode: EOF"),
        ("POST", "/v1/mode", r#"{"mode":"off"}"#, 400, "must be one of monitor, enforce"),
        ("POST", "/v1/mode", &big, 413, "length limit exceeded"),
        ("GET", "/v1/flows?verdict=x", "", 400, "`x` is no verdict"),
        ("GET", "/v1/flows?colour=x", "", 400, "unknown filter `colour`"),
        ("GET", "/v1/flows?not-zone=unknown,ordrs", "", 400, "did you mean `orders`?"),
    ] {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let answer = raw(running.dir.path(), &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path}: {answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: ErrorBody = serde_json::from_str(body).unwrap();
        assert!(format!("{body:?}").contains(want), "{method} {path}: {body:?}");
    }
    assert!(raw(running.dir.path(), "no HTTP\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
}

/// Runs `work` in a thread that is another user. Credentials belong to a thread in Linux; only the C library
/// sets them for all threads, and this does not go through it.
fn as_user<T: Send + 'static>(
    uid: u32,
    gid: u32,
    groups: &'static [u32],
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let thread = std::thread::spawn(move || {
        // SAFETY: system calls on integers and on a slice that lives.
        let results = unsafe {
            [
                libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()),
                libc::syscall(libc::SYS_setresgid, gid, gid, gid),
                libc::syscall(libc::SYS_setresuid, uid, uid, uid),
            ]
        };
        assert_eq!(results, [0; 3], "this test needs root");
        work()
    });
    thread.join().unwrap()
}

fn status_as(running: &Running, uid: u32, gid: u32, groups: &'static [u32]) -> Result<(), ClientError> {
    let client = running.client.clone();
    as_user(uid, gid, groups, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(client.status()).map(|_| ())
    })
}

const NOBODY: u32 = 65_534;
/// The group `daemon`, which every Linux has.
const DAEMON: u32 = 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_root_and_the_group_may_connect() {
    let running = start("daemon");
    status_as(&running, 0, 0, &[]).unwrap();
    status_as(&running, NOBODY, DAEMON, &[]).unwrap();
    status_as(&running, NOBODY, NOBODY, &[5, DAEMON]).unwrap();

    let socket = running.dir.path().join("segd.sock");
    let error = status_as(&running, NOBODY, NOBODY, &[5]).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    let want = format!(
        "not permitted to talk to the segd agent at {}: Permission denied (os error 13); be root, or a member of the \
         group that the socket belongs to",
        socket.display()
    );
    assert_eq!(error.to_string(), want);

    // Even if the file's mode lets everybody in.
    fs::set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
    let error = status_as(&running, NOBODY, NOBODY, &[5]).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("user id 65534 may not use the control socket"), "{error}");
    assert!(running.agent.callers.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_group_only_root_may_connect() {
    let running = start("no-such-group");
    fs::set_permissions(running.dir.path().join("segd.sock"), Permissions::from_mode(0o666)).unwrap();
    status_as(&running, 0, 0, &[]).unwrap();
    let error = status_as(&running, NOBODY, DAEMON, &[DAEMON]).unwrap_err();
    assert!(matches!(error, ClientError::NotPermitted { .. }), "{error}");
}

#[tokio::test]
async fn no_agent() {
    let dir = TempDir::new().unwrap();
    let client = Client::new(&dir.path().join("missing"));
    let error = client.status().await.unwrap_err();
    assert_eq!(error.exit_code(), 3);
    let text = error.to_string();
    assert!(
        text.starts_with("no segd agent answers at ") && text.contains("or name its --run-dir"),
        "{text}"
    );

    drop(std::os::unix::net::UnixListener::bind(dir.path().join("segd.sock")).unwrap());
    let error = Client::new(dir.path()).status().await.unwrap_err();
    assert!(matches!(error, ClientError::NoAgent { .. }), "{error}");
}
