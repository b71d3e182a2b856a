//! The stream of flow records to one reader.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::channel::Sender;
use serde::Serialize;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::api::{FlowLine, FlowsQuery};
use crate::policy::diagnostics::suggest;
use crate::telemetry::Filter;
use crate::telemetry::collector::{Collector, Item, Subscription};
use crate::telemetry::text::printable;

/// Chunks that wait for a reader.
pub(super) const CHUNKS: usize = 16;

/// A chunk of history ends when it has this many bytes.
pub(super) const CHUNK: usize = 32 << 10;

/// A reader that takes nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// An empty line as often as this finds out whether a quiet stream's reader is still there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// What is wrong with a filter that names a zone or workload that this host never had in its policy, and what to do.
pub(super) fn unknown_zone(of: &Collector, filter: &Filter) -> Option<(String, Option<String>)> {
    let context = of.context();
    let known: Vec<_> = context.registry.subjects().collect();
    let unknown = filter.names().find(|name| !known.contains(name))?;
    let error =
        format!("no zone or workload of this host's policy is or was called `{}`", printable(unknown));
    Some((error, suggest(unknown, "there are", known.iter().copied())))
}

/// Begins to listen to what `query` asks for.
pub(super) fn subscribe(to: &Collector, query: FlowsQuery) -> Subscription {
    let last = query.last.unwrap_or(if query.follow { 0 } else { usize::MAX });
    to.subscribe(query.filter, last)
}

/// Sends until the reader is gone, too slow, or `shutdown`; without `follow`, only the past.
pub(super) async fn send(
    from: Subscription,
    follow: bool,
    mut to: Sender<Bytes, Infallible>,
    shutdown: CancellationToken,
) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        _ = forward(from, follow, &mut to) => {}
    }
}

/// The reader went away or was too slow.
pub(super) struct Gone;

async fn forward(
    mut from: Subscription,
    follow: bool,
    to: &mut Sender<Bytes, Infallible>,
) -> Result<(), Gone> {
    let mut chunk = Vec::new();
    while let Some(record) = from.next_past() {
        add(&mut chunk, &FlowLine::Record(record));
        if chunk.len() >= CHUNK {
            send_chunk(to, std::mem::take(&mut chunk)).await?;
        }
    }
    if !chunk.is_empty() {
        send_chunk(to, chunk).await?;
    }
    if !follow {
        return Ok(());
    }
    loop {
        let chunk = match timeout(SIGN_OF_LIFE, from.next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Item::Record(record))) => line(&FlowLine::Record(record)),
            Ok(Some(Item::Lost(lost))) => line(&FlowLine::Lost { lost }),
            Err(_) => b"\n".to_vec(),
        };
        send_chunk(to, chunk).await?;
    }
}

pub(super) async fn send_chunk(to: &mut Sender<Bytes, Infallible>, chunk: Vec<u8>) -> Result<(), Gone> {
    match timeout(PATIENCE, to.send_data(chunk.into())).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(Gone),
    }
}

fn line(line: &FlowLine) -> Vec<u8> {
    let mut bytes = Vec::new();
    add(&mut bytes, line);
    bytes
}

pub(super) fn add(chunk: &mut Vec<u8>, line: &impl Serialize) {
    let before = chunk.len();
    // Fails only for a map whose keys are no strings, which records and summaries have not.
    if serde_json::to_writer(&mut *chunk, line).is_ok() {
        chunk.push(b'\n');
    } else {
        chunk.truncate(before);
    }
}
