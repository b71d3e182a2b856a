//! `segd apply`.

use clap::Args;

use super::output::{self, Output};
use super::safety::{self, SafetyArgs};
use super::{Outcome, Reach};

/// Load the zone files anew
///
/// The agent reads its zone files, checks them, shows what they would break, and swaps the policy as a whole. On
/// any error the former policy stays in force.
#[derive(Args, Debug)]
pub(super) struct Apply {
    #[command(flatten)]
    safety: SafetyArgs,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

impl Apply {
    pub(super) async fn run(self) -> Outcome {
        let client = self.reach.client();
        let mut request = self.safety.request();
        let applied = match client.apply(&request).await {
            Ok(applied) => applied,
            Err(refused) => {
                self.safety.insist(refused, self.output)?;
                request.force = true;
                client.apply(&request).await?
            }
        };
        if self.output.is_json() {
            output::json(&applied)?;
            return Ok(0);
        }
        let policy = &applied.policy;
        if applied.change.changed {
            output::print(&format!(
                "generation {} is in force: {} zones, {} rules from {}",
                applied.change.generation,
                policy.zones,
                policy.rules,
                policy.dir.display()
            ))?;
        }
        safety::show(&applied.change)?;
        Ok(0)
    }
}
