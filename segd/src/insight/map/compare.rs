//! What differs between two times.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use segd_common::traffic::Verdict;

use super::build::order;
use super::model::{Change, Compared, Edge, Map, Node};

/// Edges of one service between two nodes.
type Line = (Arc<str>, Arc<str>, Arc<str>);

fn line(edge: &Edge) -> Line {
    (Arc::clone(&edge.from), Arc::clone(&edge.to), Arc::clone(&edge.service))
}

/// Marks in `now` what is new, what has another verdict than before and, added to it, what is gone.
#[must_use]
pub fn compare(before: &Map, now: Map) -> Map {
    let mut former: BTreeMap<Line, BTreeMap<Verdict, &Edge>> = BTreeMap::new();
    for edge in &before.edges {
        former.entry(line(edge)).or_default().insert(edge.verdict, edge);
    }
    let mut present: BTreeSet<(Line, Verdict)> = BTreeSet::new();
    present.extend(now.edges.iter().map(|edge| (line(edge), edge.verdict)));
    // A verdict that is no more, of a service that is still there with one that was not.
    let mut replaced: BTreeSet<(Line, Verdict)> = BTreeSet::new();
    let mut edges = now.edges;
    for edge in &mut edges {
        let line = line(edge);
        let Some(verdicts) = former.get(&line) else {
            edge.change = Some(Change::Added);
            continue;
        };
        if let Some(same) = verdicts.get(&edge.verdict) {
            edge.flows_before = Some(same.flows);
            continue;
        }
        let gone = verdicts.iter().find(|(verdict, _)| {
            let key = (line.clone(), **verdict);
            !present.contains(&key) && !replaced.contains(&key)
        });
        if let Some((was, old)) = gone {
            edge.change = Some(Change::Was(*was));
            edge.flows_before = Some(old.flows);
            replaced.insert((line, *was));
        } else {
            edge.change = Some(Change::Added);
        }
    }
    for edge in &before.edges {
        let key = (line(edge), edge.verdict);
        if !present.contains(&key) && !replaced.contains(&key) {
            let flows_before = Some(edge.flows);
            edges.push(Edge { change: Some(Change::Removed), flows_before, ..edge.clone() });
        }
    }
    edges.sort_by(|a, b| order(a).cmp(&order(b)));
    let all = before.nodes.iter().chain(&now.nodes).cloned();
    let nodes: BTreeMap<Arc<str>, Node> = all.map(|node| (Arc::clone(&node.name), node)).collect();
    let hosts = before.hosts.union(&now.hosts).cloned().collect();
    let compared = Some(Compared::Before(before.observed));
    Map { compared, hosts, nodes: nodes.into_values().collect(), edges, ..now }
}
