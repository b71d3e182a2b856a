//! The picture: each variant's rate against that of empty programs, one panel a load, every round a dot.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::report::{LOADS, ordered};
use super::samples::{Samples, Subject};

const WIDTH: u32 = 1400;
/// Pixels of one variant's line.
const LINE: u32 = 16;

/// Draws it, if traffic was measured.
pub(super) fn draw(samples: &Samples, path: &Path) -> Result<bool> {
    // The lines are numbered from below.
    let subjects: Vec<&Subject> = ordered(samples, "traffic").into_iter().rev().collect();
    let has_empty = subjects.iter().any(|s| s.variant == "empty");
    if !has_empty {
        return Ok(false);
    }
    let lines = u32::try_from(subjects.len())?;
    let root = SVGBackend::new(path, (WIDTH, 3 * (lines * LINE + 80))).into_drawing_area();
    draw_panels(samples, &subjects, &root).map_err(|fault| anyhow!("cannot draw: {fault}"))?;
    Ok(true)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn draw_panels(samples: &Samples, subjects: &[&Subject], root: &Area<'_>) -> Drawn {
    root.fill(&WHITE)?;
    for (load, area) in LOADS.into_iter().zip(root.split_evenly((3, 2))) {
        panel(samples, subjects, load, &area)?;
    }
    root.present()?;
    Ok(())
}

fn panel(samples: &Samples, subjects: &[&Subject], load: &str, area: &Area<'_>) -> Drawn {
    let empty = Subject::plain("empty");
    let ratios = |subject: &Subject| {
        let of = samples.rounds("traffic", subject, load, "rate");
        let to = samples.rounds("traffic", &empty, load, "rate");
        let pairs = of.zip(to).into_iter();
        pairs.flat_map(|(of, to)| of.iter().filter_map(|(r, v)| Some(v / to.get(r)?))).collect::<Vec<f64>>()
    };
    let all: Vec<Vec<f64>> = subjects.iter().map(|s| ratios(s)).collect();
    let least = all.iter().flatten().copied().fold(0.9, f64::min);
    let most = all.iter().flatten().copied().fold(1.1, f64::max);
    let lines = i32::try_from(subjects.len())?;
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{load}: rate against empty programs"), ("sans-serif", 15))
        .margin(6)
        .x_label_area_size(24)
        .y_label_area_size(160)
        .build_cartesian_2d(least - 0.01..most + 0.01, (0..lines).into_segmented())?;
    let title = |segment: &SegmentValue<i32>| match segment {
        SegmentValue::CenterOf(n) => {
            usize::try_from(*n).ok().and_then(|n| subjects.get(n)).map_or(String::new(), |s| s.title())
        }
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .y_labels(subjects.len())
        .y_label_formatter(&title)
        .x_label_formatter(&|ratio| format!("{ratio:.2}"))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (line, values) in (0..lines).zip(&all) {
        let at = |value: f64| (value, SegmentValue::CenterOf(line));
        chart.draw_series(values.iter().map(|v| Circle::new(at(*v), 2, BLUE.mix(0.4).filled())))?;
        if let Some(figure) = super::samples::Figure::of(values.iter().copied()) {
            let ends = vec![at(figure.least), at(figure.most)];
            chart.draw_series([PathElement::new(ends, BLUE.mix(0.4))])?;
            chart.draw_series([Circle::new(at(figure.median), 4, RED.filled())])?;
        }
    }
    Ok(())
}
