//! Serves HTTP/1 under limits: connections, time to send a request, age of a connection. For the metrics page
//! and the control socket.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long a request may take to end once the server or its connection is to end.
const GRACE: Duration = Duration::from_secs(3);

/// Bytes of a request's head.
const MAX_HEAD: usize = 16 << 10;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at a time; more wait in the kernel's backlog.
    pub(crate) connections: usize,
    /// For the head of a request, the wait for it included.
    pub(crate) head: Duration,
    /// After which a connection takes no new request.
    pub(crate) age: Duration,
}

/// Serves until `shutdown`, then lets running requests end. `router` chooses by the connection who answers.
pub(crate) async fn serve<L: Listener>(
    mut listener: L,
    limits: Limits,
    shutdown: CancellationToken,
    router: impl Fn(&L::Io) -> Router,
) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            (slot, io) = accept(&mut listener, &slots) => {
                let router = router(&io);
                let shutdown = shutdown.clone();
                connections.spawn(async move {
                    connection(io, router, limits, shutdown).await;
                    drop(slot);
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    let all_end = async { while connections.join_next().await.is_some() {} };
    // What has not ended by then is dropped with the set.
    let _ = timeout(GRACE, all_end).await;
}

async fn accept<L: Listener>(
    listener: &mut L,
    slots: &Arc<Semaphore>,
) -> (Option<OwnedSemaphorePermit>, L::Io) {
    // Fails only on a closed semaphore, and nobody closes it.
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    (slot, listener.accept().await.0)
}

async fn connection<Io>(io: Io, router: Router, limits: Limits, shutdown: CancellationToken)
where
    Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(MAX_HEAD);
    let mut connection = pin!(server.serve_connection(TokioIo::new(io), TowerToHyperService::new(router)));
    tokio::select! {
        // An error here is the peer's: it went away or sent no HTTP.
        _ = connection.as_mut() => return,
        () = shutdown.cancelled() => {}
        () = sleep(limits.age) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, connection).await;
}
