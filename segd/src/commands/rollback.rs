//! `segd rollback`.

use clap::Args;

use super::output::{self, Output};
use super::{Outcome, Reach, safety};
use crate::control::changes::{History, RollbackRequest};

/// Bring a former policy back, at once
///
/// Brings a former policy with its modes back at once, without asking. The zone files on disk stay as they are;
/// until `segd apply` loads them, a restart keeps what was brought back. Exceptions stay.
#[derive(Args, Debug)]
pub(super) struct Rollback {
    /// A policy of `segd rollback --list`; default: the one that a waiting change would give way to, else the one before
    generation: Option<u32>,
    /// Show what can be brought back
    #[arg(long, short, conflicts_with_all = ["generation", "reason"])]
    list: bool,
    /// Why, for the journal
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

impl Rollback {
    pub(super) async fn run(self) -> Outcome {
        let client = self.reach.client();
        if self.list {
            let history = client.policies().await?;
            if self.output.is_json() {
                output::json(&history)?;
            } else {
                output::print(&text(&history))?;
            }
            return Ok(0);
        }
        let request = RollbackRequest { generation: self.generation, reason: self.reason.clone() };
        let back = client.roll_back(&request).await?;
        if self.output.is_json() {
            output::json(&back)?;
            return Ok(0);
        }
        output::print(&format!(
            "policy {} is back: generation {} is in force, {} zones, {} rules",
            back.policy.record, back.change.generation, back.policy.zones, back.policy.rules
        ))?;
        if back.policy.held.is_some() {
            let dir = back.policy.dir.display();
            output::print(&format!("the zone files in {dir} are not in force; `segd apply` loads them"))?;
        }
        safety::show(&back.change)?;
        Ok(0)
    }
}

fn text(history: &History) -> String {
    let mut out = output::table(
        ["POLICY", "IN FORCE", "SINCE", "BY UID", "CAME BY", "MODES SET", "FILES"],
        history.policies.iter().map(|p| {
            [
                p.generation.to_string(),
                if p.in_force { "yes" } else { "" }.to_owned(),
                p.made_at.to_string(),
                p.by.map_or_else(|| "-".to_owned(), |uid| uid.to_string()),
                p.why.clone(),
                p.overrides.to_string(),
                p.hash.chars().take(12).collect(),
            ]
        }),
    );
    for problem in &history.problems {
        out.push_str(&format!("\nwarning: {problem}"));
    }
    out
}
