//! Port specifications: `tcp/5432`, `udp/4000-4010`, `tcp/*`, `icmp/echo`, `raw`, `proto/47`.

use std::fmt;
use std::str::FromStr;

use segd_common::traffic::protocol;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Names of the protocols that have no ports, or none that segd looks at.
const PORTLESS: [(&str, u8); 3] =
    [("raw", protocol::RAW), ("sctp", protocol::SCTP), ("udplite", protocol::UDPLITE)];

/// A protocol and a range of its ports, ends included.
///
/// For ICMP and ICMPv6 a port is `type << 8 | code`. Protocols without ports have the whole range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSpec {
    /// IP protocol number, or [`protocol::RAW`].
    pub protocol: u8,
    /// First port, in host byte order.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

/// Why a text is no port specification.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadPort {
    /// What is wrong.
    pub message: String,
    /// What to write.
    pub help: String,
}

pub(crate) const FORMS: &str =
    "write it like `tcp/5432`, `udp/4000-4010`, `tcp/*`, `icmp/echo`, `icmpv6`, `raw`, `sctp` or `proto/47`";

impl PortSpec {
    /// Every port of a protocol.
    #[must_use]
    pub const fn whole(protocol: u8) -> Self {
        Self { protocol, first: 0, last: u16::MAX }
    }

    /// Whether it holds every port of its protocol.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.first == 0 && self.last == u16::MAX
    }

    /// Whether it holds this port of this protocol.
    #[must_use]
    pub const fn contains(&self, protocol: u8, port: u16) -> bool {
        self.protocol == protocol && self.first <= port && port <= self.last
    }

    /// Number of ports.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// Never: a range has at least one port.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Whether a text has the form of a port specification rather than of a service's name.
    pub(crate) fn looks_like(text: &str) -> bool {
        text.contains('/') || reserved_word(text)
    }
}

/// Words that mean a protocol, and so name no service.
pub(crate) fn reserved_word(text: &str) -> bool {
    matches!(text, "icmp" | "icmpv6" | "tcp" | "udp" | "proto") || PORTLESS.iter().any(|(n, _)| *n == text)
}

fn bad(message: impl Into<String>, help: impl Into<String>) -> BadPort {
    BadPort { message: message.into(), help: help.into() }
}

