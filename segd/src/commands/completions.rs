//! `segd completions`.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::output;
use super::{Cli, Outcome};

/// Print a completion script for a shell
///
/// For bash: `segd completions bash > /etc/bash_completion.d/segd`.
#[derive(Args, Debug)]
pub(super) struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "segd", &mut script);
        output::print(&String::from_utf8_lossy(&script))?;
        Ok(0)
    }
}
