//! `segd apply`.

use clap::Args;

use super::output::{self, Output};
use super::{Outcome, Reach};

/// The agent reads its zone files, checks them, and swaps the policy as a whole. On any error the former
/// policy stays in force.
#[derive(Args, Debug)]
pub(super) struct Apply {
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

impl Apply {
    pub(super) async fn run(self) -> Outcome {
        let applied = self.reach.client().apply().await?;
        if self.output.is_json() {
            output::json(&applied)?;
            return Ok(0);
        }
        let policy = &applied.policy;
        output::print(&format!(
            "generation {} is in force: {} zones, {} rules from {}",
            applied.generation,
            policy.zones,
            policy.rules,
            policy.dir.display()
        ))?;
        for warning in &applied.warnings {
            output::print(&format!("warning: {warning}"))?;
        }
        Ok(0)
    }
}
