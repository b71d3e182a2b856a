//! What segd is to reach, and whether it does.

use std::collections::BTreeMap;

use serde::Serialize;

use super::samples::{Figure, Samples, Subject, magnitude};

/// One bar with what was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) figure: f64,
    pub(super) limit: f64,
    pub(super) kind: Kind,
    pub(super) unit: &'static str,
    pub(super) held: bool,
    /// Whether as many rounds would say so again: by the interval of [`Figure`].
    pub(super) sure: bool,
    /// What else there is to know of the figure.
    pub(super) note: String,
}

/// On which side of its limit a figure must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    AtLeast,
    AtMost,
}

const ENFORCE: &str = "segd-enforce";
const MONITOR: &str = "segd-monitor";
/// `segd-enforce` while the agents are stopped.
const PROGRAMS: &str = "segd-programs";

/// The prefixes at which segd is held against nftables; if they were not measured, the middle one of what was.
const NFT_PREFIXES: usize = 10_000;

/// Loads with their bars: against empty programs, against nftables.
const LOADS: [(&str, f64, f64); 6] = [
    ("tcp-connect", 0.96, 1.05),
    ("tcp-request", 0.98, 1.0),
    ("udp-connected", 0.98, 1.0),
    ("udp-request", 0.95, 1.05),
    ("tcp-bulk", 0.99, 1.0),
    ("tcp-bulk8", 0.99, 1.0),
];

/// By how much at most a policy's size may change a load's rate.
const FLAT: [(&str, f64); 4] =
    [("tcp-connect", 3.0), ("tcp-request", 1.0), ("udp-connected", 1.0), ("udp-request", 1.0)];

const MEGABYTE: f64 = 1e6;

/// Every bar for which there are figures.
pub(super) fn bars(samples: &Samples) -> Vec<Bar> {
    let mut bars = Vec::new();
    for (load, empty, nft) in LOADS {
        bars.extend(against_empty(samples, load, empty));
        for variant in ["nft", "nft-cgroup"] {
            bars.extend(against_nft(samples, load, variant, nft));
        }
    }
    bars.extend(FLAT.iter().filter_map(|(load, most)| flat(samples, load, *most)));
    bars.extend(FLAT.iter().filter_map(|(load, most)| programs_flat(samples, load, *most)));
    bars.extend(["tcp-connect", "tcp-request"].iter().filter_map(|load| modes(samples, load)));
    bars.extend(["tcp-connect", "tcp-request"].iter().filter_map(|load| programs_modes(samples, load)));
    bars.extend(["ingress", "egress"].iter().filter_map(|hook| packet(samples, hook)));
    bars.extend(tables(samples));
    bars.extend(swaps(samples));
    bars.extend(agents(samples));
    bars
}

impl Kind {
    fn is_held(self, figure: f64, limit: f64) -> bool {
        match self {
            Self::AtLeast => figure >= limit,
            Self::AtMost => figure <= limit,
        }
    }
}

impl Bar {
    /// With what the figure may be instead, from one run of the bench to the next.
    fn within(self, interval: [f64; 2]) -> Self {
        let sure = interval.iter().all(|end| self.kind.is_held(*end, self.limit) == self.held);
        Self { sure, ..self }
    }
}

/// One whose figure is the same on every run.
fn bar(name: impl Into<String>, figure: f64, kind: Kind, limit: f64, unit: &'static str) -> Bar {
    let held = kind.is_held(figure, limit);
    Bar { name: name.into(), figure, limit, kind, unit, held, sure: true, note: String::new() }
}

/// Of a ratio: round by round.
fn spread(ratio: Figure) -> String {
    let Figure { median, least, most, interval: [low, high] } = ratio;
    let interval = if low.is_finite() { format!(" (95 %: {low:.3} to {high:.3})") } else { String::new() };
    format!("round by round {median:.3}{interval}, {least:.3} to {most:.3}")
}

/// Of a rate's ratio, and the ratio of the median times, which other work on the machine disturbs less.
fn with_median_time(samples: &Samples, of: &Subject, to: &Subject, load: &str, ratio: Figure) -> String {
    let time = samples.ratio("traffic", of, to, load, "p50");
    let time = time.map_or(String::new(), |time| format!("; median time times {:.3}", time.median));
    format!("{}{time}", spread(ratio))
}

