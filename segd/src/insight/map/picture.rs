//! What the pictures show: nodes, lines and names with their places, the same for SVG and HTML.

use segd_common::traffic::Verdict;

use super::layout::{Area, Layout, Link, Path, lay_out};
use super::model::{Change, Map};
use super::names::{Name, names};
use super::strands::{Strand, strands};

/// Size of a node's name, in pixels; those of services and remarks are smaller.
pub(super) const NODE_TEXT: f64 = 13.0;
/// The most characters of a node's name that are drawn.
const LONGEST: usize = 26;

/// A drawing.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) width: f64,
    pub(super) height: f64,
    /// One for each node.
    pub(super) areas: Vec<Area>,
    pub(super) strands: Vec<Drawn>,
}

/// A line of the drawing.
#[derive(Debug)]
pub(super) struct Drawn {
    pub(super) strand: Strand,
    pub(super) path: Path,
    pub(super) width: f64,
    /// Its services' names, where there is room.
    pub(super) name: Option<Name>,
    /// Where the sign of its change is.
    pub(super) sign: Option<(f64, f64)>,
}

pub(super) fn picture(map: &Map) -> Picture {
    let strands = strands(map);
    let most = strands.iter().map(|strand| strand.flows).max().unwrap_or(0);
    let widest = if strands.len() > 120 { 4.5 } else { 8.0 };
    let widths: Vec<f64> = strands.iter().map(|strand| width(strand.flows, most, widest)).collect();
    let mut links: Vec<Link> = Vec::new();
    for (strand, width) in strands.iter().zip(&widths) {
        match links.last_mut().filter(|link| (link.from, link.to) == (strand.from, strand.to)) {
            Some(link) => link.widths.push(*width),
            None => links.push(Link {
                from: strand.from,
                to: strand.to,
                widths: vec![*width],
                weight: 1.0 + width / widest,
            }),
        }
    }
    let node = |name: &str| text_width(&shortened(name, LONGEST), NODE_TEXT).max(56.0) + 24.0;
    let sizes: Vec<f64> = map.nodes.iter().map(|n| node(&n.name)).collect();
    let Layout { width, height, areas, paths } = lay_out(&sizes, &links);
    let mut drawn: Vec<Drawn> = strands
        .into_iter()
        .zip(paths.into_iter().flatten())
        .zip(widths)
        .map(|((strand, path), width)| Drawn { strand, path, width, name: None, sign: None })
        .collect();
    names(map, &areas, (width, height), &mut drawn);
    Picture { width, height, areas, strands: drawn }
}

/// Lines are as wide as the logarithm of their flows.
fn width(flows: u64, most: u64, widest: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "the width of a line")]
    let log = |n: u64| (n as f64 + 1.0).ln();
    if most == 0 { 1.5 } else { 1.5 + (widest - 1.5) * log(flows) / log(most) }
}

/// About how wide a text is in a sans-serif font of this size, rather more than less.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    let em = |c: char| match c {
        'i' | 'j' | 'l' | 't' | 'f' | 'I' | '.' | ',' | ':' | '/' | ' ' | '-' => 0.42,
        'm' | 'w' | 'M' | 'W' => 0.98,
        c if c.is_ascii_uppercase() => 0.74,
        c if c.is_ascii() => 0.64,
        _ => 1.05,
    };
    text.chars().map(em).sum::<f64>() * size
}

/// A node's name as it is drawn.
pub(super) fn node_name(name: &str) -> String {
    shortened(name, LONGEST)
}

/// At most so many characters.
pub(super) fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// What stands for a change, whatever the colours.
pub(super) const fn sign(change: Change) -> &'static str {
    match change {
        Change::Added => "+",
        Change::Removed => "−",
        Change::Was(_) => "≠",
        Change::Becomes(Verdict::Denied) => "✕",
        Change::Becomes(Verdict::Allowed) => "✓",
        Change::Becomes(Verdict::Audited) => "!",
        Change::Undecided => "?",
    }
}

/// A change in one word, for classes and filters.
pub(super) const fn word(change: Option<Change>) -> &'static str {
    match change {
        None => "same",
        Some(Change::Added) => "added",
        Some(Change::Removed) => "removed",
        Some(Change::Was(_)) => "was",
        Some(Change::Becomes(Verdict::Denied)) => "becomes-denied",
        Some(Change::Becomes(Verdict::Allowed)) => "becomes-allowed",
        Some(Change::Becomes(Verdict::Audited)) => "becomes-audited",
        Some(Change::Undecided) => "undecided",
    }
}

/// A change for people.
pub(super) fn told(change: Change) -> String {
    match change {
        Change::Added => "new".to_owned(),
        Change::Removed => "gone".to_owned(),
        Change::Was(verdict) => format!("was {verdict}"),
        Change::Becomes(verdict) => format!("would be {verdict}"),
        Change::Undecided => "cannot be decided".to_owned(),
    }
}
