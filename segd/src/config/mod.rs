//! `segd.toml`: how the agent on this host runs. What traffic is allowed is in the zone files, not here.

mod history;
mod names;
mod parse;
mod sinks;
pub(crate) mod units;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::policy::diagnostics::Diagnostics;
use crate::policy::failsafe::{Failsafe, default_failsafes};
use crate::policy::source::{ReadError, Sources};
use crate::telemetry::sink::Options;
use crate::telemetry::sink::syslog::{Address, Facility};

pub use history::HistoryConfig;
pub use names::NamesConfig;

/// Where the agent looks for its configuration.
pub const DEFAULT_PATH: &str = "/etc/segd/segd.toml";
/// Where the agent looks for zone files.
pub const DEFAULT_POLICY_DIR: &str = "/etc/segd/zones";
/// Port of the Prometheus exporter, on 127.0.0.1.
pub const DEFAULT_METRICS_PORT: u16 = 9464;

/// The whole configuration. [`Config::default`] is what an empty file means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[host]`.
    pub host: HostConfig,
    /// `[policy] dir`; relative to the working directory of the agent.
    pub policy_dir: PathBuf,
    /// `[[failsafe]]`, or the defaults.
    pub failsafes: Vec<Failsafe>,
    /// `[metrics] listen`.
    pub metrics_listen: SocketAddr,
    /// `[[sink]]`; none by default.
    pub sinks: Vec<Sink>,
    /// `[control] group`: whose members may use the control socket beside root.
    pub control_group: String,
    /// `[enforcement] on_revoke`.
    pub on_revoke: OnRevoke,
    /// `[enforcement] max_exception_ttl`.
    pub max_exception_ttl: Duration,
    /// `[names]`.
    pub names: NamesConfig,
    /// `[history]`.
    pub history: HistoryConfig,
}

/// How long an exception may live unless `max_exception_ttl` says otherwise.
pub const DEFAULT_MAX_EXCEPTION_TTL: Duration = Duration::from_secs(24 * 3600);

/// What happens to a live flow that a newer policy denies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRevoke {
    /// Its socket is destroyed: the application gets an error at once.
    #[default]
    Reset,
    /// Its packets are dropped: the application waits, and goes on if a later policy allows the flow again.
    Drop,
    /// It goes on until it ends.
    Keep,
}

/// `[host]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostConfig {
    /// Name in flow records; none: the host name.
    pub name: Option<String>,
    /// Zone; none: by the host's addresses.
    pub zone: Option<String>,
    /// Copied into every flow record.
    pub labels: BTreeMap<String, String>,
}

/// `[[sink]]`: where flow records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sink {
    /// Its name, what it takes and how.
    pub options: Options,
    /// Where to.
    pub target: SinkTarget,
}

/// Where a sink writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkTarget {
    /// Standard output of the agent.
    Stdout,
    /// A file and its former selves.
    File {
        /// The file that is written to.
        path: PathBuf,
        /// When to begin a new one.
        rotate: Rotate,
    },
    /// The systemd journal.
    Journald {
        /// Where journald listens.
        socket: PathBuf,
    },
    /// A syslog server.
    Syslog {
        /// Which one.
        address: Address,
        /// Of every message.
        facility: Facility,
    },
}

/// When a sink begins a new file, and how many old ones stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotate {
    /// At this many bytes.
    pub size: u64,
    /// At this age; none: size alone counts.
    pub age: Option<Duration>,
    /// Old files that stay.
    pub keep: u32,
}

impl Default for Rotate {
    fn default() -> Self {
        Self { size: 64 << 20, age: None, keep: 8 }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: HostConfig::default(),
            policy_dir: PathBuf::from(DEFAULT_POLICY_DIR),
            failsafes: default_failsafes(),
            metrics_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_METRICS_PORT)),
            sinks: Vec::new(),
            control_group: "segd".to_owned(),
            on_revoke: OnRevoke::default(),
            max_exception_ttl: DEFAULT_MAX_EXCEPTION_TTL,
            names: NamesConfig::default(),
            history: HistoryConfig::default(),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What it says is wrong; the text is [`Diagnostics::render`] without colour.
    #[error("{}", .0.render(false))]
    Invalid(Diagnostics),
}

/// Reads the configuration. Without a path, [`DEFAULT_PATH`] is read, and need not be there.
pub fn read(path: Option<&Path>) -> Result<Config, ConfigError> {
    let sources = match Sources::read_file(path.unwrap_or(Path::new(DEFAULT_PATH))) {
        Err(ReadError::Io { error, .. })
            if path.is_none() && error.kind() == std::io::ErrorKind::NotFound =>
        {
            return Ok(Config::default());
        }
        other => other?,
    };
    parse::parse(sources).map_err(ConfigError::Invalid)
}

/// The configuration that a text means; `name` is what messages call it.
///
/// # Errors
/// All errors at once.
pub fn parse(name: &str, text: &str) -> Result<Config, Diagnostics> {
    parse::parse(Sources::from_texts([(name, text)]))
}

#[cfg(test)]
mod tests;
