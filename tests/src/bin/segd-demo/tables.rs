//! Two tables: who reaches what, and what the agents counted.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use segd_tests::Agent;

use crate::clients::{Answer, Service};
use crate::estate::{Estate, NAMES};

/// What each host's client got from each server that is not its own.
pub(crate) struct Reach(Vec<(&'static str, Service, Answer)>);

impl Reach {
    /// Lets every client try every server.
    pub(crate) fn measure(estate: &Estate) -> Result<Self> {
        let pairs = NAMES.into_iter().flat_map(|from| Service::ALL.map(|service| (from, service)));
        let foreign = pairs.filter(|(from, service)| service.home() != *from);
        let answers =
            foreign.map(|(from, service)| Ok((from, service, estate.attempt(from, service)?.answer)));
        Ok(Self(answers.collect::<Result<_>>()?))
    }

    /// The answers that are not as `wanted` says, in words.
    pub(crate) fn unexpected(&self, wanted: impl Fn(&str, Service) -> Answer) -> Vec<String> {
        let wrong = self.0.iter().filter(|(from, service, answer)| *answer != wanted(from, *service));
        wrong
            .map(|(from, service, answer)| {
                let wanted = wanted(from, *service).word();
                format!(
                    "{from} -> {} {}: {} in place of {wanted}",
                    service.home(),
                    service.name(),
                    answer.word()
                )
            })
            .collect()
    }

    pub(crate) fn render(&self) -> String {
        let mut text = format!("{:<14}", "FROM");
        for service in Service::ALL {
            column(&mut text, &format!("{}:{}", service.home(), service.name()));
        }
        for from in NAMES {
            let _ = write!(text, "\n{from:<14}");
            for service in Service::ALL {
                let found = self.0.iter().find(|(f, s, _)| *f == from && *s == service);
                column(&mut text, found.map_or("-", |(_, _, answer)| answer.word()));
            }
        }
        text
    }
}

fn column(text: &mut String, word: &str) {
    // Writing to a String cannot fail.
    let _ = write!(text, "{word:<24}");
}

/// Sums of `segd_flows_total`, by verdict.
#[derive(Clone, Copy, Default, PartialEq)]
struct Verdicts([f64; 3]);

const VERDICTS: [&str; 3] = ["allowed", "audited", "denied"];

/// `segd_flows_total` of all agents: a line for what each two zones exchange, as counted at either end.
pub(crate) fn counters(agents: &[Agent]) -> Result<String> {
    let mut lines: BTreeMap<[String; 3], [Verdicts; 2]> = BTreeMap::new();
    for agent in agents {
        for (name, labels, value) in agent.metrics()?.samples() {
            let label = |key: &str| labels.get(key).map_or("", String::as_str);
            let (from, to) = (label("src_zone"), label("dst_zone"));
            if name != "segd_flows_total" || ![from, to].iter().all(|zone| NAMES.contains(zone)) {
                continue;
            }
            let end = usize::from(label("direction") == "inbound");
            if let Some(verdict) = VERDICTS.iter().position(|verdict| *verdict == label("verdict")) {
                let key = [from, to, label("service")].map(str::to_owned);
                lines.entry(key).or_default()[end].0[verdict] += value;
            }
        }
    }
    let mut text = format!("{:<41}{:<27}AT THE SERVER'S\n", "segd_flows_total", "AT THE CLIENT'S HOST");
    let _ = write!(text, "{:<13}{:<13}{:<13}", "FROM", "TO", "SERVICE");
    for verdict in VERDICTS.iter().chain(&VERDICTS) {
        let _ = write!(text, "  {verdict:>7}");
    }
    // A connection older than the agent began before it counted: packets, but no flow.
    lines.retain(|_, ends| *ends != <[Verdicts; 2]>::default());
    for ([from, to, service], ends) in lines {
        let _ = write!(text, "\n{from:<13}{to:<13}{service:<13}");
        for count in ends.iter().flat_map(|verdicts| verdicts.0) {
            let _ = write!(text, "  {count:>7}");
        }
    }
    Ok(text)
}
