//! A policy as plain data, and as the zone file that says the same.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::IpAddr;

use segd_common::traffic::Direction;

/// The addresses whose first `length` bits are those of `address`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Prefix {
    pub(crate) address: IpAddr,
    pub(crate) length: u8,
}

/// A protocol's ports, ends included; of ICMP, `type << 8 | code`. Protocols without ports have all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ports {
    pub(crate) protocol: u8,
    pub(crate) first: u16,
    pub(crate) last: u16,
}

#[derive(Clone, Debug)]
pub(crate) enum Service {
    Named(String),
    Ports(Ports),
}

/// In the order of time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Expiry {
    LongPast,
    Past,
    /// After the end of the test.
    Soon,
    Far,
    Never,
}

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) id: String,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) services: Vec<Service>,
    pub(crate) expires: Expiry,
}

/// `None` is all of them.
#[derive(Clone, Debug)]
pub(crate) struct Rollout {
    pub(crate) subject: Option<&'static str>,
    pub(crate) direction: Option<Direction>,
    pub(crate) peers: Option<Vec<&'static str>>,
    pub(crate) services: Option<Vec<Service>>,
    pub(crate) enforce: bool,
}

/// `cidrs` empty: every peer.
#[derive(Clone, Debug)]
pub(crate) struct Failsafe {
    pub(crate) direction: Direction,
    pub(crate) ports: Vec<Ports>,
    pub(crate) cidrs: Vec<Prefix>,
}

/// A policy and the host that decides by it.
#[derive(Clone, Debug)]
pub(crate) struct Estate {
    pub(crate) zones: BTreeMap<&'static str, Vec<Prefix>>,
    pub(crate) services: BTreeMap<String, Vec<Ports>>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) rollouts: Vec<Rollout>,
    /// `None`: the agent's defaults.
    pub(crate) failsafes: Option<Vec<Failsafe>>,
    /// The host's zone.
    pub(crate) host: &'static str,
    /// The host's addresses, IPv4 and IPv6.
    pub(crate) own: [IpAddr; 2],
    /// [`Expiry::Soon`] as a TOML date and time.
    pub(crate) soon: String,
}

/// When the policies were written: before every [`Expiry`], as one that has expired is not loaded anew.
pub(crate) const WRITTEN: &str = "2020-01-01T00:00:00Z";

impl Estate {
    /// The zone file.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        for (name, cidrs) in &self.zones {
            let _ = writeln!(out, "[zone.{name}]\ncidrs = {}\n", list(cidrs));
        }
        for (name, ports) in &self.services {
            let _ = writeln!(out, "[service.{name}]\nports = {}\n", list(ports));
        }
        for Rule { id, from, to, services, expires } in &self.rules {
            let services = list(services);
            let _ = writeln!(
                out,
                "[[allow]]\nid = \"{id}\"\nfrom = \"{from}\"\nto = \"{to}\"\nservices = {services}"
            );
            let at = match expires {
                Expiry::LongPast => "2021-03-01",
                Expiry::Past => "2023-06-30T18:00:00+02:00",
                Expiry::Soon => &self.soon,
                Expiry::Far => "2190-01-01T00:00:00Z",
                Expiry::Never => "",
            };
            let _ = if at.is_empty() { writeln!(out) } else { writeln!(out, "expires = {at}\n") };
        }
        for Rollout { subject, direction, peers, services, enforce } in &self.rollouts {
            let mode = if *enforce { "enforce" } else { "monitor" };
            let _ = writeln!(out, "[[rollout]]\nmode = \"{mode}\"");
            let _ = subject.map(|zone| writeln!(out, "subject = \"{zone}\""));
            let _ = direction.map(|d| writeln!(out, "direction = \"{d}\""));
            let _ = peers.as_ref().map(|peers| writeln!(out, "peers = {}", list(peers)));
            let _ = services.as_ref().map(|services| writeln!(out, "services = {}", list(services)));
            out.push('\n');
        }
        out
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| format!("\"{item}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Ports(ports) => ports.fmt(f),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, first, last } = *self;
        let whole = first == 0 && last == u16::MAX;
        match protocol {
            6 | 17 => {
                let name = if protocol == 6 { "tcp" } else { "udp" };
                match (first, last) {
                    _ if whole => write!(f, "{name}/*"),
                    _ if first == last => write!(f, "{name}/{first}"),
                    _ => write!(f, "{name}/{first}-{last}"),
                }
            }
            1 | 58 => {
                let name = if protocol == 1 { "icmp" } else { "icmpv6" };
                if whole { f.write_str(name) } else { write!(f, "{name}/{}", first >> 8) }
            }
            132 => f.write_str("sctp"),
            136 => f.write_str("udplite"),
            255 => f.write_str("raw"),
            n => write!(f, "proto/{n}"),
        }
    }
}
