//! `segd map`.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::observed::Observed;
use super::{Failure, Outcome, output, when, zones};
use crate::config;
use crate::history::Summary;
use crate::insight::map::{Compared, Map, Terms, compare, render};
use crate::insight::replay::{Around, Decider, remembered};
use crate::policy::{self, Policy, Resolved};
use crate::telemetry::text::printable;

/// Draw who talks to whom, as a page, a picture or data
///
/// Zones are nodes; lines are by service and verdict, as wide as the logarithm of their flows.
///
/// What both ends of a flow recorded counts once, with the worse of the two verdicts. The HTML page is one file that
/// needs no network: point at a zone or a line for processes, hosts and times; search; filter; print.
///
/// With --compare-until (and --compare-since) what was observed in that time is compared with what was observed after
/// it: lines that are new, gone, or of another verdict are marked. Flows are summed up by hour: what was observed on both
/// sides of that instant within one hour counts on both, with all its flows of that hour.
///
/// With --against each conversation is decided anew by other zone files, at the hosts that recorded it, and lines that
/// would be allowed, audited or denied are marked.
#[derive(Args, Debug)]
pub(super) struct Show {
    /// What to write [default: by the ending of --output-file, else html]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Where to write it [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output_file: Option<PathBuf>,
    /// Make workloads nodes of their own instead of parts of their zones
    #[arg(long)]
    workloads: bool,
    /// Compare with what was observed since: 7d, 2027-06-30, 2027-06-30T18:00:00Z [default: the beginning]
    #[arg(long, value_name = "WHEN", value_parser = when::past, requires = "compare_until")]
    compare_since: Option<Timestamp>,
    /// Compare what was observed after this with what was observed before: 1d, 2027-06-30
    #[arg(long, value_name = "WHEN", value_parser = when::past)]
    compare_until: Option<Timestamp>,
    /// Show what these zone files would decide
    #[arg(long, value_name = "DIR", conflicts_with = "compare_until")]
    against: Option<PathBuf>,
    /// Zone files that say which zones workloads are in [default: those that the configuration names]
    #[arg(long, value_name = "DIR")]
    zones: Option<PathBuf>,
    /// The agent's configuration, for its failsafes
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    observed: Observed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One page that needs nothing beside it
    Html,
    /// A picture
    Svg,
    /// For Graphviz
    Dot,
    /// For Markdown that draws Mermaid
    Mermaid,
    /// For programs
    Json,
}

impl Format {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "html" | "htm" => Some(Self::Html),
            "svg" => Some(Self::Svg),
            "dot" | "gv" => Some(Self::Dot),
            "mmd" | "mermaid" => Some(Self::Mermaid),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

impl Show {
    pub(super) async fn run(self) -> Outcome {
        let by_name = self.output_file.as_deref().and_then(Format::of);
        let format = self.format.or(by_name).unwrap_or(Format::Html);
        if format == Format::Html && self.output_file.is_none() && io::stdout().is_terminal() {
            return Err(Failure::bad_input(
                "a page of HTML is nothing for a terminal; write it to a file: segd map -o map.html",
            ));
        }
        let summaries = self.observed.summaries().await?;
        if summaries.is_empty() {
            eprintln!("segd: nothing was observed");
        }
        let map = self.map(&summaries)?;
        let text = match format {
            Format::Html => render::html(&map)?,
            Format::Svg => render::svg(&map),
            Format::Dot => render::dot(&map),
            Format::Mermaid => render::mermaid(&map),
            Format::Json => render::json(&map)?,
        };
        match &self.output_file {
            None => output::print(&text)?,
            Some(path) => std::fs::write(path, text)
                .map_err(|error| Failure::bad_input(format!("cannot write {}: {error}", path.display())))?,
        }
        Ok(0)
    }

    fn map(&self, summaries: &[Summary]) -> Result<Map, Failure> {
        let config = config::read(self.config.as_deref()).map_err(Failure::bad_input)?;
        let now = Timestamp::now();
        let against = self.against.as_deref().map(|dir| zones::load(dir, now)).transpose()?;
        let known = match (&self.zones, &against) {
            (Some(dir), _) => Some(zones::load(dir, now)?),
            (None, Some(_)) => None,
            // Without them a workload's zone is guessed from what was observed.
            (None, None) => zones::load(&config.policy_dir, now).ok(),
        };
        let workload_zones = known.as_ref().or(against.as_ref()).map(workload_zones).unwrap_or_default();
        let terms = Terms { workload_zones, workloads: self.workloads };
        if let (Some(policy), Some(dir)) = (&against, &self.against) {
            let names = remembered(summaries, policy, &Resolved::new());
            let around = Around { names: &names, ..Around::of_files(&config.failsafes, now) };
            let decider = Decider::new(policy, around, summaries).map_err(Failure::bad_input)?;
            let mut map = Map::against(summaries, &terms, |of| Some(decider.decide(of).ok()?.verdict));
            map.compared = Some(Compared::Against(printable(&dir.display().to_string())));
            return Ok(map);
        }
        let Some(until) = self.compare_until else { return Ok(Map::of(summaries, &terms)) };
        let since = self.compare_since.unwrap_or(Timestamp::MIN);
        // What was seen on both sides of the cut within its hour is on both sides.
        let some = |wanted: &dyn Fn(&Summary) -> bool| -> Vec<Summary> {
            summaries.iter().filter(|summary| wanted(summary)).cloned().collect()
        };
        let before = some(&|summary| summary.first < until && summary.last >= since);
        let after = some(&|summary| summary.last >= until);
        Ok(compare(&Map::of(&before, &terms), Map::of(&after, &terms)))
    }
}

fn workload_zones(policy: &Policy) -> BTreeMap<String, String> {
    let zone = |(name, workload): (&String, &policy::workload::Workload)| {
        (name.clone(), workload.zone.value.clone())
    };
    policy.workloads.iter().map(zone).collect()
}
