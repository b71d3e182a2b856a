//! The lines, and how wide everything is.

use super::{Area, Gaps, Grid, HEAD, Item, LINE_SPACE, Layout, Link, MARGIN, Path, thickness};

/// Where a link meets a node.
#[derive(Clone, Copy, Debug)]
struct Port {
    link: usize,
    begins: bool,
    /// What it is sorted by: where the line goes on.
    towards: f64,
}

pub(super) fn route(grid: &Grid, widths: &[f64], links: &[Link], gaps: Gaps) -> Layout {
    let columns = spans(grid, widths, links);
    // As wide as their column: a line that leaves one must not meet a wider one.
    let area = |item: &Item| {
        let (x, width) = columns[item.column];
        Area { x, y: item.y - item.height / 2.0, width, height: item.height }
    };
    let areas: Vec<Area> = grid.items.iter().take(widths.len()).map(area).collect();
    let ends = ends(grid, links, &areas, gaps);
    let paths: Vec<Vec<Path>> = links
        .iter()
        .enumerate()
        .map(|(index, link)| lines(grid, &columns, &areas, link, &grid.chains[index], ends[index]))
        .collect();
    let right = columns.last().map_or(0.0, |(left, width)| left + width);
    let bottom = grid.items.iter().map(|item| item.y + item.height / 2.0).fold(0.0, f64::max);
    let bulge = paths.iter().flatten().flat_map(|path| &path.segments).flatten().map(|point| point.0);
    let right = bulge.fold(right, f64::max);
    Layout { width: right + MARGIN, height: bottom + MARGIN, areas, paths }
}

/// Left edge and width of each column.
fn spans(grid: &Grid, widths: &[f64], links: &[Link]) -> Vec<(f64, f64)> {
    let lines: usize = links.iter().map(|link| link.widths.len()).sum();
    let mut x = MARGIN;
    let mut spans = Vec::new();
    for column in &grid.columns {
        let nodes = column.iter().filter_map(|item| widths.get(*item));
        let width = nodes.copied().fold(0.0, f64::max);
        spans.push((x, width));
        let passing: usize = column.iter().map(|item| grid.items[*item].right.len()).sum();
        let passing = u32::try_from(passing).map_or(200.0, f64::from);
        // Few lines have their names beside them.
        let gap = if lines <= 30 { 190.0 } else { 110.0 + (passing * 0.9).min(90.0) };
        x += width + gap;
    }
    spans
}

/// The middle of each link where it begins and where it ends.
fn ends(grid: &Grid, links: &[Link], areas: &[Area], gaps: Gaps) -> Vec<[f64; 2]> {
    let mut ports: Vec<[Vec<Port>; 2]> = vec![Default::default(); areas.len()];
    for (index, link) in links.iter().enumerate() {
        let chain = &grid.chains[index];
        let (from, to) = (grid.items[link.from].column, grid.items[link.to].column);
        let next = |node: usize| {
            let near = match chain.iter().position(|item| *item == node) {
                Some(0) => chain.get(1),
                Some(at) => chain.get(at - 1),
                None => None,
            };
            near.map(|item| grid.items[*item].y)
        };
        for (node, other, begins, right) in
            [(link.from, link.to, true, from <= to), (link.to, link.from, false, from >= to)]
        {
            let within = if link.from == link.to { f64::NEG_INFINITY } else { grid.items[other].y };
            let towards = next(node).unwrap_or(within);
            ports[node][usize::from(right)].push(Port { link: index, begins, towards });
        }
    }
    let mut ends = vec![[0.0; 2]; links.len()];
    for (area, sides) in areas.iter().zip(&mut ports) {
        for side in sides {
            side.sort_by(|a, b| a.towards.total_cmp(&b.towards).then(a.link.cmp(&b.link)));
            let total: f64 = side.iter().map(|port| thickness(&links[port.link])).sum();
            let space =
                (area.height - 8.0 - total).max(0.0) / u32::try_from(side.len() + 1).map_or(1.0, f64::from);
            // Lines that have room are not spread over all of it.
            let space = space.min(gaps.ends.max(9.0));
            let count = u32::try_from(side.len()).map_or(1.0, f64::from);
            let mut y = area.y + (area.height - total - space * (count - 1.0)) / 2.0;
            for port in side {
                let thick = thickness(&links[port.link]);
                ends[port.link][usize::from(!port.begins)] = y + thick / 2.0;
                y += thick + space;
            }
        }
    }
    ends
}

fn lines(
    grid: &Grid,
    columns: &[(f64, f64)],
    areas: &[Area],
    link: &Link,
    chain: &[usize],
    [begin, end]: [f64; 2],
) -> Vec<Path> {
    let (from, to) = (areas[link.from], areas[link.to]);
    let forward = chain.first() == Some(&link.from);
    let mut points: Vec<((f64, f64), f64)> = Vec::new();
    let inner = chain.get(1..chain.len().saturating_sub(1)).unwrap_or_default();
    let inner = inner.iter().map(|item| (columns[grid.items[*item].column], grid.items[*item].y));
    if forward {
        points.push(((from.x + from.width, from.x + from.width), begin));
        points.extend(inner.map(|((left, width), y)| ((left, left + width), y)));
        points.push(((to.x - HEAD, to.x - HEAD), end));
    } else if !chain.is_empty() {
        points.push(((from.x, from.x), begin));
        points.extend(inner.rev().map(|((left, width), y)| ((left + width, left), y)));
        points.push(((to.x + to.width + HEAD, to.x + to.width + HEAD), end));
    }
    let mut offset = -thickness(link) / 2.0;
    let mut paths = Vec::new();
    for width in &link.widths {
        let middle = offset + (width + LINE_SPACE) / 2.0;
        offset += width + LINE_SPACE;
        paths.push(if chain.is_empty() {
            arc(from, to, begin + middle, end + middle, link.from == link.to)
        } else {
            through(&points, middle, forward)
        });
    }
    paths
}

/// A line through columns: level in each of them, curved between them.
fn through(points: &[((f64, f64), f64)], offset: f64, rightwards: bool) -> Path {
    let mut segments = Vec::new();
    let start = points.first().map_or((0.0, 0.0), |((_, x), y)| (*x, y + offset));
    let mut at = start;
    for ((enter, leave), y) in points.iter().skip(1) {
        let (x, y) = (*enter, y + offset);
        let half = (x - at.0) / 2.0;
        segments.push([(at.0 + half, at.1), (x - half, y), (x, y)]);
        at = (x, y);
        if enter != leave {
            segments.push([(x + (leave - enter) / 3.0, y), (leave - (leave - enter) / 3.0, y), (*leave, y)]);
            at = (*leave, y);
        }
    }
    Path { start, segments, rightwards }
}

/// A line between two nodes of a column, or from one to itself.
fn arc(from: Area, to: Area, begin: f64, end: f64, to_itself: bool) -> Path {
    let (a, b) = (from.x + from.width, to.x + to.width + HEAD);
    let reach = if to_itself { 54.0 } else { (30.0 + (end - begin).abs() * 0.12).min(74.0) };
    let spread = if to_itself { 26.0 } else { 0.0 };
    let x = a.max(b) + reach;
    Path {
        start: (a, begin),
        segments: vec![[(x, begin - spread), (x, end + spread), (b, end)]],
        rightwards: false,
    }
}
