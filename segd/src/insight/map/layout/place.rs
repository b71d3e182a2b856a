//! How high everything is.

use super::{Gaps, Grid, MARGIN};

/// There and back again.
const SWEEPS: usize = 24;

/// Sets the middle of each item: near its neighbours, in the column's order, and clear of what is above and below.
pub(super) fn place(grid: &mut Grid, gaps: Gaps) {
    let nodes = grid.chains_begin();
    for column in &grid.columns {
        let mut y = 0.0;
        for item in column {
            let height = grid.items[*item].height;
            grid.items[*item].y = y + height / 2.0;
            y += height + gaps.nodes;
        }
    }
    let last = grid.columns.len().saturating_sub(1);
    for sweep in 0..SWEEPS {
        for step in 0..=last {
            let column = if sweep % 2 == 0 { step } else { last - step };
            let Some(items) = grid.columns.get(column) else { continue };
            let wanted: Vec<(f64, f64)> = items.iter().map(|item| wanted(grid, *item)).collect();
            let mut apart = Vec::with_capacity(items.len());
            for (at, item) in items.iter().enumerate() {
                let above = at.checked_sub(1).map(|above| items[above]);
                apart.push(above.map_or(0.0, |above| {
                    let gap = match (above < nodes, *item < nodes) {
                        (true, true) => gaps.nodes,
                        (false, false) => gaps.lines,
                        _ => gaps.beside,
                    };
                    (grid.items[above].height + grid.items[*item].height) / 2.0 + gap
                }));
            }
            let placed = settle(&wanted, &apart);
            for (item, y) in items.clone().into_iter().zip(placed) {
                grid.items[item].y = y;
            }
        }
    }
    let top = grid.items.iter().map(|item| item.y - item.height / 2.0).fold(f64::INFINITY, f64::min);
    for item in &mut grid.items {
        item.y += MARGIN - top;
    }
}

impl Grid {
    /// How many of the items are nodes.
    fn chains_begin(&self) -> usize {
        let passing: usize = self.chains.iter().map(|chain| chain.len().saturating_sub(2)).sum();
        self.items.len() - passing
    }
}

/// Where its neighbours would have an item, and how much they insist.
fn wanted(grid: &Grid, item: usize) -> (f64, f64) {
    let item = &grid.items[item];
    let (mut sum, mut weight) = (item.y * 0.1, 0.1);
    for (other, w) in item.left.iter().chain(&item.right) {
        sum += grid.items[*other].y * w;
        weight += w;
    }
    (sum / weight, weight)
}

/// The places nearest to the wanted ones (least squares by weight) of which each is at least `apart` below the one
/// before (isotonic regression: pool adjacent violators).
fn settle(wanted: &[(f64, f64)], apart: &[f64]) -> Vec<f64> {
    let mut offset = 0.0;
    let mut offsets = Vec::with_capacity(wanted.len());
    let mut pools: Vec<(f64, f64, usize)> = Vec::new();
    for ((place, weight), apart) in wanted.iter().zip(apart) {
        offset += apart;
        offsets.push(offset);
        let (mut mean, mut weight, mut count) = (place - offset, *weight, 1);
        while let Some((former, w, n)) = pools.pop_if(|(former, ..)| *former >= mean) {
            mean = (mean * weight + former * w) / (weight + w);
            weight += w;
            count += n;
        }
        pools.push((mean, weight, count));
    }
    let pooled = pools.iter().flat_map(|(mean, _, count)| std::iter::repeat_n(*mean, *count));
    pooled.zip(offsets).map(|(mean, offset)| mean + offset).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_near_is_moved_apart_evenly() {
        assert_eq!(settle(&[(5.0, 1.0), (5.0, 1.0)], &[0.0, 10.0]), [0.0, 10.0]);
        assert_eq!(settle(&[(0.0, 1.0), (50.0, 1.0)], &[0.0, 10.0]), [0.0, 50.0]);
        assert_eq!(settle(&[(5.0, 3.0), (5.0, 1.0)], &[0.0, 8.0]), [3.0, 11.0]);
    }
}
