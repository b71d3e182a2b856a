//! `segd exception`.

use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::{SpanRound, Timestamp, Unit};

use super::output::{self, Output};
use super::{Outcome, Reach, safety};
use crate::control::changes::{ExceptionRequest, ExceptionRevoke};
use crate::policy::model::{Exception, ServiceRef};

/// Allow something for a limited time
///
/// Break-glass: a rule for a limited time, in the kernel at once, journaled, gone by itself.
#[derive(Args, Debug)]
pub(super) struct Exceptions {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Allow services from one zone or workload to another for a limited time
    Add(Add),
    /// Show the exceptions that hold, with the time they have left
    List(List),
    /// End an exception before its time
    Revoke(Revoke),
}

#[derive(Args, Debug)]
struct Add {
    /// Zone or workload of the client
    #[arg(long, value_name = "WHO")]
    from: String,
    /// Zone or workload of the server
    #[arg(long, value_name = "WHO")]
    to: String,
    /// Services or ports, separated by commas, e.g. postgres,tcp/8443
    #[arg(long, value_name = "SERVICES", value_delimiter = ',', required = true)]
    services: Vec<String>,
    /// How long, e.g. 4h; segd.toml limits it by `max_exception_ttl`
    #[arg(long, value_name = "TIME", value_parser = safety::duration)]
    ttl: Duration,
    /// Who answers for it
    #[arg(long, value_name = "WHO")]
    owner: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Debug)]
struct Revoke {
    /// As `segd exception list` shows it
    id: String,
    /// Why, for the journal
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

impl Exceptions {
    pub(super) async fn run(self) -> Outcome {
        match self.action {
            Action::Add(add) => add.run().await,
            Action::List(list) => list.run().await,
            Action::Revoke(revoke) => revoke.run().await,
        }
    }
}

impl Add {
    async fn run(self) -> Outcome {
        let request = ExceptionRequest {
            from: self.from,
            to: self.to,
            services: self.services,
            ttl_s: self.ttl.as_secs(),
            owner: self.owner,
            reason: self.reason,
        };
        let added = self.reach.client().add_exception(&request).await?;
        if self.output.is_json() {
            output::json(&added)?;
            return Ok(0);
        }
        let Exception { id, expires, .. } = &added.exception;
        output::print(&format!("exception {id} holds until {expires} (generation {})", added.generation))?;
        for warning in &added.warnings {
            output::print(&format!("warning: {warning}"))?;
        }
        Ok(0)
    }
}

impl List {
    async fn run(self) -> Outcome {
        let exceptions = self.reach.client().status().await?.exceptions;
        if self.output.is_json() {
            output::json(&exceptions)?;
        } else if exceptions.is_empty() {
            output::print("no exception holds")?;
        } else {
            output::print(&table(&exceptions, Timestamp::now()))?;
        }
        Ok(0)
    }
}

impl Revoke {
    async fn run(self) -> Outcome {
        let request = ExceptionRevoke { id: self.id, reason: self.reason };
        let revoked = self.reach.client().revoke_exception(&request).await?;
        if self.output.is_json() {
            output::json(&revoked)?;
        } else {
            let (id, generation) = (&revoked.exception.id, revoked.generation);
            output::print(&format!("exception {id} has ended (generation {generation})"))?;
        }
        Ok(0)
    }
}

/// The exceptions, with the time they have left.
pub(super) fn table(exceptions: &[Exception], now: Timestamp) -> String {
    let rounding = SpanRound::new().largest(Unit::Hour).smallest(Unit::Second);
    let left = |e: &Exception| match e.expires.since(now).and_then(|span| span.round(rounding)) {
        Ok(span) if span.is_positive() => format!("{span:#}"),
        _ => "over".to_owned(),
    };
    output::table(
        ["EXCEPTION", "FROM", "TO", "SERVICES", "LEFT", "OWNER", "BY UID", "REASON"],
        exceptions.iter().map(|e| {
            let services: Vec<String> = e.services.iter().map(ServiceRef::to_string).collect();
            [
                e.id.clone(),
                e.from.clone(),
                e.to.clone(),
                services.join(","),
                left(e),
                e.owner.clone(),
                e.created_by.to_string(),
                e.reason.clone(),
            ]
        }),
    )
}
