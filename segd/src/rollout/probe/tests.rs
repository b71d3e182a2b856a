use std::fs;
use std::path::Path;
use std::time::Instant;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

async fn probe(text: &str) -> Result<(), String> {
    run(&text.parse().unwrap(), LIMIT).await
}

#[tokio::test]
async fn tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    assert_eq!(probe(&format!("tcp://{address}")).await, Ok(()));
    drop(listener);
    let error = probe(&format!("tcp://{address}")).await.unwrap_err();
    assert_eq!(error, format!("tcp://{address}: Connection refused (os error 111)"));
}

/// Answers one request and gives its head.
async fn server(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        let length = stream.read(&mut head).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&head[..length]).into_owned()
    });
    (format!("http://{address}/healthz?full"), served)
}

#[tokio::test]
async fn http() {
    for (answer, wanted) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", None),
        ("HTTP/1.1 204 No Content\r\n\r\n", None),
        ("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", None),
        (
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
            Some("HTTP status 503 Service Unavailable"),
        ),
        ("HTTP/1.1 404 Not Found\r\n\r\n", Some("HTTP status 404 Not Found")),
        ("SSH-2.0-OpenSSH_9.2\r\n", Some("invalid HTTP")),
        ("", Some("connection closed")),
    ] {
        let (url, served) = server(answer).await;
        let result = probe(&url).await;
        let head = served.await.unwrap();
        assert!(head.starts_with("GET /healthz?full HTTP/1.1\r\nhost: 127.0.0.1:"), "{head}");
        match wanted {
            None => assert_eq!(result, Ok(()), "{answer}"),
            Some(text) => {
                let error = result.unwrap_err();
                assert!(error.starts_with(&url) && error.contains(text), "{answer}: {error}");
            }
        }
    }
}

/// A shell script that a probe can name.
fn script(dir: &Path, text: &str) -> String {
    let path = dir.join("probe.sh");
    fs::write(&path, text).unwrap();
    format!("/bin/sh {}", path.display())
}

#[tokio::test]
async fn a_command_succeeds_by_its_exit_code() {
    assert_eq!(probe("/bin/true").await, Ok(()));
    let error = probe("/bin/false").await.unwrap_err();
    assert_eq!(error, "/bin/false: exit status: 1");
    let error = probe("/nonexistent/x").await.unwrap_err();
    assert!(error.contains("cannot start it: No such file"), "{error}");
    // Not by a shell.
    let words = ["/bin/false", ";", "/bin/true"].map(str::to_owned);
    let error = run(&Probe::Command(words.into()), LIMIT).await.unwrap_err();
    assert!(error.contains("exit status: 1"), "{error}");
}

#[tokio::test]
async fn the_last_line_says_why() {
    let dir = tempfile::tempdir().unwrap();
    for (text, wanted) in [
        ("echo one; echo two; exit 2", "exit status: 2: two"),
        ("echo out; echo 'no \u{1b}[31mroute' >&2; echo >&2; exit 3", "exit status: 3: no \u{fffd}[31mroute"),
        ("yes | head -c 1000000; echo; echo end; exit 4", "exit status: 4: end"),
        ("kill -9 $$", "signal: 9 (SIGKILL)"),
    ] {
        let error = probe(&script(dir.path(), text)).await.unwrap_err();
        assert!(error.ends_with(wanted), "{error}");
    }
    assert_eq!(
        probe(&script(dir.path(), "test \"$(env | grep -vc '^PATH=\\|^PWD=\\|^_=\\|^SHLVL=')\" = 0")).await,
        Ok(())
    );
}

/// Whether a process runs: it is there and no zombie.
fn runs(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("pid");
    let text = format!("sleep 300 & echo $! > {}; wait", pid_file.display());
    let sleeper: Probe = script(dir.path(), &text).parse().unwrap();
    for dropped in [false, true] {
        let began = Instant::now();
        if dropped {
            // As when the agent ends meanwhile.
            assert!(timeout(Duration::from_secs(1), run(&sleeper, LIMIT)).await.is_err());
        } else {
            let error = run(&sleeper, Duration::from_secs(1)).await.unwrap_err();
            assert!(error.ends_with("no success within 1s"), "{error}");
        }
        assert!(began.elapsed() < Duration::from_secs(5));
        let pid = fs::read_to_string(&pid_file).unwrap();
        let deadline = Instant::now() + LIMIT;
        while runs(&pid) {
            assert!(Instant::now() < deadline, "the child still runs");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn a_child_that_holds_the_output_open_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let error = probe(&script(dir.path(), "sleep 3 & echo bad; exit 1")).await.unwrap_err();
    assert!(error.ends_with("exit status: 1: bad"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(2));
}
