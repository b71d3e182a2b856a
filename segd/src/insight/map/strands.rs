//! Edges as they are drawn: those of one verdict between two nodes are one line.

use std::collections::BTreeMap;

use segd_common::traffic::Verdict;

use super::model::{Change, Map};

/// A line of the picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Strand {
    /// Index of the node.
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) verdict: Verdict,
    pub(super) change: Option<Change>,
    /// Indices of the edges, those with the most flows first.
    pub(super) edges: Vec<usize>,
    pub(super) flows: u64,
}

/// All lines, by their ends; those from one node to another follow each other.
pub(super) fn strands(map: &Map) -> Vec<Strand> {
    let mut lines: BTreeMap<(usize, usize, Verdict, Option<Change>), Vec<usize>> = BTreeMap::new();
    for (index, edge) in map.edges.iter().enumerate() {
        let (Some(from), Some(to)) = (map.index(&edge.from), map.index(&edge.to)) else { continue };
        lines.entry((from, to, edge.verdict, edge.change)).or_default().push(index);
    }
    let flows = |index: &usize| map.edges.get(*index).map_or(0, |edge| edge.flows);
    let strand = |((from, to, verdict, change), mut edges): (_, Vec<usize>)| {
        edges.sort_by_key(|index| std::cmp::Reverse(flows(index)));
        let flows = edges.iter().map(flows).fold(0, u64::saturating_add);
        Strand { from, to, verdict, change, edges, flows }
    };
    lines.into_iter().map(strand).collect()
}
