//! What the commands share that change what is in force: previews, deadlines, guards.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use clap::Args;

use super::output::{self, Output};
use super::{Failure, NO};
use crate::control::ClientError;
use crate::control::api::ErrorBody;
use crate::control::changes::{Break, ChangeOutcome, GuardRequest, Safety};
use crate::policy::duration::duration as parse_duration;
use crate::policy::guard::Probe;

/// How a change is made safe.
#[derive(Args, Debug)]
pub(super) struct SafetyArgs {
    /// Go back to the former state unless `segd confirm` comes within this time, e.g. 10m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    confirm: Option<Duration>,
    /// Only show what would break
    #[arg(long, conflicts_with_all = ["confirm", "force", "yes"])]
    dry_run: bool,
    /// Change it although live traffic would break
    #[arg(long)]
    force: bool,
    /// The same, on a terminal: do not ask
    #[arg(long, short)]
    yes: bool,
    /// Why, for the journal
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Go back if more flows than this a minute are denied that were flowing before
    #[arg(long, value_name = "N", help_heading = "Guard")]
    guard_denied: Option<u64>,
    /// Go back if the change cuts more live flows than this
    #[arg(long, value_name = "N", help_heading = "Guard")]
    guard_cut: Option<u64>,
    /// Go back if this fails that worked before: tcp://HOST:PORT, http://…, or a command
    #[arg(long, value_name = "PROBE", help_heading = "Guard")]
    guard_probe: Option<Probe>,
    /// How long the guard watches [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Guard")]
    guard_window: Option<Duration>,
}

/// `10m`, `4h`, `1h 30m`, `7d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write it like 90s, 10m, 4h, `1h 30m` or 7d".to_owned())
}

const GUARD_WINDOW: Duration = Duration::from_secs(600);

impl SafetyArgs {
    /// What to ask the agent for.
    pub(super) fn request(&self) -> Safety {
        let watches = self.guard_denied.is_some() || self.guard_cut.is_some() || self.guard_probe.is_some();
        let guard = (watches || self.guard_window.is_some()).then(|| GuardRequest {
            max_denied_per_minute: self.guard_denied.or((!watches).then_some(0)),
            max_cut: self.guard_cut,
            probe: self.guard_probe.as_ref().map(ToString::to_string),
            window_s: self.guard_window.unwrap_or(GUARD_WINDOW).as_secs(),
        });
        Safety {
            confirm_s: self.confirm.map(|c| c.as_secs()),
            force: self.force || (self.yes && io::stdin().is_terminal()),
            dry_run: self.dry_run,
            guard,
            reason: self.reason.clone(),
        }
    }

    /// Shows what a refused change would break. Whether the person at the terminal wants it anyway.
    ///
    /// # Errors
    /// Nobody is asked, or the answer is no: the refusal.
    pub(super) fn insist(&self, refused: ClientError, output: Output) -> Result<(), Failure> {
        let body = match refused {
            ClientError::Failed(body) if !body.breaks.is_empty() => body,
            other => return Err(other.into()),
        };
        if output.is_json() {
            output::json(&body)?;
            return Err(Failure { message: body.error, code: NO });
        }
        output::print(&breaks(&body.breaks))?;
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            eprint!("\nThis would cut traffic that passes now. Change it anyway? [y/N] ");
            io::stderr().flush()?;
            let mut answer = String::new();
            io::stdin().read_line(&mut answer)?;
            if matches!(answer.trim(), "y" | "Y" | "yes") {
                return Ok(());
            }
            return Err(Failure { message: "nothing is changed".to_owned(), code: NO });
        }
        let ErrorBody { error, help, .. } = body;
        Err(Failure { message: help.map_or(error.clone(), |help| format!("{error}; {help}")), code: NO })
    }
}

/// What would break, for people.
pub(super) fn breaks(all: &[Break]) -> String {
    output::table(
        ["NOW", "DIRECTION", "ZONES", "WITH", "SERVICE", "WHY", "PROCESS", "UNIT", "FLOWS"],
        all.iter().map(|b| {
            let (src, dst) = (&b.src, &b.dst);
            let with = match b.direction {
                segd_common::traffic::Direction::Outbound => format!("{}:{}", dst.ip, dst.port),
                segd_common::traffic::Direction::Inbound => format!("{} at port {}", src.ip, dst.port),
            };
            let process = match (&b.process, b.pid) {
                (Some(name), Some(pid)) => format!("{name}[{pid}]"),
                (Some(name), None) => name.clone(),
                _ => "-".to_owned(),
            };
            [
                if b.live { "live" } else { "seen" }.to_owned(),
                b.direction.to_string(),
                format!("{} -> {}", src.zone, dst.zone),
                format!("{with} {}", b.protocol),
                b.service.clone(),
                b.reason.name().to_owned(),
                process,
                b.unit.clone().unwrap_or_else(|| "-".to_owned()),
                b.count.to_string(),
            ]
        }),
    )
}

/// What came of a change, for people: what waits, what is watched, what breaks, warnings.
pub(super) fn show(change: &ChangeOutcome) -> Result<(), Failure> {
    if !change.breaks.is_empty() {
        let head = if change.changed { "this cuts:" } else { "this would cut:" };
        output::print(&format!("\n{head}\n{}", breaks(&change.breaks)))?;
    } else if !change.changed {
        output::print("nothing that passes now would break")?;
    }
    if let Some(pending) = &change.pending {
        output::print(&format!(
            "\nwaits for `segd confirm` until {}; without it policy {} returns, also if the agent dies",
            format_args!("{:.0}", pending.deadline),
            pending.former
        ))?;
    }
    if let Some(guard) = &change.guard {
        output::print(&format!(
            "\nguarded until {}: a breach brings policy {} back",
            format_args!("{:.0}", guard.until),
            guard.former
        ))?;
    }
    for warning in &change.warnings {
        output::print(&format!("warning: {warning}"))?;
    }
    Ok(())
}