/// Rates divided, round by round, of all sizes together.
fn of_all_sizes(samples: &Samples, load: &str, to: impl Fn(&Subject) -> Subject) -> Option<Figure> {
    let sizes = sizes(samples, "traffic", ENFORCE).into_iter();
    let ratios = sizes.filter_map(|size| samples.ratios("traffic", size, &to(size), load, "rate"));
    Figure::of(ratios.flatten())
}

fn sizes<'a>(samples: &'a Samples, part: &str, variant: &str) -> Vec<&'a Subject> {
    samples.subjects(part).into_iter().filter(|subject| subject.variant == variant).collect()
}

/// At the size at which segd does worst.
fn against_empty(samples: &Samples, load: &str, least: f64) -> Option<Bar> {
    let empty = Subject::plain("empty");
    let ratio = |s: &Subject| samples.ratio_of_medians("traffic", s, &empty, load, "rate");
    let ratios = sizes(samples, "traffic", ENFORCE).into_iter().filter_map(|s| Some((ratio(s)?, s)));
    let (worst, size) = ratios.min_by(|a, b| a.0.total_cmp(&b.0))?;
    let rounds = samples.ratio("traffic", size, &empty, load, "rate")?;
    let mut note = with_median_time(samples, size, &empty, load, rounds);
    if sizes(samples, "traffic", ENFORCE).len() > 1 {
        let all = of_all_sizes(samples, load, |_| empty.clone())?;
        note = format!("{note}; all sizes together: {}", spread(all));
    }
    let name = format!("{load}: {} against empty programs", size.title());
    Some(Bar { note, ..bar(name, worst, Kind::AtLeast, least, "").within(rounds.interval) })
}

fn against_nft(samples: &Samples, load: &str, variant: &str, least: f64) -> Option<Bar> {
    let sizes = sizes(samples, "traffic", ENFORCE);
    let mut prefixes: Vec<usize> = sizes.iter().map(|s| s.prefixes).collect();
    prefixes.dedup();
    let middle = prefixes.get(prefixes.len() / 2).copied()?;
    let prefixes = if prefixes.contains(&NFT_PREFIXES) { NFT_PREFIXES } else { middle };
    let sizes = sizes.into_iter().filter(|s| s.prefixes == prefixes);
    let ratio = |s: &Subject| samples.ratio_of_medians("traffic", s, &s.but(variant), load, "rate");
    let (worst, size) = sizes.filter_map(|s| Some((ratio(s)?, s))).min_by(|a, b| a.0.total_cmp(&b.0))?;
    let rounds = samples.ratio("traffic", size, &size.but(variant), load, "rate")?;
    let note = with_median_time(samples, size, &size.but(variant), load, rounds);
    let name = format!("{load}: {} against {variant}", size.title());
    Some(Bar { note, ..bar(name, worst, Kind::AtLeast, least, "").within(rounds.interval) })
}

/// How far a rate is at most from that with the smallest policy.
fn flat(samples: &Samples, load: &str, most: f64) -> Option<Bar> {
    let sizes = sizes(samples, "traffic", ENFORCE);
    let smallest = *sizes.first()?;
    let change = |s: &Subject| {
        let ratio = samples.ratio_of_medians("traffic", s, smallest, load, "rate")?;
        Some((ratio - 1.0).abs() * 100.0)
    };
    let changes = sizes[1..].iter().filter_map(|s| Some((change(s)?, *s)));
    let (worst, size) = changes.max_by(|a, b| a.0.total_cmp(&b.0))?;
    let rounds = samples.ratio("traffic", size, smallest, load, "rate")?;
    let name = format!("{load}: {} against {}, change", size.title(), smallest.title());
    let change = bar(name, worst, Kind::AtMost, most, "%").within(rounds.change().interval);
    Some(Bar { note: spread(rounds), ..change })
}

/// All rounds and sizes together. The same rate is one that differs by less than 1 %.
fn modes(samples: &Samples, load: &str) -> Option<Bar> {
    let ratio = of_all_sizes(samples, load, |size| size.but(MONITOR))?;
    let name = format!("{load}: {ENFORCE} against {MONITOR}, change");
    let change = ratio.change();
    let change = bar(name, change.median, Kind::AtMost, 1.0, "%").within(change.interval);
    Some(Bar { note: spread(ratio), ..change })
}

