//! The map as a picture of its own.

use std::fmt::Write as _;

use segd_common::traffic::Verdict;

use super::amount;
use crate::insight::map::layout::{HEAD, Path};
use crate::insight::map::model::{Change, Compared, Edge, Map, Node, NodeKind};
use crate::insight::map::names::{SERVICE_TEXT, SIGN};
use crate::insight::map::picture::{Drawn, Picture, node_name, picture, sign, text_width, told, word};

/// Colours and lines, the same in the page.
pub(super) const STYLE: &str = include_str!("../page/picture.css");

/// Above the drawing.
const TITLE: f64 = 56.0;
/// Below it.
const LEGEND: f64 = 40.0;

/// A picture that needs nothing beside it.
#[must_use]
pub fn svg(map: &Map) -> String {
    let picture = picture(map);
    let legend = legend(map);
    let width = picture.width.max(legend.1).max(640.0);
    let height = picture.height + TITLE + LEGEND;
    let compared = if map.compared.is_some() { " compared" } else { "" };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"map{compared}\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.1} {height:.1}\" role=\"img\" aria-label=\"{}\">\n<style>{STYLE}</style>\n\
         <rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n",
        escaped(&title(map))
    );
    let _ = writeln!(out, "<text class=\"title\" x=\"24\" y=\"26\">{}</text>", escaped(&title(map)));
    let _ = writeln!(out, "<text class=\"note\" x=\"24\" y=\"44\">{}</text>", escaped(&subtitle(map)));
    let _ = writeln!(out, "<g transform=\"translate(0 {TITLE})\">\n{}</g>", drawing(map, &picture));
    let _ = writeln!(out, "<g transform=\"translate(0 {:.1})\">{}</g>", height - LEGEND + 12.0, legend.0);
    out.push_str("</svg>\n");
    out
}

/// What it is a map of.
pub(super) fn title(map: &Map) -> String {
    format!(
        "Dependency map: {}, {}, {} flows",
        amount::things(map.nodes.len(), "zone"),
        amount::things(map.edges.len(), "edge"),
        amount::count(map.flows())
    )
}

/// When it was seen, and by whom.
pub(super) fn subtitle(map: &Map) -> String {
    let Some(seen) = map.observed else { return "nothing was observed".to_owned() };
    let by = match map.hosts.len() {
        1 => map.hosts.iter().next().map_or(String::new(), |host| format!("host {host}")),
        n => amount::things(n, "host"),
    };
    let compared = match &map.compared {
        None => String::new(),
        Some(Compared::Before(None)) => "; compared with nothing: no flow was observed before".to_owned(),
        Some(Compared::Before(Some(span))) => {
            format!("; compared with {} to {}", amount::time(span.first), amount::time(span.last))
        }
        Some(Compared::Against(dir)) => format!("; as the zone files in {dir} would decide"),
    };
    format!("{} to {}, recorded by {by}{compared}", amount::time(seen.first), amount::time(seen.last))
}

/// Lines below nodes, names above both.
pub(super) fn drawing(map: &Map, picture: &Picture) -> String {
    let mut out = String::new();
    for (index, drawn) in picture.strands.iter().enumerate() {
        line(&mut out, map, index, drawn);
    }
    for (index, (node, area)) in map.nodes.iter().zip(&picture.areas).enumerate() {
        let kind = match node.kind {
            NodeKind::Zone => "zone",
            NodeKind::BuiltIn => "built-in",
            NodeKind::Workload => "workload",
        };
        let radius = if node.kind == NodeKind::Workload { area.height.min(40.0) / 2.0 } else { 6.0 };
        let _ = write!(
            out,
            "<g class=\"node {kind}\" data-node=\"{index}\"><title>{}</title><rect x=\"{:.1}\" y=\"{:.1}\" \
             width=\"{:.1}\" height=\"{:.1}\" rx=\"{radius:.0}\"/>",
            escaped(&node_title(node)),
            area.x,
            area.y,
            area.width,
            area.height
        );
        let (x, y) = (area.x + area.width / 2.0, area.y + area.height / 2.0);
        let below = match node.kind {
            NodeKind::Zone => None,
            NodeKind::BuiltIn => Some("built in".to_owned()),
            NodeKind::Workload => Some("workload".to_owned()),
        };
        let name_at = if below.is_some() { y - 1.0 } else { y + 4.5 };
        let _ =
            write!(out, "<text x=\"{x:.1}\" y=\"{name_at:.1}\">{}</text>", escaped(&node_name(&node.name)));
        if let Some(below) = below {
            let _ = write!(out, "<text class=\"below\" x=\"{x:.1}\" y=\"{:.1}\">{below}</text>", y + 12.0);
        }
        out.push_str("</g>\n");
    }
    for (index, drawn) in picture.strands.iter().enumerate() {
        if let Some(name) = &drawn.name {
            let (x, y) = name.at;
            let width = text_width(&name.text, SERVICE_TEXT);
            let _ = writeln!(
                out,
                "<g class=\"service {}\" data-of=\"{index}\"><rect x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" \
                 height=\"{:.0}\" rx=\"3\"/><text x=\"{x:.1}\" y=\"{:.1}\">{}</text></g>",
                classes(drawn),
                x - width / 2.0,
                y - SERVICE_TEXT / 2.0 - 1.5,
                SERVICE_TEXT + 3.0,
                y + 4.0,
                escaped(&name.text)
            );
        }
        if let (Some((x, y)), Some(change)) = (drawn.sign, drawn.strand.change) {
            let _ = writeln!(
                out,
                "<g class=\"sign {}\" data-of=\"{index}\"><title>{}</title><circle cx=\"{x:.1}\" cy=\"{y:.1}\" \
                 r=\"{SIGN}\"/><text x=\"{x:.1}\" y=\"{:.1}\">{}</text></g>",
                word(Some(change)),
                escaped(&told(change)),
                y + 4.5,
                sign(change)
            );
        }
    }
    out
}

