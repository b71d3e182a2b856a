//! The map itself, as the JSON format prints it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use segd_common::traffic::Verdict;
use serde::Serialize;

use crate::telemetry::named;
use crate::telemetry::record::microseconds;

/// Version of the fields of [`Map`] and their meaning. A new optional field does not change it.
pub const SCHEMA: u32 = 1;

/// Who talks to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Map {
    /// [`SCHEMA`].
    pub schema: u32,
    /// From the first record to the last; none: nothing was observed.
    pub observed: Option<Span>,
    /// What the edges' `change` is about; none: nothing was compared.
    pub compared: Option<Compared>,
    /// The hosts that recorded, by name.
    pub hosts: BTreeSet<Arc<str>>,
    /// By name; each is an end of an edge.
    pub nodes: Vec<Node>,
    /// By ends, service and verdict.
    pub edges: Vec<Edge>,
}

/// Both instants are in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The first.
    #[serde(serialize_with = "microseconds")]
    pub first: Timestamp,
    /// The last.
    #[serde(serialize_with = "microseconds")]
    pub last: Timestamp,
}

/// What a map was compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Compared {
    /// What was observed in another time; none: nothing was.
    Before(Option<Span>),
    /// What zone files would decide: the name of their directory.
    Against(String),
}

/// An end of edges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Unlike any other node's.
    pub name: Arc<str>,
    /// What it is.
    pub kind: NodeKind,
    /// The zone of a workload, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Arc<str>>,
}

/// What a node stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// A zone of the zone files.
    Zone,
    /// A zone that is always there, such as `unknown`.
    BuiltIn,
    /// A workload.
    Workload,
}

/// Flows of one service with one verdict from one node to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Edge {
    /// Name of the node that began them.
    pub from: Arc<str>,
    /// Name of the server's.
    pub to: Arc<str>,
    /// What the server's port is called; where nothing names it, protocol and port.
    pub service: Arc<str>,
    /// Protocols and server ports, as `tcp/5432`.
    pub ports: BTreeSet<String>,
    /// What both ends decided: `denied` where one of them denied, else `audited` where one audited.
    #[serde(with = "named")]
    pub verdict: Verdict,
    /// How it differs from what it was compared with; none: it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
    /// Flows that began, or attempts that were denied. What both hosts recorded counts once.
    pub flows: u64,
    /// The same in the time that it was compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows_before: Option<u64>,
    /// IP bytes of the flows that ended.
    pub bytes: Bytes,
    /// The first record of it, and the last.
    #[serde(flatten)]
    pub seen: Span,
    /// The rules that allowed it, or would have had they not expired.
    pub rules: BTreeSet<Arc<str>>,
    /// Why it was decided so at either end.
    pub reasons: BTreeSet<&'static str>,
    /// Who began it.
    pub clients: Parties,
    /// With whom.
    pub servers: Parties,
}

/// Both directions of an edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// From the client.
    pub to_server: u64,
    /// From the server.
    pub to_client: u64,
}

/// How an edge differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// There was nothing like it before.
    Added,
    /// It is there no more; its figures are those of before.
    Removed,
    /// It had this verdict before.
    #[serde(with = "named")]
    Was(Verdict),
    /// The other zone files give it this verdict.
    #[serde(with = "named")]
    Becomes(Verdict),
    /// What the other zone files would decide cannot be said.
    Undecided,
}

/// The programs at one side of an edge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Parties {
    /// Those with the most flows, at most [`Parties::SHOWN`].
    pub most: Vec<Party>,
    /// How many more there are.
    pub more: usize,
    /// Further addresses that were too many to be recorded one by one; an estimate.
    pub unrecorded: u64,
}

/// A program, or an address where no program is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Party {
    /// Name of its host, if that is one of those that recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Arc<str>>,
    /// Its address, or one of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// What it was decided as, if that is a workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<Arc<str>>,
    /// The path of its program, or the name of its thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Arc<str>>,
    /// Its systemd unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<Arc<str>>,
    /// Its part of the edge's flows.
    pub flows: u64,
}

impl Parties {
    /// The most that are told one by one.
    pub const SHOWN: usize = 12;
}

impl Bytes {
    /// Both.
    #[must_use]
    pub const fn sum(self) -> u64 {
        self.to_server.saturating_add(self.to_client)
    }
}

impl Span {
    /// The shortest that holds both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last) }
    }
}

impl Map {
    /// Whether a node of that name is there.
    pub(super) fn index(&self, name: &str) -> Option<usize> {
        self.nodes.binary_search_by(|node| (*node.name).cmp(name)).ok()
    }

    /// All flows of all edges that are still there.
    #[must_use]
    pub fn flows(&self) -> u64 {
        let there = self.edges.iter().filter(|edge| edge.change != Some(Change::Removed));
        there.fold(0, |sum, edge| sum.saturating_add(edge.flows))
    }
}
