//! `segd confirm`.

use std::time::Duration;

use clap::Args;

use super::output::{self, Output};
use super::{Outcome, Reach, safety};
use crate::control::changes::ConfirmRequest;

/// Keep a change that waits to be confirmed
///
/// Without this, a change that was made with --confirm gives way to the former state when its time is over.
#[derive(Args, Debug)]
pub(super) struct Confirm {
    /// Do not confirm yet: give it this much more time from now, e.g. 10m
    #[arg(long, value_name = "TIME", value_parser = safety::duration)]
    extend: Option<Duration>,
    /// Why, for the journal
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

impl Confirm {
    pub(super) async fn run(self) -> Outcome {
        let request =
            ConfirmRequest { extend_s: self.extend.map(|e| e.as_secs()), reason: self.reason.clone() };
        let outcome = self.reach.client().confirm(&request).await?;
        if self.output.is_json() {
            output::json(&outcome)?;
            return Ok(0);
        }
        if outcome.pending.is_none() {
            output::print(&format!("confirmed: generation {} stays in force", outcome.generation))?;
        }
        safety::show(&outcome)?;
        Ok(0)
    }
}
