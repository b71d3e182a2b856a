//! Which flow records somebody wants to see: on the command line, in a sink, in a query string.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use segd_common::event::Kind;
use segd_common::traffic::{Direction, Verdict};

use super::named::{self, Named, UnknownWord};
use super::protocol;
use super::record::{Endpoint, FlowRecord};

/// A record matches if it matches every part that is set. The default matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// One of these; empty: any.
    pub verdict: Vec<Verdict>,
    /// Who began the flow.
    pub from: Option<Side>,
    /// With whom.
    pub to: Option<Side>,
    /// The server's port.
    pub port: Option<Port>,
    /// Name of the service.
    pub service: Option<String>,
    /// One of these; empty: any.
    pub event: Vec<Kind>,
    /// Who began it, seen from the host.
    pub direction: Option<Direction>,
}

/// One end of a flow: `orders`, `10.0.0.7`, `10.0.0.0/8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// By the name of its zone or subject.
    Zone(String),
    /// By its address.
    Net(IpNet),
}

/// Protocol and port: `5432`, `4000-4010`, `tcp`, `tcp/5432`, `udp/4000-4010`, `tcp/*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    protocol: Option<u8>,
    ports: Option<(u16, u16)>,
}

/// What is wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A word outside its set.
    #[error(transparent)]
    Word(#[from] UnknownWord),
    /// Neither a zone's name nor an address.
    #[error("`{0}` is neither a zone, an address nor a CIDR; examples: orders, 10.0.0.7, 10.0.0.0/8")]
    Side(String),
    /// Not a port.
    #[error("`{text}` is no port: {why}; examples: 5432, tcp/5432, udp/4000-4010, icmp")]
    Port {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// An empty or unprintable name.
    #[error("`{0}` is no service's name")]
    Service(String),
    /// A query string has a key that is none of a filter's.
    #[error("unknown filter `{0}`: the filters are verdict, from, to, port, service, event, direction")]
    Key(String),
}

impl Filter {
    /// Sets one part from text. Lists are separated by commas.
    ///
    /// # Errors
    /// The key is unknown or the value not valid for it.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), FilterError> {
        match key {
            "verdict" => self.verdict = words(value)?,
            "from" => self.from = Some(value.parse()?),
            "to" => self.to = Some(value.parse()?),
            "port" => self.port = Some(value.parse()?),
            "service" if is_name(value) => self.service = Some(value.to_owned()),
            "service" => return Err(FilterError::Service(value.to_owned())),
            "event" => self.event = words(value)?,
            "direction" => self.direction = Some(named::parse(value)?),
            _ => return Err(FilterError::Key(key.to_owned())),
        }
        Ok(())
    }

    /// The parts that are set, as [`Filter::set`] takes them.
    #[must_use]
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        let optional = [
            ("verdict", join(&self.verdict)),
            ("from", self.from.as_ref().map(Side::to_string)),
            ("to", self.to.as_ref().map(Side::to_string)),
            ("port", self.port.as_ref().map(Port::to_string)),
            ("service", self.service.clone()),
            ("event", join(&self.event)),
            ("direction", self.direction.map(|d| d.name().to_owned())),
        ];
        optional.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }

    /// As a URL's query, without `?`; empty if nothing is set.
    #[must_use]
    pub fn to_query(&self) -> String {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(self.pairs()).finish()
    }

    /// From a URL's query.
    ///
    /// # Errors
    /// As [`Filter::set`].
    pub fn from_query(query: &str) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            filter.set(&key, &value)?;
        }
        Ok(filter)
    }

    /// Whether `record` is wanted.
    #[must_use]
    pub fn matches(&self, record: &FlowRecord) -> bool {
        (self.verdict.is_empty() || self.verdict.contains(&record.verdict))
            && (self.event.is_empty() || self.event.contains(&record.event))
            && self.direction.is_none_or(|d| d == record.direction)
            && self.service.as_ref().is_none_or(|s| **s == *record.service)
            && self.from.as_ref().is_none_or(|side| side.matches(&record.src))
            && self.to.as_ref().is_none_or(|side| side.matches(&record.dst))
            && self.port.as_ref().is_none_or(|port| port.matches(record))
    }
}

impl Side {
    fn matches(&self, end: &Endpoint) -> bool {
        let Endpoint { ip, port: _, zone } = end;
        match self {
            Self::Zone(name) => **name == **zone,
            Self::Net(net) => net.contains(ip),
        }
    }
}

