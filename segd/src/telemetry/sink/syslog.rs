//! Flow records as syslog messages: RFC 5424, one a datagram (RFC 5426, or to a Unix socket), or counted by octets
//! over TCP (RFC 6587 section 3.4.1).
//!
//! The message is the record as JSON, as other sinks write it; MSGID is its event, the severity goes by its verdict, and
//! there is no structured data: its names would need an enterprise number, and JSON says the same. All of it is ASCII,
//! so no byte order mark comes before it, and what a receiver stores parses as it is. Own code because the header is one
//! line; what takes care is how a receiver fails, and crates leave that to their callers.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use super::datagram::{Datagrams, Receiver};
use super::json::{self, Escape};
use super::pending::Pending;
use super::stream::Stream;
use super::{Options, Output, Sink, Written, severity};
use crate::telemetry::record::FlowRecord;

/// Port of syslog where the address names none: RFC 5426 section 3.3, and by custom that of TCP.
const PORT: u16 = 514;
/// Longer messages are shortened, as rsyslog would cut them in the middle otherwise: the default of its maxMessageSize.
const LONGEST: usize = 8192;
/// Characters that are kept of each long text then.
const SHORT: usize = 160;
/// RFC 5424 section 6.
const LONGEST_HOSTNAME: usize = 255;

/// Whom syslog messages are sent to: `unix:/dev/log`, `udp://10.0.0.5:514`, `tcp://logs.example.com:514`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A datagram socket of this host.
    Unix(PathBuf),
    /// By UDP. What the network loses is not noticed.
    Udp(Remote),
    /// By TCP.
    Tcp(Remote),
}

/// A host's name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Without brackets.
    pub host: String,
    /// Host byte order.
    pub port: u16,
}

/// Not an [`Address`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write it like `unix:/dev/log`, `udp://10.0.0.5:514` or `tcp://logs.example.com:6514`")]
pub struct NoAddress;

/// Facility of all messages of a sink, RFC 5424 section 6.2.1: 0 to 23.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facility(u8);

impl Default for Facility {
    /// `daemon`.
    fn default() -> Self {
        Self(3)
    }
}

impl Facility {
    /// Their names, as of syslog(3) and logger(1), in the order of their numbers; `""` has none.
    const NAMES: [&str; 24] = [
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
        "", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
    ];

    /// All that have a name, with it.
    pub(crate) fn words() -> Vec<(&'static str, Self)> {
        let numbered = (0..).map(Self).zip(Self::NAMES);
        numbered.filter(|(_, name)| !name.is_empty()).map(|(facility, name)| (name, facility)).collect()
    }
}

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(NoAddress);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Self::Unix(path)) } else { Err(NoAddress) };
        }
        match text.split_once("://") {
            Some(("udp", remote)) => Ok(Self::Udp(remote.parse()?)),
            Some(("tcp", remote)) => Ok(Self::Tcp(remote.parse()?)),
            _ => Err(NoAddress),
        }
    }
}

impl FromStr for Remote {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) if host.parse::<std::net::Ipv6Addr>().is_ok() => (host, port),
            Some(_) => return Err(NoAddress),
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(NoAddress)?,
            None if port.is_empty() => PORT,
            None => return Err(NoAddress),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if host.is_empty() || !host.chars().all(plain) {
            return Err(NoAddress);
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Udp(remote) => write!(f, "udp://{remote}"),
            Self::Tcp(remote) => write!(f, "tcp://{remote}"),
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Starts a sink that sends to `address`. That nobody answers there is no error: the sink starts down and tries again.
///
/// # Errors
/// No thread could be started.
pub fn start(options: Options, address: Address, facility: Facility) -> io::Result<Sink> {
    Sink::start(options, Syslog::new(address, facility))
}

/// Puts records into messages and hands them to a transport.
pub(super) struct Syslog {
    facility: Facility,
    process: u32,
    transport: Transport,
}

enum Transport {
    Datagrams(Datagrams),
    Stream(Stream),
}

impl Syslog {
    #[cfg(test)]
    pub(super) fn to(address: &str) -> Self {
        Self::new(address.parse().unwrap(), Facility::default())
    }

    fn new(address: Address, facility: Facility) -> Self {
        let transport = match address {
            Address::Unix(path) => Transport::Datagrams(Datagrams::new(Receiver::Unix(path), None)),
            Address::Udp(remote) => Transport::Datagrams(Datagrams::new(Receiver::Udp(remote), None)),
            Address::Tcp(remote) => Transport::Stream(Stream::new(remote)),
        };
        Self { facility, process: std::process::id(), transport }
    }

    fn message(&self, record: &FlowRecord) -> io::Result<Vec<u8>> {
        let mut message = Vec::with_capacity(1024);
        let priority = self.facility.0 * 8 + severity(record);
        let (time, host, event) = (record.time, hostname(&record.host), record.event.name());
        write!(message, "<{priority}>1 {time:.6} {host} segd {} {event} - ", self.process)?;
        json::append(record, Escape::NotAscii, &mut message)?;
        Ok(message)
    }
}

impl Output for Syslog {
    fn encode(&self, record: &FlowRecord, to: &mut Vec<u8>) -> io::Result<()> {
        let mut message = self.message(record)?;
        if message.len() > LONGEST {
            message = self.message(&shortened(record))?;
        }
        if matches!(self.transport, Transport::Stream(_)) {
            write!(to, "{} ", message.len())?;
        }
        to.extend(message);
        Ok(())
    }

    fn write(&mut self, pending: &Pending) -> Written {
        match &mut self.transport {
            Transport::Datagrams(datagrams) => datagrams.write(pending),
            Transport::Stream(stream) => stream.write(pending),
        }
    }
}

/// PRINTUSASCII, and never none.
fn hostname(name: &str) -> String {
    let fit = |c: char| if c.is_ascii_graphic() { c } else { '?' };
    let name: String = name.chars().map(fit).take(LONGEST_HOSTNAME).collect();
    if name.is_empty() { "-".to_owned() } else { name }
}

/// Without labels, and with the texts cut that a process or whoever starts it can make long.
fn shortened(record: &FlowRecord) -> FlowRecord {
    let cut = |text: &Arc<str>| match text.char_indices().nth(SHORT) {
        Some((end, _)) => Arc::from(format!("{}...", &text[..end])),
        None => Arc::clone(text),
    };
    let mut short = FlowRecord { labels: Arc::default(), ..record.clone() };
    if let Some(process) = &mut short.process {
        process.comm = cut(&process.comm);
        process.exe = process.exe.as_ref().map(cut);
        process.unit = process.unit.as_ref().map(cut);
    }
    short
}

#[cfg(test)]
mod tests;
