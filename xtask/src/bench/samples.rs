//! The figures that `segd-bench` prints, and what is computed of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One figure. The fields are explained where they are made: `tests/src/bin/segd-bench/record.rs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) part: String,
    pub(super) variant: String,
    pub(super) prefixes: usize,
    pub(super) rules: usize,
    pub(super) load: String,
    pub(super) round: u32,
    pub(super) metric: String,
    pub(super) unit: String,
    pub(super) value: f64,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub(super) struct Samples {
    all: Vec<Sample>,
    series: BTreeMap<Key, BTreeMap<u32, f64>>,
}

/// What a series of figures, one a round, is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    part: String,
    subject: Subject,
    load: String,
    metric: String,
}

/// A variant at a size.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subject {
    pub(super) variant: String,
    pub(super) prefixes: usize,
    pub(super) rules: usize,
}

/// A median with its spread.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Figure {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
    /// Between these lies the median that more and more rounds would come to, in 95 of 100 cases at least. Infinite where
    /// there are too few.
    pub(super) interval: [f64; 2],
}

impl Subject {
    /// One without a policy of a size.
    pub(super) fn plain(variant: &str) -> Self {
        Self::sized(variant, 0, 0)
    }

    pub(super) fn sized(variant: &str, prefixes: usize, rules: usize) -> Self {
        Self { variant: variant.to_owned(), prefixes, rules }
    }

    /// The same size of another variant.
    pub(super) fn but(&self, variant: &str) -> Self {
        Self { variant: variant.to_owned(), ..*self }
    }

    /// For people.
    pub(super) fn title(&self) -> String {
        match (self.prefixes, self.rules) {
            (0, 0) => self.variant.clone(),
            (prefixes, rules) => format!("{} {}/{}", self.variant, count(prefixes), count(rules)),
        }
    }
}

/// 1000000 as 1M, 10000 as 10k.
fn count(n: usize) -> String {
    match n {
        n if n >= 1_000_000 && n % 1_000_000 == 0 => format!("{}M", n / 1_000_000),
        n if n >= 1000 && n % 1000 == 0 => format!("{}k", n / 1000),
        n => n.to_string(),
    }
}

impl Figure {
    /// `None` of no values.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let lower = if values.len().is_multiple_of(2) { *values.get(middle - 1)? } else { upper };
        Some(Self { median: f64::midpoint(lower, upper), least, most, interval: interval(&values) })
    }

    /// With everything, the interval too, computed from it by a function that rises or falls throughout.
    pub(super) fn map(self, of: impl Fn(f64) -> f64) -> Self {
        let turned = |[a, b]: [f64; 2]| if a <= b { [a, b] } else { [b, a] };
        let [least, most] = turned([of(self.least), of(self.most)]);
        Self { median: of(self.median), least, most, interval: turned(self.interval.map(of)) }
    }

    /// By how much a ratio differs from 1, in percent, whether up or down.
    pub(super) fn change(self) -> Self {
        let percent = self.map(|ratio| (ratio - 1.0) * 100.0);
        Self { median: percent.median.abs(), interval: magnitude(percent.interval), ..percent }
    }
}

/// What values without their sign may be that lie in an interval.
pub(super) fn magnitude([low, high]: [f64; 2]) -> [f64; 2] {
    let least = if low <= 0.0 && high >= 0.0 { 0.0 } else { low.abs().min(high.abs()) };
    [least, low.abs().max(high.abs())]
}

/// The interval of [`Figure`], of values in order, whatever their distribution: the median lies below the `k`-th least value as
/// often as fewer than `k` of as many coins show heads, and above the `k`-th greatest as often.
fn interval(sorted: &[f64]) -> [f64; 2] {
    const OUTSIDE: f64 = 0.05;
    let count = sorted.len();
    #[expect(clippy::cast_precision_loss, reason = "numbers of rounds")]
    let (n, mut ways, mut less) = (count as f64, 1.0, 0.0);
    let mut ends = [f64::NEG_INFINITY, f64::INFINITY];
    for (k, (low, high)) in sorted.iter().zip(sorted.iter().rev()).enumerate().take(count / 2) {
        // `ways`: n over k.
        less += ways * 0.5_f64.powf(n);
        if 2.0 * less > OUTSIDE {
            break;
        }
        ends = [*low, *high];
        #[expect(clippy::cast_precision_loss, reason = "numbers of rounds")]
        let heads = k as f64;
        ways *= (n - heads) / (heads + 1.0);
    }
    ends
}

impl Samples {
    pub(super) fn add(&mut self, sample: Sample) {
        let Sample { part, variant, prefixes, rules, load, metric, .. } = sample.clone();
        let key = Key { part, subject: Subject { variant, prefixes, rules }, load, metric };
        self.series.entry(key).or_default().insert(sample.round, sample.value);
        self.all.push(sample);
    }

    pub(super) fn all(&self) -> &[Sample] {
        &self.all
    }