impl FromStr for Side {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Net(ip.to_canonical().into()));
        }
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self::Net(net.trunc()));
        }
        let looks_like_an_address =
            text.contains(['/', ':']) || text.chars().all(|c| c.is_ascii_digit() || c == '.');
        if is_name(text) && !looks_like_an_address {
            Ok(Self::Zone(text.to_owned()))
        } else {
            Err(FilterError::Side(text.to_owned()))
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zone(name) => f.write_str(name),
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Net(net) => net.fmt(f),
        }
    }
}

impl Port {
    fn matches(&self, record: &FlowRecord) -> bool {
        self.protocol.is_none_or(|p| protocol::number(&record.protocol) == Some(p))
            && self.ports.is_none_or(|(first, last)| (first..=last).contains(&record.dst.port))
    }
}

impl FromStr for Port {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
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

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != ',')
}

fn words<T: Named>(text: &str) -> Result<Vec<T>, UnknownWord> {
    text.split(',').map(|word| named::parse(word.trim())).collect()
}

fn join<T: Named>(words: &[T]) -> Option<String> {
    (!words.is_empty()).then(|| words.iter().map(|w| w.word()).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::record::tests::{denied, record};

    #[test]
    fn matching() {
        let record = record(&denied());
        for (key, value, want) in [
            ("verdict", "denied", true),
            ("verdict", "audited,denied", true),
            ("verdict", "allowed", false),
            ("from", "fulfillment", true),
            ("from", "orders", false),
            ("to", "orders", true),
            ("to", "10.30.0.5", true),
            ("to", "::ffff:10.30.0.5", true),
            ("to", "10.30.0.0/16", true),
            ("to", "10.31.0.0/16", false),
            ("to", "2001:db8::/32", false),
            ("port", "5432", true),
            ("port", "tcp/5432", true),
            ("port", "tcp", true),
            ("port", "6/*", true),
            ("port", "udp/5432", false),
            ("port", "5400-5500", true),
            ("port", "40000", false),
            ("service", "postgres", true),
            ("service", "redis", false),
            ("event", "deny", true),
            ("event", "open,close", false),
            ("direction", "outbound", true),
            ("direction", "inbound", false),
        ] {
            let mut filter = Filter::default();
            assert!(filter.matches(&record));
            filter.set(key, value).unwrap();
            assert_eq!(filter.matches(&record), want, "{key}={value}");
            assert_eq!(Filter::from_query(&filter.to_query()), Ok(filter), "{key}={value}");
        }
    }

    #[test]
    fn query() {
        let mut filter = Filter::default();
        assert_eq!(filter.to_query(), "");
        for (key, value) in [("verdict", "denied,audited"), ("to", "10.1.2.3/8"), ("port", "tcp/443")] {
            filter.set(key, value).unwrap();
        }
        assert_eq!(filter.to_query(), "verdict=denied%2Caudited&to=10.0.0.0%2F8&port=tcp%2F443");
    }

    #[test]
    fn errors_say_what_to_write() {
        for (key, value, want) in [
            ("verdict", "deny", "`deny` is no verdict: it must be one of allowed, audited, denied"),
            (
                "from",
                "10.0.0.0/33",
                "`10.0.0.0/33` is neither a zone, an address nor a CIDR; examples: orders, 10.0.0.7, 10.0.0.0/8",
            ),
            (
                "to",
                "10.0.0",
                "`10.0.0` is neither a zone, an address nor a CIDR; examples: orders, 10.0.0.7, 10.0.0.0/8",
            ),
            (
                "port",
                "70000",
                "`70000` is no port: `70000` is no number from 0 to 65535; examples: 5432, tcp/5432, udp/4000-4010, icmp",
            ),
            (
                "port",
                "9-1",
                "`9-1` is no port: the range ends before it begins; examples: 5432, tcp/5432, udp/4000-4010, icmp",
            ),
            (
                "port",
                "tpc/1",
                "`tpc/1` is no port: `tpc` is no protocol (known: icmp, tcp, udp, icmpv6, sctp, udplite, raw, or a number); \
                 examples: 5432, tcp/5432, udp/4000-4010, icmp",
            ),
            ("service", "", "`` is no service's name"),
            (
                "prot",
                "1",
                "unknown filter `prot`: the filters are verdict, from, to, port, service, event, direction",
            ),
        ] {
            assert_eq!(Filter::default().set(key, value).unwrap_err().to_string(), want);
        }
    }
}
