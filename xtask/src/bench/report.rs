//! What a person reads: tables on the terminal.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::bars::{Bar, Kind};
use super::samples::{Figure, Samples, Subject};
use crate::say::say;

/// The loads in the order of columns.
pub(super) const LOADS: [&str; 6] =
    ["tcp-connect", "tcp-request", "udp-request", "udp-connected", "tcp-bulk", "tcp-bulk8"];

/// Prints everything that was measured.
pub(super) fn print(samples: &Samples, bars: &[Bar]) {
    traffic(samples);
    times(samples);
    programs(samples);
    others(samples);
    say!("\nBars");
    bars.iter().for_each(|bar| say!("  {}", line_of(bar)));
    let count = |which: fn(&&Bar) -> bool| bars.iter().filter(which).count();
    let (held, unsure) = (count(|bar| bar.held), count(|bar| !bar.sure));
    say!("  {held} of {} bars held", bars.len());
    if unsure > 0 {
        say!(
            "  {unsure} (with ?) are nearer to their limit than rounds are to each other: another run may say otherwise. \
             Take more --rounds of fewer --variants and --loads to know."
        );
    }
}

/// A bar with its word, figure and limit.
fn line_of(bar: &Bar) -> String {
    let Bar { name, figure, limit, kind, unit, held, sure, note } = bar;
    let word = match (held, sure) {
        (true, true) => "held   ",
        (true, false) => "held?  ",
        (false, true) => "MISSED ",
        (false, false) => "MISSED?",
    };
    let sign = if *kind == Kind::AtLeast { ">=" } else { "<=" };
    let digits = if *limit > 0.0 && *limit < 2.0 { 3 } else { 1 };
    let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
    let note = if note.is_empty() { String::new() } else { format!("; {note}") };
    format!("{word} {name}: {figure:.digits$}{unit} ({sign} {limit}{unit}{note})")
}

fn table(head: &[String]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(head);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn traffic(samples: &Samples) {
    let subjects = ordered(samples, "traffic");
    if subjects.is_empty() {
        return;
    }
    say!("\nRates: median, and its ratio to empty programs round by round: median (least to most)");
    let mut head = vec!["prefixes/rules".to_owned()];
    head.extend(LOADS.map(str::to_owned));
    let mut table = table(&head);
    for subject in subjects {
        let mut row = vec![subject.title()];
        row.extend(LOADS.map(|load| {
            let Some(rate) = samples.figure("traffic", subject, load, "rate") else { return String::new() };
            let empty = Subject::plain("empty");
            let ratio = samples.ratio("traffic", subject, &empty, load, "rate");
            format!("{} {}", short(rate.median), ratio.map_or(String::new(), three))
        }));
        table.add_row(row);
    }
    say!("{table}");
}

fn times(samples: &Samples) {
    let subjects = ordered(samples, "traffic");
    if subjects.is_empty() {
        return;
    }
    say!("\nTimes of one operation in microseconds: medians of p50 / p99 / p99.9");
    let loads = &LOADS[..4];
    let mut head = vec!["prefixes/rules".to_owned()];
    head.extend(loads.iter().map(|load| (*load).to_owned()));
    let mut table = table(&head);
    for subject in subjects {
        let mut row = vec![subject.title()];
        row.extend(loads.iter().map(|load| {
            let time = |metric| {
                let figure = samples.figure("traffic", subject, load, metric);
                figure.map_or("-".to_owned(), |f| format!("{:.1}", f.median))
            };
            format!("{} / {} / {}", time("p50"), time("p99"), time("p99.9"))
        }));
        table.add_row(row);
    }
    say!("{table}");
}

/// Who was measured, in the order of their cost rather than their names.
pub(super) fn ordered<'a>(samples: &'a Samples, part: &str) -> Vec<&'a Subject> {
    const ORDER: [&str; 8] =
        ["nothing", "empty", "look-up", "segd-monitor", "segd-enforce", "segd-programs", "nft", "nft-cgroup"];
    let mut subjects = samples.subjects(part);
    subjects.sort_by_key(|s| ORDER.iter().position(|name| *name == s.variant));
    subjects
}

