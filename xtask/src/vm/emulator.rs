//! QEMU without KVM: one kernel, one archive as its root, a console that can be read.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command::{end_with_this_process, line_of};
use crate::interrupt::{self, Forward};

/// The kernel's command line. An oops ends the run, for a test that goes on after one shows nothing; `panic=-1` makes
/// a panic a reboot, which QEMU takes as the end.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet oops=panic panic=-1";

/// Boots and hands each line of the console to `show`, until the machine powers itself off.
///
/// # Errors
/// When QEMU fails, or the machine still runs after `limit`.
pub(crate) fn run(image: &Path, archive: &Path, limit: Duration, mut show: impl FnMut(&str)) -> Result<()> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1024", "-no-reboot"]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(image).arg("-initrd").arg(archive).args(["-append", KERNEL_ARGUMENTS]);
    qemu.stdin(Stdio::null()).stdout(Stdio::piped());
    end_with_this_process(&mut qemu);
    interrupt::check()?;
    let mut child = qemu.spawn().with_context(|| format!("cannot run {}", line_of(&qemu)))?;
    let console = child.stdout.take().context("QEMU has no output")?;
    let mut machine = Machine(child);
    let forward = Forward::to(&machine.0);
    let in_time = follow(console, limit, &mut machine, &mut show);
    drop(forward);
    let status = machine.0.wait()?;
    interrupt::check()?;
    if !in_time {
        bail!(
            "stopped after {} minutes: the lines above say where it was; --minutes allows more",
            limit.as_secs() / 60
        );
    }
    if !status.success() {
        bail!("QEMU failed ({status}); the command was:\n  {}", line_of(&qemu));
    }
    Ok(())
}

/// QEMU, killed with the value.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only when it ended and was waited for already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Hands over lines until the console ends; kills the machine after `limit`. Whether it ended by itself.
fn follow(
    console: impl Read + Send + 'static,
    limit: Duration,
    machine: &mut Machine,
    show: &mut impl FnMut(&str),
) -> bool {
    let deadline = Instant::now() + limit;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut console = BufReader::new(console);
        let mut line = Vec::new();
        while console.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            if sender.send(plain(&std::mem::take(&mut line))).is_err() {
                return;
            }
        }
    });
    let mut in_time = true;
    loop {
        let left = if in_time { deadline.saturating_duration_since(Instant::now()) } else { Duration::MAX };
        match lines.recv_timeout(left) {
            Ok(line) => show(&line),
            Err(RecvTimeoutError::Disconnected) => return in_time,
            Err(RecvTimeoutError::Timeout) => {
                in_time = false;
                // Then the console ends, after the line that was being written. It fails only if that is so already.
                let _ = machine.0.kill();
            }
        }
    }
}

/// A line of the console as text: without line ends and other control characters.
fn plain(line: &[u8]) -> String {
    String::from_utf8_lossy(line)
        .chars()
        .filter(|c| !c.is_control())
        .collect::<String>()
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process in QEMU's place; what it prints, and whether it ended in time.
    fn followed(script: &str, limit: Duration) -> (Vec<String>, bool) {
        let mut child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let console = child.stdout.take().unwrap();
        let mut lines = Vec::new();
        let mut show = |line: &str| lines.push(line.to_owned());
        let in_time = follow(console, limit, &mut Machine(child), &mut show);
        (lines, in_time)
    }

    #[test]
    fn lines_come_without_carriage_returns() {
        let (lines, in_time) = followed("printf 'a\\r\\nb c\\r\\n'", Duration::from_secs(60));
        assert_eq!((lines, in_time), (vec!["a".to_owned(), "b c".to_owned()], true));
    }

    #[test]
    fn what_hangs_is_killed_and_its_last_line_shown() {
        let (lines, in_time) = followed("printf 'test x ... '; exec sleep 600", Duration::from_millis(300));
        assert_eq!((lines, in_time), (vec!["test x ...".to_owned()], false));
    }
}
