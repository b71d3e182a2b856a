//! What goes over the control socket when people ask. `GET /v1/status` answers [`Status`]; `GET /v1/flows` takes
//! [`FlowsQuery`] and answers [`FlowLine`]s, `GET /v1/history` takes [`HistoryQuery`] and answers [`HistoryLine`]s,
//! `GET /v1/history/rules` answers [`RuleFacts`](crate::history::RuleFacts). Errors are [`ErrorBody`]. For changes see
//! [`changes`](super::changes).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use segd_common::traffic::{Direction, Mode};
use serde::{Deserialize, Serialize};

use super::changes::{Break, GuardStatus, PendingStatus};
use super::optional_named;
use crate::history::{HistoryStatus, Range, Summary};
use crate::policy::model::Exception;
use crate::telemetry::filter::{Filter, FilterError};
use crate::telemetry::named;
use crate::telemetry::record::FlowRecord;

/// The agent and what the kernel holds now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the agent.
    pub version: String,
    /// Of the agent's process.
    pub pid: u32,
    /// When it started.
    pub started: Timestamp,
    /// This host.
    pub host: HostStatus,
    /// The generation in force; 0: none.
    pub generation: u32,
    /// The policy in force, if any.
    pub policy: Option<PolicyStatus>,
    /// A change that waits to be confirmed.
    pub pending: Option<PendingStatus>,
    /// A guard that watches the last change.
    pub guard: Option<GuardStatus>,
    /// Whether this host is in the cohort of each canary of the policy, and why.
    pub canaries: Vec<CanaryStatus>,
    /// Exceptions that hold.
    pub exceptions: Vec<Exception>,
    /// Names of zones, and what they stand for.
    pub names: Vec<NameStatus>,
    /// Where which mode holds.
    pub modes: Vec<ModeEntry>,
    /// What `segd mode` has set, in the order in which it counts.
    pub overrides: Vec<ModeOverride>,
    /// Programs, as the kernel tells.
    pub hooks: Vec<HookStatus>,
    /// Flows since the counters began.
    pub flows: FlowCounts,
    /// Lost events by stage.
    pub lost: Vec<StageLoss>,
    /// Sinks of flow records.
    pub sinks: Vec<SinkState>,
    /// What flowed before, if it is recorded.
    #[serde(default)]
    pub history: Option<HistoryStatus>,
    /// Where metrics are served, as `address:port`.
    pub metrics: Option<String>,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

/// Who the host is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its name.
    pub name: String,
    /// Its zone, if it has exactly one.
    pub zone: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// One canary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryStatus {
    /// The rollout, as `file:line`.
    pub rollout: String,
    /// Whether its mode holds on this host.
    pub included: bool,
    /// Why.
    pub why: String,
}

/// A DNS name of a zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameStatus {
    /// The name.
    pub name: String,
    /// The zone.
    pub zone: String,
    /// What it stands for now, and since when each address has.
    pub addresses: BTreeMap<IpAddr, Timestamp>,
    /// Why the last look-up failed; the addresses of the last one that did not are kept.
    pub error: Option<String>,
}

/// Which policy is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Its number in the history: the generation that it came into force with.
    pub record: u32,
    /// Why the zone files on disk are not what is in force, if a start held them back.
    pub held: Option<String>,
    /// Where its zone files are.
    pub dir: PathBuf,
    /// Of its content.
    pub hash: String,
    /// When it was loaded.
    pub loaded_at: Timestamp,
    /// Number of rules.
    pub rules: u64,
    /// Number of zones.
    pub zones: u64,
}

/// The mode of a part of the traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeEntry {
    /// Zone or workload.
    pub subject: String,
    /// Who begins.
    #[serde(with = "named")]
    pub direction: Direction,
    /// Zone of the other side; `None`: every one.
    pub peer: Option<String>,
    /// Service; `None`: every one.
    pub service: Option<String>,
    /// What happens to what no rule allows.
    #[serde(with = "named")]
    pub mode: Mode,
    /// Where that comes from: `default`, `rollout` (and its canary) or `override`.
    pub source: String,
}

/// A mode that a person has set at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeOverride {
    /// The mode.
    #[serde(with = "named")]
    pub mode: Mode,
    /// Zone or workload; `None`: every one.
    pub subject: Option<String>,
    /// Service; `None`: every one.
    pub service: Option<String>,
    /// Both, if not given.
    #[serde(default, with = "optional_named", skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// User id of who set it.
    pub set_by: u32,
    /// When.
    pub set_at: Timestamp,
}

/// A place in the kernel where segd decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookStatus {
    /// Its name, as in DESIGN.md section 3.
    pub hook: String,
    /// Whether segd's program is attached to it.
    pub attached: bool,
    /// The program's id in the kernel.
    pub program_id: Option<u32>,
    /// The link's id in the kernel.
    pub link_id: Option<u32>,
}

/// Flows by verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCounts {
    /// A rule or a built-in reason let them pass.
    pub allowed: u64,
    /// No rule allows them; monitor mode let them pass.
    pub audited: u64,
    /// Stopped.
    pub denied: u64,
}

/// Events that got lost at one stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageLoss {
    /// As the label of `segd_lost_events_total`.
    pub stage: String,
    /// How many.
    pub lost: u64,
}

