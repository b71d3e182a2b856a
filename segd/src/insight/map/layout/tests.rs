use super::*;

fn link(from: usize, to: usize, lines: usize) -> Link {
    Link { from, to, widths: vec![2.0; lines], weight: 1.0 }
}

/// Made of a number: the same links for the same number.
fn random(nodes: usize, count: usize, mut seed: u64) -> Vec<Link> {
    let mut next = |limit: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % limit
    };
    let mut pairs = std::collections::BTreeSet::new();
    for _ in 0..count {
        pairs.insert((next(nodes), next(nodes)));
    }
    pairs.into_iter().map(|(from, to)| link(from, to, 1 + next(3))).collect()
}

fn overlap(a: Area, b: Area) -> bool {
    a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height
}

/// A point of a segment.
fn at(start: (f64, f64), [a, b, end]: [(f64, f64); 3], t: f64) -> (f64, f64) {
    let u = 1.0 - t;
    let mix =
        |p: [f64; 4]| u * u * u * p[0] + 3.0 * u * u * t * p[1] + 3.0 * u * t * t * p[2] + t * t * t * p[3];
    (mix([start.0, a.0, b.0, end.0]), mix([start.1, a.1, b.1, end.1]))
}

#[test]
fn nothing_overlaps_and_no_line_passes_a_node() {
    for (nodes, count, seed) in
        [(1, 1, 1), (2, 3, 2), (4, 6, 3), (12, 30, 4), (40, 260, 5), (40, 400, 6), (90, 500, 7)]
    {
        let links = random(nodes, count, seed);
        let widths: Vec<f64> = (0..nodes).map(|n| 60.0 + (n % 7) as f64 * 12.0).collect();
        let layout = lay_out(&widths, &links);
        for (n, area) in layout.areas.iter().enumerate() {
            assert!(area.x >= 0.0 && area.y >= 0.0, "{n}: {area:?}");
            assert!(area.x + area.width <= layout.width && area.y + area.height <= layout.height);
            for (m, other) in layout.areas.iter().enumerate().skip(n + 1) {
                assert!(!overlap(*area, *other), "{nodes} nodes: {n} {area:?} and {m} {other:?}");
            }
        }
        for (link, paths) in links.iter().zip(&layout.paths) {
            assert_eq!(paths.len(), link.widths.len());
            for path in paths {
                let mut start = path.start;
                for segment in &path.segments {
                    for step in 1..20 {
                        let (x, y) = at(start, *segment, f64::from(step) / 20.0);
                        assert!(x > 0.0 && x < layout.width && y > 0.0 && y < layout.height, "{x} {y}");
                        for (node, area) in layout.areas.iter().enumerate() {
                            let within = Area { x, y, width: 0.0, height: 0.0 };
                            assert!(!overlap(within, *area), "{nodes} nodes: {link:?} passes node {node}");
                        }
                    }
                    start = segment[2];
                }
            }
        }
    }
}

#[test]
fn the_same_map_gives_the_same_picture() {
    let links = random(20, 60, 8);
    assert_eq!(lay_out(&[80.0; 20], &links), lay_out(&[80.0; 20], &links));
    assert!(lay_out(&[], &[]).areas.is_empty());
}
