//! Guards: what must stay true for a while after a change, or the change is taken back.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use hyper::Uri;
use serde::{Deserialize, Serialize};

/// How long a probe may take unless the guard says otherwise.
pub const DEFAULT_PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a guard watches unless it says otherwise.
pub const DEFAULT_WINDOW: Duration = Duration::from_secs(600);

/// `guard` of a `[[rollout]]`; it watches at least one of its limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// The most denials in a minute, of traffic that was flowing before the change.
    pub max_denied_per_minute: Option<u64>,
    /// What must go on working.
    pub probe: Option<Probe>,
    /// How long the probe may take; more than none, less than `window`.
    pub probe_timeout: Duration,
    /// How long it watches after a change; more than none.
    pub window: Duration,
    /// The most live flows that the change may cut.
    pub max_cut: Option<u64>,
}

/// Something to try that must succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Probe {
    /// A TCP connection to a host (a name or an address, without brackets) and port.
    Tcp(String, u16),
    /// A URL of scheme `http` that answers a GET request with a status below 400.
    Http(String),
    /// A program and its arguments, run without a shell, that exits with 0.
    Command(Vec<String>),
}

/// Why a text is no probe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {help}")]
pub struct BadProbe {
    /// What is wrong.
    pub message: String,
    /// What to write.
    pub help: String,
}

const FORMS: &str = "write it like `tcp://127.0.0.1:5432`, `http://127.0.0.1:8080/health` or as a command";

fn bad(message: impl Into<String>, help: impl Into<String>) -> BadProbe {
    BadProbe { message: message.into(), help: help.into() }
}

impl Probe {
    /// A program and its arguments.
    ///
    /// # Errors
    /// There is no program, or something that no program can be given.
    pub fn command(words: Vec<String>) -> Result<Self, BadProbe> {
        if words.first().is_none_or(String::is_empty) {
            return Err(bad("the command has no program", "name one, as [\"pg_isready\", \"-q\"]"));
        }
        if words.iter().any(|word| word.contains('\0')) {
            return Err(bad("the command holds a zero byte", "remove it"));
        }
        Ok(Self::Command(words))
    }
}

impl FromStr for Probe {
    type Err = BadProbe;

    /// `tcp://HOST:PORT`, `http://HOST[:PORT]/PATH`, or a command with blanks between its words.
    fn from_str(text: &str) -> Result<Self, BadProbe> {
        if let Some(end) = text.strip_prefix("tcp://") {
            return tcp(text, end);
        }
        if text.starts_with("http://") {
            let right = text.parse::<Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()));
            let wrong =
                || bad(format!("`{text}` is not a URL"), "write it like `http://127.0.0.1:8080/health`");
            return if right { Ok(Self::Http(text.to_owned())) } else { Err(wrong()) };
        }
        if let Some((scheme, _)) = text.split_once("://") {
            let help = match scheme {
                "https" => "use a command, as [\"curl\", \"-fsS\", \"https://...\"]",
                _ => FORMS,
            };
            return Err(bad(format!("a probe of scheme `{scheme}` is not known"), help));
        }
        if let Some(c) = text.chars().find(|c| "'\"\\$`|&;<>*?(){}".contains(*c)) {
            let help = "write the words as a list, or name a script";
            return Err(bad(format!("the command holds `{c}`, but no shell runs it"), help));
        }
        if text.trim().is_empty() {
            return Err(bad("the probe is empty", FORMS));
        }
        Self::command(text.split_whitespace().map(str::to_owned).collect())
    }
}

fn tcp(text: &str, end: &str) -> Result<Probe, BadProbe> {
    let wrong = || bad(format!("`{text}` names no host and port"), "write it like `tcp://127.0.0.1:5432`");
    let (host, port) = end.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
    let v6 = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let good = match v6 {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)),
    };
    if good { Ok(Probe::Tcp(v6.unwrap_or(host).to_owned(), port)) } else { Err(wrong()) }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "tcp://{host}:{port}"),
            Self::Http(url) => f.write_str(url),
            Self::Command(words) => f.write_str(&words.join(" ")),
        }
    }
}

/// A probe in a file or document.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Words(Vec<String>),
}

impl TryFrom<Written> for Probe {
    type Error = BadProbe;

    fn try_from(written: Written) -> Result<Self, BadProbe> {
        match written {
            Written::Text(text) => text.parse(),
            Written::Words(words) => Self::command(words),
        }
    }
}

impl From<Probe> for Written {
    fn from(probe: Probe) -> Self {
        match probe {
            Probe::Command(words) => Self::Words(words),
            other => Self::Text(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_every_form() {
        let command = |words: &[&str]| Probe::Command(words.iter().map(|w| (*w).to_owned()).collect());
        for (text, probe, json) in [
            ("tcp://127.0.0.1:5432", Probe::Tcp("127.0.0.1".into(), 5432), "\"tcp://127.0.0.1:5432\""),
            ("tcp://[::1]:22", Probe::Tcp("::1".into(), 22), "\"tcp://[::1]:22\""),
            ("tcp://db.example.com:1", Probe::Tcp("db.example.com".into(), 1), "\"tcp://db.example.com:1\""),
            ("http://[::1]:80/x?y", Probe::Http("http://[::1]:80/x?y".into()), "\"http://[::1]:80/x?y\""),
            ("pg_isready -q", command(&["pg_isready", "-q"]), "[\"pg_isready\",\"-q\"]"),
        ] {
            assert_eq!(text.parse::<Probe>().unwrap(), probe);
            assert_eq!(probe.to_string(), text);
            assert_eq!(serde_json::to_string(&probe).unwrap(), json);
            assert_eq!(serde_json::from_str::<Probe>(json).unwrap(), probe);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, message) in [
            ("tcp://127.0.0.1", "`tcp://127.0.0.1` names no host and port"),
            ("tcp://:22", "`tcp://:22` names no host and port"),
            ("tcp://::1:22", "`tcp://::1:22` names no host and port"),
            ("tcp://a:0", "`tcp://a:0` names no host and port"),
            ("http://", "`http://` is not a URL"),
            ("https://a/", "a probe of scheme `https` is not known"),
            ("test -e /x && y", "the command holds `&`, but no shell runs it"),
            (" ", "the probe is empty"),
        ] {
            assert_eq!(text.parse::<Probe>().unwrap_err().message, message);
        }
        assert!(Probe::command(vec![String::new()]).is_err());
    }
}
