//! `segd detach`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::output::{self, Output};
use super::{NO, Outcome, Reach};
use crate::datapath;
use crate::rollout::journal::{Action, Entry, Journal};

const PATIENCE: Duration = Duration::from_secs(2);

/// Take every program and pin of segd off this host, whether the agent runs or not
///
/// Works on the pins alone, so it works without the agent. A running agent goes on, but judges nothing until it
/// is restarted.
#[derive(Args, Debug)]
pub(super) struct Detach {
    /// Where programs and tables are pinned
    #[arg(long, value_name = "DIR", default_value = super::DEFAULT_BPFFS)]
    bpffs: PathBuf,
    /// Where the agent keeps its journal, to write this down
    #[arg(long, value_name = "DIR", default_value = super::DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Why, for the journal
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

impl Detach {
    pub(super) async fn run(self) -> Outcome {
        let hooks = datapath::detach(&self.bpffs)?;
        if hooks > 0 && self.state_dir.is_dir() {
            self.journal(hooks);
        }
        if self.output.is_json() {
            output::json(&serde_json::json!({ "hooks": hooks }))?;
        } else if hooks == 0 {
            output::print(&format!("nothing of segd is pinned at {}", self.bpffs.display()))?;
        } else {
            output::print(&format!("detached from {hooks} hooks"))?;
        }
        Ok(if self.is_held_elsewhere(hooks).await { NO } else { 0 })
    }

    /// A journal that cannot be written must not hold up the way out.
    fn journal(&self, hooks: usize) {
        let uid = nix::unistd::getuid().as_raw();
        let pid = i32::try_from(std::process::id()).ok();
        let entry = Entry {
            reason: self.reason.clone(),
            details: serde_json::json!({ "hooks": hooks }),
            ..Entry::new(Action::Detach).by(uid, pid)
        };
        let written = Journal::open(&self.state_dir).and_then(|(journal, _)| journal.append(entry));
        if let Err(error) = written {
            eprintln!("segd: this is not in the journal: {error}");
        }
    }

    /// Tells of an agent that still runs. Returns whether it holds hooks that are pinned elsewhere. An agent that
    /// does not answer must not hold up the way out.
    async fn is_held_elsewhere(&self, freed: usize) -> bool {
        let status = tokio::time::timeout(PATIENCE, self.reach.client().status()).await;
        let Ok(Ok(status)) = status else {
            return false;
        };
        let (pid, held) = (status.pid, status.hooks.iter().filter(|hook| hook.attached).count());
        if held > 0 {
            eprintln!(
                "segd: the agent (pid {pid}) has {held} hooks attached that are pinned elsewhere: give its --bpffs"
            );
        } else if freed > 0 {
            eprintln!("segd: the agent (pid {pid}) still runs; it judges nothing until it is restarted");
        }
        held > 0
    }
}
