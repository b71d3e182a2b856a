//! `segd flows`.

mod print;
mod sums;

use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::observed::Observed;
use super::{Failure, NO_AGENT, Outcome};
use crate::control::api::{FlowLine, FlowsQuery};
use crate::telemetry::collector::HISTORY;
use print::Printer;

/// Show flows: recent, live, of the history, in log files
///
/// Without --follow, the recent flows that the agent remembers. With --since or --until: the records of that time if
/// the agent remembers all of them, else what its history has, summed up by hour. With --input: the records in log
/// files. A flow that no rule allows is shown with the rule that it needs.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Flows {
    /// Go on with new flows as they are decided, until interrupted
    #[arg(long, short, conflicts_with_all = ["input", "until", "hourly"])]
    follow: bool,
    /// So many of the latest flows; default: all, but none with --follow
    #[arg(long, short = 'n', value_name = "N")]
    last: Option<usize>,
    /// Sum up by hour: of the history, or of log files
    #[arg(long)]
    hourly: bool,
    /// Below a flow that no rule allows, print the rule that it needs as in a zone file, each once
    #[arg(long)]
    explain: bool,
    /// How to print
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    observed: Observed,
}

const AFTER_HELP: &str = "\
Examples:
  segd flows --verdict denied                      what was denied just now, and what it needs
  segd flows -f --zone orders --not --port 53      live, either end in orders, without DNS
  segd flows --since 7d --from unknown             the history of a week
  segd flows --input /var/log/segd --process psql  records in log files";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Aligned columns, with a header on a terminal
    Table,
    /// A short line for each flow
    Compact,
    /// A JSON object on a line for each flow
    Json,
}

impl Flows {
    pub(super) async fn run(self) -> Outcome {
        let printer = Printer::new(self.output, self.explain);
        if self.observed.has_input() && !self.hourly {
            return self.print_logs(printer).await;
        }
        if self.hourly || !self.follow && self.observed.has_times() && !self.agent_remembers().await? {
            return self.print_sums(printer).await;
        }
        self.print_stream(printer).await
    }

    /// Whether the agent has every single record since the beginning of the time that is asked for.
    async fn agent_remembers(&self) -> Result<bool, Failure> {
        let Some(since) = self.observed.since else { return Ok(false) };
        let client = self.observed.client();
        let Ok(status) = client.status().await else { return Ok(false) };
        let mut stream = client.flows(&FlowsQuery::default()).await?;
        let (mut oldest, mut records) = (None::<Timestamp>, 0);
        while let Some(line) = stream.next().await? {
            if let FlowLine::Record(record) = line {
                oldest = Some(oldest.map_or(record.time, |time| time.min(record.time)));
                records += 1;
            }
        }
        Ok(oldest.is_some_and(|oldest| oldest <= since) || (records < HISTORY && status.started <= since))
    }

    async fn print_stream(&self, mut printer: Printer) -> Outcome {
        let timed = self.observed.has_times();
        let last = self.last.or(timed.then_some(HISTORY));
        let query = FlowsQuery { filter: self.observed.wanted().filter, last, follow: self.follow };
        let mut stream = self.observed.client().flows(&query).await?;
        printer.live(self.follow);
        while let Some(line) = stream.next().await? {
            match line {
                FlowLine::Record(record) if self.observed.is_in_time(record.time) => {
                    printer.record(&record)?;
                }
                FlowLine::Record(_) => {}
                FlowLine::Lost { lost } => printer.lost(lost)?,
            }
        }
        if self.follow {
            return Err(Failure { message: "the agent ended".to_owned(), code: NO_AGENT });
        }
        printer.end("no recent flow matches")
    }

    async fn print_logs(self, mut printer: Printer) -> Outcome {
        printer.of_several_hosts();
        let Self { last, observed, .. } = self;
        let print = move || {
            let notes = match last {
                None => {
                    let mut printed = Ok(());
                    let notes = observed.records(|record| {
                        if printed.is_ok() {
                            printed = printer.record(&record);
                        }
                    });
                    printed?;
                    notes
                }
                Some(last) => {
                    let mut latest = std::collections::VecDeque::new();
                    let notes = observed.records(|record| {
                        if latest.len() == last {
                            latest.pop_front();
                        }
                        latest.push_back(record);
                    });
                    latest.iter().take(last).try_for_each(|record| printer.record(record))?;
                    notes
                }
            };
            let code = printer.end("no record matches")?;
            notes?;
            Ok(code)
        };
        tokio::task::spawn_blocking(print).await.map_err(Failure::bad_input)?
    }

    async fn print_sums(&self, mut printer: Printer) -> Outcome {
        let summaries = self.observed.summaries().await?;
        let skip = summaries.len().saturating_sub(self.last.unwrap_or(usize::MAX));
        summaries.iter().skip(skip).try_for_each(|summary| printer.sums(summary))?;
        printer.end("no flow of that time matches")
    }
}

#[cfg(test)]
mod tests;
