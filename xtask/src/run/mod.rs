//! `cargo xtask run`: segd on this host, in monitor mode, until Ctrl-C.

mod agent;
mod stage;

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use self::agent::Agent;
use self::stage::Stage;
use crate::cargo::{self, Made};
use crate::command::{end_with_this_process, is_root};
use crate::interrupt;
use crate::say::say;
use crate::setup::{Purpose, ensure};

/// Build segd and run it on this host in monitor mode: nothing is denied, the flows are shown until Ctrl-C.
///
/// The agent uses an example estate and directories of its own. Ctrl-C takes its programs off the host again.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The directory of zone files.
    #[arg(long, default_value = "zones/warehouse")]
    estate: PathBuf,
    /// The zone that this host is in.
    #[arg(long, default_value = "fulfillment")]
    zone: String,
    /// Run this segd instead of building one.
    #[arg(long, value_name = "FILE")]
    segd: Option<PathBuf>,
}

impl Run {
    pub(crate) fn execute(self) -> Result<()> {
        let segd = match self.segd {
            Some(segd) => segd,
            None => build()?,
        };
        let estate = cargo::root().join(&self.estate);
        let estate = estate.canonicalize().with_context(|| format!("no zone files: {}", estate.display()))?;
        if !is_root() {
            return again_as_root(&segd, &estate, &self.zone);
        }
        observe(&segd, &estate, &self.zone)
    }
}

fn build() -> Result<PathBuf> {
    let toolchain = ensure(Purpose::Build)?;
    say!("Building segd (the first time takes some minutes)");
    let made = cargo::build(toolchain.cargo(&["build", "--release", "--locked", "--package", "segd"]))?;
    let binary = made.into_iter().find_map(|made| match made {
        Made::Executable { target, path } if target == "segd" => Some(path),
        _ => None,
    });
    binary.context("cargo built no segd")
}

/// Becomes this same command under sudo, with what was built.
fn again_as_root(segd: &Path, estate: &Path, zone: &str) -> Result<()> {
    say!("Attaching programs to the kernel needs root: going on with sudo");
    let mut sudo = Command::new("sudo");
    sudo.arg(std::env::current_exe()?).arg("run");
    sudo.arg("--segd").arg(segd).arg("--estate").arg(estate).args(["--zone", zone]);
    Err(sudo.exec()).context("cannot run sudo: run this command as root")
}

/// As root: runs the agent and shows flows until a signal comes or one of the two ends.
fn observe(segd: &Path, estate: &Path, zone: &str) -> Result<()> {
    interrupt::check()?;
    let stage = Stage::set(segd)?;
    let listen = metrics_address()?;
    stage.configure(estate, zone, &listen)?;
    let mut agent = Agent::start(&stage, &listen)?;
    say!();
    say!("segd runs in monitor mode: it denies nothing.");
    say!("  host zone  {zone} (of {})", estate.display());
    say!("  metrics    curl http://{listen}/metrics");
    say!("  status     {} status --run-dir {}", stage.segd().display(), stage.run_dir().display());
    say!("  flow log   {}", stage.flow_log().display());
    say!("  agent log  {}", stage.agent_log().display());
    say!("Flows of this host as they are decided, but for those over loopback, which are always allowed.");
    say!("Ctrl-C ends it and takes everything off this host.");
    say!();
    let mut flows = Flows::start(&stage)?;
    loop {
        if interrupt::happened() {
            drop(flows);
            // The agent goes before the stage does.
            drop(agent);
            return stage.strike();
        }
        if let Some(status) = agent.ended()? {
            bail!("the agent ended by itself ({status}):\n{}", stage.agent_log_tail());
        }
        if let Some(status) = flows.0.try_wait()?
            && !interrupt::happened()
        {
            // Ctrl-C reaches it too; the signal for this process may come a moment later.
            sleep(Duration::from_millis(200));
            if !interrupt::happened() {
                bail!("segd flows ended by itself ({status})");
            }
        }
        sleep(Duration::from_millis(50));
    }
}

/// The default address for metrics, or if its port is taken one with a free port.
fn metrics_address() -> Result<String> {
    const DEFAULT: &str = "127.0.0.1:9464";
    if TcpListener::bind(DEFAULT).is_ok() {
        return Ok(DEFAULT.to_owned());
    }
    let free = TcpListener::bind("127.0.0.1:0").context("no free port for metrics")?.local_addr()?;
    say!("{DEFAULT} is taken: metrics are at {free}");
    Ok(free.to_string())
}

/// `segd flows -f`; killed with the value.
struct Flows(Child);

impl Flows {
    fn start(stage: &Stage) -> Result<Self> {
        let mut flows = Command::new(stage.segd());
        flows.args(["flows", "-f", "--run-dir"]).arg(stage.run_dir());
        end_with_this_process(&mut flows);
        Ok(Self(flows.spawn().context("cannot run segd flows")?))
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        // Both fail only if it ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
