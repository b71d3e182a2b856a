//! Which column each node is in.

use std::ops::{Range, RangeInclusive};

use super::Link;

/// Passes over all nodes; levels are settled long before.
const PASSES: usize = 300;

/// A column for each node, from 0 without holes.
pub(super) fn columns(nodes: usize, links: &[Link]) -> Vec<usize> {
    let levels = levels(nodes, links);
    let mut sorted: Vec<usize> = (0..nodes).collect();
    sorted.sort_by(|a, b| levels[*a].total_cmp(&levels[*b]).then(a.cmp(b)));
    let values: Vec<f64> = sorted.iter().map(|node| levels[*node]).collect();
    let mut ranks = vec![0; nodes];
    for (rank, node) in sorted.iter().enumerate() {
        ranks[*node] = rank;
    }
    let between = links.iter().filter(|link| link.from != link.to);
    let inner = inner(nodes, between.map(|link| (ranks[link.from], ranks[link.to])));
    let mut columns = vec![0; nodes];
    for (column, range) in split(&values, &inner).into_iter().enumerate() {
        for at in range {
            columns[sorted[at]] = column;
        }
    }
    columns
}

/// The most columns: more would not fit a screen.
const MOST: usize = 6;
/// What a column costs, what a line within one does, and what another number of nodes than the others have; the unit is
/// the square of a column's distance.
const COLUMN: f64 = 0.5;
const LINE_WITHIN: f64 = 0.7;
const UNEVEN: f64 = 0.5;

/// How many columns are tried: few nodes make a picture as wide as high.
fn counts(nodes: usize) -> RangeInclusive<usize> {
    let root = (1..).take_while(|root| root * root < nodes).last().map_or(1, |root| root + 1);
    let least = root.clamp(1, MOST).min(nodes);
    least..=(least + 2).min(MOST).min(nodes)
}

/// For each range of sorted nodes, `[from][to]`, how many links have both ends in it.
fn inner(nodes: usize, links: impl Iterator<Item = (usize, usize)>) -> Vec<Vec<u32>> {
    let mut ends = vec![Vec::new(); nodes];
    for (a, b) in links {
        ends[a.min(b)].push(a.max(b));
    }
    let mut inner = vec![vec![0; nodes + 1]; nodes + 1];
    for from in (0..nodes).rev() {
        let after = inner[from + 1].clone();
        for (to, count) in inner[from].iter_mut().enumerate().skip(from + 1) {
            let begun = ends[from].iter().filter(|end| **end < to).count();
            *count = after[to] + u32::try_from(begun).unwrap_or(u32::MAX);
        }
    }
    inner
}

/// How far to the right a node should be: one further than those that begin flows to it, as far as that can be for all at
/// once (the least squares of the differences).
fn levels(nodes: usize, links: &[Link]) -> Vec<f64> {
    let mut near: Vec<Vec<(usize, f64, f64)>> = vec![Vec::new(); nodes];
    for link in links.iter().filter(|link| link.from != link.to) {
        near[link.to].push((link.from, 1.0, link.weight));
        near[link.from].push((link.to, -1.0, link.weight));
    }
    let mut levels = vec![0.0; nodes];
    for _ in 0..PASSES {
        for node in 0..nodes {
            let weight: f64 = near[node].iter().map(|(_, _, weight)| weight).sum();
            if weight > 0.0 {
                let sum: f64 =
                    near[node].iter().map(|(other, by, weight)| (levels[*other] + by) * weight).sum();
                levels[node] = sum / weight;
            }
        }
    }
    levels
}

/// Cuts sorted values into parts of which none is empty: values of a part are near each other, few links are within a part,
/// and parts are of about the same size.
fn split(values: &[f64], inner: &[Vec<u32>]) -> Vec<Range<usize>> {
    let n = values.len();
    let counts = counts(n);
    let (least, most) = (*counts.start(), *counts.end());
    if n == 0 {
        return Vec::new();
    }
    let span = values[n - 1] - values[0];
    let scale = if span > 1e-9 { number(least) / span } else { 0.0 };
    let (mut sums, mut squares) = (vec![0.0; n + 1], vec![0.0; n + 1]);
    for (i, value) in values.iter().enumerate() {
        let value = (value - values[0]) * scale;
        sums[i + 1] = sums[i] + value;
        squares[i + 1] = squares[i] + value * value;
    }
    let fair = number(n) / number(least);
    let cost = |a: usize, b: usize| {
        let size = number(b - a);
        let sum = sums[b] - sums[a];
        let spread = squares[b] - squares[a] - sum * sum / size;
        let uneven = (size - fair).max(0.0).powi(2) / fair;
        COLUMN + spread + LINE_WITHIN * f64::from(inner[a][b]) + UNEVEN * uneven
    };
    let mut best = vec![vec![(f64::INFINITY, 0); n + 1]; most + 1];
    best[0][0] = (0.0, 0);
    for part in 1..=most {
        for end in part..=n {
            for start in part - 1..end {
                let total = best[part - 1][start].0 + cost(start, end);
                if total < best[part][end].0 {
                    best[part][end] = (total, start);
                }
            }
        }
    }
    let cheapest = counts.min_by(|a, b| best[*a][n].0.total_cmp(&best[*b][n].0)).unwrap_or(least);
    let (mut ranges, mut end) = (Vec::new(), n);
    for part in (1..=cheapest).rev() {
        let start = best[part][end].1;
        ranges.push(start..end);
        end = start;
    }
    ranges.reverse();
    ranges
}

fn number(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::from(u32::MAX), f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(from: usize, to: usize) -> Link {
        Link { from, to, widths: vec![1.0], weight: 1.0 }
    }

    #[test]
    fn clients_are_left_of_their_servers() {
        let chain = [link(2, 0), link(0, 1), link(1, 3)];
        assert_eq!(columns(4, &chain), [1, 2, 0, 3]);
        let fan = [link(0, 3), link(1, 3), link(2, 3), link(3, 4)];
        let columns = columns(5, &fan);
        assert!(columns[0] < columns[3] && columns[3] < columns[4], "{columns:?}");
    }

    #[test]
    fn any_number_of_nodes_fits() {
        for nodes in 0..50 {
            let links: Vec<_> = (1..nodes).map(|to| link(to - 1, to)).chain([link(0, 0)]).collect();
            let columns = columns(nodes, if nodes == 0 { &[] } else { &links });
            let last = columns.iter().max().copied().unwrap_or(0);
            assert!((0..=last).all(|c| nodes == 0 || columns.contains(&c)), "{columns:?}");
        }
    }

    #[test]
    fn parts_are_cut_where_values_are_far_apart_and_links_are() {
        let free = inner(5, [].into_iter());
        assert_eq!(split(&[0.0, 0.1, 1.0, 1.1, 2.0], &free), [0..2, 2..4, 4..5]);
        let linked = inner(4, [(0, 1), (1, 0), (3, 2)].into_iter());
        assert_eq!((linked[0][2], linked[0][4], linked[1][4]), (2, 3, 1));
        assert_eq!(split(&[0.0, 0.0, 1.0, 1.0], &linked), [0..1, 1..2, 2..3, 3..4]);
    }
}
