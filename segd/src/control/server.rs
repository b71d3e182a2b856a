//! The agent's side of the control socket.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::channel::Channel;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::api::{Caller, ControlError, ErrorBody, FlowsQuery, HistoryQuery, Status};
use super::changes::{
    Applied, ChangeOutcome, ConfirmRequest, ExceptionOutcome, ExceptionRequest, ExceptionRevoke, History,
    ModeOutcome, ModeRequest, PreviewRequest, Previewed, RollbackRequest, Safety,
};
use super::flows;
use super::history;
use super::peer::Forbidden;
use super::socket::ControlSocket;
use crate::http::{self, Limits};
use crate::telemetry::collector::Collector;

/// A stream of flow records has no age at which it should end.
const LIMITS: Limits = Limits { connections: 64, head: Duration::from_secs(10), age: Duration::MAX };

/// Streams of flow records at a time, so that other requests still find a connection.
const STREAMS: usize = 32;

/// Bytes of a request's body, and the time for it.
const MAX_BODY: usize = 64 << 10;
/// The same for one that brings zone files, in which a million prefixes may be.
const MAX_FILES: usize = 64 << 20;
const BODY: Duration = Duration::from_secs(10);

/// How long a preview may wait for its turn: less than a client waits for its answer.
const TURN: Duration = Duration::from_secs(15);

/// What the control socket asks the agent.
pub trait Agent: Send + Sync + 'static {
    /// The state of the agent and the kernel now. May block for as long as reading it from the kernel takes.
    fn status(&self) -> Status;

    /// Flows that each rule allowed, by the kernel's counters, and when the last one began. May block as
    /// [`Agent::status`].
    fn rule_hits(&self) -> Vec<(Arc<str>, u64, Option<Timestamp>)>;

    /// Sets a mode.
    fn set_mode(
        &self,
        request: ModeRequest,
        caller: Caller,
    ) -> impl Future<Output = Result<ModeOutcome, ControlError>> + Send;

    /// Loads the zone files anew.
    fn apply(
        &self,
        request: Safety,
        caller: Caller,
    ) -> impl Future<Output = Result<Applied, ControlError>> + Send;

    /// Tells what other zone files would break.
    fn preview(
        &self,
        request: PreviewRequest,
        caller: Caller,
    ) -> impl Future<Output = Result<Previewed, ControlError>> + Send;

    /// Lets a change that waits stay, or gives it more time.
    fn confirm(
        &self,
        request: ConfirmRequest,
        caller: Caller,
    ) -> impl Future<Output = Result<ChangeOutcome, ControlError>> + Send;

    /// Brings a former policy back.
    fn roll_back(
        &self,
        request: RollbackRequest,
        caller: Caller,
    ) -> impl Future<Output = Result<Applied, ControlError>> + Send;

    /// Adds an exception.
    fn add_exception(
        &self,
        request: ExceptionRequest,
        caller: Caller,
    ) -> impl Future<Output = Result<ExceptionOutcome, ControlError>> + Send;

    /// Ends an exception before its time.
    fn revoke_exception(
        &self,
        request: ExceptionRevoke,
        caller: Caller,
    ) -> impl Future<Output = Result<ExceptionOutcome, ControlError>> + Send;

    /// The policies that can be brought back. May block for as long as reading them from disk takes.
    ///
    /// # Errors
    /// They cannot be read.
    fn policies(&self) -> Result<History, ControlError>;

    /// Where flow records come from.
    fn hub(&self) -> &Collector;
}

