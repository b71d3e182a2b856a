//! Names beside lines: as many as there is room for, what matters most first, none over another or over a node.

use super::layout::{Area, Path};
use super::model::Map;
use super::picture::{Drawn, shortened, text_width};
use super::strands::Strand;

/// Size of a service's name.
pub(super) const SERVICE_TEXT: f64 = 11.0;
/// Half the side of the sign of a change.
pub(super) const SIGN: f64 = 8.0;
/// The most names; more would hide the lines.
const MOST: usize = 70;
/// Where along its line a name may be, best first.
const PLACES: [f64; 13] = [0.5, 0.44, 0.56, 0.38, 0.62, 0.32, 0.68, 0.26, 0.74, 0.2, 0.8, 0.14, 0.86];
/// How closely lines are looked at.
const SAMPLES: u32 = 40;

/// A text and its middle.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Name {
    pub(super) text: String,
    pub(super) at: (f64, f64),
}

/// Finds a place for the names and signs of lines.
pub(super) fn names(map: &Map, nodes: &[Area], (width, height): (f64, f64), drawn: &mut [Drawn]) {
    let lines: Vec<Vec<(f64, f64)>> = drawn.iter().map(|d| points(&d.path)).collect();
    let mut taken: Vec<Area> = nodes.to_vec();
    let mut by_weight: Vec<usize> = (0..drawn.len()).collect();
    by_weight.sort_by_key(|index| {
        let Strand { verdict, change, flows, .. } = &drawn[*index].strand;
        std::cmp::Reverse((change.is_some(), *verdict, *flows))
    });
    let crowded = drawn.len() > 60;
    for index in &by_weight {
        if drawn[*index].strand.change.is_none() {
            continue;
        }
        let size = (2.0 * SIGN, 2.0 * SIGN);
        let at = find(&lines, *index, size, &taken, (width, height))
            .map_or_else(|| along(&lines[*index], 0.5), |f| f.0);
        taken.push(around(at, size));
        drawn[*index].sign = Some(at);
    }
    let mut count = 0;
    for index in by_weight {
        if count >= MOST {
            break;
        }
        let text = services(map, &drawn[index].strand);
        let size = (text_width(&text, SERVICE_TEXT) + 6.0, SERVICE_TEXT + 5.0);
        let Some((at, crossed)) = find(&lines, index, size, &taken, (width, height)) else { continue };
        if crowded && crossed > 3 {
            continue;
        }
        taken.push(around(at, size));
        drawn[index].name = Some(Name { text, at });
        count += 1;
    }
}

/// The services of a line, those with the most flows first.
fn services(map: &Map, strand: &Strand) -> String {
    let mut names: Vec<&str> = Vec::new();
    for edge in strand.edges.iter().filter_map(|edge| map.edges.get(*edge)) {
        if !names.contains(&&*edge.service) {
            names.push(&edge.service);
        }
    }
    let shown = shortened(&names.iter().take(2).copied().collect::<Vec<_>>().join(", "), 26);
    match names.len() {
        0..=2 => shown,
        more => format!("{shown} +{}", more - 2),
    }
}

/// The best free place on a line and how many points of other lines are in it.
fn find(
    lines: &[Vec<(f64, f64)>],
    own: usize,
    size: (f64, f64),
    taken: &[Area],
    (width, height): (f64, f64),
) -> Option<((f64, f64), usize)> {
    let free = |at: &(f64, f64)| {
        let area = around(*at, size);
        area.x >= 0.0
            && area.y >= 0.0
            && area.x + area.width <= width
            && area.y + area.height <= height
            && !taken.iter().any(|other| overlap(area, *other))
    };
    let crossed = |at: (f64, f64)| {
        let area = around(at, size);
        let others = lines.iter().enumerate().filter(|(index, _)| *index != own);
        others.flat_map(|(_, line)| line).filter(|point| holds(area, **point)).count()
    };
    let places = PLACES.iter().map(|place| along(lines.get(own).map_or(&[], |l| l), *place)).filter(free);
    places.map(|at| (at, crossed(at))).min_by_key(|(_, crossed)| *crossed)
}

fn around((x, y): (f64, f64), (width, height): (f64, f64)) -> Area {
    Area { x: x - width / 2.0, y: y - height / 2.0, width, height }
}

pub(super) fn overlap(a: Area, b: Area) -> bool {
    a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height
}

fn holds(area: Area, (x, y): (f64, f64)) -> bool {
    area.x < x && x < area.x + area.width && area.y < y && y < area.y + area.height
}

/// Points of a line, the same number for each segment.
fn points(path: &Path) -> Vec<(f64, f64)> {
    let mut start = path.start;
    let mut points = vec![start];
    for [a, b, end] in &path.segments {
        for step in 1..=SAMPLES {
            let t = f64::from(step) / f64::from(SAMPLES);
            let u = 1.0 - t;
            let mix = |p0: f64, p1: f64, p2: f64, p3: f64| {
                u * u * u * p0 + 3.0 * u * u * t * p1 + 3.0 * u * t * t * p2 + t * t * t * p3
            };
            points.push((mix(start.0, a.0, b.0, end.0), mix(start.1, a.1, b.1, end.1)));
        }
        start = *end;
    }
    points
}

/// The point that comes after this part of a line.
fn along(points: &[(f64, f64)], part: f64) -> (f64, f64) {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let index = (points.len().saturating_sub(1) as f64 * part) as usize;
    points.get(index).copied().unwrap_or_default()
}
