//! The commands' side of the control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::api::{ErrorBody, FlowLine, FlowsQuery, HistoryLine, HistoryQuery, Status};
use super::changes::{
    Applied, ChangeOutcome, ConfirmRequest, ExceptionOutcome, ExceptionRequest, ExceptionRevoke, History,
    ModeOutcome, ModeRequest, PreviewRequest, Previewed, RollbackRequest, Safety,
};
use super::lines::Lines;
use super::socket::SOCKET_FILE;
use crate::history::{RuleFacts, Summary};

/// For an answer to begin and, but for streams, to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of an answer that is no stream.
const MAX_ANSWER: usize = 64 << 20;

/// Talks to the agent of one run directory. Each request has its own connection.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why the agent did not answer as hoped.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No agent listens.
    #[error("no segd agent answers at {}: {source}; start one (`systemctl start segd` or `segd run`), or name its --run-dir", socket.display())]
    NoAgent {
        /// Where it was looked for.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel or the agent does not let this user in.
    #[error("not permitted to talk to the segd agent at {}: {reason}", socket.display())]
    NotPermitted {
        /// Its socket.
        socket: PathBuf,
        /// Who says so and what to do.
        reason: String,
    },
    /// The agent says that the request is wrong.
    #[error("{}", with_help(.0))]
    Rejected(ErrorBody),
    /// The agent tried and failed, or does not do it now.
    #[error("{}", with_help(.0))]
    Failed(ErrorBody),
    /// The connection broke, or the answer cannot be read.
    #[error("the segd agent at {} gave no proper answer: {reason}", socket.display())]
    Broken {
        /// Its socket.
        socket: PathBuf,
        /// What happened.
        reason: String,
    },
}

fn with_help(body: &ErrorBody) -> String {
    match &body.help {
        Some(help) => format!("{}; {help}", body.error),
        None => body.error.clone(),
    }
}

impl ClientError {
    /// The exit code of a command that ends with this error, as in DESIGN.md section 4.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Rejected(_) => 2,
            Self::NoAgent { .. } | Self::Broken { .. } => 3,
            Self::NotPermitted { .. } => 4,
        }
    }
}

