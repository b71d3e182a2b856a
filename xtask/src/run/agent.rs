//! `segd run` as a child of this process.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::stage::Stage;
use crate::command::end_with_this_process;
use crate::interrupt;

/// How long the agent may take to get ready, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running agent; told to stop with the value.
pub(crate) struct Agent(Child);

impl Agent {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(stage: &Stage, listen: &str) -> Result<Self> {
        let log = File::create(stage.agent_log()).context("cannot make the agent's log")?;
        let mut run = Command::new(stage.segd());
        run.arg("run").arg("--config").arg(stage.config()).arg("--bpffs").arg(stage.bpffs());
        run.arg("--state-dir").arg(stage.state_dir()).arg("--run-dir").arg(stage.run_dir());
        run.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C is for this process, which then stops the agent when its turn comes.
        run.process_group(0);
        end_with_this_process(&mut run);
        let mut agent = Self(run.spawn().with_context(|| format!("cannot run {}", stage.segd().display()))?);
        let deadline = Instant::now() + PATIENCE;
        while !is_ready(listen) {
            interrupt::check()?;
            if let Some(status) = agent.ended()? {
                bail!("segd did not start ({status}):\n{}", stage.agent_log_tail());
            }
            if Instant::now() > deadline {
                bail!("segd is not ready after {PATIENCE:?}:\n{}", stage.agent_log_tail());
            }
            sleep(Duration::from_millis(50));
        }
        Ok(agent)
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.0.try_wait()?)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let (Ok(None), Ok(pid)) = (self.0.try_wait(), i32::try_from(self.0.id())) {
            // It was not waited for, so it can be signalled.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            sleep(Duration::from_millis(20));
        }
        // Both fail only if it ended, as it should have.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether `/readyz` answers 200.
fn is_ready(listen: &str) -> bool {
    let ask = || -> std::io::Result<[u8; 12]> {
        let mut stream = TcpStream::connect(listen)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        write!(stream, "GET /readyz HTTP/1.0\r\nHost: {listen}\r\n\r\n")?;
        let mut begin = [0; 12];
        stream.read_exact(&mut begin)?;
        Ok(begin)
    };
    ask().is_ok_and(|begin| begin.ends_with(b" 200"))
}
