//! `segd check`.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::output::{self, Output};
use super::{Failure, NO, Outcome};
use crate::config::{self, ConfigError};
use crate::policy::check::TestCase;
use crate::policy::{self, Diagnostics, Sources};

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
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    errors: usize,
    warnings: usize,
    files: usize,
    zones: usize,
    rules: usize,
    tests: usize,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    cases: &'a [TestCase],
    diagnostics: &'a Diagnostics,
}

impl Check {
    pub(super) fn run(self) -> Outcome {
        let config = match config::read(self.config.as_deref()) {
            Ok(config) => config,
            Err(ConfigError::Invalid(found)) => return self.report(&found, [0; 4], &[]),
            Err(ConfigError::Read(error)) => return Err(Failure::bad_input(error)),
        };
        let dir = self.dir.as_ref().unwrap_or(&config.policy_dir);
        let sources = Sources::read_dir(dir).map_err(Failure::bad_input)?;
        let files = sources.files().len();
        let now = Timestamp::now();
        match policy::load(sources, now) {
            Err(found) => self.report(&found, [files, 0, 0, 0], &[]),
            Ok(policy) => {
                let found = policy::check(&policy, &config.failsafes, now);
                let counts = [files, policy.zones.len(), policy.rules.len(), policy.tests.len()];
                let cases = if self.test {
                    policy::check::test_cases(&policy, &config.failsafes, now)
                } else {
                    Vec::new()
                };
                self.report(&found, counts, &cases)
            }
        }
    }

    fn report(
        &self,
        found: &Diagnostics,
        [files, zones, rules, tests]: [usize; 4],
        cases: &[TestCase],
    ) -> Outcome {
        let (errors, warnings) = (found.errors(), found.warnings());
        let ok = errors == 0;
        if self.output.is_json() {
            output::json(&Report {
                ok,
                errors,
                warnings,
                files,
                zones,
                rules,
                tests,
                cases,
                diagnostics: found,
            })?;
        } else {
            for case in cases {
                let TestCase { place, from, to, port, wanted, failure, .. } = case;
                let mark = if failure.is_none() { "ok  " } else { "FAIL" };
                output::print(&format!("{mark}  {place}: {port} from {from} to {to} must be {wanted}"))?;
            }
            if !found.is_empty() {
                output::print(&found.render(output::colour()))?;
            }
            let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
            let counts = if ok {
                let all = [
                    plural(files, "file"),
                    plural(zones, "zone"),
                    plural(rules, "rule"),
                    plural(tests, "test"),
                ];
                format!("ok: {}; {}", all.join(", "), plural(warnings, "warning"))
            } else {
                format!(
                    "{}, {}; nothing would be loaded",
                    plural(errors, "error"),
                    plural(warnings, "warning")
                )
            };
            output::print(&counts)?;
        }
        Ok(if ok { 0 } else { NO })
    }
}