/// Sizes, and what a run costs by the kernel's statistics and by BPF_PROG_TEST_RUN.
fn programs(samples: &Samples) {
    const PART: &str = "programs";
    let subjects = ordered(samples, PART);
    if subjects.is_empty() {
        return;
    }
    say!("\nPrograms: instructions (translated, walked by the verifier) and bytes of machine code");
    let mut sizes = table(&["", "program", "translated", "verified", "jitted"].map(str::to_owned));
    let hooks = [
        "sock_create",
        "sock_release",
        "sock_ops",
        "ingress",
        "egress",
        "connect4",
        "connect6",
        "sendmsg4",
        "sendmsg6",
    ];
    for subject in &subjects {
        for hook in hooks {
            let size = |metric| samples.figure(PART, subject, hook, metric).map(|f| f.median);
            let cells = ["translated", "verified", "jitted"].map(size);
            if cells[0].is_some() {
                let cells = cells.map(|cell| cell.map_or(String::new(), |n| format!("{n:.0}")));
                sizes.add_row([&[subject.title(), hook.to_owned()], &cells[..]].concat());
            }
        }
    }
    say!("{sizes}");
    say!(
        "\nNanoseconds per run by the kernel's statistics (times runs per operation), and in all per operation"
    );
    let mut head = vec!["load".to_owned(), String::new()];
    head.extend(hooks.map(str::to_owned));
    head.push("per operation".into());
    let mut runs = table(&head);
    for load in LOADS {
        for subject in &subjects {
            let median = |metric: &str| samples.figure(PART, subject, load, metric).map(|f| f.median);
            let Some(whole) = median("ns_per_operation") else { continue };
            let mut row = vec![load.to_owned(), subject.title()];
            row.extend(hooks.map(|hook| {
                let ns = median(&format!("ns_per_run.{hook}"));
                let times = median(&format!("runs_per_operation.{hook}"));
                ns.zip(times).map_or(String::new(), |(ns, times)| format!("{ns:.0} x{times:.1}"))
            }));
            row.push(format!("{whole:.0}"));
            runs.add_row(row);
        }
    }
    say!("{runs}");
    say!("\nNanoseconds per run by BPF_PROG_TEST_RUN, a datagram of a known flow");
    for subject in &subjects {
        for hook in hooks {
            if let Some(ns) = samples.figure(PART, subject, hook, "test_run") {
                say!("  {} {hook}: {:.0} ({:.0} to {:.0})", subject.title(), ns.median, ns.least, ns.most);
            }
        }
    }
}

/// The parts of which nothing is compared beyond the bars.
fn others(samples: &Samples) {
    let parts = ["tables", "swaps", "events", "cpu", "start", "takeover"];
    let mut seen = Vec::new();
    for sample in samples.all().iter().filter(|sample| parts.contains(&sample.part.as_str())) {
        let subject = Subject::sized(&sample.variant, sample.prefixes, sample.rules);
        let key = (sample.part.clone(), subject, sample.load.clone(), sample.metric.clone());
        if seen.contains(&key) {
            continue;
        }
        let (part, subject, load, metric) = &key;
        if let Some(figure) = samples.figure(part, subject, load, metric) {
            if seen.is_empty() {
                say!("\nOther figures: median (least to most)");
            }
            let unit = if sample.unit == "1" { "" } else { &sample.unit };
            let Figure { median, least, most, .. } = figure;
            let load = if load.is_empty() { String::new() } else { format!(", {load}") };
            let title = subject.title();
            say!(
                "  {part}, {title}{load}: {metric} {} {unit} ({} to {})",
                short(median),
                short(least),
                short(most)
            );
        }
        seen.push(key);
    }
}

fn three(figure: Figure) -> String {
    format!("{:.3} ({:.3} to {:.3})", figure.median, figure.least, figure.most)
}

/// Three digits, with k, M or G.
pub(super) fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        v if v >= 1e9 => (value / 1e9, "G"),
        v if v >= 1e6 => (value / 1e6, "M"),
        v if v >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        v if v == 0.0 || v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    format!("{scaled:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_one_line() {
        let mut bar = Bar {
            name: "tcp-connect".into(),
            figure: 0.9512,
            limit: 0.96,
            kind: Kind::AtLeast,
            unit: "",
            held: false,
            sure: true,
            note: "why".into(),
        };
        assert_eq!(line_of(&bar), "MISSED  tcp-connect: 0.951 (>= 0.96; why)");
        bar = Bar {
            figure: 12.34,
            limit: 50.0,
            kind: Kind::AtMost,
            unit: "ms",
            held: true,
            sure: false,
            note: String::new(),
            ..bar
        };
        assert_eq!(line_of(&bar), "held?   tcp-connect: 12.3 ms (<= 50 ms)");
    }

    #[test]
    fn figures_are_short() {
        let cases = [
            (0.0, "0"),
            (0.0123, "0.012"),
            (7.5, "7.50"),
            (123.4, "123"),
            (12345.0, "12.3k"),
            (7.67e8, "767M"),
        ];
        for (value, text) in cases {
            assert_eq!(short(value), text);
        }
    }
}