/// Answers on `socket` until `shutdown`, then removes it.
pub async fn serve<A: Agent>(socket: ControlSocket, agent: Arc<A>, shutdown: CancellationToken) {
    let (streams, previews) = (Arc::new(Semaphore::new(STREAMS)), Arc::new(Semaphore::new(1)));
    let state = Control { agent, streams, previews, shutdown: shutdown.clone() };
    let permitted = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/mode", post(mode))
        .route("/v1/apply", post(apply))
        .route("/v1/preview", post(preview))
        .route("/v1/confirm", post(confirm))
        .route("/v1/rollback", post(rollback))
        .route("/v1/policies", get(policies))
        .route("/v1/history", get(send_history))
        .route("/v1/history/rules", get(rules))
        .route("/v1/exceptions", post(add_exception))
        .route("/v1/exceptions/revoke", post(revoke_exception))
        .route("/v1/flows", get(send_flows))
        .fallback(no_such_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(state);
    let forbidden = Router::new().fallback(forbid);
    let ControlSocket { listener, access, file } = socket;
    http::serve(listener, LIMITS, shutdown, |stream| match access.check(stream) {
        Ok(caller) => permitted.clone().layer(Extension(caller)),
        Err(peer) => forbidden.clone().layer(Extension(peer)),
    })
    .await;
    drop(file);
}

struct Control<A> {
    agent: Arc<A>,
    streams: Arc<Semaphore>,
    /// One at a time, from the first byte of its files on: they and their tables take much memory.
    previews: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl<A> Clone for Control<A> {
    fn clone(&self) -> Self {
        Self {
            agent: Arc::clone(&self.agent),
            streams: Arc::clone(&self.streams),
            previews: Arc::clone(&self.previews),
            shutdown: self.shutdown.clone(),
        }
    }
}

async fn status<A: Agent>(State(control): State<Control<A>>) -> Response {
    match tokio::task::spawn_blocking(move || control.agent.status()).await {
        Ok(status) => Json(status).into_response(),
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), None),
    }
}

async fn policies<A: Agent>(State(control): State<Control<A>>) -> Response {
    match tokio::task::spawn_blocking(move || control.agent.policies()).await {
        Ok(Ok(history)) => Json(history).into_response(),
        Ok(Err(error)) => error.into_response(),
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), None),
    }
}

/// A request's body, read and parsed; `what` is what messages call it. An empty one is `T`'s default, if it has one
/// by its fields.
async fn request<T: DeserializeOwned>(body: Body, limit: usize, what: &str) -> Result<T, Response> {
    let body = match timeout(BODY, axum::body::to_bytes(body, limit)).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => return Err(failure(StatusCode::PAYLOAD_TOO_LARGE, error.to_string(), None)),
        Err(_) => {
            let error = "the request did not come to an end".into();
            return Err(failure(StatusCode::REQUEST_TIMEOUT, error, None));
        }
    };
    let text: &[u8] = if body.is_empty() { b"{}" } else { &body };
    serde_json::from_slice(text).map_err(|error| {
        failure(StatusCode::BAD_REQUEST, format!("this is no request for {what}: {error}"), None)
    })
}

/// A route that changes something.
macro_rules! change {
    ($name:ident, $method:ident, $request:ty, $what:literal) => {
        async fn $name<A: Agent>(
            State(control): State<Control<A>>,
            Extension(caller): Extension<Caller>,
            body: Body,
        ) -> Response {
            match request::<$request>(body, MAX_BODY, $what).await {
                Ok(request) => to_the_end(async move { control.agent.$method(request, caller).await }).await,
                Err(response) => response,
            }
        }
    };
}

change!(mode, set_mode, ModeRequest, "a mode");
change!(apply, apply, Safety, "the zone files");
change!(confirm, confirm, ConfirmRequest, "a confirmation");
change!(rollback, roll_back, RollbackRequest, "a former policy");
change!(add_exception, add_exception, ExceptionRequest, "an exception");
change!(revoke_exception, revoke_exception, ExceptionRevoke, "the end of an exception");

async fn preview<A: Agent>(
    State(control): State<Control<A>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Response {
    let Ok(Ok(turn)) = timeout(TURN, Arc::clone(&control.previews).acquire_owned()).await else {
        let error = "another preview is being made".into();
        return failure(StatusCode::SERVICE_UNAVAILABLE, error, Some("try again when it has ended".into()));
    };
    let request = match request::<PreviewRequest>(body, MAX_FILES, "a preview of zone files").await {
        Ok(request) => request,
        Err(response) => return response,
    };
    to_the_end(async move {
        let previewed = control.agent.preview(request, caller).await;
        drop(turn);
        previewed
    })
    .await
}

/// Answers with the outcome of a change, made in a task of its own: a client that goes away does not leave it
/// half done.
async fn to_the_end<T: Serialize + Send + 'static>(
    change: impl Future<Output = Result<T, ControlError>> + Send + 'static,
) -> Response {
    match tokio::spawn(change).await {
        Ok(Ok(outcome)) => Json(outcome).into_response(),
        Ok(Err(error)) => error.into_response(),
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), None),
    }
}

