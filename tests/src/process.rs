//! A process of a host: its lines as they come, its end, and its death with the value.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::enter;
use crate::wait::{patience, wait_for};

/// A process that ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

/// A running process. Dropping the value kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: Arc<Mutex<String>>,
    /// Closed when its standard error is.
    stderr_end: Receiver<()>,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = enter::spawn(command).with_context(|| format!("cannot start {name}"))?;
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                let lines = BufReader::new(stdout).lines().map_while(std::io::Result::ok);
                lines.map(|line| sender.send(line)).take_while(std::result::Result::is_ok).for_each(drop);
            });
        }
        let stderr = Arc::new(Mutex::new(String::new()));
        let (closes_with_thread, stderr_end) = channel();
        if let Some(pipe) = child.stderr.take() {
            let text = Arc::clone(&stderr);
            thread::spawn(move || {
                collect(pipe, &text);
                drop(closes_with_thread);
            });
        }
        Ok(Self { name, stdin: child.stdin.take(), child, lines, stderr, stderr_end })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The next line of its standard output.
    ///
    /// # Errors
    /// When none comes within `timeout`, or the process closed its output.
    pub fn next_line(&self, timeout: Duration) -> Result<String> {
        let timeout = patience(timeout);
        self.lines.recv_timeout(timeout).map_err(|error| {
            let what = match error {
                RecvTimeoutError::Timeout => format!("wrote no line within {timeout:?}"),
                RecvTimeoutError::Disconnected => "wrote no further line and closed its output".into(),
            };
            anyhow::anyhow!("{} {what}; its standard error: {}", self.name, self.stderr())
        })
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// When the process no longer reads.
    pub fn write_line(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("its standard input is closed")?;
        writeln!(stdin, "{line}").with_context(|| format!("{} no longer reads", self.name))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("cannot send {signal} to {}: it ended with {status}", self.name);
        }
        let pid = i32::try_from(self.child.id())?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it still runs after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        let child = &mut self.child;
        wait_for(&what, timeout, || child.try_wait().transpose())?.context("cannot wait for a process")
    }

    /// Closes its standard input, waits until it ends by itself and gives all that it wrote and nobody read.
    ///
    /// # Errors
    /// When it still runs after `timeout`; it is killed then.
    pub fn finish(mut self, timeout: Duration) -> Result<Finished> {
        self.stdin = None;
        let timeout = patience(timeout);
        let deadline = Instant::now() + timeout;
        let mut stdout = String::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => stdout.extend([line.as_str(), "\n"]),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{} still runs after {timeout:?}; its standard error: {}", self.name, self.stderr())
                }
            }
        }
        let status = self.wait(deadline.saturating_duration_since(Instant::now()))?;
        // A child that it left behind may hold standard error open: then what came so far has to do.
        let _ = self.stderr_end.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        Ok(Finished { status, stdout, stderr: self.stderr() })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it ended and was waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut pipe: impl Read, text: &Mutex<String>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = pipe.read(&mut buffer) {
        let part = String::from_utf8_lossy(&buffer[..length]);
        text.lock().unwrap_or_else(PoisonError::into_inner).push_str(&part);
    }
}
