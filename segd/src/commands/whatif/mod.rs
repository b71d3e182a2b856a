//! `segd whatif`.

mod files;
mod own;
mod text;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use self::files::Files;
use self::own::Own;
use super::observed::Observed;
use super::output::{self, Output};
use super::safety::duration;
use super::{Failure, NO, Outcome, zones};
use crate::config;
use crate::control::changes::{Break, Previewed};
use crate::insight::replay::{Around, Decider, remembered};
use crate::insight::whatif::{Comparison, Options, Owners, compare};

/// Lines of each part of a table unless --limit says otherwise.
const LINES: usize = 20;

/// Tell what other zone files would deny or allow of the flows that were seen and of live sockets
///
/// Replays the flows that were observed against other zone files, by the code that decides in the kernel, and asks the
/// agent, if it runs, what they would do to live sockets. Changes nothing.
///
/// Exit code 1 if a live flow, or one that was seen recently, passes now and would be denied. The zone files' own
/// rollouts count: what is in monitor mode there is not denied. What would be, were everything enforced, is counted
/// too; with --as-if-enforced it is listed, and makes the exit code 1.
#[derive(Args, Debug)]
pub(super) struct Whatif {
    /// Directory of zone files
    dir: PathBuf,
    /// Decide as if everything were enforced, whatever the rollouts of the zone files say
    #[arg(long)]
    as_if_enforced: bool,
    /// What was seen within this time before the newest record is recent, e.g. 24h
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "7d")]
    recent: Duration,
    /// Decide as at this instant, e.g. 2027-07-01T00:00:00Z, to see what expires until then [default: now]
    #[arg(long, value_name = "INSTANT")]
    at: Option<Timestamp>,
    /// At most so many lines in each part [default: 20; all with --output json]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// The zone of a host that cannot be told by its addresses
    #[arg(long, value_name = "HOST=ZONE", value_parser = zones::host_zone)]
    host_zone: Vec<(String, String)>,
    /// Zone files that were in force, for the owners of rules that are gone [default: those that the configuration
    /// names, if they can be read]
    #[arg(long, value_name = "DIR")]
    before: Option<PathBuf>,
    /// The agent's configuration, for its failsafes and its zone
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Do not look the names in zones up, as where there is no DNS: what was recorded as in such a zone still is
    #[arg(long)]
    no_resolve: bool,
    #[command(flatten)]
    observed: Observed,
    #[command(flatten)]
    output: Output,
}

/// The JSON of `segd whatif`. New keys may come; none of these changes.
#[derive(Serialize)]
struct Report {
    /// Version of the keys' meaning.
    schema: u32,
    /// Whether a live or recent flow passes now and would be denied; then the exit code is 1.
    breaks: bool,
    /// Where the zone files are.
    dir: PathBuf,
    /// Hex digest of the zone files.
    hash: String,
    /// The instant that is decided at.
    at: Timestamp,
    /// Whether the rollouts of the zone files were left aside.
    as_if_enforced: bool,
    #[serde(flatten)]
    comparison: Comparison,
    /// What the agent says of this host; none: it was not asked.
    live: Option<Live>,
    /// What a person should know.
    warnings: Vec<String>,
}

/// What the zone files would do to live flows of this host.
#[derive(Default, Serialize)]
struct Live {
    /// What would be cut.
    breaks: Vec<Break>,
    /// What would be cut were everything enforced.
    if_enforced: Vec<Break>,
}

const SCHEMA: u32 = 1;

/// That nothing breaks must not be said where nothing was looked at.
const NOTHING: &str =
    "no flow was observed, so nothing can be said: look at the logs that --input names, and at the filters";

impl Whatif {
    pub(super) async fn run(self) -> Outcome {
        let mut report = self.report().await?;
        let limit = self.limit.unwrap_or(if self.output.is_json() { usize::MAX } else { LINES });
        report.comparison.limit(limit);
        if self.output.is_json() {
            output::json(&report)?;
        } else {
            output::print(&text::render(&report, limit, &TimeZone::system()))?;
        }
        Ok(if report.breaks { NO } else { 0 })
    }

    async fn report(&self) -> Result<Report, Failure> {
        let config = config::read(self.config.as_deref()).map_err(Failure::bad_input)?;
        let now = Timestamp::now();
        let files = Files::read(&self.dir, &config, !self.no_resolve, now).await?;
        let before = files::before(self.before.as_deref(), &config.policy_dir)?;
        let own = if self.observed.has_input() {
            None
        } else {
            Own::ask(&self.observed.client(), &config, &files).await?
        };
        let observed = self.observed.summaries().await?;
        if observed.is_empty() && own.is_none() {
            return Err(Failure::bad_input(NOTHING));
        }

        let names = match &own {
            Some(own) => own.names.clone(),
            None if self.no_resolve => remembered(&observed, &files.policy, &files.names),
            None => files.names.clone(),
        };
        let mut zones: BTreeMap<String, String> = own.iter().filter_map(Own::placed).collect();
        zones.extend(self.host_zone.iter().cloned());
        let around = Around {
            names: &names,
            zones: &zones,
            own: own.as_ref().map(Own::host),
            ..Around::of_files(&config.failsafes, self.at.unwrap_or(now))
        };
        let decider = Decider::new(&files.policy, around, &observed).map_err(Failure::bad_input)?;
        let recent = SignedDuration::try_from(self.recent).unwrap_or(SignedDuration::MAX);
        let options = Options { as_if_enforced: self.as_if_enforced, recent };
        let owners = Owners::new(&files.policy, before.as_ref());
        let comparison = compare(&decider, &observed, &owners, options);
        let is_all = observed.is_empty();
        let warnings = own.as_ref().map(|own| own.preview.warnings.clone()).unwrap_or_default();
        let live = own.as_ref().map(|own| Live::of(&own.preview, self.as_if_enforced, is_all));
        let cuts = live.as_ref().is_some_and(|live| !live.breaks.is_empty());
        let breaks = cuts || comparison.breaks();
        Ok(Report {
            schema: SCHEMA,
            breaks,
            dir: self.dir.clone(),
            hash: files.policy.hash(),
            at: around.now,
            as_if_enforced: self.as_if_enforced,
            comparison,
            live,
            warnings,
        })
    }
}

impl Live {
    /// `all`: with what was seen since the agent started; it is among what was observed otherwise.
    fn of(preview: &Previewed, as_if_enforced: bool, all: bool) -> Self {
        let wanted = |all_breaks: &[Break]| all_breaks.iter().filter(|b| b.live || all).cloned().collect();
        let if_enforced: Vec<Break> = wanted(&preview.enforced);
        let breaks = if as_if_enforced { if_enforced.clone() } else { wanted(&preview.breaks) };
        Self { breaks, if_enforced }
    }
}

#[cfg(test)]
mod tests;
