//! What `lab-actor` says on its standard output: one report a line, as JSON.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Stands where an errno's name would, when no answer came in the time given.
pub const TIMEOUT: &str = "timeout";

/// One thing that happened to an actor's sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Report {
    /// A server takes connections or datagrams.
    Listening {
        /// Where.
        address: SocketAddr,
    },
    /// A server took a connection.
    Accepted {
        /// From whom.
        peer: SocketAddr,
    },
    /// A connection is established.
    Connected {
        /// The own end.
        local: SocketAddr,
        /// The other end.
        peer: SocketAddr,
        /// How long connect took, in microseconds.
        micros: u64,
    },
    /// A datagram, a ping or the beginning of a connection was handed to the kernel, which took it.
    Sent,
    /// The peer sent this.
    Received {
        /// By whom.
        from: SocketAddr,
        /// The data, as text.
        text: String,
    },
    /// The peer closed the connection.
    Closed,
    /// A socket was made.
    Opened,
    /// A system call failed.
    Failed {
        /// The system call.
        step: String,
        /// The name of its errno (`EPERM`), or [`TIMEOUT`].
        errno: String,
    },
    /// How often each outcome was seen: `ok`, an errno's name, or [`TIMEOUT`].
    Counted {
        /// Outcome to count.
        outcomes: BTreeMap<String, u64>,
    },
}

impl Report {
    /// The errno's name, or [`TIMEOUT`], if this reports a failure.
    pub fn errno(&self) -> Option<&str> {
        match self {
            Self::Failed { errno, .. } => Some(errno),
            _ => None,
        }
    }

    /// The text, if this reports received data.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Received { text, .. } => Some(text),
            _ => None,
        }
    }
}
