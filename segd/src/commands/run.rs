//! `segd run`.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use super::{Failure, Outcome};
use crate::agent::{self, Options};

/// Run the agent: load the zone files, attach to the kernel, watch or enforce
#[derive(Args, Debug)]
pub(super) struct Run {
    /// The agent's configuration; without the option, /etc/segd/segd.toml if it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The cgroup whose tree is judged; default: the root of the cgroup2 mount
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Where programs and tables are pinned, on a BPF file system
    #[arg(long, value_name = "DIR", default_value = super::DEFAULT_BPFFS)]
    bpffs: PathBuf,
    /// What must outlive the agent
    #[arg(long, value_name = "DIR", default_value = super::DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Where the control socket is
    #[arg(long, value_name = "DIR", env = "SEGD_RUN_DIR", default_value = "/run/segd")]
    run_dir: PathBuf,
    /// What the agent logs of itself to standard error, e.g. `info` or `segd=debug`
    #[arg(long, value_name = "FILTER", env = "SEGD_LOG", default_value = "info")]
    log: String,
    /// Let the BPF programs log too; for debugging, as it slows every new flow
    #[arg(long, value_name = "LEVEL", default_value = "off")]
    program_log: ProgramLog,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProgramLog {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Run {
    pub(super) async fn run(self) -> Outcome {
        // What the programs log was filtered by them.
        let filter = EnvFilter::try_new(format!("{},segd_ebpf=trace", self.log))
            .map_err(|e| Failure::bad_input(format!("--log {}: {e}", self.log)))?;
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .init();
        let options = Options {
            config: self.config,
            cgroup: self.cgroup,
            bpffs: self.bpffs,
            state_dir: self.state_dir,
            run_dir: self.run_dir,
            program_log: self.program_log as u8,
        };
        match agent::run(options).await {
            Ok(()) => Ok(0),
            Err(error) => Err(Failure { message: error.to_string(), code: error.exit_code() }),
        }
    }
}
