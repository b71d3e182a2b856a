//! `segd audit`.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::unistd::{Uid, User};
use serde::Serialize;

use super::output::{self, Output};
use super::{Failure, NO, Outcome, when};
use crate::rollout::journal::{self, Action, Line, Verified, VerifyError, Visit};
use crate::telemetry::text::printable;

/// Show who changed what, when and why, and prove that nobody edited it since
///
/// Works on the journal's files alone, whether the agent runs or not. The whole journal is verified each time; if it
/// was edited, cut or added to, the exit code is 1 and each flaw is told with its line.
#[derive(Args, Debug)]
pub(super) struct Audit {
    /// The agent's state directory
    #[arg(long, value_name = "DIR", default_value = super::DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Only what happened since: 2h, 7d, 2027-06-30, 2027-06-30T18:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = when::past)]
    since: Option<Timestamp>,
    /// Only this action; may be given several times
    #[arg(long, value_name = "ACTION", value_parser = actions())]
    action: Vec<Action>,
    /// Only tell whether the journal is sound
    #[arg(long, conflicts_with_all = ["since", "action"])]
    verify: bool,
    #[command(flatten)]
    output: Output,
}

fn actions() -> impl clap::builder::TypedValueParser<Value = Action> {
    PossibleValuesParser::new(Action::ALL.iter().map(|action| action.name()))
        .map(|name| name.parse().unwrap_or(Action::Unknown))
}

/// What `--verify --output json` prints.
#[derive(Serialize)]
struct Report {
    sound: bool,
    #[serde(flatten)]
    verified: Option<Verified>,
    flaws: Vec<Place>,
    /// Flaws that are not listed.
    further_flaws: u64,
}

#[derive(Serialize)]
struct Place {
    line: u64,
    what: String,
}

impl Audit {
    pub(super) fn run(self) -> Outcome {
        let path = self.state_dir.join(journal::FILE);
        let mut shown = Vec::new();
        let verdict = journal::verify(&self.state_dir, |visit| {
            if !self.verify && self.wants(visit.line) {
                shown.push((visit.line.clone(), visit.sound));
            }
        });
        match &verdict {
            Ok(verified) if verified.last.is_none() && !path.exists() => {
                let path = path.display();
                return Err(Failure::bad_input(format!("there is no {path}; give the agent's --state-dir")));
            }
            Err(VerifyError::Io(error)) => {
                let code = if error.is_permission() { 4 } else { super::BAD_INPUT };
                return Err(Failure { message: error.to_string(), code });
            }
            _ => {}
        }
        if self.verify {
            self.print_verdict(&path, &verdict)?;
        } else {
            self.print_lines(&shown)?;
        }
        match verdict {
            Ok(verified) => {
                if verified.torn > 0 {
                    eprintln!(
                        "segd: {} ends in {} bytes of a line that is being written, or that a crash cut short; \
                         then the agent puts them aside",
                        path.display(),
                        verified.torn
                    );
                }
                Ok(0)
            }
            Err(error) => {
                eprintln!("segd: {} is not as segd wrote it:", path.display());
                error.to_string().lines().for_each(|line| eprintln!("  {}", printable(line)));
                Ok(NO)
            }
        }
    }

    fn wants(&self, line: &Line) -> bool {
        self.since.is_none_or(|since| line.time >= since)
            && (self.action.is_empty() || self.action.contains(&line.action))
    }

    fn print_lines(&self, shown: &[(Line, bool)]) -> Result<(), Failure> {
        if self.output.is_json() {
            return shown.iter().try_for_each(|(line, _)| output::print(&serde_json::to_string(line)?));
        }
        if shown.is_empty() {
            eprintln!("segd: the journal holds no such change");
            return Ok(());
        }
        let zone = TimeZone::system();
        let visits = shown.iter().map(|(line, sound)| Visit { line, sound: *sound });
        output::print(&table(visits, &zone, |uid| {
            User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
        }))
    }

    fn print_verdict(&self, path: &Path, verdict: &Result<Verified, VerifyError>) -> Result<(), Failure> {
        if self.output.is_json() {
            let (flaws, further_flaws) = match verdict {
                Err(VerifyError::Broken { found, more }) => (found.as_slice(), *more),
                _ => (&[][..], 0),
            };
            let place = |flaw: &journal::Broken| Place { line: flaw.line, what: flaw.what.to_string() };
            return output::json(&Report {
                sound: verdict.is_ok(),
                verified: verdict.as_ref().ok().cloned(),
                flaws: flaws.iter().map(place).collect(),
                further_flaws,
            });
        }
        let Ok(verified) = verdict else { return Ok(()) };
        let Some((last, since)) = verified.last.as_ref().zip(verified.first_time) else {
            return output::print(&format!("{} is empty", path.display()));
        };
        output::print(&format!(
            "{} is sound: {} lines since {since:.0}\nthe last is number {}, hash {}",
            path.display(),
            verified.lines,
            last.seq,
            last.hash
        ))
    }
}

