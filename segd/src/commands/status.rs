//! `segd status`.

use std::fmt::Write as _;

use clap::Args;
use jiff::{SpanRound, Timestamp, Unit};

use super::output::{self, Output};
use super::{Outcome, Reach, exception};
use crate::control::api::{ModeEntry, ModeOverride, Status};
use crate::control::changes::GuardStatus;
use crate::history::HistoryStatus;
use crate::telemetry::text::printable;

/// Show what the agent and the kernel hold now
#[derive(Args, Debug)]
pub(super) struct Show {
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

impl Show {
    pub(super) async fn run(self) -> Outcome {
        let status = self.reach.client().status().await?;
        if self.output.is_json() {
            output::json(&status)?;
        } else {
            output::print(&text(&status, Timestamp::now()))?;
        }
        Ok(0)
    }
}

fn text(status: &Status, now: Timestamp) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<11}{value}");
    };
    let host = &status.host;
    let addresses: Vec<String> = host.addresses.iter().map(ToString::to_string).collect();
    line("host", format!("{} in zone {}", host.name, host.zone.as_deref().unwrap_or("(none)")));
    line("addresses", addresses.join(", "));
    line("agent", format!("segd {}, pid {}, up {}", status.version, status.pid, age(now, status.started)));
    match &status.policy {
        None => line("policy", "none is in force".to_owned()),
        Some(policy) => {
            let hash: String = policy.hash.chars().take(12).collect();
            line(
                "policy",
                format!(
                    "generation {} (policy {}): {} zones, {} rules from {} ({hash}), loaded {} ago",
                    status.generation,
                    policy.record,
                    policy.zones,
                    policy.rules,
                    policy.dir.display(),
                    age(now, policy.loaded_at)
                ),
            );
        }
    }
    if let Some(pending) = &status.pending {
        let left = age(pending.deadline, now);
        line(
            "pending",
            format!(
                "not confirmed: policy {} returns in {left} (`segd confirm` keeps this one, `segd rollback` goes back now)",
                pending.former
            ),
        );
    }
    if let Some(guard) = &status.guard {
        line("guard", guarded(guard, now));
    }
    let attached = status.hooks.iter().filter(|h| h.attached).count();
    line("kernel", format!("{attached} of {} hooks attached", status.hooks.len()));
    let flows = status.flows;
    line("flows", format!("{} allowed, {} audited, {} denied", flows.allowed, flows.audited, flows.denied));
    let lost: Vec<String> =
        status.lost.iter().filter(|l| l.lost > 0).map(|l| format!("{} at {}", l.lost, l.stage)).collect();
    line("lost", if lost.is_empty() { "nothing".to_owned() } else { lost.join(", ") });
    for sink in &status.sinks {
        let how = match &sink.error {
            None if sink.up => "up".to_owned(),
            None => "down".to_owned(),
            Some(error) => format!("down: {error}"),
        };
        let lost = if sink.lost > 0 { format!(", {} records lost", sink.lost) } else { String::new() };
        line("sink", printable(&format!("{} is {how}{lost}", sink.name)));
    }
    if let Some(history) = &status.history {
        line("history", recorded(history, now));
    }
    if let Some(metrics) = &status.metrics {
        line("metrics", format!("http://{metrics}/metrics"));
    }
    for canary in &status.canaries {
        let inside = if canary.included { "in" } else { "not in" };
        let _ = writeln!(out, "{:<11}{inside} the canary of {}: {}", "canary", canary.rollout, canary.why);
    }
    if !status.names.is_empty() {
        let addresses: usize = status.names.iter().map(|name| name.addresses.len()).sum();
        let failed = status.names.iter().filter(|name| name.error.is_some()).count();
        let all = status.names.len();
        let _ = writeln!(
            out,
            "{:<11}{all} in zones, for {addresses} addresses; {failed} cannot be looked up now",
            "names"
        );
    }
    let _ = write!(out, "\n{}", modes(&status.modes));
    if !status.overrides.is_empty() {
        let _ = write!(out, "\n\n{}", overrides(&status.overrides));
    }
    if !status.exceptions.is_empty() {
        let _ = write!(out, "\n\n{}", exception::table(&status.exceptions, now));
    }
    for warning in &status.warnings {
        let _ = write!(out, "\n\nwarning: {warning}");
    }
    out
}

fn recorded(history: &HistoryStatus, now: Timestamp) -> String {
    let span = history.oldest.map_or_else(|| "nothing yet".to_owned(), |oldest| age(now, oldest));
    let (size, most) = (mebibytes(history.bytes), mebibytes(history.max_bytes));
    let rows = history.rows;
    let size = format!("{span}, {rows} summaries, {size} of {most} MiB");
    match &history.error {
        None => size,
        Some(error) => format!("{size}; not being written: {error}"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

fn guarded(guard: &GuardStatus, now: Timestamp) -> String {
    let mut watched = Vec::new();
    if let Some(max) = guard.max_denied_per_minute {
        watched.push(format!("{} of {max} denials a minute of what was flowing", guard.denied));
    }
    if let Some(max) = guard.max_cut {
        watched.push(format!("{} of {max} live flows cut", guard.cut));
    }
    if let Some(probe) = &guard.probe {
        let how = guard.probe_error.as_deref().unwrap_or("fine");
        watched.push(format!("probe {probe}: {how}"));
    }
    let (left, former) = (age(guard.until, now), guard.former);
    format!("for another {left}: {}; a breach brings policy {former} back", watched.join(", "))
}

fn age(now: Timestamp, then: Timestamp) -> String {
    let rounding = SpanRound::new().largest(Unit::Hour).smallest(Unit::Second);
    match now.since(then).and_then(|span| span.round(rounding)) {
        Ok(span) => format!("{span:#}"),
        Err(_) => "unknown".to_owned(),
    }
}

/// The modes, first match first.
pub(super) fn modes(entries: &[ModeEntry]) -> String {
    let any = |name: &Option<String>| name.clone().unwrap_or_else(|| "any".to_owned());
    output::table(
        ["SUBJECT", "DIRECTION", "PEER", "SERVICE", "MODE", "SET BY"],
        entries.iter().map(|e| {
            [
                e.subject.clone(),
                e.direction.to_string(),
                any(&e.peer),
                any(&e.service),
                e.mode.to_string(),
                e.source.clone(),
            ]
        }),
    )
}

fn overrides(overrides: &[ModeOverride]) -> String {
    let any = |name: &Option<String>| name.clone().unwrap_or_else(|| "any".to_owned());
    output::table(
        ["OVERRIDE", "SUBJECT", "SERVICE", "DIRECTION", "BY UID", "AT"],
        overrides.iter().map(|o| {
            [
                o.mode.to_string(),
                any(&o.subject),
                any(&o.service),
                o.direction.map_or_else(|| "both".to_owned(), |d| d.to_string()),
                o.set_by.to_string(),
                o.set_at.to_string(),
            ]
        }),
    )
}
