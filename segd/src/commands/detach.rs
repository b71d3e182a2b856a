//! `segd detach`.

use std::path::PathBuf;

use clap::Args;

use super::output::{self, Output};
use super::{Outcome, Reach};
use crate::datapath;

/// Works on the pins alone, so it works without the agent. A running agent goes on, but judges nothing until it
/// is restarted.
#[derive(Args, Debug)]
pub(super) struct Detach {
    /// Where programs and tables are pinned
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/segd")]
    bpffs: PathBuf,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

impl Detach {
    pub(super) async fn run(self) -> Outcome {
        let hooks = datapath::detach(&self.bpffs)?;
        if let Ok(status) = self.reach.client().status().await {
            eprintln!(
                "segd: the agent still runs (pid {}); it judges nothing until it is restarted",
                status.pid
            );
        }
        if self.output.is_json() {
            output::json(&serde_json::json!({ "hooks": hooks }))?;
        } else if hooks == 0 {
            output::print(&format!("nothing of segd is pinned at {}", self.bpffs.display()))?;
        } else {
            output::print(&format!(
                "detached from {hooks} hooks; no traffic of this host is judged any more"
            ))?;
        }
        Ok(0)
    }
}
