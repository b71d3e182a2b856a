//! The values of a filter's keys.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use segd_common::event::Kind;
use segd_common::traffic::{Direction, Reason, Verdict};
use wildmatch::WildMatch;

use super::facts::{End, Facts, Program};
use super::{FilterError, Key};
use crate::telemetry::{named, protocol};

/// What the value of a key is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Verdict(Verdict),
    Event(Kind),
    Reason(Reason),
    Direction(Direction),
    Protocol(u8),
    Port(Port),
    Net(IpNet),
    Name(Pattern),
}

/// A name, in which `*` stands for any characters and `?` for any one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pattern {
    text: String,
    /// Unless the text stands for itself.
    wild: Option<WildMatch>,
}

/// Protocol and port: `5432`, `4000-4010`, `tcp`, `tcp/5432`, `udp/4000-4010`, `tcp/*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    protocol: Option<u8>,
    /// First and last.
    ports: Option<(u16, u16)>,
}

impl Value {
    pub(super) fn parse(key: Key, text: &str) -> Result<Self, FilterError> {
        Ok(match key {
            Key::Verdict => Self::Verdict(named::parse(text)?),
            Key::Event => Self::Event(named::parse(text)?),
            Key::Reason => Self::Reason(named::parse(text)?),
            Key::Direction => Self::Direction(named::parse(text)?),
            Key::Protocol => {
                Self::Protocol(protocol::number(text).ok_or_else(|| FilterError::Protocol(text.to_owned()))?)
            }
            Key::Port => Self::Port(Port::parse(text)?),
            Key::Address => Self::Net(net(text).ok_or_else(|| FilterError::Address(text.to_owned()))?),
            Key::From | Key::To => side(text)?,
            Key::Zone | Key::Workload | Key::Service | Key::Process | Key::Host | Key::Rule => {
                let wrong = || FilterError::Name { key, text: text.to_owned() };
                Self::Name(Pattern::parse(text).ok_or_else(wrong)?)
            }
        })
    }

    pub(super) fn fits(&self, key: Key, facts: &Facts<'_>) -> bool {
        match self {
            Self::Verdict(verdict) => *verdict == facts.verdict,
            Self::Event(event) => Some(*event) == facts.event,
            Self::Reason(reason) => *reason == facts.reason,
            Self::Direction(direction) => *direction == facts.direction,
            Self::Protocol(protocol) => Some(*protocol) == facts.protocol,
            Self::Port(port) => port.fits(facts),
            Self::Net(_) => match key {
                Key::From => self.fits_end(&facts.src),
                Key::To => self.fits_end(&facts.dst),
                _ => self.fits_end(&facts.src) || self.fits_end(&facts.dst),
            },
            Self::Name(name) => match key {
                Key::From => self.fits_end(&facts.src),
                Key::To => self.fits_end(&facts.dst),
                Key::Zone => self.fits_end(&facts.src) || self.fits_end(&facts.dst),
                Key::Workload => facts.workload.is_some_and(|workload| name.fits(workload)),
                Key::Service => name.fits(facts.service),
                Key::Process => name.fits_program(&facts.program),
                Key::Host => name.fits(facts.host),
                Key::Rule => facts.rule.is_some_and(|rule| name.fits(rule)),
                _ => false,
            },
        }
    }

    fn fits_end(&self, end: &End<'_>) -> bool {
        match self {
            Self::Name(name) => name.fits(end.zone),
            Self::Net(net) => end.ip.is_some_and(|ip| net.contains(&ip)),
            _ => false,
        }
    }

    /// The name that it is, if it is one and no pattern.
    pub(super) fn exact_name(&self) -> Option<&str> {
        match self {
            Self::Name(Pattern { text, wild: None }) => Some(text),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict(word) => f.write_str(word.name()),
            Self::Event(word) => f.write_str(word.name()),
            Self::Reason(word) => f.write_str(word.name()),
            Self::Direction(word) => f.write_str(word.name()),
            Self::Protocol(number) => f.write_str(&protocol::name(*number)),
            Self::Port(port) => port.fmt(f),
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Net(net) => net.fmt(f),
            Self::Name(name) => f.write_str(&name.text),
        }
    }
}

impl Eq for Pattern {}

impl Pattern {
    fn parse(text: &str) -> Option<Self> {
        let plain = !text.is_empty() && text.chars().all(|c| !c.is_whitespace() && !c.is_control());
        let wild = text.contains(['*', '?']).then(|| WildMatch::new(text));
        plain.then(|| Self { text: text.to_owned(), wild })
    }

    fn fits(&self, text: &str) -> bool {
        self.wild.as_ref().map_or(self.text == text, |wild| wild.matches(text))
    }

    fn fits_program(&self, program: &Program<'_>) -> bool {
        let Program { comm, exe, unit } = *program;
        let last_part = exe.and_then(|exe| exe.rsplit('/').next());
        [comm, exe, last_part, unit].into_iter().flatten().any(|text| self.fits(text))
    }
}

/// `10.0.0.7`, `10.0.0.0/8`.
fn net(text: &str) -> Option<IpNet> {
    let one = || text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical().into());
    one().or_else(|| text.parse::<IpNet>().ok().map(|net| net.trunc()))
}

/// `orders`, `10.0.0.7`, `10.0.0.0/8`.
fn side(text: &str) -> Result<Value, FilterError> {
    if let Some(net) = net(text) {
        return Ok(Value::Net(net));
    }
    let looks_like_an_address =
        text.contains(['/', ':']) || text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let name = Pattern::parse(text).filter(|_| !looks_like_an_address);
    name.map(Value::Name).ok_or_else(|| FilterError::Side(text.to_owned()))
}

impl Port {
    fn fits(&self, facts: &Facts<'_>) -> bool {
        self.protocol.is_none_or(|p| facts.protocol == Some(p))
            && self.ports.is_none_or(|(first, last)| (first..=last).contains(&facts.port))
    }

    fn parse(text: &str) -> Result<Self, FilterError> {
        let wrong = |why: String| FilterError::Port { text: text.to_owned(), why };
        let protocol = |name: &str| {
            protocol::number(name).ok_or_else(|| {
                wrong(format!("`{name}` is no protocol (known: {}, or a number)", protocol::names()))
            })
        };
        if let Some((name, ports)) = text.split_once('/') {
            let ports = if ports == "*" { None } else { Some(range(ports).map_err(wrong)?) };
            return Ok(Self { protocol: Some(protocol(name)?), ports });
        }
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(Self { protocol: None, ports: Some(range(text).map_err(wrong)?) });
        }
        Ok(Self { protocol: Some(protocol(text)?), ports: None })
    }
}

fn range(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) => Ok(port),
        Err(_) => Err(format!("`{text}` is no number from 0 to 65535")),
    };
    match text.split_once('-') {
        None => port(text).map(|p| (p, p)),
        Some((first, last)) => match (port(first)?, port(last)?) {
            (first, last) if first <= last => Ok((first, last)),
            _ => Err("the range ends before it begins".to_owned()),
        },
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(protocol) = self.protocol {
            write!(f, "{}/", protocol::name(protocol))?;
        }
        match self.ports {
            None => f.write_str("*"),
            Some((first, last)) if first == last => first.fmt(f),
            Some((first, last)) => write!(f, "{first}-{last}"),
        }
    }
}