async fn send_flows<A: Agent>(State(control): State<Control<A>>, RawQuery(query): RawQuery) -> Response {
    let query = match FlowsQuery::from_query(&query.unwrap_or_default()) {
        Ok(query) => query,
        Err(error) => return failure(StatusCode::BAD_REQUEST, error.to_string(), None),
    };
    if let Some((error, help)) = flows::unknown_zone(control.agent.hub(), &query.filter) {
        return failure(StatusCode::BAD_REQUEST, error, help);
    }
    let Ok(turn) = control.streams.try_acquire_owned() else { return too_many() };
    let (to, body) = Channel::new(flows::CHUNKS);
    let follow = query.follow;
    // Before the answer begins, so that whoever has it misses nothing of what happens then.
    let subscription = flows::subscribe(control.agent.hub(), query);
    tokio::spawn(async move {
        flows::send(subscription, follow, to, control.shutdown).await;
        drop(turn);
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(body)).into_response()
}

async fn send_history<A: Agent>(
    State(control): State<Control<A>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ControlError> {
    let query = HistoryQuery::from_query(&query.unwrap_or_default())
        .map_err(|error| ControlError::Invalid(ErrorBody::new(error, None)))?;
    let Ok(turn) = control.streams.try_acquire_owned() else { return Ok(too_many()) };
    let reader = history::reader(control.agent.hub()).await?;
    let (to, body) = Channel::new(flows::CHUNKS);
    tokio::spawn(async move {
        history::send(reader, query.0, to, control.shutdown).await;
        drop(turn);
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(body)).into_response())
}

async fn rules<A: Agent>(State(control): State<Control<A>>) -> Result<Response, ControlError> {
    let reader = history::reader(control.agent.hub()).await?;
    let rules = history::blocking(move || {
        let mut rules = reader.rules()?;
        // Records may be lost, counters are not; but a reboot takes those.
        let counted: HashMap<_, _> =
            control.agent.rule_hits().into_iter().map(|(id, hits, last)| (id, (hits, last))).collect();
        for rule in &mut rules {
            if let Some((hits, last)) = counted.get(rule.rule.as_str()) {
                rule.hits = rule.hits.max(*hits);
                rule.last_hit = rule.last_hit.max(*last);
            }
        }
        Ok(rules)
    });
    Ok(Json(rules.await?).into_response())
}

fn too_many() -> Response {
    let error = format!("{STREAMS} readers follow the flows of this host already");
    failure(StatusCode::SERVICE_UNAVAILABLE, error, Some("end one of them".into()))
}

async fn no_such_route() -> Response {
    let help = "is `segd` of another version than the agent?".to_owned();
    failure(StatusCode::NOT_FOUND, "the agent does not know this request".into(), Some(help))
}

async fn wrong_method() -> Response {
    failure(StatusCode::METHOD_NOT_ALLOWED, "this request has another HTTP method".into(), None)
}

async fn forbid(Extension(peer): Extension<Forbidden>) -> Response {
    let error = format!("user id {} may not use the control socket of segd", peer.uid);
    let help = "be root, or a member of the group that the socket belongs to".to_owned();
    failure(StatusCode::FORBIDDEN, error, Some(help))
}

fn failure(status: StatusCode, error: String, help: Option<String>) -> Response {
    (status, Json(ErrorBody { error, help, breaks: Vec::new() })).into_response()
}

impl IntoResponse for ControlError {
    fn into_response(self) -> Response {
        let (status, body) = match self {
            Self::Invalid(body) => (StatusCode::BAD_REQUEST, body),
            Self::Refused(body) => (StatusCode::CONFLICT, body),
            Self::Failed(body) => (StatusCode::INTERNAL_SERVER_ERROR, body),
        };
        (status, Json(body)).into_response()
    }
}

#[cfg(test)]
mod tests;