/// By how much of an operation's time its programs' time with one subject is from that with another, round by round: what
/// shows where a machine's rates differ by more than what is looked for.
fn programs_change(samples: &Samples, of: &Subject, to: &Subject, load: &str) -> Option<Figure> {
    let rounds = |subject, metric| samples.rounds("programs", subject, load, metric);
    let (of, to, time) =
        (rounds(of, "ns_per_operation")?, rounds(to, "ns_per_operation")?, rounds(to, "operation")?);
    let change = |(round, ns): (&u32, &f64)| Some((ns - to.get(round)?) / time.get(round)? * 100.0);
    Figure::of(of.iter().filter_map(change))
}

fn of_programs(name: String, change: Figure, most: f64) -> Bar {
    let note = format!("{:.2} to {:.2} % of an operation's time", change.least, change.most);
    let of_time = bar(name, change.median.abs(), Kind::AtMost, most, "%");
    Bar { note, ..of_time.within(magnitude(change.interval)) }
}

fn programs_flat(samples: &Samples, load: &str, most: f64) -> Option<Bar> {
    let sizes = sizes(samples, "programs", PROGRAMS);
    let smallest = *sizes.first()?;
    let changes = sizes[1..].iter().filter_map(|s| Some((programs_change(samples, s, smallest, load)?, *s)));
    let (worst, size) = changes.max_by(|a, b| a.0.median.abs().total_cmp(&b.0.median.abs()))?;
    let name = format!("{load}: time in the programs, {} against {}, change", size.title(), smallest.title());
    Some(of_programs(name, worst, most))
}

fn programs_modes(samples: &Samples, load: &str) -> Option<Bar> {
    // Its programs' sizes are of no policy's size.
    let change = sizes(samples, "programs", MONITOR)
        .into_iter()
        .filter_map(|monitor| programs_change(samples, &monitor.but(ENFORCE), monitor, load))
        .max_by(|a, b| a.median.abs().total_cmp(&b.median.abs()))?;
    let name = format!("{load}: time in the programs, {ENFORCE} against {MONITOR}, change");
    Some(of_programs(name, change, 1.0))
}

/// What a packet of an established connection costs more than an empty program's run.
fn packet(samples: &Samples, hook: &str) -> Option<Bar> {
    let metric = format!("ns_per_run.{hook}");
    let rounds = |s: &Subject| samples.rounds("programs", s, "tcp-request", &metric);
    let empty = rounds(&Subject::plain("empty"))?;
    let more = |of: &BTreeMap<u32, f64>| {
        Figure::of(of.iter().filter_map(|(round, ns)| Some(ns - empty.get(round)?)))
    };
    let subjects = samples.subjects("programs");
    let segd = subjects.into_iter().filter(|s| s.variant == ENFORCE).find_map(rounds)?;
    let figure = more(segd)?;
    let name = format!("packet of a TCP connection at {hook}, more than empty");
    let packet = bar(name, figure.median, Kind::AtMost, 60.0, "ns").within(figure.interval);
    let look_up = rounds(&Subject::plain("look-up")).and_then(more).map_or(String::new(), |look_up| {
        format!("; one look-up that counts takes {:.0} ns more than empty", look_up.median)
    });
    let median = Figure::of(segd.values().copied())?.median;
    let note = format!("{:.0} to {:.0} more; {median:.0} ns in all{look_up}", figure.least, figure.most);
    Some(Bar { note, ..packet })
}

