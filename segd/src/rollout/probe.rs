//! The guard's probe: one look, from this host, at whether something still works.

use std::io;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::http::uri::InvalidUri;
use hyper::{Request, Uri, header};
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::policy::guard::Probe;
use crate::telemetry::text::printable;

/// All that a command finds in its environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long to wait for what a command wrote after it ended: a process that it left behind may hold its output open.
const GRACE: Duration = Duration::from_millis(100);

/// Bytes of a command's output that are remembered.
const TAIL: usize = 4096;

/// Characters of a command's output in an error.
const MAX_LINE: usize = 200;

/// Runs a probe. When it is dropped or takes longer than `limit`, nothing of it goes on: a command is killed with its
/// children (those that have not left its process group).
///
/// # Errors
/// It failed; the text says what was tried and how that ended, on one line.
pub async fn run(probe: &Probe, limit: Duration) -> Result<(), String> {
    let attempt = async {
        match probe {
            Probe::Tcp(host, port) => match TcpStream::connect((host.as_str(), *port)).await {
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            },
            Probe::Http(url) => get(url).await,
            Probe::Command(words) => command(words).await,
        }
    };
    let result = match timeout(limit, attempt).await {
        Ok(result) => result,
        Err(_) => Err(format!("no success within {limit:?}")),
    };
    result.map_err(|error| format!("{probe}: {error}"))
}

/// `GET` must be answered with a status below 400. Without TLS; redirections are not followed.
async fn get(url: &str) -> Result<(), String> {
    let uri: Uri = url.parse().map_err(|error: InvalidUri| error.to_string())?;
    let host = uri.host().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let text = |error: hyper::Error| error.to_string();
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await;
    let io = TokioIo::new(stream.map_err(|error| error.to_string())?);
    let (mut sender, connection) = http1::handshake(io).await.map_err(text)?;
    let request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(header::HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(header::USER_AGENT, concat!("segd/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let mut connection = pin!(connection);
    let mut answer = pin!(sender.send_request(request));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // It is over when the answer is there, or when none can come any more.
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(error),
        },
    };
    let status = answer.map_err(text)?.status();
    if status.as_u16() < 400 { Ok(()) } else { Err(format!("HTTP status {status}")) }
}

/// A process and its group. Dropping it kills the group if the process has not been waited for.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // There is an id until the process was waited for, so no other group can have it.
        if let Some(id) = self.0.id().and_then(|id| i32::try_from(id).ok()) {
            // Fails only when all of them have ended.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

async fn command(words: &[String]) -> Result<(), String> {
    let (program, arguments) = words.split_first().ok_or("it names no program")?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut group = Group(command.spawn().map_err(|error| format!("cannot start it: {error}"))?);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (stdout, stderr) = (group.0.stdout.take(), group.0.stderr.take());
    let status = {
        let mut drained =
            pin!(async { tokio::join!(keep_tail(stdout, &mut out), keep_tail(stderr, &mut err)) });
        let mut all = false;
        let status = loop {
            tokio::select! {
                status = group.0.wait() => break status,
                _ = &mut drained, if !all => all = true,
            }
        };
        if !all {
            let _ = timeout(GRACE, drained).await;
        }
        status
    };
    let how = ended(status)?;
    let line = last_line(&err).or_else(|| last_line(&out));
    match (how, line) {
        (None, _) => Ok(()),
        (Some(how), None) => Err(how),
        (Some(how), Some(line)) => Err(format!("{how}: {line}")),
    }
}

/// `None` if all is well.
fn ended(status: io::Result<ExitStatus>) -> Result<Option<String>, String> {
    let status = status.map_err(|error| error.to_string())?;
    Ok((!status.success()).then(|| status.to_string()))
}

async fn keep_tail(pipe: Option<impl AsyncRead + Unpin>, tail: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = [0; TAIL];
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        tail.extend_from_slice(&buffer[..length]);
        tail.drain(..tail.len().saturating_sub(TAIL));
    }
}

fn last_line(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    Some(printable(&line.chars().take(MAX_LINE).collect::<String>()))
}

#[cfg(test)]
mod tests;