fn icmp_type(protocol_number: u8, word: &str) -> Option<u8> {
    match (protocol_number, word) {
        (protocol::ICMP, "echo") => Some(8),
        (protocol::ICMPV6, "echo") => Some(128),
        _ => word.parse().ok().filter(|_| is_number(word)),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn port(text: &str, whole: &str) -> Result<u16, BadPort> {
    let number = text.parse::<u16>().ok().filter(|n| *n > 0 && is_number(text));
    number.ok_or_else(|| {
        if is_number(text) {
            bad(format!("port {text} of `{whole}` is not between 1 and 65535"), FORMS)
        } else {
            bad(format!("`{text}` in `{whole}` is not a port number"), FORMS)
        }
    })
}

impl FromStr for PortSpec {
    type Err = BadPort;

    fn from_str(text: &str) -> Result<Self, BadPort> {
        let Some((name, ports)) = text.split_once('/') else {
            if let Some((_, number)) = PORTLESS.iter().find(|(n, _)| *n == text) {
                return Ok(Self::whole(*number));
            }
            return match text {
                "icmp" => Ok(Self::whole(protocol::ICMP)),
                "icmpv6" => Ok(Self::whole(protocol::ICMPV6)),
                "tcp" | "udp" => {
                    let help = format!("name the ports, as `{text}/443`; all of them is `{text}/*`");
                    Err(bad(format!("`{text}` without ports"), help))
                }
                _ => Err(bad(format!("`{text}` is not a port specification"), FORMS)),
            };
        };
        let number = match name {
            "tcp" => protocol::TCP,
            "udp" => protocol::UDP,
            "icmp" | "icmpv6" => {
                let number = if name == "icmp" { protocol::ICMP } else { protocol::ICMPV6 };
                let Some(kind) = icmp_type(number, ports) else {
                    let help = format!("write `{name}/echo` or a type from 0 to 255, as `{name}/8`");
                    return Err(bad(format!("`{ports}` is not an {name} type"), help));
                };
                let first = u16::from(kind) << 8;
                return Ok(Self { protocol: number, first, last: first | 0xff });
            }
            "proto" => {
                let number = ports.parse::<u8>().ok().filter(|n| *n < protocol::RAW && is_number(ports));
                return number
                    .map(Self::whole)
                    .ok_or_else(|| bad(format!("`{ports}` is not an IP protocol number (0 to 254)"), FORMS));
            }
            _ if PORTLESS.iter().any(|(n, _)| *n == name) => {
                return Err(bad(format!("segd knows no ports of `{name}`"), format!("write `{name}`")));
            }
            _ => {
                let near = super::diagnostics::nearest(name, ["tcp", "udp", "icmp", "icmpv6", "proto"]);
                let help = near.map_or(FORMS.to_owned(), |n| format!("did you mean `{n}/{ports}`?"));
                return Err(bad(format!("unknown protocol `{name}` in `{text}`"), help));
            }
        };
        if ports == "*" {
            return Ok(Self::whole(number));
        }
        let (first, last) = match ports.split_once('-') {
            Some((first, last)) => (port(first, text)?, port(last, text)?),
            None => (port(ports, text)?, port(ports, text)?),
        };
        if first > last {
            let help = format!("write `{name}/{last}-{first}`");
            return Err(bad(format!("the range `{ports}` ends before it starts"), help));
        }
        Ok(Self { protocol: number, first, last })
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol: number, first, last } = *self;
        let icmp = match number {
            protocol::TCP | protocol::UDP => {
                let name = if number == protocol::TCP { "tcp" } else { "udp" };
                return match (first, last) {
                    (0, u16::MAX) => write!(f, "{name}/*"),
                    (a, b) if a == b => write!(f, "{name}/{a}"),
                    (a, b) => write!(f, "{name}/{a}-{b}"),
                };
            }
            protocol::ICMP => "icmp",
            protocol::ICMPV6 => "icmpv6",
            _ => {
                return match PORTLESS.iter().find(|(_, n)| *n == number) {
                    Some((name, _)) => f.write_str(name),
                    None => write!(f, "proto/{number}"),
                };
            }
        };
        let kind = first >> 8;
        if self.is_whole() {
            f.write_str(icmp)
        } else if icmp_type(number, "echo").is_some_and(|echo| u16::from(echo) == kind) {
            write!(f, "{icmp}/echo")
        } else {
            write!(f, "{icmp}/{kind}")
        }
    }
}

impl Serialize for PortSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_every_form() {
        for (text, number, first, last) in [
            ("tcp/5432", 6, 5432, 5432),
            ("udp/4000-4010", 17, 4000, 4010),
            ("tcp/*", 6, 0, 65535),
            ("tcp/1-65535", 6, 1, 65535),
            ("icmp", 1, 0, 65535),
            ("icmp/echo", 1, 0x0800, 0x08ff),
            ("icmp/13", 1, 0x0d00, 0x0dff),
            ("icmpv6", 58, 0, 65535),
            ("icmpv6/echo", 58, 0x8000, 0x80ff),
            ("raw", 255, 0, 65535),
            ("sctp", 132, 0, 65535),
            ("udplite", 136, 0, 65535),
            ("proto/47", 47, 0, 65535),
        ] {
            let spec: PortSpec = text.parse().unwrap();
            assert_eq!(spec, PortSpec { protocol: number, first, last }, "{text}");
            assert_eq!(spec.to_string(), text);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, message) in [
            ("tcp/0", "port 0 of `tcp/0` is not between 1 and 65535"),
            ("tcp/65536", "port 65536 of `tcp/65536` is not between 1 and 65535"),
            ("tcp/+80", "`+80` in `tcp/+80` is not a port number"),
            ("tcp/", "`` in `tcp/` is not a port number"),
            ("tcp/http", "`http` in `tcp/http` is not a port number"),
            ("tcp/90-80", "the range `90-80` ends before it starts"),
            ("tcp", "`tcp` without ports"),
            ("tpc/80", "unknown protocol `tpc` in `tpc/80`"),
            ("icmp/256", "`256` is not an icmp type"),
            ("icmpv6/ping", "`ping` is not an icmpv6 type"),
            ("proto/255", "`255` is not an IP protocol number (0 to 254)"),
            ("sctp/80", "segd knows no ports of `sctp`"),
            ("5432", "`5432` is not a port specification"),
        ] {
            assert_eq!(text.parse::<PortSpec>().unwrap_err().message, message);
        }
    }
}