fn tables(samples: &Samples) -> Vec<Bar> {
    let subjects = samples.subjects("tables");
    let Some(segd) = subjects.into_iter().find(|s| s.variant == "segd") else {
        return Vec::new();
    };
    let prefixes = segd.title();
    let figure = |s: &Subject, load: &str, metric: &str| samples.figure("tables", s, load, metric);
    let median = |load: &str, metric: &str| figure(segd, load, metric).map(|f| f.median);
    let step = |name: &str| figure(&segd.but("bare"), "", name).map(|f| f.median);
    let bare = step("batched_updates");
    let mut bars = Vec::new();
    let mut push = |figure: Option<Figure>, name: String, limit: f64, unit, note: String| {
        let made = |f: Figure| bar(name, f.median, Kind::AtMost, limit, unit).within(f.interval);
        bars.extend(figure.map(|f| Bar { note, ..made(f) }));
    };
    let note = format!(
        "bare {:.2} s; from the files {:.2} s to the kernel, {:.2} s to the command's end; in one thread reading the \
         text {:.2} s, checking {:.2} s, compiling {:.2} s",
        bare.unwrap_or_default(),
        median("load", "in_kernel").unwrap_or_default(),
        median("load", "command").unwrap_or_default(),
        step("parse").unwrap_or_default(),
        step("check").unwrap_or_default(),
        step("compile").unwrap_or_default()
    );
    let times = |load: Option<Figure>| Some((load?, bare?)).map(|(load, bare)| load.map(|s| s / bare));
    push(
        times(figure(segd, "load", "in_kernel")),
        format!("{prefixes}: load until it is in force, times bare updates"),
        1.5,
        "",
        note,
    );
    for (load, file) in [("other-file", "a small zone file"), ("same-file", "the large zone file")] {
        let spread = figure(segd, load, "in_kernel")
            .map_or(String::new(), |f| format!("{:.1} to {:.1} ms", f.least * 1000.0, f.most * 1000.0));
        let command = median(load, "command").unwrap_or_default() * 1000.0;
        push(
            figure(segd, load, "in_kernel").map(|f| f.map(|s| s * 1000.0)),
            format!("{prefixes}: ten entries changed in {file}, until they are in force"),
            50.0,
            "ms",
            format!("{spread}; until the command ends {command:.1} ms"),
        );
    }
    let megabytes = |metric| figure(segd, "", metric).map(|f| f.map(|bytes| bytes / MEGABYTE));
    let slab = megabytes("kernel_slab").map(|f| f.median).unwrap_or_default();
    let peak = median("load", "agent_peak").unwrap_or_default() / MEGABYTE;
    let note = format!("{peak:.0} MB at most while it loads");
    push(megabytes("agent_resident"), format!("{prefixes}: agent resident"), 64.0, "MB", note);
    let note = format!("kernel memory of the whole machine grew by {slab:.0} MB");
    push(megabytes("kernel_tables"), format!("{prefixes}: kernel tables"), 200.0, "MB", note);
    bars
}

/// Of one swap a second, and of swaps that follow upon each other.
fn swaps(samples: &Samples) -> Vec<Bar> {
    let subjects = samples.subjects("swaps");
    let paces =
        [("each-second", "with a swap a second on each host"), ("swapping", "during swaps without a pause")];
    let of = |(variant, when): (&str, &str)| {
        let swapping = subjects.iter().find(|s| s.variant == variant)?;
        let still = swapping.but("still");
        let ratio = samples.ratio_of_medians("swaps", swapping, &still, "tcp-request", "p99.9")?;
        let swaps = samples.figure("swaps", swapping, "tcp-request", "swaps")?;
        let rounds = samples.ratio("swaps", swapping, &still, "tcp-request", "p99.9")?;
        let note = format!("{:.0} swaps a round; {}", swaps.median, spread(rounds));
        let name = format!("tcp-request: p99.9 {when}, times that without");
        Some(Bar { note, ..bar(name, ratio, Kind::AtMost, 2.0, "").within(rounds.interval) })
    };
    paces.into_iter().filter_map(of).collect()
}

/// The agents of the two hosts, as variants and as people call them.
const AGENTS: [(&str, &str); 2] = [("client", "client's agent"), ("server", "server's agent")];

/// How the events of all rounds add up: each flow has a beginning and an end.
fn account(samples: &Samples, variant: &str, load: &str) -> String {
    let sum = |metric| {
        let rounds = samples.rounds("events", &Subject::plain(variant), load, metric);
        rounds.map_or(0.0, |rounds| rounds.values().sum::<f64>())
    };
    let [flows, logged, lost] = ["flows_counted", "records_logged", "events_lost"].map(sum);
    format!("2 x {flows:.0} flows counted = {logged:.0} records logged + {lost:.0} events counted as lost")
}

