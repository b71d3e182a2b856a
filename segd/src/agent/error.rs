//! Why the agent does not start, or does not change.

use crate::config::ConfigError;
use crate::control;
use crate::datapath;
use crate::policy::source::ReadError;
use crate::policy::{CompileError, Diagnostics, HostZoneError};
use crate::rollout::history::HistoryError;
use crate::rollout::journal::JournalError;
use crate::state::StateError;
use crate::telemetry::exporter;

/// Why a policy does not come into force. The former one stays.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The zone files cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What they say is wrong.
    #[error("{}", .0.render(false))]
    Policy(Diagnostics),
    /// The host is in no zone, or in several.
    #[error(transparent)]
    HostZone(#[from] HostZoneError),
    /// The tables cannot be made.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// What must outlive a restart cannot be saved.
    #[error(transparent)]
    State(#[from] StateError),
    /// The policy cannot be kept for a rollback.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The kernel does not take them.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
}

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// `segd.toml`.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The policy, or bringing it into force.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The former policies.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] control::BindError),
    /// The metrics address.
    #[error(transparent)]
    Metrics(#[from] exporter::BindError),
    /// A sink.
    #[error("the sink {name} cannot start: {source}")]
    Sink {
        /// Its name.
        name: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
    /// The metrics' names: a build error.
    #[error("cannot make the metrics: {0}")]
    Names(#[from] prometheus::Error),
    /// The system.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's word.
        source: std::io::Error,
    },
}

impl StartError {
    /// Exit code of `segd run`: 4 where more privilege would help, else 2.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let permission = match self {
            Self::Datapath(e) | Self::Install(InstallError::Datapath(e)) => e.is_permission(),
            Self::State(e) | Self::Install(InstallError::State(e)) => e.is_permission(),
            Self::Control(control::BindError::Io { source, .. }) => {
                source.kind() == std::io::ErrorKind::PermissionDenied
            }
            _ => false,
        };
        if permission { 4 } else { 2 }
    }
}
