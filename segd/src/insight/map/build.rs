//! From summaries to the map.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use segd_common::traffic::Verdict;

use super::hosts::Hosts;
use super::label;
use super::merge::{Piece, Then, View, pieces};
use super::model::{Bytes, Change, Edge, Map, Node, NodeKind, SCHEMA, Span};
use super::parties::{Gathered, clean};
use crate::history::{Conversation, Summary};
use crate::policy::ids::BUILT_IN_ZONES;

/// The most ports without a service from one node to another, with one verdict, that are edges of their own.
const LONE_PORTS: usize = 12;

/// How a map is to be made.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Zones of workloads, as far as zone files tell.
    pub workload_zones: BTreeMap<String, String>,
    /// Make workloads nodes of their own instead of parts of their zones.
    pub workloads: bool,
}

/// What makes flows one edge.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    from: Arc<str>,
    to: Arc<str>,
    verdict: Verdict,
    then: Then,
    named: bool,
    service: Arc<str>,
}

#[derive(Debug)]
struct Growing {
    ports: BTreeSet<String>,
    flows: u64,
    bytes: Bytes,
    seen: Span,
    rules: BTreeSet<Arc<str>>,
    reasons: BTreeSet<&'static str>,
    clients: Gathered,
    servers: Gathered,
}

impl Map {
    /// Who talked to whom.
    #[must_use]
    pub fn of(summaries: &[Summary], terms: &Terms) -> Self {
        let views = summaries.iter().map(|summary| View { summary, then: Then::NotAsked });
        Self::of_views(summaries, views, terms)
    }

    /// The same with what other zone files would make of it: `decide` gives their verdict on a conversation at the host
    /// that recorded it, `None` where that cannot be said.
    #[must_use]
    pub fn against(
        summaries: &[Summary],
        terms: &Terms,
        mut decide: impl FnMut(&Conversation) -> Option<Verdict>,
    ) -> Self {
        let views = summaries.iter().map(|summary| {
            let then = decide(&summary.of).map_or(Then::Undecided, Then::Decided);
            View { summary, then }
        });
        Self::of_views(summaries, views, terms)
    }

    fn of_views<'a>(summaries: &'a [Summary], views: impl Iterator<Item = View<'a>>, terms: &Terms) -> Self {
        let hosts = Hosts::of(summaries.iter());
        let mut nodes = BTreeMap::new();
        let mut edges: BTreeMap<Key, Growing> = BTreeMap::new();
        for piece in pieces(&hosts, views) {
            let Some((key, grown)) = edge(&piece, &hosts, terms, &mut nodes) else { continue };
            match edges.get_mut(&key) {
                Some(edge) => edge.join(grown),
                None => drop(edges.insert(key, grown)),
            }
        }
        let mut edges: Vec<Edge> = fold_lone_ports(edges).into_iter().map(finish).collect();
        edges.sort_by(|a, b| order(a).cmp(&order(b)));
        Self {
            schema: SCHEMA,
            observed: edges.iter().map(|edge| edge.seen).reduce(Span::and),
            compared: None,
            hosts: summaries.iter().map(|summary| clean(&summary.of.host)).collect(),
            nodes: nodes.into_values().collect(),
            edges,
        }
    }
}

/// Edges are listed by their ends, then service, then verdict.
pub(super) fn order(edge: &Edge) -> (&str, &str, &str, Verdict, Option<Change>) {
    (&edge.from, &edge.to, &edge.service, edge.verdict, edge.change)
}

fn edge(
    piece: &Piece<'_>,
    hosts: &Hosts,
    terms: &Terms,
    nodes: &mut BTreeMap<Arc<str>, Node>,
) -> Option<(Key, Growing)> {
    let mut views = piece.client.iter().chain(&piece.server);
    let first = views.next()?;
    let mut own = |of: &Conversation| own_node(of, hosts, terms, nodes);
    let (from, to) = match (piece.client, piece.server) {
        (Some(client), Some(server)) => (own(&client.summary.of), own(&server.summary.of)),
        (Some(client), None) => (own(&client.summary.of), zone_node(&client.summary.of.peer_zone, nodes)),
        (None, Some(server)) => {
            let to = own(&server.summary.of);
            (zone_node(&server.summary.of.peer_zone, nodes), to)
        }
        (None, None) => return None,
    };
    let port = label::port(&first.summary.of);
    let named = piece.client.iter().chain(&piece.server).find(|v| label::is_named(&v.summary.of.service));
    let service = named.map_or_else(|| port.as_str().into(), |view| clean(&view.summary.of.service));
    let key = Key { from, to, verdict: piece.verdict(), then: piece.then(), named: named.is_some(), service };
    let mut growing = Growing::new(first.summary, port);
    growing.flows = piece.flows;
    for view in piece.client.iter().chain(&piece.server) {
        let Summary { of, first, last, .. } = view.summary;
        growing.seen = growing.seen.and(Span { first: *first, last: *last });
        growing.rules.extend(of.rule.as_ref().map(clean));
        growing.reasons.insert(of.reason.name());
    }
    match (piece.client, piece.server) {
        (Some(client), server) => {
            growing.clients.own(&client, piece.flows);
            match server {
                Some(server) => growing.servers.own(&server, piece.flows),
                None => growing.servers.peer(hosts, &client, piece.flows),
            }
        }
        (None, Some(server)) => {
            growing.servers.own(&server, piece.flows);
            growing.clients.peer(hosts, &server, piece.flows);
        }
        (None, None) => {}
    }
    if let Some(client) = piece.client.filter(|_| piece.client_bytes) {
        let bytes = client.summary.bytes;
        growing.bytes = Bytes { to_server: bytes.sent, to_client: bytes.received };
    } else if let Some(server) = piece.server.filter(|_| piece.server_bytes) {
        let bytes = server.summary.bytes;
        growing.bytes = Bytes { to_server: bytes.received, to_client: bytes.sent };
    }
    Some((key, growing))
}

