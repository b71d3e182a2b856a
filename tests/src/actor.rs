//! A running `lab-actor`: the small program that makes sockets on a host.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::host::Host;
use crate::process::Process;
use crate::report::Report;

/// How long an actor may take for a report that is sure to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A `lab-actor` on a host. Dropping it kills it, and with it its sockets.
#[derive(Debug)]
pub struct Actor {
    process: Process,
}

impl Actor {
    /// `command` runs [`program`].
    pub(crate) fn start(host: &Host, mut command: Command, arguments: &[&str]) -> Result<Self> {
        command.args(arguments);
        Ok(Self { process: host.spawn(command)? })
    }

    /// The next thing that happens to its sockets.
    ///
    /// # Errors
    /// When nothing happens for 20 seconds, or the actor ended.
    pub fn next(&self) -> Result<Report> {
        self.next_within(PATIENCE)
    }

    /// The next thing that happens to its sockets within `timeout`.
    ///
    /// # Errors
    /// When nothing does, or the actor ended.
    pub fn next_within(&self, timeout: Duration) -> Result<Report> {
        let line = self.process.next_line(timeout)?;
        serde_json::from_str(&line).with_context(|| format!("lab-actor wrote {line:?}"))
    }

    /// Gives it `text` as a line and waits for the next report: for `hold` what came back over the connection or what
    /// failed, for `attempt` the outcome.
    ///
    /// # Errors
    /// When the actor ended.
    pub fn exchange(&mut self, text: &str) -> Result<Report> {
        self.process.write_line(text)?;
        self.next()
    }

    /// Its process, for signals and the like.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Lets it end and gives all its reports.
    ///
    /// # Errors
    /// When it does not end within `timeout`, ends badly, or wrote what is no report.
    pub(crate) fn finish(self, timeout: Duration) -> Result<Vec<Report>> {
        let finished = self.process.finish(timeout)?;
        if !finished.status.success() {
            bail!("lab-actor: {}: {}", finished.status, finished.stderr.trim());
        }
        let reports = finished.stdout.lines().map(serde_json::from_str);
        reports.collect::<Result<_, _>>().with_context(|| format!("lab-actor wrote {:?}", finished.stdout))
    }
}

/// `lab-actor` as cargo puts it: beside the directory of the test binaries, or beside this very binary.
///
/// # Errors
/// When it was not built.
pub fn program() -> Result<PathBuf> {
    beside_this_binary("lab-actor").context("there is no lab-actor: cargo build -p segd-tests")
}

/// The binary `name` of the same cargo build as this one.
pub(crate) fn beside_this_binary(name: &str) -> Option<PathBuf> {
    let this = std::env::current_exe().ok()?;
    this.ancestors().skip(1).take(2).map(|directory| directory.join(name)).find(|path| path.is_file())
}
