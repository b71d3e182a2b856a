//! A policy as people wrote it, in names, checked to be sound in itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use segd_common::traffic::{Direction, Mode};
use serde::{Deserialize, Serialize};

pub use super::canary::Canary;
pub use super::guard::{Guard, Probe};
use super::index::Index;
use super::members::Cidrs;
use super::ports::PortSpec;
use super::source::{Place, Placed, Sources};
use super::workload::{Selector, User, Workload};

/// The merged zone files of one directory. Every name in it is defined.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// What it was read from.
    pub sources: Arc<Sources>,
    /// By name.
    pub zones: BTreeMap<String, Zone>,
    /// By name; none has the name of a zone.
    pub workloads: BTreeMap<String, Workload>,
    /// By name.
    pub services: BTreeMap<String, Service>,
    /// `[[allow]]`, in file order.
    pub rules: Vec<Rule>,
    /// `[[rollout]]`, in file order.
    pub rollouts: Vec<Rollout>,
    /// `[[test]]`, in file order.
    pub tests: Vec<Test>,
    /// The prefixes of all zones.
    pub(crate) index: Arc<Index>,
}

/// `[zone.NAME]`.
#[derive(Clone, Debug)]
pub struct Zone {
    /// What it is.
    pub description: Option<String>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Its members, each without host bits. There is at least one here or among the names.
    pub cidrs: Cidrs,
    /// DNS names whose addresses are members, in lower case and without a dot at the end. No other zone has them.
    pub names: Vec<Placed<String>>,
    /// Its name.
    pub place: Place,
}

/// `[service.NAME]`.
#[derive(Clone, Debug)]
pub struct Service {
    /// What it is.
    pub description: Option<String>,
    /// At least one.
    pub ports: Vec<PortSpec>,
    /// Its name.
    pub place: Place,
}

/// A service by name, or ports spelled out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum ServiceRef {
    /// A `[service.NAME]`.
    Named(String),
    /// Ports.
    Ports(PortSpec),
}

/// `[[allow]]`.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Stable over time: counters hang on it.
    pub id: String,
    /// Zone or workload of the client.
    pub from: Placed<String>,
    /// Zone or workload of the server.
    pub to: Placed<String>,
    /// At least one.
    pub services: Vec<Placed<ServiceRef>>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Why it is there.
    pub reason: Option<String>,
    /// The instant from which it no longer matches.
    pub expires: Option<Timestamp>,
    /// Its id.
    pub place: Place,
}

/// `[[rollout]]`.
#[derive(Clone, Debug)]
pub struct Rollout {
    /// The workload that it is for, or the zone with its workloads; none: all.
    pub subject: Option<Placed<String>>,
    /// None: both.
    pub direction: Option<Direction>,
    /// Zones of the other side; none: all.
    pub peers: Option<Vec<Placed<String>>>,
    /// None: every port of every protocol.
    pub services: Option<Vec<Placed<ServiceRef>>>,
    /// What happens to what no rule allows.
    pub mode: Mode,
    /// The part of hosts and peers that it holds for; none: all. Where it does not hold, the next entry counts.
    pub canary: Option<Canary>,
    /// What is watched after a change.
    pub guard: Option<Placed<Guard>>,
    /// Its head.
    pub place: Place,
}

/// `[[test]]`.
#[derive(Clone, Debug)]
pub struct Test {
    /// Zone or workload of the client.
    pub from: Placed<String>,
    /// Zone or workload of the server.
    pub to: Placed<String>,
    /// What the policy must allow.
    pub allow: Vec<Placed<ServiceRef>>,
    /// What the policy must not allow.
    pub deny: Vec<Placed<ServiceRef>>,
    /// Its head.
    pub place: Place,
}

/// A mode set at run time; it comes before the rollouts of the files.
///
/// It outlives the policy that it was set on, so a name that is no longer defined selects nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// The workload that it is for, or the zone with its workloads; none: all.
    pub subject: Option<String>,
    /// None: both.
    pub direction: Option<Way>,
    /// Zones of the other side; none: all.
    pub peers: Option<Vec<String>>,
    /// None: every port of every protocol.
    pub services: Option<Vec<ServiceRef>>,
    /// Whether it sets enforce mode, else monitor mode.
    pub enforce: bool,
}

/// A rule that a person adds at run time, for a while; it is compiled as the rule [`Exception::rule`].
///
/// It outlives the policy that it was made on: one that names what is no longer defined allows nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// Unlike that of any other exception, ever.
    pub id: String,
    /// Zone or workload of the client.
    pub from: String,
    /// Zone or workload of the server.
    pub to: String,
    /// At least one.
    pub services: Vec<ServiceRef>,
    /// Who answers for it.
    pub owner: String,
    /// Why it is there.
    pub reason: String,
    /// Since when it is there.
    pub created: Timestamp,
    /// The instant from which it no longer matches.
    pub expires: Timestamp,
    /// The uid of who added it.
    pub created_by: u32,
}

impl Exception {
    /// The id of the rule that it is compiled as: `exception/ID`, which no rule of a file can have.
    #[must_use]
    pub fn rule(&self) -> String {
        format!("exception/{}", self.id)
    }
}

/// A [`Direction`] in a stored or sent document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// A local socket begins.
    Outbound,
    /// The peer begins.
    Inbound,
}

impl From<Way> for Direction {
    fn from(way: Way) -> Self {
        match way {
            Way::Outbound => Self::Outbound,
            Way::Inbound => Self::Inbound,
        }
    }
}

impl From<Direction> for Way {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Outbound => Self::Outbound,
            Direction::Inbound => Self::Inbound,
        }
    }
}

impl Override {
    /// The mode that it sets.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        if self.enforce { Mode::Enforce } else { Mode::Monitor }
    }
}

impl Policy {
    /// What the other side of a flow is seen as: a workload as its zone, a zone as itself.
    pub(crate) fn zone_of<'a>(&'a self, name: &'a str) -> &'a str {
        self.workloads.get(name).map_or(name, |w| &w.zone.value)
    }

    /// The ports of a service; none for a name that is not defined.
    pub fn ports<'a>(&'a self, service: &'a ServiceRef) -> &'a [PortSpec] {
        match service {
            ServiceRef::Ports(spec) => std::slice::from_ref(spec),
            ServiceRef::Named(name) => self.services.get(name).map_or(&[], |s| &s.ports),
        }
    }

    /// The ports of several services.
    pub(crate) fn all_ports<'a>(
        &'a self,
        services: &'a [Placed<ServiceRef>],
    ) -> impl Iterator<Item = PortSpec> + 'a {
        services.iter().flat_map(|s| self.ports(&s.value)).copied()
    }

    /// The DNS names of all zones: what somebody has to resolve for [`Resolved`](super::Resolved).
    pub fn dns_names(&self) -> impl Iterator<Item = &str> {
        self.zones.values().flat_map(|zone| &zone.names).map(|name| name.value.as_str())
    }

    /// The users that workloads name: what somebody has to look up for [`Host::users`](super::Host::users).
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.workloads.values().filter_map(|workload| match &workload.selector {
            Selector::User(User::Name(name)) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Hex digest of the files; see [`Sources::hash`].
    #[must_use]
    pub fn hash(&self) -> String {
        self.sources.hash()
    }
}

impl From<String> for ServiceRef {
    fn from(text: String) -> Self {
        match text.parse() {
            Ok(spec) => Self::Ports(spec),
            Err(_) => Self::Named(text),
        }
    }
}

impl From<ServiceRef> for String {
    fn from(service: ServiceRef) -> Self {
        service.to_string()
    }
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Ports(spec) => spec.fmt(f),
        }
    }
}
