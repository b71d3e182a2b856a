//! How commands talk to the agent: HTTP and JSON over a Unix socket that only root and one group may use.

pub mod api;
pub mod changes;
mod client;
mod flows;
mod history;
mod lines;
mod optional_named;
mod peer;
mod server;
mod socket;

pub use client::{Client, ClientError, FlowStream, SummaryStream};
pub use server::{Agent, serve};
pub use socket::{BindError, ControlSocket, DEFAULT_GROUP, SOCKET_FILE};