impl Client {
    /// For the agent whose run directory this is.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        Self { socket: run_dir.join(SOCKET_FILE) }
    }

    /// The state of the agent.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&self) -> Result<Status, ClientError> {
        let (answer, _connection) = self.send(Method::GET, "/v1/status", Bytes::new()).await?;
        self.read(answer).await
    }

    /// Sets a mode.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn set_mode(&self, request: &ModeRequest) -> Result<ModeOutcome, ClientError> {
        self.post("/v1/mode", request).await
    }

    /// Lets the agent load its zone files anew.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn apply(&self, request: &Safety) -> Result<Applied, ClientError> {
        self.post("/v1/apply", request).await
    }

    /// What other zone files would break. Changes nothing.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn preview(&self, request: &PreviewRequest) -> Result<Previewed, ClientError> {
        self.post("/v1/preview", request).await
    }

    /// Lets a change that waits stay, or gives it more time.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn confirm(&self, request: &ConfirmRequest) -> Result<ChangeOutcome, ClientError> {
        self.post("/v1/confirm", request).await
    }

    /// Brings a former policy back.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn roll_back(&self, request: &RollbackRequest) -> Result<Applied, ClientError> {
        self.post("/v1/rollback", request).await
    }

    /// The policies that can be brought back.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn policies(&self) -> Result<History, ClientError> {
        let (answer, _connection) = self.send(Method::GET, "/v1/policies", Bytes::new()).await?;
        self.read(answer).await
    }

    /// What flowed before, by hours.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ClientError::Failed`] also if the agent records none.
    pub async fn history(&self, query: &HistoryQuery) -> Result<SummaryStream, ClientError> {
        let path = format!("/v1/history?{}", query.to_query());
        Ok(SummaryStream { lines: self.lines(&path).await?, received: 0 })
    }

    /// What is known of the rules that are or were in force, by id.
    ///
    /// # Errors
    /// As [`Client::history`].
    pub async fn rules(&self) -> Result<Vec<RuleFacts>, ClientError> {
        let (answer, _connection) = self.send(Method::GET, "/v1/history/rules", Bytes::new()).await?;
        self.read(answer).await
    }

    async fn lines(&self, path: &str) -> Result<Lines, ClientError> {
        let (answer, connection) = self.send(Method::GET, path, Bytes::new()).await?;
        Ok(Lines::new(self.clone(), answer.into_body(), connection))
    }

    /// Adds an exception.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn add_exception(&self, request: &ExceptionRequest) -> Result<ExceptionOutcome, ClientError> {
        self.post("/v1/exceptions", request).await
    }

    /// Ends an exception before its time.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn revoke_exception(&self, request: &ExceptionRevoke) -> Result<ExceptionOutcome, ClientError> {
        self.post("/v1/exceptions/revoke", request).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| self.broken(&error))?;
        let (answer, _connection) = self.send(Method::POST, path, body.into()).await?;
        self.read(answer).await
    }

    /// Flow records.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn flows(&self, query: &FlowsQuery) -> Result<FlowStream, ClientError> {
        Ok(FlowStream(self.lines(&format!("/v1/flows?{}", query.to_query())).await?))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, Connection), ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "segd")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| self.broken(&error))?;
        let stream = self.in_time(UnixStream::connect(&self.socket)).await?;
        let stream = stream.map_err(|error| self.not_connected(error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        let connection = Connection(tokio::spawn(connection).abort_handle());
        let answer = self.in_time(sender.send_request(request)).await?;
        let answer = answer.map_err(|error| self.broken(&error))?;
        if answer.status().is_success() {
            return Ok((answer, connection));
        }
        let status = answer.status();
        let body = self.read::<ErrorBody>(answer).await?;
        Err(match status {
            StatusCode::FORBIDDEN => {
                ClientError::NotPermitted { socket: self.socket.clone(), reason: with_help(&body) }
            }
            StatusCode::CONFLICT => ClientError::Failed(body),
            status if status.is_client_error() => ClientError::Rejected(body),
            _ => ClientError::Failed(body),
        })
    }

    async fn read<T: DeserializeOwned>(&self, answer: Response<Incoming>) -> Result<T, ClientError> {
        let body = self.in_time(Limited::new(answer.into_body(), MAX_ANSWER).collect()).await?;
        let body = body.map_err(|error| self.broken(&error))?.to_bytes();
        serde_json::from_slice(&body).map_err(|error| self.broken(&error))
    }

    async fn in_time<T>(&self, answer: impl Future<Output = T>) -> Result<T, ClientError> {
        let late = || self.broken(&format!("nothing within {} seconds", PATIENCE.as_secs()));
        timeout(PATIENCE, answer).await.map_err(|_| late())
    }

    fn not_connected(&self, source: io::Error) -> ClientError {
        let socket = self.socket.clone();
        if source.kind() == io::ErrorKind::PermissionDenied {
            let reason = format!("{source}; be root, or a member of the group that the socket belongs to");
            ClientError::NotPermitted { socket, reason }
        } else {
            ClientError::NoAgent { socket, source }
        }
    }

    pub(super) fn broken(&self, reason: &dyn std::fmt::Display) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), reason: reason.to_string() }
    }
}

/// Ends with its owner.
#[derive(Debug)]
pub(super) struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The lines of an answer to [`Client::flows`].
#[derive(Debug)]
pub struct FlowStream(Lines);

impl FlowStream {
    /// The next line; `None` at the end: all was sent, or the agent ends. May be dropped while it waits;
    /// nothing is lost by that.
    ///
    /// # Errors
    /// [`ClientError::Broken`].
    pub async fn next(&mut self) -> Result<Option<FlowLine>, ClientError> {
        self.0.next().await
    }
}

/// The summaries of an answer to [`Client::history`].
#[derive(Debug)]
pub struct SummaryStream {
    lines: Lines,
    received: u64,
}

impl SummaryStream {
    /// The next one; `None` at the end. By hours; within an hour in no order.
    ///
    /// # Errors
    /// [`ClientError::Broken`] also if not everything came; [`ClientError::Failed`] if the agent cannot read on.
    pub async fn next(&mut self) -> Result<Option<Summary>, ClientError> {
        match self.lines.next().await? {
            Some(HistoryLine::Summary(summary)) => {
                self.received += 1;
                Ok(Some(*summary))
            }
            Some(HistoryLine::Complete { summaries }) if summaries == self.received => Ok(None),
            Some(HistoryLine::Failed { error }) => Err(ClientError::Failed(ErrorBody::new(error, None))),
            _ => Err(self.lines.client().broken(&"the history ended before it was complete")),
        }
    }

    /// All that are left, sorted by hour and conversation.
    ///
    /// # Errors
    /// As [`SummaryStream::next`].
    pub async fn all(mut self) -> Result<Vec<Summary>, ClientError> {
        let mut all = Vec::new();
        while let Some(summary) = self.next().await? {
            all.push(summary);
        }
        all.sort_unstable_by(|a, b| (a.hour, &a.of).cmp(&(b.hour, &b.of)));
        Ok(all)
    }
}
