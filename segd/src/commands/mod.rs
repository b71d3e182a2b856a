//! The command line: one file a command. Each reads its arguments, asks the agent or the files, and prints.

mod apply;
mod audit;
mod check;
mod completions;
mod confirm;
mod detach;
mod doctor;
mod exception;
mod explain;
mod filters;
mod flows;
mod learn;
mod map;
mod mode;
mod observed;
mod output;
mod progress;
mod review;
mod rollback;
mod run;
mod safety;
mod status;
mod whatif;
mod when;
mod zones;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::control::{Client, ClientError};

/// Exit codes: 0 done; 1 the answer is no; 2 bad usage or input; 3 no agent; 4 not permitted.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the answer is no: a check failed, a flow is denied, the agent could not
  2  bad usage or input
  3  no agent runs
  4  not permitted";

const NO: u8 = 1;
const BAD_INPUT: u8 = 2;
const NO_AGENT: u8 = 3;

/// Where programs and tables are pinned unless told otherwise.
const DEFAULT_BPFFS: &str = "/sys/fs/bpf/segd";

/// Where the agent keeps what must outlive it unless told otherwise.
const DEFAULT_STATE_DIR: &str = "/var/lib/segd";

/// Zone-to-zone allowlists for the east-west traffic of this host, enforced in the kernel.
#[derive(Debug, Parser)]
#[command(name = "segd", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Check(check::Check),
    Explain(explain::Explain),
    Status(status::Show),
    Apply(apply::Apply),
    Confirm(confirm::Confirm),
    Rollback(rollback::Rollback),
    Exception(exception::Exceptions),
    Mode(mode::Set),
    Flows(flows::Flows),
    Map(map::Show),
    Learn(learn::Learn),
    Whatif(whatif::Whatif),
    Review(review::Show),
    Audit(audit::Audit),
    Doctor(doctor::Doctor),
    Detach(detach::Detach),
    Completions(completions::Completions),
}

/// How to reach the agent.
#[derive(Args, Clone, Debug)]
struct Reach {
    /// The agent's run directory
    #[arg(long, value_name = "DIR", env = "SEGD_RUN_DIR", default_value = "/run/segd")]
    run_dir: PathBuf,
}

impl Reach {
    fn client(&self) -> Client {
        Client::new(&self.run_dir)
    }
}

/// Why a command fails, with its exit code.
struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    fn bad_input(message: impl ToString) -> Self {
        Self { message: message.to_string(), code: BAD_INPUT }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self { message: error.to_string(), code: error.exit_code() }
    }
}

impl From<crate::datapath::Error> for Failure {
    fn from(error: crate::datapath::Error) -> Self {
        Self { message: error.to_string(), code: if error.is_permission() { 4 } else { BAD_INPUT } }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::bad_input(error)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::bad_input(error)
    }
}

/// What a command ends with: its exit code, or why it failed.
type Outcome = Result<u8, Failure>;

/// Parses the arguments of the process and runs the command.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Run(run) => as_agent(run.run()),
        Command::Check(check) => briefly(check.run()),
        Command::Explain(explain) => briefly(explain.run()),
        Command::Status(show) => briefly(show.run()),
        Command::Apply(apply) => briefly(apply.run()),
        Command::Confirm(confirm) => briefly(confirm.run()),
        Command::Rollback(rollback) => briefly(rollback.run()),
        Command::Exception(exceptions) => briefly(exceptions.run()),
        Command::Mode(set) => briefly(set.run()),
        Command::Flows(flows) => briefly(flows.run()),
        Command::Map(show) => briefly(show.run()),
        Command::Learn(learn) => briefly(learn.run()),
        Command::Whatif(whatif) => briefly(whatif.run()),
        Command::Review(show) => briefly(show.run()),
        Command::Audit(audit) => audit.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Detach(detach) => briefly(detach.run()),
        Command::Completions(completions) => completions.run(),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            let lines = failure.message.trim_end();
            // Diagnostics say `error:` themselves.
            let prefix = if lines.contains("error: ") { "" } else { "segd: " };
            eprintln!("{prefix}{lines}");
            if failure.code == NO_AGENT {
                tell_of_pins();
            }
            ExitCode::from(failure.code)
        }
    }
}

/// Without the agent its programs go on, which whoever looks for it must know.
fn tell_of_pins() {
    let hooks = crate::datapath::pinned_hooks(Path::new(DEFAULT_BPFFS));
    if hooks > 0 {
        eprintln!(
            "segd: the programs of a former agent are attached at {hooks} hooks and go on judging; \
             `segd detach` takes them off"
        );
    }
}

/// A command of a moment needs no threads.
fn briefly(command: impl Future<Output = Outcome>) -> Outcome {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

fn as_agent(command: impl Future<Output = Outcome>) -> Outcome {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(command)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn the_help_of_each_command_tells_more_than_the_list_of_commands() {
        let told_in_full = ["run", "status"];
        for command in super::Cli::command().get_subcommands() {
            let (name, short) = (command.get_name(), command.get_about().map(ToString::to_string));
            let long = command.get_long_about().map(ToString::to_string);
            assert!(short.is_some_and(|short| !short.contains('\n')), "{name}");
            let more = long.is_some() || command.get_after_help().is_some();
            assert!(more || told_in_full.contains(&name), "{name} --help says nothing beyond one line");
        }
    }
}
