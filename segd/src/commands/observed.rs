//! Where commands that look back take what they look at.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;

use super::filters::Filters;
use super::progress::Progress;
use super::{Failure, Reach, when};
use crate::history::Summary;
use crate::history::logs::{self, Wanted};

/// What was observed: by the agent, or in log files.
#[derive(Args, Debug)]
pub(super) struct Observed {
    /// Read flow records from log files, of one host or of many, instead of this host's history: files, directories (all
    /// *.jsonl in them, with what was rotated), `-` for standard input
    #[arg(long, value_name = "FILE", num_args = 1..)]
    input: Vec<PathBuf>,
    /// Only what was seen since: 10m, 7d, 2027-06-30, 2027-06-30T18:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = when::past)]
    since: Option<Timestamp>,
    /// Only what was seen before
    #[arg(long, value_name = "WHEN", value_parser = when::past)]
    until: Option<Timestamp>,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    reach: Reach,
}

impl Observed {
    /// All of it that is wanted, sorted by hour and conversation.
    pub(super) async fn summaries(&self) -> Result<Vec<Summary>, Failure> {
        if self.input.is_empty() {
            return Err(Failure::bad_input("give log files to read with --input"));
        }
        let (inputs, wanted) = (self.input.clone(), self.wanted());
        let read = tokio::task::spawn_blocking(move || {
            let progress = Progress::new("reading");
            logs::summarise(&inputs, &wanted, |done, of| progress.set(done, of))
        });
        let read = read.await.map_err(Failure::bad_input)?.map_err(Failure::bad_input)?;
        read.notes.iter().for_each(|note| eprintln!("segd: {note}"));
        Ok(read.summaries)
    }

    fn wanted(&self) -> Wanted {
        Wanted { since: self.since, until: self.until, filter: self.filters.0.clone() }
    }
}