fn table<'l>(
    visits: impl Iterator<Item = Visit<'l>>,
    zone: &TimeZone,
    user: impl Fn(u32) -> Option<String>,
) -> String {
    output::table(
        ["TIME", "ACTION", "WHO", "GENERATION", "REASON"],
        visits.map(|Visit { line, sound }| {
            let time = line.time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string();
            let doubt = if sound { "" } else { "[not as segd wrote it] " };
            [
                time,
                line.action.name().to_owned(),
                printable(&who(line, &user)),
                generations(line.before, line.after),
                printable(&format!("{doubt}{}", line.reason.as_deref().unwrap_or_default())),
            ]
        }),
    )
}

/// `root(0), pid 4711 (segd)`; the agent itself: `agent`.
fn who(line: &Line, user: impl Fn(u32) -> Option<String>) -> String {
    let name = match line.uid {
        Some(uid) => user(uid).map_or_else(|| format!("uid {uid}"), |name| format!("{name}({uid})")),
        None => "agent".to_owned(),
    };
    let pid = line.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
    let command = line.command.as_ref().map(|command| format!(" ({command})")).unwrap_or_default();
    format!("{name}{pid}{command}")
}

fn generations(before: Option<u32>, after: Option<u32>) -> String {
    match (before, after) {
        (None, None) => String::new(),
        (Some(before), None) => format!("{before} ->"),
        (None, Some(after)) => format!("-> {after}"),
        (Some(before), Some(after)) if before == after => before.to_string(),
        (Some(before), Some(after)) => format!("{before} -> {after}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        audit: Audit,
    }

    fn line(text: &str) -> Line {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_line_a_change() {
        let lines = [
            line(
                r#"{"seq":1,"time":"2026-10-18T12:00:00.000001Z","action":"start","uid":null,"pid":null,"command":null,
                    "before":null,"after":4,"reason":null,"details":null,"prev":"","hash":""}"#,
            ),
            line(
                r#"{"seq":2,"time":"2026-10-18T12:01:00Z","action":"mode","uid":0,"pid":4711,"command":"segd",
                    "before":4,"after":5,"reason":"enforce \u001b[31mpostgres","details":{},"prev":"","hash":""}"#,
            ),
            line(
                r#"{"seq":3,"time":"2026-10-18T12:02:00Z","action":"exception-add","uid":1000,"pid":12,"command":"a\u009bb",
                    "before":5,"after":5,"reason":"night shift","details":{},"prev":"","hash":""}"#,
            ),
            line(
                r#"{"seq":4,"time":"2026-10-18T12:03:00Z","action":"of-a-newer-version","uid":null,"pid":null,
                    "command":null,"before":5,"after":null,"reason":null,"details":null,"prev":"","hash":""}"#,
            ),
        ];
        let visits = lines.iter().map(|line| Visit { line, sound: line.seq != 3 });
        let text = table(visits, &TimeZone::UTC, |uid| (uid == 0).then(|| "root".to_owned()));
        assert_eq!(
            text,
            "\
TIME                     ACTION         WHO                       GENERATION  REASON
2026-10-18 12:00:00 UTC  start          agent                     -> 4
2026-10-18 12:01:00 UTC  mode           root(0), pid 4711 (segd)  4 -> 5      enforce \u{fffd}[31mpostgres
2026-10-18 12:02:00 UTC  exception-add  uid 1000, pid 12 (a\u{fffd}b)    5           [not as segd wrote it] night shift
2026-10-18 12:03:00 UTC  unknown        agent                     5 ->"
        );
    }

    #[test]
    fn the_exit_code_tells_whether_the_journal_is_sound() {
        let dir = tempfile::tempdir().unwrap();
        let run = |arguments: &[&str]| {
            let state_dir = ["audit", "--state-dir", dir.path().to_str().unwrap()];
            let parsed = Only::try_parse_from(state_dir.iter().chain(arguments)).unwrap();
            parsed.audit.run().unwrap_or_else(|failure| failure.code)
        };
        assert_eq!(run(&[]), super::super::BAD_INPUT, "there is no journal");
        let (journal, _) = journal::Journal::open(dir.path()).unwrap();
        for action in [Action::Start, Action::Load, Action::Stop] {
            journal.append(journal::Entry::new(action)).unwrap();
        }
        for arguments in [&[][..], &["--action", "load", "--since", "1h"], &["--verify"], &["-o", "json"]] {
            assert_eq!(run(arguments), 0, "{arguments:?}");
        }
        let path = dir.path().join(journal::FILE);
        let edited = std::fs::read_to_string(&path).unwrap().replace("\"load\"", "\"mode\"");
        std::fs::write(&path, edited).unwrap();
        for arguments in [&[][..], &["--action", "start"], &["--verify"], &["--verify", "-o", "json"]] {
            assert_eq!(run(arguments), NO, "{arguments:?}");
        }
    }
}
