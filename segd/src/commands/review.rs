//! `segd review`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use super::observed::Observed;
use super::output::{self, Output};
use super::safety::duration;
use super::{Failure, NO, Outcome, zones};
use crate::config;
use crate::control::ClientError;
use crate::control::api::Status;
use crate::history::RuleFacts;
use crate::insight::review::{Enforced, Extent, Known, Limits, Material, Review, RuleReview, review};
use crate::policy::Policy;
use crate::policy::model::{Exception, Override};
use crate::rollout::modes;

/// Review the zone files: what is used and what is not, what ends soon, how far each zone and workload can reach
///
/// What of the zone files is used, what is not, what ends soon or is nobody's; how far each zone and workload can
/// reach; how much of what flowed is under enforcement.
///
/// Rules are set against what the agent recorded, over its restarts and over former policies; a rule that is new is not
/// called unused.
#[derive(Args, Debug)]
pub(super) struct Show {
    /// Directory of zone files; default: those that the configuration names
    dir: Option<PathBuf>,
    /// The agent's configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A rule without a hit for so long is unused
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = duration)]
    unused_for: Duration,
    /// What ends within so long ends soon
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = duration)]
    expiring_within: Duration,
    /// Also write a report as one HTML page, to file or to print
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Exit with 1 if there is anything to look at
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    observed: Observed,
    #[command(flatten)]
    output: Output,
}

/// What only a running agent knows.
#[derive(Default)]
struct Agent {
    overrides: Vec<Override>,
    exceptions: Vec<Exception>,
    /// Hash of what is in force.
    policy: Option<String>,
}

impl Show {
    pub(super) async fn run(self) -> Outcome {
        let policy = self.policy()?;
        let observed = self.observed.summaries().await?;
        let known = |r: RuleFacts| (r.rule, Known { since: r.since, last_hit: r.last_hit, hits: r.hits });
        let known: BTreeMap<String, Known> = self.observed.rules().await?.into_iter().map(known).collect();
        let agent = self.agent().await?;
        let hash = policy.hash();
        if agent.policy.as_ref().is_some_and(|in_force| *in_force != hash) {
            eprintln!("segd: these zone files are not what is in force on this host");
        }
        let material = Material {
            policy: &policy,
            policy_name: &hash,
            observed: &observed,
            known: &known,
            overrides: &agent.overrides,
            exceptions: &agent.exceptions,
            now: Timestamp::now(),
        };
        let limits = Limits { unused: self.unused_for, expiring: self.expiring_within };
        let review = review(&material, limits);
        if let Some(file) = &self.html {
            let failed = |error| Failure::bad_input(format!("cannot write {}: {error}", file.display()));
            fs::write(file, review.html()).map_err(failed)?;
        }
        if self.output.is_json() {
            output::json(&review)?;
        } else {
            output::print(&text(&review))?;
        }
        Ok(if self.strict && review.problems().next().is_some() { NO } else { 0 })
    }

    fn policy(&self) -> Result<Policy, Failure> {
        let config = config::read(self.config.as_deref()).map_err(Failure::bad_input)?;
        // What has ended is a finding here, not an error.
        zones::load_stored(self.dir.as_ref().unwrap_or(&config.policy_dir))
    }

    /// Log files are looked at without an agent.
    async fn agent(&self) -> Result<Agent, Failure> {
        if self.observed.has_input() {
            return Ok(Agent::default());
        }
        let Status { overrides, exceptions, policy, .. } = match self.observed.client().status().await {
            Err(ClientError::NoAgent { .. }) => {
                eprintln!("segd: no agent runs here: modes and exceptions that people set are not known");
                return Ok(Agent::default());
            }
            other => other?,
        };
        Ok(Agent { overrides: modes::for_compiler(&overrides), exceptions, policy: policy.map(|p| p.hash) })
    }
}

/// For people.
fn text(review: &Review) -> String {
    let mut parts = vec![head(review)];
    let rules = table_of_rules(&review.rules);
    parts.extend((!review.rules.is_empty()).then(|| format!("RULES\n{rules}")));
    let problems: Vec<String> =
        review.problems().map(|(what, finding)| format!("{what}: {}", finding.text())).collect();
    parts.push(match problems.len() {
        0 => "Nothing to look at.".to_owned(),
        n => format!("TO LOOK AT ({n})\n{}", problems.join("\n")),
    });
    if review.too_early() > 0 {
        let n = review.too_early();
        let some = if n == 1 {
            "1 rule has no hit, but is".to_owned()
        } else {
            format!("{n} rules have no hit, but are")
        };
        parts.push(format!("{some} not known for long enough to be called unused (--unused-for)."));
    }
    parts.push(format!("REACH\n{}", reach(review)));
    parts.push(format!("FLOWS UNDER ENFORCEMENT\n{}", coverage(review)));
    parts.join("\n\n")
}

fn head(review: &Review) -> String {
    let observed = match review.observed {
        None => "nothing was observed".to_owned(),
        Some((first, last)) => {
            let hosts = review.hosts.len();
            let plural = if hosts == 1 { "" } else { "s" };
            format!("observed on {hosts} host{plural} from {} to {}", minute(first), minute(last))
        }
    };
    let hash: String = review.policy.chars().take(12).collect();
    format!("policy {hash}, {observed}")
}

fn table_of_rules(rules: &[RuleReview]) -> String {
    let row = |rule: &RuleReview| {
        [
            rule.id.clone(),
            format!("{} -> {}", rule.from, rule.to),
            rule.hits.to_string(),
            rule.last_hit.map_or("never".to_owned(), minute),
            rule.clients.to_string(),
            rule.servers.to_string(),
            rule.expires.map_or("-".to_owned(), |at| at.strftime("%Y-%m-%d").to_string()),
            rule.owner.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    };
    output::table(
        ["RULE", "FROM -> TO", "HITS", "LAST HIT", "CLIENTS", "SERVERS", "ENDS", "OWNER"],
        rules.iter().map(row),
    )
}

fn reach(review: &Review) -> String {
    let hosts = |extent: &Extent| match extent.v6 {
        0 => extent.hosts.to_string(),
        v6 => format!("{} + {v6} v6", extent.hosts),
    };
    let rows = review.reach.iter().map(|r| {
        let limit = if r.enforced == Enforced::Everywhere { "" } else { "at least " };
        [
            r.subject.clone(),
            r.enforced.word().to_owned(),
            format!("{limit}{}", r.can.zones.len()),
            hosts(&r.can),
            r.can.ports.to_string(),
            r.used.zones.len().to_string(),
            hosts(&r.used),
            r.used.ports.to_string(),
        ]
    });
    output::table(
        ["SUBJECT", "ENFORCED", "ZONES", "HOSTS", "PORTS", "USED ZONES", "USED HOSTS", "USED PORTS"],
        rows,
    )
}

fn coverage(review: &Review) -> String {
    let all = std::iter::once(("all", &review.coverage.all));
    let subjects = review.coverage.subjects.iter().map(|(name, share)| (name.as_str(), share));
    let rows = all.chain(subjects).map(|(name, share)| {
        [
            name.to_owned(),
            share.flows.to_string(),
            share.percent_enforced().map_or("-".to_owned(), |percent| format!("{percent:.1} %")),
            share.allowed.to_string(),
            share.audited.to_string(),
            share.denied.to_string(),
        ]
    });
    output::table(["LOCAL SIDE", "FLOWS", "ENFORCED", "ALLOWED", "AUDITED", "DENIED"], rows)
}

fn minute(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M UTC").to_string()
}