    /// The values of a series by round; none if it was not measured.
    pub(super) fn rounds(
        &self,
        part: &str,
        subject: &Subject,
        load: &str,
        metric: &str,
    ) -> Option<&BTreeMap<u32, f64>> {
        let (subject, text) = (subject.clone(), str::to_owned);
        self.series.get(&Key { part: text(part), subject, load: text(load), metric: text(metric) })
    }

    pub(super) fn figure(&self, part: &str, subject: &Subject, load: &str, metric: &str) -> Option<Figure> {
        Figure::of(self.rounds(part, subject, load, metric)?.values().copied())
    }

    /// One series divided by another, round by round; none if one was not measured.
    pub(super) fn ratios(
        &self,
        part: &str,
        of: &Subject,
        to: &Subject,
        load: &str,
        metric: &str,
    ) -> Option<Vec<f64>> {
        let (of, to) = (self.rounds(part, of, load, metric)?, self.rounds(part, to, load, metric)?);
        Some(of.iter().filter_map(|(round, value)| Some(value / to.get(round)?)).collect())
    }

    /// The figure of [`Self::ratios`].
    pub(super) fn ratio(
        &self,
        part: &str,
        of: &Subject,
        to: &Subject,
        load: &str,
        metric: &str,
    ) -> Option<Figure> {
        Figure::of(self.ratios(part, of, to, load, metric)?)
    }

    /// The median of one series divided by that of another.
    pub(super) fn ratio_of_medians(
        &self,
        part: &str,
        of: &Subject,
        to: &Subject,
        load: &str,
        metric: &str,
    ) -> Option<f64> {
        Some(self.figure(part, of, load, metric)?.median / self.figure(part, to, load, metric)?.median)
    }

    /// Who was measured in a part, in the order of names and sizes.
    pub(super) fn subjects(&self, part: &str) -> Vec<&Subject> {
        let mut subjects: Vec<_> =
            self.series.keys().filter(|key| key.part == part).map(|key| &key.subject).collect();
        subjects.sort();
        subjects.dedup();
        subjects
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[(&str, u32, f64)]) -> Samples {
        let mut samples = Samples::default();
        for (variant, round, value) in values {
            samples.add(Sample {
                part: "traffic".into(),
                variant: (*variant).into(),
                prefixes: 0,
                rules: 0,
                load: "l".into(),
                round: *round,
                metric: "rate".into(),
                unit: "1/s".into(),
                value: *value,
            });
        }
        samples
    }

    #[test]
    fn medians_and_spreads() {
        let cases: [(&[f64], f64, f64, f64); 3] = [
            (&[3.0, 1.0, 2.0], 2.0, 1.0, 3.0),
            (&[4.0, 1.0, 2.0, 3.0], 2.5, 1.0, 4.0),
            (&[5.0], 5.0, 5.0, 5.0),
        ];
        for (values, median, least, most) in cases {
            let interval = [f64::NEG_INFINITY, f64::INFINITY];
            assert_eq!(Figure::of(values.iter().copied()), Some(Figure { median, least, most, interval }));
        }
        assert_eq!(Figure::of([]), None);
    }

    #[test]
    fn an_interval_takes_six_values_and_narrows_with_more() {
        // Tables of the sign test: 2 * 0.5^6 = 0.031; of 15, the fourth from each end; of 40, the fourteenth.
        for (count, ends) in [(6_u32, [1.0, 6.0]), (7, [1.0, 7.0]), (15, [4.0, 12.0]), (40, [14.0, 27.0])] {
            let figure = Figure::of((1..=count).map(f64::from)).unwrap();
            assert_eq!(figure.interval, ends, "{count}");
        }
        let ratios = Figure::of([0.9, 0.9, 0.9, 0.95, 0.98, 0.98, 1.02]).unwrap();
        let change = ratios.change();
        assert!(change.interval[0].abs() < 1e-9 && (change.interval[1] - 10.0).abs() < 1e-9, "{change:?}");
        assert_eq!(ratios.map(|x| -x).interval, [-1.02, -0.9]);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let samples = samples(&[
            ("empty", 1, 100.0),
            ("empty", 2, 200.0),
            ("segd", 1, 90.0),
            ("segd", 2, 190.0),
            ("segd", 3, 1.0),
        ]);
        let (of, to) = (Subject::plain("segd"), Subject::plain("empty"));
        let ratio = samples.ratio("traffic", &of, &to, "l", "rate").unwrap();
        assert!((ratio.least - 0.9).abs() < 1e-9 && (ratio.most - 0.95).abs() < 1e-9, "{ratio:?}");
        let medians = samples.ratio_of_medians("traffic", &of, &to, "l", "rate").unwrap();
        assert!((medians - 90.0 / 150.0).abs() < 1e-9, "{medians}");
        assert_eq!(samples.ratio("traffic", &Subject::plain("nft"), &to, "l", "rate"), None);
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(Subject::sized("nft", 1_000_000, 10).title(), "nft 1M/10");
        assert_eq!(Subject::sized("nft", 10_000, 1500).title(), "nft 10k/1500");
        assert_eq!(Subject::plain("empty").title(), "empty");
    }
}
