//! `segd mode`.

use clap::{Args, ValueEnum};
use segd_common::traffic::{Direction, Mode};

use super::output::{self, Output};
use super::safety::{self, SafetyArgs};
use super::{Outcome, Reach, status};
use crate::control::changes::ModeRequest;

/// Set monitor or enforce mode, everywhere or for a part of the traffic; kept over restarts
///
/// The newest setting counts first, before the rollouts of the zone files. It is kept over restarts. What enforcing
/// would cut is shown first; `segd mode monitor` never asks.
#[derive(Args, Debug)]
pub(super) struct Set {
    /// What happens to traffic that no rule allows
    mode: Word,
    /// Only what is decided as this zone
    #[arg(long, value_name = "ZONE")]
    subject: Option<String>,
    /// Only this service or these ports, e.g. `postgres` or `tcp/5432`
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// Only flows that begin here, or that begin elsewhere
    #[arg(long, value_name = "DIRECTION")]
    direction: Option<Way>,
    #[command(flatten)]
    safety: SafetyArgs,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Word {
    /// It passes and is recorded as audited
    Monitor,
    /// It is denied
    Enforce,
    /// What the zone files say: takes back what `segd mode` has set
    Default,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Way {
    Outbound,
    Inbound,
}

impl Set {
    pub(super) async fn run(self) -> Outcome {
        let mut request = ModeRequest {
            mode: match self.mode {
                Word::Monitor => Some(Mode::Monitor),
                Word::Enforce => Some(Mode::Enforce),
                Word::Default => None,
            },
            subject: self.subject,
            service: self.service,
            direction: self.direction.map(|way| match way {
                Way::Outbound => Direction::Outbound,
                Way::Inbound => Direction::Inbound,
            }),
            safety: self.safety.request(),
        };
        let client = self.reach.client();
        let outcome = match client.set_mode(&request).await {
            Ok(outcome) => outcome,
            Err(refused) => {
                self.safety.insist(refused, self.output)?;
                request.safety.force = true;
                client.set_mode(&request).await?
            }
        };
        if self.output.is_json() {
            output::json(&outcome)?;
        } else {
            if outcome.change.changed {
                output::print(&format!("generation {} is in force\n", outcome.change.generation))?;
                output::print(&status::modes(&outcome.modes))?;
            }
            safety::show(&outcome.change)?;
        }
        Ok(0)
    }
}
