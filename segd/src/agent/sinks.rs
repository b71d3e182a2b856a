//! Starts the sinks that `segd.toml` names.

use super::error::StartError;
use crate::config::{Config, SinkTarget};
use crate::telemetry::sink::{self, Sink};

/// # Errors
/// Names the first sink that cannot start and why. That a receiver is not there is no error.
pub(super) fn start(config: &Config) -> Result<Vec<Sink>, StartError> {
    let mut started = Vec::new();
    for sink in &config.sinks {
        let options = sink.options.clone();
        let result = match &sink.target {
            SinkTarget::Stdout => sink::stdout::start(options).map_err(Into::into),
            SinkTarget::File { path, rotate } => {
                let file = sink::file::FileOptions {
                    path: path.clone(),
                    size: rotate.size,
                    age: rotate.age,
                    keep: rotate.keep,
                };
                sink::file::start(options, file).map_err(Into::into)
            }
            SinkTarget::Journald { socket } => {
                sink::journald::start(options, socket.clone()).map_err(Into::into)
            }
            SinkTarget::Syslog { address, facility } => {
                sink::syslog::start(options, address.clone(), *facility).map_err(Into::into)
            }
        };
        let name = sink.options.name.clone();
        started.push(result.map_err(|source| StartError::Sink { name, source })?);
    }
    Ok(started)
}
