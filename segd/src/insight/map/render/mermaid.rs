//! The map for Mermaid, which draws in Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use segd_common::traffic::Verdict;

use super::amount;
use crate::insight::map::model::{Edge, Map, NodeKind};
use crate::insight::map::picture::{sign, told};
use crate::insight::map::strands::{Strand, strands};

/// The most edges that Mermaid draws unless it is told otherwise (its `maxEdges`).
const MOST: usize = 500;

/// A flowchart.
#[must_use]
pub fn mermaid(map: &Map) -> String {
    let mut out = String::from("flowchart LR\n");
    for (index, node) in map.nodes.iter().enumerate() {
        let name = escaped(&node.name);
        let _ = match node.kind {
            NodeKind::Zone => writeln!(out, "  n{index}[\"{name}\"]"),
            NodeKind::BuiltIn => writeln!(out, "  n{index}([\"{name}\"])"),
            NodeKind::Workload => writeln!(out, "  n{index}{{{{\"{name}\"}}}}"),
        };
    }
    let mut all = strands(map);
    let left_out = all.len().saturating_sub(MOST);
    if left_out > 0 {
        all.sort_by_key(|strand| std::cmp::Reverse((strand.change.is_some(), strand.verdict, strand.flows)));
        all.truncate(MOST);
        let _ = writeln!(
            out,
            "  %% {} with the fewest flows left out: Mermaid draws {MOST}",
            amount::things(left_out, "line")
        );
    }
    let mut by_verdict: BTreeMap<Verdict, Vec<String>> = BTreeMap::new();
    for (index, strand) in all.iter().enumerate() {
        by_verdict.entry(strand.verdict).or_default().push(index.to_string());
        let arrow = match strand.verdict {
            Verdict::Allowed => "-->",
            Verdict::Audited => "-.->",
            Verdict::Denied => "--x",
        };
        let _ = writeln!(out, "  n{} {arrow}|\"{}\"| n{}", strand.from, label(map, strand), strand.to);
    }
    for (verdict, lines) in by_verdict {
        let colour = match verdict {
            Verdict::Allowed => "#0067a5",
            Verdict::Audited => "#b36a00",
            Verdict::Denied => "#b5005b",
        };
        let _ = writeln!(out, "  linkStyle {} stroke:{colour}", lines.join(","));
    }
    out
}

fn label(map: &Map, strand: &Strand) -> String {
    let edges = strand.edges.iter().filter_map(|edge| map.edges.get(*edge));
    let edges = edges.map(|edge: &Edge| format!("{} {}", escaped(&edge.service), amount::count(edge.flows)));
    let mark = strand.change.map(|change| format!("{} {}", sign(change), told(change)));
    mark.into_iter().chain(edges).collect::<Vec<_>>().join("<br/>")
}

/// Everything that means something to Mermaid, Markdown or HTML as an entity.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_alphanumeric() || matches!(c, ' ' | '-' | '_' | '.' | '/' | ',' | '+' | '…' | '\u{fffd}') {
            out.push(c);
        } else {
            let _ = write!(out, "#{};", u32::from(c));
        }
    }
    out
}
