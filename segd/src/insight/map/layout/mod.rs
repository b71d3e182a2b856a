//! Where everything is in the picture: nodes in columns, who begins more on the left, and lines that pass no node.
//!
//! A layered drawing (Sugiyama, Tagawa, Toda 1981), made for few nodes and many lines: [`columns`] finds each node's column,
//! [`order`] the order in it with a place for every line that passes, [`place`] the heights, [`route`] the lines. The
//! same map gives the same picture.

mod columns;
mod order;
mod place;
mod route;

/// Around the picture.
const MARGIN: f64 = 24.0;
/// The least height of a node.
const NODE_HEIGHT: f64 = 38.0;
/// Of an arrow's head.
pub(super) const HEAD: f64 = 8.0;

/// Room between things of a column: with many things there is less.
#[derive(Clone, Copy, Debug)]
struct Gaps {
    /// Between nodes.
    nodes: f64,
    /// Between a node and a line that passes.
    beside: f64,
    /// Between lines.
    lines: f64,
    /// Between the ends of links at a node.
    ends: f64,
}

impl Gaps {
    fn of(nodes: usize, links: usize) -> Self {
        match (nodes, links) {
            (0..=12, 0..=40) => Self { nodes: 52.0, beside: 30.0, lines: 22.0, ends: 12.0 },
            (0..=60, 0..=400) => Self { nodes: 30.0, beside: 18.0, lines: 9.0, ends: 1.0 },
            _ => Self { nodes: 22.0, beside: 10.0, lines: 5.0, ends: 0.0 },
        }
    }
}

/// All lines from one node to another.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) from: usize,
    pub(super) to: usize,
    /// Widths of its lines.
    pub(super) widths: Vec<f64>,
    /// How much it counts in finding a place for both ends.
    pub(super) weight: f64,
}

/// A place in the picture: the corner at the top left, and how far it goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Area {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// A line: where it begins, and cubic Bézier segments, each with two control points and its end.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Path {
    pub(super) start: (f64, f64),
    pub(super) segments: Vec<[(f64, f64); 3]>,
    /// Whether its head points to the right, else to the left. The tip is [`HEAD`] further.
    pub(super) rightwards: bool,
}

/// The picture.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layout {
    pub(super) width: f64,
    pub(super) height: f64,
    /// One for each node.
    pub(super) areas: Vec<Area>,
    /// One for each line of each link.
    pub(super) paths: Vec<Vec<Path>>,
}

/// What stands in a column: a node, or a link that passes.
#[derive(Clone, Debug)]
struct Item {
    column: usize,
    height: f64,
    /// Its neighbours in the column to the left, with weights.
    left: Vec<(usize, f64)>,
    right: Vec<(usize, f64)>,
    /// Its middle.
    y: f64,
}

/// Nodes first, in their order; then what passes.
#[derive(Debug, Default)]
struct Grid {
    items: Vec<Item>,
    columns: Vec<Vec<usize>>,
    /// For each link the items from its left end to its right end; none within a column.
    chains: Vec<Vec<usize>>,
}

/// `widths` are those of the nodes.
pub(super) fn lay_out(widths: &[f64], links: &[Link]) -> Layout {
    let columns = columns::columns(widths.len(), links);
    let gaps = Gaps::of(widths.len(), links.len());
    let mut grid = grid(&columns, links, gaps);
    order::order(&mut grid);
    place::place(&mut grid, gaps);
    route::route(&grid, widths, links, gaps)
}

fn grid(columns: &[usize], links: &[Link], gaps: Gaps) -> Grid {
    let mut sides = vec![[0.0_f64; 2]; columns.len()];
    for link in links {
        let thick = thickness(link) + gaps.ends;
        let (from, to) = (columns[link.from], columns[link.to]);
        // Within a column both ends are on the right.
        sides[link.from][usize::from(from <= to)] += thick;
        sides[link.to][usize::from(from >= to)] += thick;
    }
    let node = |(column, sides): (&usize, &[f64; 2])| Item {
        column: *column,
        height: (sides[0].max(sides[1]) + 8.0).max(NODE_HEIGHT),
        left: Vec::new(),
        right: Vec::new(),
        y: 0.0,
    };
    let mut grid = Grid { items: columns.iter().zip(&sides).map(node).collect(), ..Grid::default() };
    for link in links {
        let ends =
            if columns[link.from] <= columns[link.to] { (link.from, link.to) } else { (link.to, link.from) };
        let mut chain = Vec::new();
        if columns[ends.0] != columns[ends.1] {
            chain.push(ends.0);
            for column in columns[ends.0] + 1..columns[ends.1] {
                chain.push(grid.items.len());
                let height = thickness(link);
                grid.items.push(Item { column, height, left: Vec::new(), right: Vec::new(), y: 0.0 });
            }
            chain.push(ends.1);
        }
        for (at, pair) in chain.windows(2).enumerate() {
            let [a, b] = [pair[0], pair[1]];
            // A line that passes several columns had better be straight.
            let inner = if at > 0 && at + 2 < chain.len() { 4.0 } else { 1.0 };
            grid.items[a].right.push((b, link.weight * inner));
            grid.items[b].left.push((a, link.weight * inner));
        }
        grid.chains.push(chain);
    }
    let count = columns.iter().max().map_or(0, |last| last + 1);
    grid.columns = vec![Vec::new(); count];
    for (index, item) in grid.items.iter().enumerate() {
        grid.columns[item.column].push(index);
    }
    grid
}

/// All lines of a link beside each other.
fn thickness(link: &Link) -> f64 {
    link.widths.iter().map(|width| width + LINE_SPACE).sum()
}

/// Between two lines of a link.
const LINE_SPACE: f64 = 2.0;

#[cfg(test)]
mod tests;
