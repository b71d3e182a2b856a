//! An answer that is JSON, one value a line.

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::client::{Client, ClientError, Connection};

/// Bytes of one line.
const MAX_LINE: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Lines {
    client: Client,
    body: Incoming,
    received: Vec<u8>,
    /// Bytes of `received` that were read.
    done: usize,
    /// Bytes of `received` after them that have no end of a line.
    searched: usize,
    _connection: Connection,
}

impl Lines {
    pub(super) fn new(client: Client, body: Incoming, connection: Connection) -> Self {
        Self { client, body, received: Vec::new(), done: 0, searched: 0, _connection: connection }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The next value; `None` at the end. May be dropped while it waits; nothing is lost by that.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            let from = self.done + self.searched;
            if let Some(end) = self.received[from..].iter().position(|b| *b == b'\n').map(|at| from + at) {
                let line = &self.received[self.done..end];
                (self.done, self.searched) = (end + 1, 0);
                if line.is_empty() {
                    continue;
                }
                return serde_json::from_slice(line).map(Some).map_err(|error| self.client.broken(&error));
            }
            self.received.drain(..self.done);
            (self.done, self.searched) = (0, self.received.len());
            if self.received.len() > MAX_LINE {
                return Err(self.client.broken(&"a line without end"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => self.received.extend(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(self.client.broken(&error)),
            }
        }
    }
}
