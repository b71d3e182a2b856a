//! Where commands that look back take what they look at.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;

use super::filters::Filters;
use super::progress::Progress;
use super::{Failure, NO_AGENT, Reach, when};
use crate::control::api::{FlowsQuery, HistoryQuery};
use crate::control::{Client, ClientError};
use crate::history::logs::{self, Wanted};
use crate::history::{self, HistoryError, Range, RuleFacts, Summary};
use crate::telemetry::FlowRecord;
use crate::telemetry::filter::Key;

/// What was observed: by the agent, or in log files.
#[derive(Args, Debug)]
pub(super) struct Observed {
    /// Read flow records from log files, of one host or of many, instead of this host's history: files, directories (all
    /// *.jsonl in them, with what was rotated), `-` for standard input
    #[arg(long, value_name = "FILE", num_args = 1..)]
    input: Vec<PathBuf>,
    /// Only what was seen since; of the history, hours that reach into that time as a whole: 10m, 7d, 2027-06-30, 2027-06-30T18:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = when::past)]
    pub(super) since: Option<Timestamp>,
    /// Only what was seen before
    #[arg(long, value_name = "WHEN", value_parser = when::past)]
    until: Option<Timestamp>,
    /// The agent's state directory, for the history that it left, if no agent runs
    #[arg(long, value_name = "DIR", default_value = super::DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    reach: Reach,
}

impl Observed {
    /// All of it that is wanted, sorted by hour and conversation.
    pub(super) async fn summaries(&self) -> Result<Vec<Summary>, Failure> {
        if self.has_input() {
            let (inputs, wanted) = (self.input.clone(), self.wanted());
            let read = blocking(move || {
                let progress = Progress::new("reading");
                logs::summarise(&inputs, &wanted, |done, of| progress.set(done, of))
            });
            let read = read.await?.map_err(Failure::bad_input)?;
            note(&read.notes);
            return Ok(read.summaries);
        }
        if self.filters.0.has(Key::Event) {
            let message = "--event: the history tells of flows by the hour, not of their single events; \
                           ask log files for them, with --input";
            return Err(Failure::bad_input(message));
        }
        match self.agents_history().await {
            Err(error @ ClientError::NoAgent { .. }) => self.kept_history(error).await,
            other => Ok(other?),
        }
    }

    async fn agents_history(&self) -> Result<Vec<Summary>, ClientError> {
        let (client, filter) = (self.client(), &self.filters.0);
        if filter.names().next().is_some() {
            // The agent knows whether a name is misspelt.
            client.flows(&FlowsQuery { filter: filter.clone(), last: Some(0), follow: false }).await?;
        }
        let mut stream = client.history(&HistoryQuery(self.range())).await?;
        let mut summaries = Vec::new();
        while let Some(summary) = stream.next().await? {
            if filter.matches_summary(&summary) {
                summaries.push(summary);
            }
        }
        summaries.sort_unstable_by(|a, b| (a.hour, &a.of).cmp(&(b.hour, &b.of)));
        Ok(summaries)
    }

    /// What an agent that runs no more has left.
    async fn kept_history(&self, no_agent: ClientError) -> Result<Vec<Summary>, Failure> {
        let (state_dir, range, filter) = (self.state_dir.clone(), self.range(), self.filters.0.clone());
        let read = blocking(move || {
            let mut summaries = history::open_read_only(&state_dir)?.summaries(range)?;
            summaries.retain(|summary| filter.matches_summary(summary));
            Ok(summaries)
        });
        match read.await? {
            Ok(summaries) => Ok(summaries),
            Err(error @ HistoryError::None(_)) => {
                Err(Failure { message: format!("{no_agent}\n{error}"), code: NO_AGENT })
            }
            Err(error) => Err(Failure::bad_input(error)),
        }
    }

    /// What is known of rules beyond what [`Observed::summaries`] tells; nothing if that is of log files.
    pub(super) async fn rules(&self) -> Result<Vec<RuleFacts>, Failure> {
        if self.has_input() {
            return Ok(Vec::new());
        }
        match self.client().rules().await {
            Err(ClientError::NoAgent { .. }) => {
                let state_dir = self.state_dir.clone();
                let read = blocking(move || history::open_read_only(&state_dir)?.rules());
                read.await?.map_err(Failure::bad_input)
            }
            other => Ok(other?),
        }
    }

    fn range(&self) -> Range {
        Range { since: self.since, until: self.until }
    }

    /// The wanted records of the log files, by their time. Blocks.
    pub(super) fn records(&self, take: impl FnMut(FlowRecord)) -> Result<(), Failure> {
        note(&logs::records(&self.input, &self.wanted(), take).map_err(Failure::bad_input)?);
        Ok(())
    }

    /// Whether log files are looked at, not the agent's history.
    pub(super) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Whether only a certain time is looked at.
    pub(super) fn has_times(&self) -> bool {
        self.since.is_some() || self.until.is_some()
    }

    /// Whether that time has this instant in it.
    pub(super) fn is_in_time(&self, time: Timestamp) -> bool {
        self.wanted().is_in_time(time)
    }

    /// What is wanted of it.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted { since: self.since, until: self.until, filter: self.filters.0.clone() }
    }

    /// The agent that observed it.
    pub(super) fn client(&self) -> Client {
        self.reach.client()
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(Failure::bad_input)
}

fn note(notes: &[String]) {
    notes.iter().for_each(|note| eprintln!("segd: {note}"));
}