/// What takes no other figure than its own.
fn agents(samples: &Samples) -> Vec<Bar> {
    let mut bars = Vec::new();
    let mut push = |part, variant, load, metric, scale: f64, name: &str, limit, unit| {
        // Where there is a sum to be right, every round counts, else the median.
        if let Some(figure) = samples.figure(part, &Subject::plain(variant), load, metric) {
            let exact = limit == 0.0;
            let value = if exact { figure.most.abs().max(figure.least.abs()) } else { figure.median };
            let note = format!("{:.1} to {:.1}", figure.least * scale, figure.most * scale);
            let made = bar(name, value * scale, Kind::AtMost, limit, unit);
            let made = if exact { made } else { made.within(figure.map(|v| v * scale).interval) };
            bars.push(Bar { note, ..made });
        }
    };
    let bytes = 1.0 / MEGABYTE;
    push("start", "example", "", "agent_resident", bytes, "example estate: agent resident", 30.0, "MB");
    push("start", "example", "", "exec_to_enforcing", 1.0, "example estate: exec to enforcing", 200.0, "ms");
    for (variant, both) in AGENTS {
        let connect = "tcp-connect";
        let name = format!("{both}: connections that are not in segd_flows_total");
        push("events", variant, connect, "flows_not_counted", 1.0, &name, 0.0, "");
        let name = format!("{both}: events neither logged nor counted as lost");
        push("events", variant, connect, "events_missing", 1.0, &name, 0.0, "");
        let name = format!("{both}: a core at 10,000 flows a second");
        push("cpu", variant, connect, "core_at_10000_a_second", 1.0, &name, 10.0, "%");
        let name = format!("{both}: a core when idle");
        push("cpu", variant, "", "idle_core", 1.0, &name, 0.1, "%");
    }
    push("takeover", "segd-enforce", "", "wrong_verdicts", 1.0, "takeover: wrong verdicts", 0.0, "");
    for (variant, both) in AGENTS {
        let of_both = |bar: &&mut Bar| bar.name.starts_with(both) && bar.name.ends_with("counted as lost");
        if let Some(bar) = bars.iter_mut().find(of_both) {
            bar.note = account(samples, variant, "tcp-connect");
        }
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::super::samples::Sample;
    use super::*;

    fn sample(variant: &str, prefixes: usize, load: &str, metric: &str, round: u32, value: f64) -> Sample {
        let (part, unit) = ("programs".to_owned(), "ns".to_owned());
        let [variant, load, metric] = [variant, load, metric].map(str::to_owned);
        Sample { part, variant, prefixes, rules: prefixes, load, round, metric, unit, value }
    }

    #[test]
    fn a_bar_is_sure_where_all_that_it_may_be_is_on_its_side_of_the_limit() {
        let cases = [
            (0.97, [0.961, 0.99], (true, true)),
            (0.97, [0.95, 0.99], (true, false)),
            (0.95, [0.94, 0.961], (false, false)),
            (0.95, [0.94, 0.959], (false, true)),
            (0.97, [f64::NEG_INFINITY, f64::INFINITY], (true, false)),
        ];
        for (figure, interval, wanted) in cases {
            let bar = bar("tcp-connect", figure, Kind::AtLeast, 0.96, "").within(interval);
            assert_eq!((bar.held, bar.sure), wanted, "{figure} in {interval:?}");
        }
    }

    #[test]
    fn programs_time_tells_sizes_and_modes_apart_round_by_round() {
        let mut samples = Samples::default();
        // A program's own size is of no policy.
        samples.add(sample(MONITOR, 0, "egress", "translated", 1, 7.0));
        // The machine slows down meanwhile, for all alike.
        for (round, slow) in [(1, 0.0), (2, 500.0), (3, 1000.0)] {
            let all = [
                (MONITOR, 10, 1000.0),
                (ENFORCE, 10, 1500.0),
                (PROGRAMS, 10, 1400.0),
                (PROGRAMS, 1000, 3900.0),
            ];
            for (variant, prefixes, ns) in all {
                let load = "tcp-connect";
                samples.add(sample(variant, prefixes, load, "ns_per_operation", round, ns + slow));
                samples.add(sample(variant, prefixes, load, "operation", round, 50_000.0));
            }
        }
        let found: Vec<_> = bars(&samples).into_iter().map(|bar| (bar.figure, bar.limit, bar.held)).collect();
        assert_eq!(found, [(5.0, 3.0, false), (1.0, 1.0, true)]);
    }
}
