//! What goes over the control socket when people change what is in force: `POST /v1/mode`, `/v1/apply`,
//! `/v1/confirm`, `/v1/rollback`, `/v1/exceptions` and `/v1/exceptions/revoke`; `GET /v1/policies` and
//! `/v1/exceptions`. And before they do: `POST /v1/preview`.

use jiff::Timestamp;
use segd_common::traffic::{Direction, Mode, Reason};
use serde::{Deserialize, Serialize};

use super::api::{ModeEntry, ModeOverride, PolicyStatus};
use super::optional_named;
use crate::policy::Resolved;
use crate::policy::model::Exception;
use crate::telemetry::named;
use crate::telemetry::record::Endpoint;

/// How a change is made safe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Safety {
    /// Seconds after which the former state returns unless the change is confirmed.
    pub confirm_s: Option<u64>,
    /// Change although traffic would break.
    pub force: bool,
    /// Change nothing; tell what would break.
    pub dry_run: bool,
    /// Watched for after the change, in place of the guards of the zone files.
    pub guard: Option<GuardRequest>,
    /// Why, for the journal.
    pub reason: Option<String>,
}

/// What a guard watches for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardRequest {
    /// Denials within a minute, of traffic that was flowing before.
    #[serde(default)]
    pub max_denied_per_minute: Option<u64>,
    /// Live flows that the change cuts.
    #[serde(default)]
    pub max_cut: Option<u64>,
    /// `tcp://host:port`, `http://…`, or a command.
    #[serde(default)]
    pub probe: Option<String>,
    /// Seconds.
    pub window_s: u64,
}

/// Asks for another mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModeRequest {
    /// The mode; `None`: what the zone files say.
    #[serde(with = "optional_named")]
    pub mode: Option<Mode>,
    /// Zone or workload; default: every one.
    #[serde(default)]
    pub subject: Option<String>,
    /// Service; default: every one.
    #[serde(default)]
    pub service: Option<String>,
    /// Default: both.
    #[serde(default, with = "optional_named", skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// How it is made safe.
    #[serde(default)]
    pub safety: Safety,
}

/// The mode that was set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeOutcome {
    /// What came of it.
    #[serde(flatten)]
    pub change: ChangeOutcome,
    /// Where which mode holds now.
    pub modes: Vec<ModeEntry>,
    /// All overrides that hold now.
    pub overrides: Vec<ModeOverride>,
}

/// The zone files that were loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// What came of it.
    #[serde(flatten)]
    pub change: ChangeOutcome,
    /// What is in force now.
    pub policy: PolicyStatus,
}

/// What came of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeOutcome {
    /// Whether anything was changed; not by a dry run.
    pub changed: bool,
    /// The generation that is in force now.
    pub generation: u32,
    /// What waits to be confirmed, if anything.
    pub pending: Option<PendingStatus>,
    /// What is watched, if anything.
    pub guard: Option<GuardStatus>,
    /// Traffic that the change breaks.
    pub breaks: Vec<Break>,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

/// Traffic that passes now and that a change denies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Break {
    /// Whether a socket holds it open now; else it was seen since the agent started.
    pub live: bool,
    /// Seen from this host.
    #[serde(with = "named")]
    pub direction: Direction,
    /// As in flow records.
    pub protocol: String,
    /// Who began; the port is 0 where several were seen.
    pub src: Endpoint,
    /// With whom.
    pub dst: Endpoint,
    /// What the server's port is called.
    pub service: String,
    /// Why it would be denied.
    #[serde(with = "named")]
    pub reason: Reason,
    /// The local process: its name, if known.
    pub process: Option<String>,
    /// Its process id, if known.
    pub pid: Option<u32>,
    /// Its systemd unit, if known.
    pub unit: Option<String>,
    /// Flows of this kind.
    pub count: u64,
    /// When the last one began.
    pub last: Option<Timestamp>,
}

/// Asks what other zone files would break. Nothing is changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreviewRequest {
    /// The files, in the order in which they are merged.
    pub files: Vec<ZoneFile>,
    /// What the names in their zones stand for.
    pub names: Resolved,
}

