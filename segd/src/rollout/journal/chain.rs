//! One line: its fields, its bytes, its hash. Pure but for [`command_of`].

use std::fs;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::MAX_LINE;
use crate::telemetry::record::microseconds;
use crate::telemetry::text::printable;

/// `prev` of the first line.
pub(super) const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Characters of `command` and of `reason`; what is longer is cut.
const MAX_COMMAND: usize = 64;
const MAX_REASON: usize = 2000;
/// Bytes that are left of details that make a line too long. Written as a JSON string they are twice as many at most.
const CUT_DETAILS: usize = 16 << 10;

/// Around the hash at the end of a line.
const SEAL: (&[u8], &[u8]) = (b",\"hash\":\"", b"\"}");

macro_rules! actions {
    ($($(#[$doc:meta])* $variant:ident $name:literal,)*) => {
        /// What was done.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Action {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
            /// Written by a newer version of segd.
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        impl Action {
            /// Every action but [`Action::Unknown`].
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// As it is written.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* Self::Unknown => "unknown" }
            }
        }
    };
}

actions! {
    /// The agent started.
    Start "start",
    /// The agent ended.
    Stop "stop",
    /// Zone files were loaded.
    Load "load",
    /// A mode was set or taken back.
    Mode "mode",
    /// A change was confirmed in time.
    Confirm "confirm",
    /// A former policy was brought back by a person.
    Rollback "rollback",
    /// A change was undone because nobody confirmed it in time.
    Expire "expire",
    /// A change was undone by its guard.
    Guard "guard",
    /// A guard ended before its time, as another policy than the one it watched came into force.
    GuardEnd "guard-end",
    /// An exception was added.
    ExceptionAdd "exception-add",
    /// An exception was taken back.
    ExceptionRevoke "exception-revoke",
    /// An exception's time is over.
    ExceptionEnd "exception-end",
    /// Something of segd was changed by somebody else.
    Tamper "tamper",
    /// What a crash interrupted was put right.
    Recover "recover",
    /// Every program and pin was taken off the host.
    Detach "detach",
}

impl FromStr for Action {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.iter().copied().find(|action| action.name() == name).ok_or(())
    }
}

/// What is to be journaled.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What was done.
    pub action: Action,
    /// User id of who asked for it; `None`: nobody, the agent did it by itself.
    pub uid: Option<u32>,
    /// Process id of who asked.
    pub pid: Option<i32>,
    /// Name of that process, which it chose itself. Control characters are replaced.
    pub command: Option<String>,
    /// The generation in force before; `None`: none, or not known.
    pub before: Option<u32>,
    /// The generation in force afterwards.
    pub after: Option<u32>,
    /// Why, in words. Control characters are replaced.
    pub reason: Option<String>,
    /// What else there is to know: an object or null.
    pub details: Value,
}

impl Entry {
    /// Done by the agent itself, with nothing more to say.
    #[must_use]
    pub const fn new(action: Action) -> Self {
        Self {
            action,
            uid: None,
            pid: None,
            command: None,
            before: None,
            after: None,
            reason: None,
            details: Value::Null,
        }
    }

    /// Asked for by a peer of the control socket, whose name is looked up.
    #[must_use]
    pub fn by(self, uid: u32, pid: Option<i32>) -> Self {
        Self { uid: Some(uid), pid, command: pid.and_then(command_of), ..self }
    }
}

/// The name of a running process (its main thread's `comm`), made printable. The process chooses it.
#[must_use]
pub fn command_of(pid: i32) -> Option<String> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(printable(String::from_utf8_lossy(&name).trim_end_matches('\n')))
}

/// A line of the journal. Serialized it is the line's bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Number of the line; the first is 1.
    pub seq: u64,
    /// When: RFC 3339, UTC, microseconds.
    #[serde(serialize_with = "microseconds")]
    pub time: Timestamp,
    /// As in [`Entry`].
    pub action: Action,
    /// As in [`Entry`].
    pub uid: Option<u32>,
    /// As in [`Entry`].
    pub pid: Option<i32>,
    /// As in [`Entry`].
    pub command: Option<String>,
    /// As in [`Entry`].
    pub before: Option<u32>,
    /// As in [`Entry`].
    pub after: Option<u32>,
    /// As in [`Entry`].
    pub reason: Option<String>,
    /// As in [`Entry`].
    pub details: Value,
    /// `hash` of the line before it; of the first line: 64 zeros.
    pub prev: String,
    /// SHA-256, in hex, of this line's bytes without the newline and without this field and the comma before it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hash: String,
}

/// The line for an entry, and its bytes.
pub(super) fn seal(entry: Entry, seq: u64, time: Timestamp, prev: String) -> (Line, String) {
    let Entry { action, uid, pid, command, before, after, reason, details } = entry;
    let command = command.map(|text| cut(&text, MAX_COMMAND));
    let reason = reason.map(|text| cut(&text, MAX_REASON));
    let hash = String::new();
    let mut line = Line { seq, time, action, uid, pid, command, before, after, reason, details, prev, hash };
    let mut body = text(&line);
    if body.len() + SEAL.0.len() + NO_HASH.len() + SEAL.1.len() + 1 > MAX_LINE {
        let details = line.details.to_string();
        let left = &details[..details.floor_char_boundary(CUT_DETAILS)];
        line.details = serde_json::json!({ "cut": left, "bytes": details.len() });
        body = text(&line);
    }
    line.hash = sha256(body.as_bytes(), b"");
    let mut sealed = text(&line);
    sealed.push('\n');
    (line, sealed)
}

fn text(line: &Line) -> String {
    // Fails only on maps whose keys are no strings, and a `Value` has none.
    serde_json::to_string(line).unwrap_or_default()
}

fn cut(text: &str, most: usize) -> String {
    let mut text = printable(text);
    if let Some((end, _)) = text.char_indices().nth(most) {
        text.truncate(end);
        text.push('…');
    }
    text
}

fn sha256(bytes: &[u8], more: &[u8]) -> String {
    Sha256::new()
        .chain_update(bytes)
        .chain_update(more)
        .finalize()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Reads a line without its newline, and tells whether it is as it was written.
pub(super) fn unseal(bytes: &[u8]) -> Result<(Line, bool), serde_json::Error> {
    let line: Line = serde_json::from_slice(bytes)?;
    let body = bytes
        .strip_suffix(SEAL.1)
        .and_then(|rest| rest.strip_suffix(line.hash.as_bytes()))
        .and_then(|rest| rest.strip_suffix(SEAL.0));
    let sound = line.hash.len() == NO_HASH.len() && body.is_some_and(|body| sha256(body, b"}") == line.hash);
    Ok((line, sound))
}
