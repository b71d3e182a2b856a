//! The page that Prometheus scrapes, and two that say whether the agent lives and works.
//!
//! `/metrics`; `/healthz`: 200 while the process lives and reads the kernel's events; `/readyz`: 200 when a
//! policy is loaded and the programs are attached. Both answer 503 with the reason otherwise.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::collector::Collector;
use super::metrics::{CONTENT_TYPE, Metrics};
use crate::http::{self, Limits};

const LIMITS: Limits =
    Limits { connections: 32, head: Duration::from_secs(30), age: Duration::from_secs(600) };

/// Scrapes that read the kernel at the same time.
const SCRAPES: usize = 2;

/// The same as Prometheus' default `scrape_timeout`.
const SCRAPE: Duration = Duration::from_secs(10);

/// Why the agent is not ready.
pub trait Readiness: Send + Sync + 'static {
    /// Whether a policy is loaded and the programs are attached.
    ///
    /// # Errors
    /// The reason why not, for people.
    fn ready(&self) -> Result<(), String>;
}

impl<F: Fn() -> Result<(), String> + Send + Sync + 'static> Readiness for F {
    fn ready(&self) -> Result<(), String> {
        self()
    }
}

/// What the pages are made of.
#[derive(Clone)]
pub struct Exporter {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For `/healthz`.
    pub collector: Arc<Collector>,
    /// For `/readyz`.
    pub readiness: Arc<dyn Readiness>,
}

/// The metrics address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics on {address}: {source}; {advice}")]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
    advice: String,
}

/// Listens on `address`.
///
/// # Errors
/// See [`BindError`]; its message says what to do.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| {
        let port = address.port();
        let change = "set `listen` in the section [metrics] of segd.toml to another address";
        let advice = match source.kind() {
            ErrorKind::AddrInUse => {
                format!("`ss -ltnp sport = :{port}` shows which program has it: stop that one or {change}")
            }
            ErrorKind::AddrNotAvailable => format!("no interface of this host has that address: {change}"),
            ErrorKind::PermissionDenied => {
                format!("a port below 1024 needs CAP_NET_BIND_SERVICE: {change}")
            }
            _ => change.to_owned(),
        };
        BindError { address, source, advice }
    })
}

/// Serves the pages until `shutdown`.
pub async fn serve(listener: TcpListener, exporter: Exporter, shutdown: CancellationToken) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(Pages { exporter, scrapes: Arc::new(Semaphore::new(SCRAPES)) });
    http::serve(listener, LIMITS, shutdown, |_| router.clone()).await;
}

#[derive(Clone)]
struct Pages {
    exporter: Exporter,
    scrapes: Arc<Semaphore>,
}

async fn metrics(State(pages): State<Pages>) -> Response {
    let Ok(turn) = pages.scrapes.try_acquire_owned() else {
        return unavailable("too many scrapes at a time");
    };
    let render = tokio::task::spawn_blocking(move || {
        let page = pages.exporter.metrics.render();
        drop(turn);
        page
    });
    match timeout(SCRAPE, render).await {
        Ok(Ok(Ok(page))) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response(),
        Ok(Ok(Err(error))) => unavailable(&error.to_string()),
        Ok(Err(error)) => unavailable(&error.to_string()),
        Err(_) => unavailable("reading the kernel's counters takes too long"),
    }
}

async fn healthz(State(pages): State<Pages>) -> Response {
    if pages.exporter.collector.alive() {
        "ok\n".into_response()
    } else {
        unavailable("the kernel's events are not being read")
    }
}

async fn readyz(State(pages): State<Pages>) -> Response {
    // It asks the kernel, which takes no part in the turns of this thread's tasks.
    let asked = tokio::task::spawn_blocking(move || pages.exporter.readiness.ready());
    match timeout(SCRAPE, asked).await {
        Ok(Ok(Ok(()))) => "ready\n".into_response(),
        Ok(Ok(Err(reason))) => unavailable(&reason),
        Ok(Err(error)) => unavailable(&error.to_string()),
        Err(_) => unavailable("asking the kernel takes too long"),
    }
}

fn unavailable(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::telemetry::metrics::tests::{Fake, metrics};

    struct Running {
        address: SocketAddr,
        kernel: Arc<Fake>,
        ready: Arc<AtomicBool>,
        shutdown: CancellationToken,
        task: JoinHandle<()>,
    }

    async fn start() -> Running {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (metrics, kernel, collector) = metrics();
        let ready = Arc::new(AtomicBool::new(true));
        let is_ready = Arc::clone(&ready);
        let readiness = move || {
            if is_ready.load(Ordering::Relaxed) { Ok(()) } else { Err("no policy is loaded".to_owned()) }
        };
        let exporter = Exporter { metrics: Arc::new(metrics), collector, readiness: Arc::new(readiness) };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(listener, exporter, shutdown.clone()));
        Running { address, kernel, ready, shutdown, task }
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn pages() {
        let running = start().await;
        let page = ask(running.address, "GET /metrics").await;
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
        assert!(page.contains("\r\ncontent-type: text/plain; version=0.0.4\r\n"), "{page}");
        assert!(page.contains("\nsegd_policy_generation 3\n"), "{page}");

        running.kernel.broken.store(true, Ordering::Relaxed);
        let page = ask(running.address, "GET /metrics").await;
        assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("segd_scrape_errors_total 1\n"), "{page}");

        for (request, status, body) in [
            ("GET /healthz", 200, "ok\n"),
            ("GET /readyz", 200, "ready\n"),
            ("GET /elsewhere", 404, ""),
            ("POST /metrics", 405, ""),
        ] {
            let answer = ask(running.address, request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
            assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{request}: {answer}");
        }
        running.ready.store(false, Ordering::Relaxed);
        let answer = ask(running.address, "GET /readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("no policy is loaded\n"), "{answer}");
    }

    #[tokio::test]
    async fn idle_connections_do_not_delay_the_end() {
        let running = start().await;
        let mut idle = TcpStream::connect(running.address).await.unwrap();
        ask(running.address, "GET /healthz").await;
        running.shutdown.cancel();
        timeout(Duration::from_secs(2), running.task).await.unwrap().unwrap();
        assert_eq!(idle.read(&mut [0; 8]).await.unwrap(), 0);
        TcpStream::connect(running.address).await.unwrap_err();
    }

    #[tokio::test]
    async fn more_connections_than_the_limit_wait() {
        let running = start().await;
        let mut held = Vec::new();
        for _ in 0..LIMITS.connections {
            held.push(TcpStream::connect(running.address).await.unwrap());
        }
        let late = tokio::spawn(ask(running.address, "GET /healthz"));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!late.is_finished());
        held.pop();
        assert!(timeout(Duration::from_secs(2), late).await.unwrap().unwrap().contains("200 OK"));
    }

    #[tokio::test]
    async fn a_port_in_use_says_what_to_change() {
        let running = start().await;
        let error = bind(running.address).await.unwrap_err().to_string();
        let port = running.address.port();
        assert_eq!(
            error,
            format!(
                "cannot serve metrics on 127.0.0.1:{port}: Address already in use (os error 98); \
                 `ss -ltnp sport = :{port}` shows which program has it: stop that one or set `listen` in the \
                 section [metrics] of segd.toml to another address"
            )
        );
        let error = bind("192.0.2.1:9464".parse().unwrap()).await.unwrap_err().to_string();
        assert!(error.contains("no interface of this host has that address"), "{error}");
    }
}
