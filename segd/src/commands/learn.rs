//! `segd learn`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::observed::Observed;
use super::output;
use super::{Failure, NO, Outcome, zones};
use crate::config;
use crate::insight::learn::{LearnError, Options, Proposal, learn};
use crate::insight::replay::Around;
use crate::policy::{Policy, Resolved};

/// What `--help` says beside the options.
const NOTES: &str = "\
Only what present rules do not allow gets new ones, each for one service between two zones or
workloads, and no wider than what was seen. Scans, what was denied, what nobody answered and what
was seen once are left out, and listed at the end. Peers in no zone get zones of tight prefixes.

The proposal is checked as by `segd check`, and everything that was seen is decided again under it,
by the code that decides in the kernel: exit code 1, and nothing is proposed, if it would deny
anything that was not left out.

Readiness: `learning` while fewer than 24 of the 168 hours of a week were watched, or something new
came up within the last day of the records; `stabilising` while fewer than 160 hours were, or within
the last week; then `stable`. Days and hours are in UTC.";

/// Propose zone-file rules from what was seen
#[derive(Args, Debug)]
#[command(after_help = NOTES)]
pub(super) struct Learn {
    /// Write there instead of printing; a zone file that is there already is never replaced
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,
    /// How to print
    #[arg(long, short, value_name = "FORMAT", default_value = "toml")]
    output: Format,
    /// The present zone files [default: those that the configuration names]
    #[arg(long, value_name = "DIR")]
    zones: Option<PathBuf>,
    /// The agent's configuration, for its failsafes and its policy directory
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Propose all rules anew: a zone directory of its own. Zones, services, workloads and what tests say must be denied are
    /// taken over if there are zone files
    #[arg(long)]
    from_scratch: bool,
    /// Be wider than what was seen: `ports` names whole services of which a part was seen and makes ranges of near ports;
    /// `peers` makes zones of whole subnets (/24, /64)
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    widen: Vec<Widen>,
    /// Join addresses in no zone into a prefix if at least so many percent of its addresses were seen
    #[arg(long, value_name = "PERCENT", default_value_t = Options::default().dense, value_parser = clap::value_parser!(u8).range(1..=100))]
    dense: u8,
    /// So many peers on one port, with next to nothing exchanged, are a scan
    #[arg(long, value_name = "N", default_value_t = Options::default().scan_peers)]
    scan_peers: usize,
    /// So many ports of one peer, with next to nothing exchanged, are a scan
    #[arg(long, value_name = "N", default_value_t = Options::default().scan_ports)]
    scan_ports: usize,
    /// Leave out what had fewer flows, unless its connection is still open
    #[arg(long, value_name = "N", default_value_t = Options::default().min_flows)]
    min_flows: u64,
    /// Leave out what was seen in fewer hours [default: 2, but 1 if fewer than 24 hours of the week were watched]
    #[arg(long, value_name = "N")]
    min_hours: Option<u32>,
    /// Do not leave these out
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    include: Vec<Include>,
    /// The zone of a host that recorded, where its addresses do not say it
    #[arg(long, value_name = "HOST=ZONE", value_parser = zones::host_zone)]
    host_zone: Vec<(String, String)>,
    #[command(flatten)]
    observed: Observed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Aligned text for people: the rules, how ready they are, and what was left out
    Table,
    /// JSON for programs
    Json,
    /// A zone file
    Toml,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Widen {
    Ports,
    Peers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Include {
    /// What looks like a scan
    Scans,
    /// What the policy in force denied
    Denied,
    /// What nobody answered
    Unanswered,
    /// What was seen once: as --min-flows 1 --min-hours 1
    Rare,
}

impl From<LearnError> for Failure {
    fn from(error: LearnError) -> Self {
        match error {
            LearnError::Nothing | LearnError::Present(_) => Self::bad_input(error),
            LearnError::Compile(_) | LearnError::Check(_) | LearnError::Broken(_) => {
                Self { message: error.to_string(), code: NO }
            }
        }
    }
}

impl Learn {
    pub(super) async fn run(self) -> Outcome {
        self.refuse_to_replace()?;
        let config = config::read(self.config.as_deref()).map_err(Failure::bad_input)?;
        let now = Timestamp::now();
        let dir = self.zones.as_ref().unwrap_or(&config.policy_dir);
        let present = if self.from_scratch && self.zones.is_none() && !dir.is_dir() {
            Policy::default()
        } else {
            zones::load(dir, now)?
        };
        let observed = self.observed.summaries().await?;
        let zones: BTreeMap<String, String> = self.host_zone.iter().cloned().collect();
        if let Some((host, zone)) = zones.iter().find(|(_, zone)| !present.zones.contains_key(*zone)) {
            let message = format!("--host-zone {host}={zone}: the zone files define no zone `{zone}`");
            return Err(Failure::bad_input(message));
        }
        let names = Resolved::new();
        let around = Around { zones: &zones, names: &names, ..Around::of_files(&config.failsafes, now) };
        let proposal = learn(&observed, &present, around, &self.options())?;
        self.print(&proposal)?;
        Ok(0)
    }

    /// What is proposed comes on top of the present files: written over one of them, it would take its rules away.
    fn refuse_to_replace(&self) -> Result<(), Failure> {
        let Some(path) = self.output_file.as_deref().filter(|_| self.output == Format::Toml) else {
            return Ok(());
        };
        let is_there = fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() > 0);
        if !is_there {
            return Ok(());
        }
        Err(Failure::bad_input(format!(
            "{} is there already, and would be lost: a proposal comes on top of the present zone files. Write it to a \
             new file, or move that one out of the zone directory to have its rules proposed anew",
            path.display()
        )))
    }

    fn options(&self) -> Options {
        let included = |what| self.include.contains(&what);
        let rare = included(Include::Rare);
        Options {
            from_scratch: self.from_scratch,
            widen_ports: self.widen.contains(&Widen::Ports),
            widen_peers: self.widen.contains(&Widen::Peers),
            dense: self.dense,
            scan_peers: self.scan_peers,
            scan_ports: self.scan_ports,
            min_flows: if rare { 0 } else { self.min_flows },
            min_hours: if rare { Some(0) } else { self.min_hours },
            scans: included(Include::Scans),
            denied: included(Include::Denied),
            unanswered: included(Include::Unanswered),
        }
    }

    fn print(&self, proposal: &Proposal) -> Result<(), Failure> {
        let text = match self.output {
            Format::Toml => proposal.toml.clone(),
            Format::Table => table(proposal),
            Format::Json if self.output_file.is_none() => return output::json(proposal),
            Format::Json => serde_json::to_string_pretty(proposal)?,
        };
        let Some(path) = &self.output_file else { return output::print(&text) };
        let failed = |error| Failure::bad_input(format!("cannot write {}: {error}", path.display()));
        fs::write(path, text.trim_end().to_owned() + "\n").map_err(failed)
    }
}

/// For people.
fn table(proposal: &Proposal) -> String {
    let row = |rule: &crate::insight::learn::ProposedRule| {
        let maturity = &rule.evidence.maturity;
        [
            rule.from.clone(),
            rule.to.clone(),
            rule.services.join(" "),
            rule.evidence.flows.to_string(),
            maturity.readiness.name().to_owned(),
            format!("{}/168", maturity.watched),
            rule.id.clone(),
        ]
    };
    let header = ["FROM", "TO", "SERVICES", "FLOWS", "READINESS", "WATCHED", "RULE"];
    let mut out = format!("{}\n", proposal.maturity.text());
    if proposal.rules.is_empty() {
        out += "\nnothing needs a rule that is not there\n";
    } else {
        out += &format!("\n{}\n", output::table(header, proposal.rules.iter().map(row)));
    }
    if !proposal.zones.is_empty() {
        let row = |zone: &crate::insight::learn::ProposedZone| {
            let cidrs: Vec<String> = zone.cidrs.iter().take(4).map(ToString::to_string).collect();
            let more = zone.cidrs.len().saturating_sub(cidrs.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            [zone.name.clone(), zone.seen.to_string(), format!("{}{more}", cidrs.join(" "))]
        };
        out +=
            &format!("\n{}\n", output::table(["NEW ZONE", "SEEN", "CIDRS"], proposal.zones.iter().map(row)));
    }
    if !proposal.left_out.is_empty() {
        out += "\nleft out:\n";
        for entry in &proposal.left_out {
            out += &format!("  {}: {entry}\n", entry.why);
        }
    }
    for note in &proposal.notes {
        out += &format!("note: {note}\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        learn: Learn,
    }

    #[test]
    fn a_proposal_never_replaces_a_zone_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name).display().to_string();
        fs::write(file("full.toml"), "[zone.a]\n").unwrap();
        fs::write(file("empty.toml"), "").unwrap();
        for (name, format, refused) in [
            ("full.toml", "toml", true),
            ("full.toml", "json", false),
            ("empty.toml", "toml", false),
            ("new.toml", "toml", false),
        ] {
            let (path, words) = (file(name), ["learn", "--output-file"]);
            let line = Line::try_parse_from([words[0], words[1], &path, "-o", format]).unwrap();
            let said = line.learn.refuse_to_replace().err();
            assert_eq!(said.as_ref().map(|f| f.code), refused.then_some(2), "{name} {format}");
            assert!(said.is_none_or(|f| f.message.contains("is there already")), "{name} {format}");
        }
    }
}
