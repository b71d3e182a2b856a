//! What is needed of a line, borrowed from it.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use segd_common::event::Kind;
use segd_common::traffic::{Direction, Reason, Verdict};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

use super::problems::What;
use crate::telemetry::filter::{End, Facts, Program};
use crate::telemetry::record::{InOut, SCHEMA};
use crate::telemetry::{named, protocol};

/// A [`FlowRecord`](crate::telemetry::FlowRecord), but for what neither a summary nor a filter looks at.
#[derive(Debug, Deserialize)]
#[serde(expecting = "a flow record")]
pub(super) struct Line<'a> {
    schema: u64,
    pub(super) time: Timestamp,
    #[serde(default)]
    pub(super) since: Option<Timestamp>,
    #[serde(borrow)]
    pub(super) host: Text<'a>,
    #[serde(with = "named")]
    pub(super) event: Kind,
    #[serde(with = "named")]
    pub(super) verdict: Verdict,
    #[serde(with = "named")]
    pub(super) reason: Reason,
    #[serde(with = "named")]
    pub(super) direction: Direction,
    #[serde(deserialize_with = "protocol_number")]
    pub(super) protocol: u8,
    #[serde(borrow)]
    pub(super) src: Endpoint<'a>,
    #[serde(borrow)]
    pub(super) dst: Endpoint<'a>,
    #[serde(default)]
    pub(super) icmp_type: Option<u8>,
    #[serde(default)]
    pub(super) icmp_code: Option<u8>,
    #[serde(borrow)]
    pub(super) service: Text<'a>,
    #[serde(borrow)]
    pub(super) rule: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) subject: Text<'a>,
    #[serde(borrow)]
    pub(super) workload: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) process: Option<Process<'a>>,
    pub(super) count: u64,
    pub(super) packets: InOut,
    pub(super) bytes: InOut,
}

#[derive(Debug, Deserialize)]
pub(super) struct Endpoint<'a> {
    pub(super) ip: IpAddr,
    pub(super) port: u16,
    #[serde(borrow)]
    pub(super) zone: Text<'a>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Process<'a> {
    #[serde(borrow)]
    pub(super) comm: Text<'a>,
    #[serde(borrow)]
    pub(super) exe: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) unit: Option<Text<'a>>,
    pub(super) uid: u32,
}

/// Borrowed where the JSON has no escapes in it.
#[derive(Debug)]
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

#[derive(Deserialize)]
struct Schema {
    schema: u64,
}

impl<'a> Line<'a> {
    /// What a line says.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, What> {
        match serde_json::from_slice::<Self>(bytes) {
            Ok(line) if line.schema == u64::from(SCHEMA) => Ok(line),
            Ok(line) => Err(What::Schema(line.schema)),
            Err(error) => Err(match serde_json::from_slice(bytes) {
                Ok(Schema { schema }) if schema != u64::from(SCHEMA) => What::Schema(schema),
                _ if error.is_eof() => What::Torn,
                _ => What::NoRecord(in_its_line(&error)),
            }),
        }
    }

    pub(super) fn facts(&self) -> Facts<'_> {
        let process = self.process.as_ref();
        Facts {
            host: &self.host.0,
            event: Some(self.event),
            verdict: self.verdict,
            reason: self.reason,
            direction: self.direction,
            protocol: Some(self.protocol),
            src: self.src.end(),
            dst: self.dst.end(),
            port: self.dst.port,
            icmp: self.icmp_type.zip(self.icmp_code),
            service: &self.service.0,
            rule: text(self.rule.as_ref()),
            workload: text(self.workload.as_ref()),
            program: process.map_or_else(Program::default, |process| Program {
                comm: Some(&process.comm.0),
                exe: text(process.exe.as_ref()),
                unit: text(process.unit.as_ref()),
            }),
        }
    }

    /// The local and the other end.
    pub(super) fn ends(&self) -> (&Endpoint<'a>, &Endpoint<'a>) {
        match self.direction {
            Direction::Outbound => (&self.src, &self.dst),
            Direction::Inbound => (&self.dst, &self.src),
        }
    }
}

impl Endpoint<'_> {
    fn end(&self) -> End<'_> {
        End { ip: Some(self.ip), zone: &self.zone.0 }
    }
}

fn text<'a>(text: Option<&'a Text<'_>>) -> Option<&'a str> {
    text.map(|text| &*text.0)
}

/// Every line is the first one of what is parsed, so only its column tells something.
pub(super) fn in_its_line(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

fn protocol_number<'de, D: Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
    let Text(name) = Text::deserialize(from)?;
    protocol::number(&name).ok_or_else(|| de::Error::custom(format_args!("`{name}` is no protocol")))
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Borrowing;
        impl<'de> Visitor<'de> for Borrowing {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(Borrowing)
    }
}