fn classes(drawn: &Drawn) -> String {
    format!("{} {}", drawn.strand.verdict, word(drawn.strand.change))
}

fn line(out: &mut String, map: &Map, index: usize, drawn: &Drawn) {
    let d = path(&drawn.path);
    let _ = write!(
        out,
        "<g class=\"strand {}\" data-strand=\"{index}\"><title>{}</title><path class=\"hit\" d=\"{d}\"/>\
         <path class=\"line\" d=\"{d}\" stroke-width=\"{:.1}\"/>",
        classes(drawn),
        escaped(&strand_title(map, drawn)),
        drawn.width
    );
    out.push_str(&head(&drawn.path, drawn.width, drawn.strand.verdict));
    out.push_str("</g>\n");
}

fn path(path: &Path) -> String {
    let mut d = format!("M{:.1} {:.1}", path.start.0, path.start.1);
    for [a, b, end] in &path.segments {
        let _ = write!(d, "C{:.1} {:.1} {:.1} {:.1} {:.1} {:.1}", a.0, a.1, b.0, b.1, end.0, end.1);
    }
    d
}

/// An arrow's head; hollow where it was only let pass, a bar where it was stopped.
fn head(path: &Path, width: f64, verdict: Verdict) -> String {
    let Some([_, _, (x, y)]) = path.segments.last() else { return String::new() };
    let (by, half) = (if path.rightwards { HEAD } else { -HEAD }, (width / 2.0 + 2.5).max(3.5));
    if verdict == Verdict::Denied {
        let at = x + by * 0.6;
        return format!(
            "<path class=\"head bar\" d=\"M{x:.1} {y:.1}H{at:.1}M{at:.1} {:.1}V{:.1}\"/>",
            y - half - 1.0,
            y + half + 1.0
        );
    }
    format!(
        "<path class=\"head\" d=\"M{x:.1} {:.1}L{:.1} {y:.1}L{x:.1} {:.1}Z\"/>",
        y - half,
        x + by,
        y + half
    )
}

fn node_title(node: &Node) -> String {
    match (node.kind, &node.zone) {
        (NodeKind::Zone, _) => format!("zone {}", node.name),
        (NodeKind::BuiltIn, _) => format!("{}: a built-in zone", node.name),
        (NodeKind::Workload, Some(zone)) => format!("workload {} of zone {zone}", node.name),
        (NodeKind::Workload, None) => format!("workload {}", node.name),
    }
}

fn strand_title(map: &Map, drawn: &Drawn) -> String {
    let strand = &drawn.strand;
    let [from, to] = [strand.from, strand.to].map(|n| map.nodes.get(n).map_or("", |node| &node.name));
    let mut text = format!("{from} → {to}: {}", strand.verdict);
    if let Some(change) = strand.change {
        let _ = write!(text, ", {}", told(change));
    }
    for edge in strand.edges.iter().take(12).filter_map(|edge| map.edges.get(*edge)) {
        let Edge { service, flows, .. } = edge;
        let _ = write!(text, "\n{service}: {} flows", amount::count(*flows));
    }
    if strand.edges.len() > 12 {
        let _ = write!(text, "\nand {} more", strand.edges.len() - 12);
    }
    text
}

/// What lines mean, and how wide that is.
fn legend(map: &Map) -> (String, f64) {
    let mut out = String::new();
    let mut x = 24.0;
    for verdict in [Verdict::Allowed, Verdict::Audited, Verdict::Denied] {
        let sample =
            Path { start: (x, 8.0), segments: vec![[(x, 8.0), (x, 8.0), (x + 30.0, 8.0)]], rightwards: true };
        let _ = write!(
            out,
            "<g class=\"strand {verdict}\"><path class=\"line\" stroke-width=\"2.5\" d=\"{}\"/>{}</g>\
             <text class=\"note\" x=\"{:.0}\" y=\"12\">{verdict}</text>",
            path(&sample),
            head(&sample, 2.5, verdict),
            x + 46.0
        );
        x += 112.0;
    }
    let _ = write!(out, "<text class=\"note\" x=\"{x:.0}\" y=\"12\">width: flows, logarithmic</text>");
    x += 170.0;
    let mut changes: Vec<Change> = map.edges.iter().filter_map(|edge| edge.change).collect();
    changes.sort_by_key(|change| word(Some(*change)));
    changes.dedup_by_key(|change| word(Some(*change)));
    for change in changes {
        // One sign stands for every former verdict.
        let said = if matches!(change, Change::Was(_)) { "other verdict".to_owned() } else { told(change) };
        let _ = write!(
            out,
            "<g class=\"sign {}\"><circle cx=\"{:.0}\" cy=\"8\" r=\"{SIGN}\"/><text x=\"{:.0}\" y=\"12.5\">{}</text></g>",
            word(Some(change)),
            x + 8.0,
            x + 8.0,
            sign(change),
        );
        let _ = write!(out, "<text class=\"note\" x=\"{:.0}\" y=\"12\">{}</text>", x + 22.0, escaped(&said));
        x += 132.0;
    }
    (out, x)
}

/// Text that no XML parser takes for markup.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