/// A sink of flow records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkState {
    /// Its name.
    pub name: String,
    /// Its last write succeeded.
    pub up: bool,
    /// The last error while it is down.
    pub error: Option<String>,
    /// Records that it lost since the agent's start.
    #[serde(default)]
    pub lost: u64,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User id of the process that connected.
    pub uid: u32,
    /// Its process id, if the kernel tells it.
    pub pid: Option<i32>,
}

/// Which flow records to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowsQuery {
    /// Those that match,
    pub filter: Filter,
    /// so many of the recent ones first; default: all, but none with `follow`,
    pub last: Option<usize>,
    /// then new ones until the reader goes away.
    pub follow: bool,
}

impl FlowsQuery {
    /// As a URL's query, without `?`.
    #[must_use]
    pub fn to_query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("follow", if self.follow { "true" } else { "false" });
        if let Some(last) = self.last {
            query.append_pair("last", &last.to_string());
        }
        query.extend_pairs(self.filter.pairs()).finish()
    }

    /// From a URL's query.
    ///
    /// # Errors
    /// An unknown key or a value that is not valid for it.
    pub fn from_query(query: &str) -> Result<Self, QueryError> {
        let mut this = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "follow" => this.follow = value.parse().map_err(|_| QueryError::Follow(value.into()))?,
                "last" => this.last = Some(value.parse().map_err(|_| QueryError::Last(value.into()))?),
                _ => this.filter.set(&key, &value)?,
            }
        }
        Ok(this)
    }
}

/// What is wrong with a query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Neither true nor false.
    #[error("`follow` is true or false, not `{0}`")]
    Follow(String),
    /// No instant.
    #[error("`{key}` is an instant like `2026-11-22T18:00:00Z`, not `{value}`")]
    Time {
        /// `since` or `until`.
        key: String,
        /// What was given.
        value: String,
    },
    /// No number.
    #[error("`last` is a number of records, not `{0}`")]
    Last(String),
    /// A key that is not known.
    #[error("there is no `{0}` to ask for")]
    Key(String),
    /// One of the filters.
    #[error(transparent)]
    Filter(#[from] FilterError),
}

/// Which part of the history to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryQuery(pub Range);

impl HistoryQuery {
    /// As a URL's query, without `?`.
    #[must_use]
    pub fn to_query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (key, time) in [("since", self.0.since), ("until", self.0.until)] {
            query.extend_pairs(time.map(|time| (key, time.to_string())));
        }
        query.finish()
    }

    /// From a URL's query.
    ///
    /// # Errors
    /// An unknown key or a value that is not valid for it.
    pub fn from_query(query: &str) -> Result<Self, QueryError> {
        let mut range = Range::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let time = || {
                value.parse().map_err(|_| QueryError::Time { key: key.to_string(), value: value.to_string() })
            };
            match &*key {
                "since" => range.since = Some(time()?),
                "until" => range.until = Some(time()?),
                _ => return Err(QueryError::Key(key.into())),
            }
        }
        Ok(Self(range))
    }
}

/// A line of the answer to `GET /v1/history`. The last one is no summary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HistoryLine {
    /// It was read to the end.
    Complete {
        /// Lines before this one.
        summaries: u64,
    },
    /// It could not be read on.
    Failed {
        /// Why.
        error: String,
    },
    /// A part of it.
    Summary(Box<Summary>),
}

/// A line of the answer to `GET /v1/flows`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FlowLine {
    /// The reader was too slow for so many records, matching or not.
    Lost {
        /// How many.
        lost: u64,
    },
    /// A record.
    Record(Arc<FlowRecord>),
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Traffic that a refused change would break.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub breaks: Vec<Break>,
}

impl ErrorBody {
    pub(super) fn new(error: impl ToString, help: Option<&str>) -> Self {
        Self { error: error.to_string(), help: help.map(str::to_owned), breaks: Vec::new() }
    }
}

/// Why the agent did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The request names something that does not exist, or is not valid. HTTP 400.
    #[error("{}", .0.error)]
    Invalid(ErrorBody),
    /// It is valid, but not in the present state. HTTP 409.
    #[error("{}", .0.error)]
    Refused(ErrorBody),
    /// It was tried and failed. HTTP 500.
    #[error("{}", .0.error)]
    Failed(ErrorBody),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_round_trip() {
        let mut query = FlowsQuery { last: Some(20), follow: true, ..FlowsQuery::default() };
        query.filter.set("to", "10.0.0.0/8").unwrap();
        assert_eq!(query.to_query(), "follow=true&last=20&to=10.0.0.0%2F8");
        assert_eq!(FlowsQuery::from_query(&query.to_query()), Ok(query));
        assert_eq!(FlowsQuery::from_query(""), Ok(FlowsQuery::default()));
        for (query, want) in [
            ("follow=yes", "`follow` is true or false, not `yes`"),
            ("last=-1", "`last` is a number of records, not `-1`"),
            ("verdict=x", "`x` is no verdict: it must be one of allowed, audited, denied"),
        ] {
            assert_eq!(FlowsQuery::from_query(query).unwrap_err().to_string(), want);
        }
    }
}
