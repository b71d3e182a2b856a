//! Ranges of ports into the longest-prefix-match entries of a trie.

use std::collections::BTreeSet;

use crate::policy::ports::PortSpec;

/// A range of ports, ends included, with one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell<T> {
    pub(crate) first: u16,
    pub(crate) last: u16,
    pub(crate) value: T,
}

/// Cuts the ports 0 to 65535 of a protocol at the ends of `specs` and asks `value` once for each piece;
/// neighbours with the same value become one cell.
pub(crate) fn sweep<T: PartialEq>(
    protocol: u8,
    specs: impl Iterator<Item = PortSpec>,
    value: impl Fn(u16) -> T,
) -> Vec<Cell<T>> {
    let mut starts = BTreeSet::from([0]);
    for spec in specs.filter(|s| s.protocol == protocol) {
        starts.insert(spec.first);
        starts.extend(spec.last.checked_add(1));
    }
    let mut cells: Vec<Cell<T>> = Vec::new();
    for first in starts {
        let value = value(first);
        match cells.last_mut() {
            Some(last) if last.value == value => {}
            Some(last) => {
                last.last = first - 1;
                cells.push(Cell { first, last: u16::MAX, value });
            }
            None => cells.push(Cell { first, last: u16::MAX, value }),
        }
    }
    cells
}

/// The fewest prefixes (length in bits, port, value) that give each port the value of its cell, where no
/// prefix means `inherited`.
///
/// Draves, King, Venkatachary and Zill, "Constructing Optimal IP Routing Tables" (INFOCOM 1999): upwards,
/// each node keeps the values that most of its children agree on; downwards, an entry is written where the
/// inherited value is not among them.
pub(crate) fn prefixes<T: Copy + Eq>(cells: &[Cell<T>], inherited: T) -> Vec<(u32, u16, T)> {
    let mut out = Vec::new();
    if let Some(root) = Node::build(cells, 0, 0) {
        root.emit(inherited, 0, 0, &mut out);
    }
    out
}

/// The prefixes that together are the ports from `first` to `last`.
pub(crate) fn range_prefixes(first: u16, last: u16) -> Vec<(u32, u16)> {
    let (mut start, end) = (u32::from(first), u32::from(last) + 1);
    let mut out = Vec::new();
    while start < end {
        let aligned = if start == 0 { 16 } else { start.trailing_zeros() };
        let bits = aligned.min((end - start).ilog2());
        out.push((16 - bits, u16::try_from(start).unwrap_or(u16::MAX)));
        start += 1 << bits;
    }
    out
}

struct Node<T> {
    candidates: Vec<T>,
    children: Option<Box<[Self; 2]>>,
}

impl<T: Copy + Eq> Node<T> {
    /// The node of the prefix `base`/`len`; `cells` are sorted and cover it. None only without cells.
    fn build(cells: &[Cell<T>], base: u16, len: u32) -> Option<Self> {
        let size_less_one = u16::MAX.checked_shr(len).unwrap_or(0);
        let last = base | size_less_one;
        let from = cells.partition_point(|c| c.last < base);
        let to = cells.partition_point(|c| c.first <= last);
        let cells = cells.get(from..to)?;
        let [first, .., _] = cells else {
            return cells.first().map(|only| Self { candidates: vec![only.value], children: None });
        };
        debug_assert!(len < 16 && first.first <= base);
        let left = Self::build(cells, base, len + 1)?;
        let right = Self::build(cells, base | ((size_less_one >> 1) + 1), len + 1)?;
        let in_left = |v: &T| left.candidates.contains(v);
        let mut candidates: Vec<T> = right.candidates.iter().copied().filter(in_left).collect();
        if candidates.is_empty() {
            candidates = [&left.candidates[..], &right.candidates[..]].concat();
        }
        Some(Self { candidates, children: Some(Box::new([left, right])) })
    }

    fn emit(&self, mut inherited: T, base: u16, len: u32, out: &mut Vec<(u32, u16, T)>) {
        if !self.candidates.contains(&inherited)
            && let Some(first) = self.candidates.first()
        {
            inherited = *first;
            out.push((len, base, inherited));
        }
        if let Some(children) = &self.children {
            let half = (u16::MAX >> len >> 1) + 1;
            children[0].emit(inherited, base, len + 1, out);
            children[1].emit(inherited, base | half, len + 1, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn look_up(prefixes: &[(u32, u16, u8)], port: u16, inherited: u8) -> u8 {
        let holds =
            |(len, base, _): &&(u32, u16, u8)| (port ^ base) & !u16::MAX.checked_shr(*len).unwrap_or(0) == 0;
        prefixes.iter().filter(holds).max_by_key(|p| p.0).map_or(inherited, |p| p.2)
    }

    #[test]
    fn whole_ranges_are_one_entry() {
        let cell = |first, last, value| Cell { first, last, value };
        assert_eq!(prefixes(&[cell(0, 65535, 1)], 0), [(0, 0, 1)]);
        assert_eq!(prefixes(&[cell(0, 65535, 0)], 0), []);
        let one_port = [cell(0, 5431, 0), cell(5432, 5432, 1), cell(5433, 65535, 0)];
        assert_eq!(prefixes(&one_port, 0), [(16, 5432, 1)]);
        let all_but_one = [cell(0, 5431, 1), cell(5432, 5432, 0), cell(5433, 65535, 1)];
        assert_eq!(prefixes(&all_but_one, 0), [(0, 0, 1), (16, 5432, 0)]);
        let top = [cell(0, 32767, 0), cell(32768, 65535, 1)];
        assert_eq!(prefixes(&top, 0), [(1, 32768, 1)]);
    }

    #[test]
    fn ranges_split_at_powers_of_two() {
        assert_eq!(range_prefixes(0, 65535), [(0, 0)]);
        assert_eq!(range_prefixes(22, 22), [(16, 22)]);
        assert_eq!(range_prefixes(1, 4), [(16, 1), (15, 2), (16, 4)]);
        assert_eq!(range_prefixes(65534, 65535), [(15, 65534)]);
    }

    proptest! {
        #[test]
        fn prefixes_mean_what_the_cells_mean(
            specs in prop::collection::vec((any::<u16>(), any::<u16>(), 0u8..4), 0..6),
            ports in prop::collection::vec(any::<u16>(), 32),
            inherited in 0u8..4,
        ) {
            let specs: Vec<(PortSpec, u8)> = specs
                .into_iter()
                .map(|(a, b, v)| (PortSpec { protocol: 6, first: a.min(b), last: a.max(b) }, v))
                .collect();
            let value = |port| specs.iter().find(|(s, _)| s.contains(6, port)).map_or(0, |(_, v)| *v);
            let cells = sweep(6, specs.iter().map(|(s, _)| *s), value);
            let table = prefixes(&cells, inherited);
            let ends = specs.iter().flat_map(|(s, _)| [s.first, s.last, s.first.wrapping_sub(1)]);
            for port in ports.into_iter().chain(ends) {
                prop_assert_eq!(look_up(&table, port, inherited), value(port), "port {}", port);
            }
        }
    }
}
