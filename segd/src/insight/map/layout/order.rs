//! The order within columns, with few crossings.

use super::Grid;

/// There and back again.
const SWEEPS: usize = 40;

pub(super) fn order(grid: &mut Grid) {
    let mut best = (crossings(grid), grid.columns.clone());
    for sweep in 0..SWEEPS {
        let count = grid.columns.len();
        for step in 0..count {
            // The last sweeps look to both sides at once.
            let (column, sides) = match (sweep % 2 == 0, sweep < SWEEPS * 3 / 4) {
                (true, narrow) => (step, [true, !narrow]),
                (false, narrow) => (count - 1 - step, [!narrow, true]),
            };
            sort(grid, column, sides);
        }
        let now = crossings(grid);
        if now < best.0 {
            best = (now, grid.columns.clone());
        }
    }
    grid.columns = best.1;
}

/// Sorts a column by the mean place of its items' neighbours at these sides (left, right).
fn sort(grid: &mut Grid, column: usize, sides: [bool; 2]) {
    let places = places(grid);
    let mean = |item: usize| {
        let item = &grid.items[item];
        let near = [&item.left, &item.right].into_iter().zip(sides).filter(|(_, wanted)| *wanted);
        let (mut sum, mut weight) = (0.0, 0.0);
        for (other, w) in near.flat_map(|(near, _)| near) {
            sum += places[*other] * w;
            weight += w;
        }
        (weight > 0.0).then(|| sum / weight)
    };
    let keyed = grid.columns[column].iter().map(|item| (mean(*item).unwrap_or(places[*item]), *item));
    let mut keyed: Vec<(f64, usize)> = keyed.collect();
    keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
    grid.columns[column] = keyed.into_iter().map(|(_, item)| item).collect();
}

/// From 0 at the top to 1 at the bottom of each column.
fn places(grid: &Grid) -> Vec<f64> {
    let mut places = vec![0.0; grid.items.len()];
    for column in &grid.columns {
        let step = 1.0 / u32::try_from(column.len()).map_or(1.0, f64::from);
        let mut place = step / 2.0;
        for item in column {
            places[*item] = place;
            place += step;
        }
    }
    places
}

/// How many lines cross between columns.
fn crossings(grid: &Grid) -> usize {
    let mut ranks = vec![0; grid.items.len()];
    for column in &grid.columns {
        for (rank, item) in column.iter().enumerate() {
            ranks[*item] = rank;
        }
    }
    let mut count = 0;
    for pair in grid.columns.windows(2) {
        let right_of = |item: &usize| {
            let mut ends: Vec<usize> =
                grid.items[*item].right.iter().map(|(other, _)| ranks[*other]).collect();
            ends.sort_unstable();
            ends
        };
        count += inversions(pair[0].iter().flat_map(right_of), pair[1].len());
    }
    count
}

/// How many pairs of `values`, all less than `limit`, stand the wrong way round (by a Fenwick tree).
fn inversions(values: impl Iterator<Item = usize>, limit: usize) -> usize {
    let mut tree = vec![0; limit + 1];
    let (mut seen, mut count) = (0, 0);
    for value in values {
        let mut at = value + 1;
        let mut not_greater = 0;
        while at > 0 {
            not_greater += tree[at];
            at &= at - 1;
        }
        count += seen - not_greater;
        seen += 1;
        at = value + 1;
        while at <= limit {
            tree[at] += 1;
            at += at & at.wrapping_neg();
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_the_wrong_way_round() {
        for (values, want) in
            [(&[][..], 0), (&[0, 1, 2], 0), (&[2, 1, 0], 3), (&[1, 1, 0], 2), (&[0, 2, 1, 2], 1)]
        {
            assert_eq!(inversions(values.iter().copied(), 3), want, "{values:?}");
        }
    }
}
