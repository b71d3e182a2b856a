//! The history of flows to one reader.

use std::convert::Infallible;
use std::ops::ControlFlow;

use axum::body::Bytes;
use http_body_util::channel::Sender;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::api::{ControlError, ErrorBody, HistoryLine};
use super::flows::{CHUNK, add, send_chunk};
use crate::history::{HistoryError, Range, Reader};
use crate::telemetry::collector::Collector;

/// Chunks that are read ahead.
const AHEAD: usize = 2;

/// Everything that was recorded so far, to read.
pub(super) async fn reader(of: &Collector) -> Result<Reader, ControlError> {
    let Some(recorder) = of.recorder().cloned() else {
        let help = "set `[history] enabled = true` in segd.toml and restart segd";
        return Err(ControlError::Refused(ErrorBody::new("this agent keeps no flow history", Some(help))));
    };
    blocking(move || recorder.reader()).await
}

/// Does what may wait for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HistoryError> + Send + 'static,
) -> Result<T, ControlError> {
    let failed = |error: String| ControlError::Failed(ErrorBody::new(error, None));
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| failed(error.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Sends until the reader is gone, too slow, or `shutdown`. What it has not taken is not read from disk.
pub(super) async fn send(
    from: Reader,
    range: Range,
    mut to: Sender<Bytes, Infallible>,
    shutdown: CancellationToken,
) {
    let (chunks, mut ready) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || read(&from, range, &chunks));
    let forward = async {
        while let Some(chunk) = ready.recv().await {
            if send_chunk(&mut to, chunk).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = forward => {}
    }
}

fn read(from: &Reader, range: Range, to: &mpsc::Sender<Vec<u8>>) {
    let mut chunk = Vec::new();
    let mut summaries = 0;
    let mut gone = false;
    let result = from.each(range, |summary| {
        summaries += 1;
        add(&mut chunk, &HistoryLine::Summary(Box::new(summary)));
        if chunk.len() >= CHUNK {
            gone = to.blocking_send(std::mem::take(&mut chunk)).is_err();
        }
        if gone { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let last = match result {
        Ok(()) => HistoryLine::Complete { summaries },
        Err(error) => HistoryLine::Failed { error: error.to_string() },
    };
    add(&mut chunk, &last);
    // Fails when the reader is gone.
    let _ = to.blocking_send(chunk);
}
