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
    /// Run the agent: load the zone files, attach to the kernel, watch or enforce
    Run(run::Run),
    /// Check zone files: syntax, names, prefixes, tests; warn of what is unused or too broad
    Check(check::Check),
    /// Tell the verdict on a flow and the way to it, at both ends
    Explain(explain::Explain),
    /// Show what the agent and the kernel hold now
    Status(status::Show),
    /// Load the zone files anew
    Apply(apply::Apply),
    /// Keep a change that waits to be confirmed
    Confirm(confirm::Confirm),
    /// Bring a former policy back, at once
    Rollback(rollback::Rollback),
    /// Allow something for a limited time
    Exception(exception::Exceptions),
    /// Set monitor or enforce mode, everywhere or for a part of the traffic; kept over restarts
    Mode(mode::Set),
    /// Show flows: recent, live, of the history, in log files
    ///
    /// Without --follow, the recent flows that the agent remembers. With --since or --until: the records of that time if
    /// the agent remembers all of them, else what its history has, summed up by hour. With --input: the records in log
    /// files. A flow that no rule allows is shown with the rule that it needs.
    Flows(flows::Flows),
    /// Draw who talks to whom, as a page, a picture or data
    Map(map::Show),
    /// Propose zone-file rules from what was seen
    Learn(learn::Learn),
    /// Tell what other zone files would deny or allow of the flows that were seen and of live sockets
    Whatif(whatif::Whatif),
    /// Review the zone files: what is used and what is not, what ends soon, how far each zone and workload can reach
    Review(review::Show),
    /// Show who changed what, when and why, and prove that nobody edited it since
    Audit(audit::Audit),
    /// Tell what this host can do for segd, and what is in the way
    Doctor(doctor::Doctor),
    /// Take every program and pin of segd off this host, whether the agent runs or not
    Detach(detach::Detach),
    /// Print a completion script for a shell
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
        Command::Run(run) => on_runtime(run.run()),
        Command::Check(check) => on_runtime(check.run()),
        Command::Explain(explain) => on_runtime(explain.run()),
        Command::Status(show) => on_runtime(show.run()),
        Command::Apply(apply) => on_runtime(apply.run()),
        Command::Confirm(confirm) => on_runtime(confirm.run()),
        Command::Rollback(rollback) => on_runtime(rollback.run()),
        Command::Exception(exceptions) => on_runtime(exceptions.run()),
        Command::Mode(set) => on_runtime(set.run()),
        Command::Flows(flows) => on_runtime(flows.run()),
        Command::Map(show) => on_runtime(show.run()),
        Command::Learn(learn) => on_runtime(learn.run()),
        Command::Whatif(whatif) => on_runtime(whatif.run()),
        Command::Review(show) => on_runtime(show.run()),
        Command::Audit(audit) => audit.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Detach(detach) => on_runtime(detach.run()),
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

fn on_runtime(command: impl Future<Output = Outcome>) -> Outcome {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(command)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