/// A file of zones and rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneFile {
    /// What messages call it.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// What other zone files would break.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previewed {
    /// In their own modes and those that were set at run time.
    pub breaks: Vec<Break>,
    /// Were everything enforced.
    pub enforced: Vec<Break>,
    /// What a person should know of it.
    pub warnings: Vec<String>,
}

/// A change that returns to the former state unless it is confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingStatus {
    /// When the former state returns. The kernel holds this instant, so it holds without the agent.
    pub deadline: Timestamp,
    /// Since when it waits.
    pub since: Timestamp,
    /// User id of who asked for it.
    pub by: Option<u32>,
    /// The policy that returns, as [`HistoryEntry::generation`].
    pub former: u32,
}

/// A guard that watches a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardStatus {
    /// Until when.
    pub until: Timestamp,
    /// The policy that returns on a breach, as [`HistoryEntry::generation`].
    pub former: u32,
    /// Denials in the last minute of traffic that was flowing before the change.
    pub denied: u64,
    /// See [`GuardRequest::max_denied_per_minute`].
    pub max_denied_per_minute: Option<u64>,
    /// Live flows that the change cut.
    pub cut: u64,
    /// See [`GuardRequest::max_cut`].
    pub max_cut: Option<u64>,
    /// What is probed.
    pub probe: Option<String>,
    /// What the last probe said; `None`: it was fine, or there was none yet.
    pub probe_error: Option<String>,
}

/// Confirms, or gives more time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfirmRequest {
    /// Seconds from now until the former state returns, in place of confirming.
    pub extend_s: Option<u64>,
    /// Why, for the journal.
    pub reason: Option<String>,
}

/// Asks for a former policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RollbackRequest {
    /// As [`HistoryEntry::generation`]; default: the one before.
    pub generation: Option<u32>,
    /// Why, for the journal.
    pub reason: Option<String>,
}

/// A policy that was in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The generation that it came into force with.
    pub generation: u32,
    /// When.
    pub made_at: Timestamp,
    /// User id of who asked for it.
    pub by: Option<u32>,
    /// How it came.
    pub why: String,
    /// Of its zone files.
    pub hash: String,
    /// Number of its overrides.
    pub overrides: u64,
    /// Whether it is in force now.
    pub in_force: bool,
}

/// The policies that can be brought back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Newest first.
    pub policies: Vec<HistoryEntry>,
    /// What is wrong with others that are kept.
    pub problems: Vec<String>,
}

/// Asks for an exception.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExceptionRequest {
    /// Zone or workload of the client.
    pub from: String,
    /// Zone or workload of the server.
    pub to: String,
    /// Services or ports.
    pub services: Vec<String>,
    /// Seconds.
    pub ttl_s: u64,
    /// Who answers for it.
    pub owner: String,
    /// Why.
    pub reason: String,
}

/// Ends an exception.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExceptionRevoke {
    /// Its id.
    pub id: String,
    /// Why, for the journal.
    #[serde(default)]
    pub reason: Option<String>,
}

/// An exception that was made or ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExceptionOutcome {
    /// The exception.
    pub exception: Exception,
    /// The generation that is in force now.
    pub generation: u32,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_requests() {
        let parse = serde_json::from_str::<ModeRequest>;
        let full = r#"{"mode":"enforce","subject":"orders","service":null,"direction":"inbound","safety":{"confirm_s":600,"force":false,"dry_run":false,"guard":null,"reason":null}}"#;
        let request = parse(full).unwrap();
        assert_eq!((request.mode, request.direction), (Some(Mode::Enforce), Some(Direction::Inbound)));
        assert_eq!(serde_json::to_string(&request).unwrap(), full);
        assert_eq!(parse(r#"{"mode":"monitor"}"#).unwrap().direction, None);
        assert_eq!(parse(r#"{"mode":"monitor","direction":null}"#).unwrap().direction, None);
        assert_eq!(parse(r#"{"mode":null}"#).unwrap().mode, None);
        for (text, want) in [
            (r#"{"mode":"off"}"#, "must be one of monitor, enforce"),
            (r#"{"mode":"monitor","subjects":"x"}"#, "unknown field `subjects`"),
            (r#"{"mode":"monitor","direction":"up"}"#, "`up` is no direction"),
            ("{}", "missing field `mode`"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