/// The node of the side that recorded.
fn own_node(
    of: &Conversation,
    hosts: &Hosts,
    terms: &Terms,
    nodes: &mut BTreeMap<Arc<str>, Node>,
) -> Arc<str> {
    let Some(workload) = &of.workload else { return zone_node(&of.subject, nodes) };
    let by_files = terms.workload_zones.get(&**workload).map(|zone| Arc::from(zone.as_str()));
    let zone = by_files.or_else(|| hosts.zone_of(workload, &of.host).cloned());
    match zone {
        Some(zone) if !terms.workloads => zone_node(&zone, nodes),
        zone => {
            let (name, zone) = (clean(workload), zone.as_ref().map(clean));
            let node = Node { name: Arc::clone(&name), kind: NodeKind::Workload, zone };
            nodes.entry(Arc::clone(&name)).or_insert(node);
            name
        }
    }
}

fn zone_node(zone: &Arc<str>, nodes: &mut BTreeMap<Arc<str>, Node>) -> Arc<str> {
    let name = clean(zone);
    let built_in = BUILT_IN_ZONES.iter().any(|(zone, _)| **zone == *name);
    let kind = if built_in { NodeKind::BuiltIn } else { NodeKind::Zone };
    nodes.entry(Arc::clone(&name)).or_insert_with(|| Node { name: Arc::clone(&name), kind, zone: None });
    name
}

/// Makes one edge of what a scan of ports would make hundreds of.
fn fold_lone_ports(edges: BTreeMap<Key, Growing>) -> Vec<(Key, Growing)> {
    let mut lone: BTreeMap<Key, Vec<(Key, Growing)>> = BTreeMap::new();
    let mut all = Vec::new();
    for (key, edge) in edges {
        if key.named {
            all.push((key, edge));
        } else {
            let group = Key { service: "".into(), ..key.clone() };
            lone.entry(group).or_default().push((key, edge));
        }
    }
    for (group, mut ports) in lone {
        ports.sort_by_key(|(_, edge)| std::cmp::Reverse(edge.flows));
        let rest = ports.split_off(ports.len().min(LONE_PORTS));
        all.append(&mut ports);
        let count = rest.len();
        let rest = rest.into_iter().map(|(_, edge)| edge).reduce(|mut sum, edge| {
            sum.join(edge);
            sum
        });
        if let Some(mut rest) = rest {
            // So many names say no more than their number.
            rest.ports = rest.ports.into_iter().take(LONE_PORTS).collect();
            all.push((Key { service: format!("{count} more ports").into(), ..group }, rest));
        }
    }
    all
}

fn finish((key, edge): (Key, Growing)) -> Edge {
    let Key { from, to, verdict, then, service, .. } = key;
    let change = match then {
        Then::NotAsked => None,
        Then::Undecided => Some(Change::Undecided),
        Then::Decided(then) => (then != verdict).then_some(Change::Becomes(then)),
    };
    let Growing { ports, flows, bytes, seen, rules, reasons, clients, servers } = edge;
    let (clients, servers) = (clients.finish(), servers.finish());
    Edge {
        from,
        to,
        service,
        ports,
        verdict,
        change,
        flows,
        flows_before: None,
        bytes,
        seen,
        rules,
        reasons,
        clients,
        servers,
    }
}

impl Growing {
    fn new(summary: &Summary, port: String) -> Self {
        Self {
            ports: [port].into(),
            flows: 0,
            bytes: Bytes::default(),
            seen: Span { first: summary.first, last: summary.last },
            rules: BTreeSet::new(),
            reasons: BTreeSet::new(),
            clients: Gathered::default(),
            servers: Gathered::default(),
        }
    }

    fn join(&mut self, other: Self) {
        self.ports.extend(other.ports);
        self.flows = self.flows.saturating_add(other.flows);
        self.bytes.to_server = self.bytes.to_server.saturating_add(other.bytes.to_server);
        self.bytes.to_client = self.bytes.to_client.saturating_add(other.bytes.to_client);
        self.seen = self.seen.and(other.seen);
        self.rules.extend(other.rules);
        self.reasons.extend(other.reasons);
        self.clients.join(other.clients);
        self.servers.join(other.servers);
    }
}
