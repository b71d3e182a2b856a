//! The clients of the estate: psql, redis-cli and curl, each on one host towards a server on another.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use segd_tests::Host;

/// The role with which applications reach the orders database.
pub(crate) const ROLE: &str = "orders_app";
/// What an ordinary client asks of that database.
const QUERY: &str = "select count(*) from orders";
/// Seconds after which a client gives up on a server that does not answer.
const GIVE_UP: &str = "2";

/// The servers, one on each of the first three hosts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Postgres,
    Redis,
    FreightApi,
}

impl Service {
    pub(crate) const ALL: [Self; 3] = [Self::Postgres, Self::Redis, Self::FreightApi];

    /// Its name in the zone files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::FreightApi => "freight-api",
        }
    }

    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Postgres => 5432,
            Self::Redis => 6379,
            Self::FreightApi => 8080,
        }
    }

    /// The host that it is on.
    pub(crate) fn home(self) -> &'static str {
        match self {
            Self::Postgres => "orders",
            Self::Redis => "fulfillment",
            Self::FreightApi => "transport",
        }
    }
}

/// What a client got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// What it asked for.
    Served,
    /// `EPERM` from its own kernel.
    NotPermitted,
    /// Nothing, until it gave up.
    Silence,
    /// Another error; its message tells.
    Failed,
}

impl Answer {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Served => "ok",
            Self::NotPermitted => "EPERM",
            Self::Silence => "silence",
            Self::Failed => "error",
        }
    }
}

/// One run of a client.
pub(crate) struct Attempt {
    /// As one would type it.
    pub(crate) command: String,
    pub(crate) answer: Answer,
    /// What it printed: its output if it was served, else its first error message.
    pub(crate) printed: String,
    pub(crate) took: Duration,
}

/// Runs the ordinary client of `service` on `from`; `server` is the host that the service is on.
pub(crate) fn attempt(from: &Host, server: &Host, service: Service) -> Result<Attempt> {
    let address = server.v4().to_string();
    match service {
        Service::Postgres => psql(from, server, QUERY),
        // This client has no time limit of its own.
        Service::Redis => run(from, &["timeout", GIVE_UP, "redis-cli", "-h", &address, "ping"]),
        Service::FreightApi => {
            let url = format!("http://{address}:{}/", service.port());
            // Without -v curl does not tell why it could not connect.
            run(from, &["curl", "-s", "-v", "--connect-timeout", GIVE_UP, &url])
        }
    }
}

/// Runs `query` from a host on the orders database.
pub(crate) fn psql(from: &Host, database: &Host, query: &str) -> Result<Attempt> {
    run(from, &["psql", "-X", "-At", "-h", &database.v4().to_string(), "-U", ROLE, "postgres", "-c", query])
}

fn run(from: &Host, words: &[&str]) -> Result<Attempt> {
    let (program, arguments) = words.split_first().context("no program")?;
    let mut command: Command = from.command(program)?;
    command.args(arguments).env("LC_ALL", "C").env("PGCONNECT_TIMEOUT", GIVE_UP);
    let begun = Instant::now();
    let finished = from.run(command)?;
    let took = begun.elapsed();
    let complaint = || {
        let known = ["Operation not permitted", "timeout expired", "timed out", "error"];
        let mut lines = finished.stderr.lines().chain(finished.stdout.lines());
        known.iter().find_map(|text| lines.clone().find(|l| l.contains(text))).or_else(|| lines.next())
    };
    // 124: timeout(1) ended it. 28: curl's own limit.
    let silent =
        matches!(finished.status.code(), Some(124 | 28)) || finished.stderr.contains("timeout expired");
    let answer = match complaint() {
        _ if finished.status.success() => Answer::Served,
        Some(text) if text.contains("Operation not permitted") => Answer::NotPermitted,
        _ if silent => Answer::Silence,
        _ => Answer::Failed,
    };
    let printed = match answer {
        Answer::Served => finished.stdout.clone(),
        _ => complaint().unwrap_or_default().trim_start_matches("* ").to_owned(),
    };
    Ok(Attempt { command: typed(words), answer, printed, took })
}

fn typed(words: &[&str]) -> String {
    let quoted = words.iter().map(|w| if w.contains(' ') { format!("'{w}'") } else { (*w).to_owned() });
    quoted.collect::<Vec<_>>().join(" ")
}
