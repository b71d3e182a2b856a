//! `segd flows`.

use clap::Args;
use jiff::tz::TimeZone;

use super::output::{self, Output};
use super::{Failure, NO_AGENT, Outcome, Reach};
use crate::control::api::{FlowLine, FlowsQuery};
use crate::telemetry::Filter;
use crate::telemetry::line::LineStyle;

/// Without --follow, the recent flows that the agent remembers.
#[derive(Args, Debug)]
pub(super) struct Flows {
    /// Go on with new flows as they are decided, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// So many of the recent flows first; default: all, but none with --follow
    #[arg(long, short = 'n', value_name = "N")]
    last: Option<usize>,
    /// Only these verdicts: allowed, audited, denied; separated by commas
    #[arg(long, value_name = "VERDICTS")]
    verdict: Option<String>,
    /// Only these events: open, close, deny, revoke; separated by commas
    #[arg(long, value_name = "EVENTS")]
    event: Option<String>,
    /// Only flows that this zone, address or CIDR began
    #[arg(long, value_name = "WHO")]
    from: Option<String>,
    /// Only flows with this zone, address or CIDR
    #[arg(long, value_name = "WHO")]
    to: Option<String>,
    /// Only this server port: 5432, tcp/5432, udp/4000-4010, tcp
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// Only this service
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// Only `outbound` or `inbound`
    #[arg(long, value_name = "DIRECTION")]
    direction: Option<String>,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

impl Flows {
    pub(super) async fn run(self) -> Outcome {
        let query = FlowsQuery { filter: self.filter()?, last: self.last, follow: self.follow };
        let mut stream = self.reach.client().flows(&query).await?;
        let time_zone = if self.output.is_json() { TimeZone::UTC } else { TimeZone::system() };
        let style = LineStyle { colour: output::colour(), time_zone };
        let mut shown = 0_u64;
        while let Some(line) = stream.next().await? {
            shown += 1;
            match line {
                line if self.output.is_json() => output::print(&serde_json::to_string(&line)?)?,
                FlowLine::Record(record) => output::print(&style.render(&record))?,
                FlowLine::Lost { lost } => {
                    eprintln!("segd: {lost} flows came faster than they could be shown");
                }
            }
        }
        if self.follow {
            return Err(Failure { message: "the agent ended".to_owned(), code: NO_AGENT });
        }
        if shown == 0 && !self.output.is_json() {
            eprintln!("segd: no recent flow matches");
        }
        Ok(0)
    }

    fn filter(&self) -> Result<Filter, Failure> {
        let mut filter = Filter::default();
        let parts = [
            ("verdict", &self.verdict),
            ("event", &self.event),
            ("from", &self.from),
            ("to", &self.to),
            ("port", &self.port),
            ("service", &self.service),
            ("direction", &self.direction),
        ];
        for (key, value) in parts {
            if let Some(value) = value {
                filter.set(key, value).map_err(|e| Failure::bad_input(format!("--{key}: {e}")))?;
            }
        }
        Ok(filter)
    }
}
