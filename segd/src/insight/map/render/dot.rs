//! The map for Graphviz.

use std::fmt::Write as _;

use segd_common::traffic::Verdict;

use super::amount;
use crate::insight::map::model::{Change, Edge, Map, NodeKind};
use crate::insight::map::picture::{sign, told};
use crate::insight::map::strands::{Strand, strands};

/// A directed graph; `dot -Tpdf` draws it.
#[must_use]
pub fn dot(map: &Map) -> String {
    let mut out = String::from(
        "digraph segd {\n  rankdir=LR;\n  node [shape=box, style=\"rounded\", fontname=\"sans-serif\"];\n  \
         edge [fontname=\"sans-serif\", fontsize=10];\n",
    );
    for node in &map.nodes {
        let style = match node.kind {
            NodeKind::Zone => "",
            NodeKind::BuiltIn => ", style=\"rounded,dashed\"",
            NodeKind::Workload => ", shape=hexagon, style=solid",
        };
        let _ = writeln!(out, "  {0} [label={0}{style}];", quoted(&node.name));
    }
    let strands = strands(map);
    let most = strands.iter().map(|strand| strand.flows).max().unwrap_or(1);
    for strand in &strands {
        let _ = writeln!(out, "{}", line(map, strand, most));
    }
    out.push_str("}\n");
    out
}

fn line(map: &Map, strand: &Strand, most: u64) -> String {
    let edges: Vec<&Edge> = strand.edges.iter().filter_map(|edge| map.edges.get(*edge)).collect();
    let [from, to] = [strand.from, strand.to].map(|n| map.nodes.get(n).map_or("", |node| &node.name));
    let label: Vec<String> =
        edges.iter().map(|edge| format!("{} {}", edge.service, amount::count(edge.flows))).collect();
    let (colour, style, head) = match strand.verdict {
        Verdict::Allowed => ("#0067a5", "solid", "normal"),
        Verdict::Audited => ("#b36a00", "dashed", "onormal"),
        Verdict::Denied => ("#b5005b", "dotted", "tee"),
    };
    let mark = strand.change.map_or(String::new(), |change| format!("{} {}\n", sign(change), told(change)));
    let faded = if strand.change == Some(Change::Removed) { "80" } else { "" };
    #[expect(clippy::cast_precision_loss, reason = "the width of a line")]
    let width = 1.0 + 4.0 * (strand.flows as f64 + 1.0).ln() / (most as f64 + 1.0).ln().max(1.0);
    format!(
        "  {} -> {} [label={}, color=\"{colour}{faded}\", style={style}, arrowhead={head}, penwidth={width:.1}, \
         tooltip={}];",
        quoted(from),
        quoted(to),
        quoted(&format!("{mark}{}", label.join("\n"))),
        quoted(strand.verdict.name()),
    )
}

/// A quoted string of the language: backslashes and quotes escaped, lines broken by `\n`.
fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{text}\"")
}
