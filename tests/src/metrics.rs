//! One scrape of an agent's metrics, parsed from the Prometheus text format.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

type Labels = BTreeMap<String, String>;

/// The samples of one scrape.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    samples: Vec<(String, Labels, f64)>,
}

impl Metrics {
    /// # Errors
    /// Names the first line that is not in the format.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|line| sample(line).with_context(|| format!("this is no sample: {line}")));
        Ok(Self { samples: samples.collect::<Result<_>>()? })
    }

    /// The sum of all samples of `name` that have the labels given (and maybe more). Nothing counted yet is 0.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).sum()
    }

    /// The value of the one sample of `name` with the labels given; `None` if there is none or more than one.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.matching(name, labels);
        found.next().filter(|_| found.next().is_none())
    }

    /// All samples: name, labels, value.
    pub fn samples(&self) -> &[(String, Labels, f64)] {
        &self.samples
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = f64> {
        self.samples
            .iter()
            .filter(move |(n, l, _)| {
                n == name && labels.iter().all(|(key, value)| l.get(*key).is_some_and(|v| v == value))
            })
            .map(|(_, _, value)| *value)
    }
}

fn sample(line: &str) -> Option<(String, Labels, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(key.to_owned(), value);
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name.to_owned(), labels, value))
}

/// The text up to the closing quote without its escapes, and what follows the quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAPE: &str = "\
# HELP segd_flows_total Flows.
# TYPE segd_flows_total counter
segd_flows_total{src_zone=\"orders\",verdict=\"allowed\"} 3
segd_flows_total{src_zone=\"orders\",verdict=\"denied\"} 2e1
segd_flows_total{src_zone=\"a\\\"b\\\\c, d\",verdict=\"denied\"} 1

segd_policy_generation 7
";

    #[test]
    fn sums_by_labels() {
        let metrics = Metrics::parse(SCRAPE).unwrap();
        type Wanted<'a> = &'a [(&'a str, &'a str)];
        let cases: [(&str, Wanted, f64); 6] = [
            ("segd_flows_total", &[], 24.0),
            ("segd_flows_total", &[("src_zone", "orders")], 23.0),
            ("segd_flows_total", &[("verdict", "denied"), ("src_zone", "orders")], 20.0),
            ("segd_flows_total", &[("src_zone", "a\"b\\c, d")], 1.0),
            ("segd_flows_total", &[("src_zone", "transport")], 0.0),
            ("segd_policy_generation", &[], 7.0),
        ];
        for (name, labels, expected) in cases {
            assert_eq!(metrics.sum(name, labels), expected, "{name} {labels:?}");
        }
    }

    #[test]
    fn gets_one_sample_only() {
        let metrics = Metrics::parse(SCRAPE).unwrap();
        assert_eq!(metrics.get("segd_policy_generation", &[]), Some(7.0));
        assert_eq!(metrics.get("segd_flows_total", &[("verdict", "denied")]), None);
        assert_eq!(metrics.get("segd_no_such_metric", &[]), None);
    }

    #[test]
    fn names_the_line_that_is_no_sample() {
        for bad in ["segd_x{a=\"b} 1", "segd_x", "segd_x one"] {
            let error = Metrics::parse(bad).unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
    }
}
