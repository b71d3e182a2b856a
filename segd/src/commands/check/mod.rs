//! `segd check`.

mod hosts;
pub(super) mod names;

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use self::hosts::Listed;
use super::output::{self, Output};
use super::{Failure, NO, Outcome};
use crate::config::{self, Config, ConfigError};
use crate::policy::check::TestCase;
use crate::policy::{self, Diagnostics, Policy, Resolved, Sources, failsafe};

/// Check zone files: syntax, names, prefixes, tests; warn of what is unused or too broad
///
/// With a directory, its files are checked; without, those that the configuration names.
#[derive(Args, Debug)]
pub(super) struct Check {
    /// Directory of zone files
    dir: Option<PathBuf>,
    /// The agent's configuration, for its failsafes and its policy directory
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// List how each of the zone files' tests came out
    #[arg(long)]
    test: bool,
    /// Names of hosts, one a line: list which of them each canary picks
    #[arg(long, value_name = "FILE")]
    hosts: Option<PathBuf>,
    /// Do not look the names in zones up, as where there is no DNS
    #[arg(long)]
    no_resolve: bool,
    #[command(flatten)]
    output: Output,
}

/// What was found; the counts are of what could be read.
#[derive(Default, Serialize)]
struct Report {
    ok: bool,
    errors: usize,
    warnings: usize,
    files: usize,
    zones: usize,
    workloads: usize,
    rules: usize,
    tests: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cases: Vec<TestCase>,
    #[serde(skip_serializing_if = "Option::is_none")]
    canaries: Option<Vec<Listed>>,
    /// What is probably wrong with the configuration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    configuration: Vec<String>,
    diagnostics: Diagnostics,
}

impl Check {
    pub(super) async fn run(self) -> Outcome {
        let config = match config::read(self.config.as_deref()) {
            Ok(config) => config,
            Err(ConfigError::Invalid(found)) => return self.print(Report::new(found)),
            Err(ConfigError::Read(error)) => return Err(Failure::bad_input(error)),
        };
        let hosts = self.hosts.as_deref().map(hosts::read).transpose()?;
        let dir = self.dir.as_ref().unwrap_or(&config.policy_dir);
        let sources = Sources::read_dir(dir).map_err(Failure::bad_input)?;
        let files = sources.files().len();
        let now = Timestamp::now();
        let report = match policy::load(sources, now) {
            Err(found) => Report::new(found),
            Ok(policy) => {
                let (names, found) = if self.no_resolve {
                    (Resolved::new(), Diagnostics::default())
                } else {
                    names::look_up(&policy, &config.names, now).await
                };
                self.report(&policy, &config, hosts.as_deref(), (&names, found), now)
            }
        };
        self.print(Report { files, ..report })
    }

    /// `names`: what the names in zones stand for, and what was found when they were looked up.
    fn report(
        &self,
        policy: &Policy,
        config: &Config,
        hosts: Option<&[String]>,
        (names, looked_up): (&Resolved, Diagnostics),
        now: Timestamp,
    ) -> Report {
        let failsafes = &config.failsafes;
        let configuration = failsafe::warnings(failsafes);
        let cases =
            if self.test { policy::check::test_cases(policy, failsafes, names, now) } else { Vec::new() };
        let mut found = policy::check(policy, failsafes, names, now);
        found.extend(policy::check::claims(policy, names));
        found.extend(looked_up);
        let found = Report::new(found);
        Report {
            warnings: found.warnings + configuration.len(),
            zones: policy.zones.len(),
            workloads: policy.workloads.len(),
            rules: policy.rules.len(),
            tests: policy.tests.len(),
            cases,
            canaries: hosts.map(|hosts| hosts::list(policy, hosts)),
            configuration,
            ..found
        }
    }

    fn print(&self, report: Report) -> Outcome {
        if self.output.is_json() {
            output::json(&report)?;
        } else {
            output::print(&report.text(output::colour()))?;
        }
        Ok(if report.ok { 0 } else { NO })
    }
}

impl Report {
    fn new(diagnostics: Diagnostics) -> Self {
        let (errors, warnings) = (diagnostics.errors(), diagnostics.warnings());
        Self { ok: errors == 0, errors, warnings, diagnostics, ..Self::default() }
    }

    /// For people.
    fn text(&self, colour: bool) -> String {
        let mut out = String::new();
        for TestCase { place, from, to, port, wanted, failure, .. } in &self.cases {
            let mark = if failure.is_none() { "ok  " } else { "FAIL" };
            out += &format!("{mark}  {place}: {port} from {from} to {to} must be {wanted}\n");
        }
        out += &self.diagnostics.render(colour);
        for warning in &self.configuration {
            out += &format!("segd.toml: warning: {warning}\n\n");
        }
        out += &self.canaries.as_deref().map_or(String::new(), hosts::text);
        let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let Self { ok, errors, warnings, files, zones, workloads, rules, tests, .. } = self;
        let warnings = plural(*warnings, "warning");
        if !ok {
            return format!("{out}{}, {warnings}; nothing would be loaded", plural(*errors, "error"));
        }
        let mut all = vec![plural(*files, "file"), plural(*zones, "zone")];
        all.extend((*workloads > 0).then(|| plural(*workloads, "workload")));
        all.extend([plural(*rules, "rule"), plural(*tests, "test")]);
        format!("{out}ok: {}; {warnings}", all.join(", "))
    }
}
