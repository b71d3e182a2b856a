//! Where commands that look back take what they look at.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Reach};
use crate::history::{Summary, logs};

/// What was observed: by the agent, or in log files.
#[derive(Args, Debug)]
pub(super) struct Observed {
    /// Read flow records from log files, of one host or of many, instead of this host's history
    #[arg(long, value_name = "FILE", num_args = 1..)]
    input: Vec<PathBuf>,
    #[command(flatten)]
    reach: Reach,
}

impl Observed {
    /// All of it, sorted by hour and conversation.
    pub(super) async fn summaries(&self) -> Result<Vec<Summary>, Failure> {
        logs::summarise(&self.input, |_| true).map_err(Failure::bad_input)
    }
}
