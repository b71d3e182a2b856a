//! A long-running program whose output is of interest only when it fails: on a terminal its newest line is shown in
//! place, elsewhere its output goes through as it is.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::command::{line_of, status};
use crate::interrupt::{self, Forward};
use crate::say::say;

/// How many lines of its output are shown when it fails.
const TAIL: usize = 40;

/// Runs `command` under `title`.
///
/// # Errors
/// When it fails; then the end of its output was printed and the error names the command line.
pub(crate) fn run(title: &str, mut command: Command) -> Result<()> {
    let begun = Instant::now();
    say!("{title}: {}", line_of(&command));
    let status = if io::stdout().is_terminal() { shortened(&mut command)? } else { status(&mut command)? };
    if !status.success() {
        bail!("{title} failed ({status}); the command was:\n  {}", line_of(&command));
    }
    say!("{title}: done in {} s", begun.elapsed().as_secs());
    Ok(())
}

fn shortened(command: &mut Command) -> Result<ExitStatus> {
    interrupt::check()?;
    let (mut reader, writer) = io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer).stdin(Stdio::null());
    let child = command.spawn();
    // The command holds the pipe's writing end: as long as it is open the pipe does not end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child.with_context(|| format!("cannot run {}", line_of(command)))?;
    let forward = Forward::to(&child);
    let tail = follow(&mut reader, in_place)?;
    drop(forward);
    let status = child.wait()?;
    interrupt::check()?;
    if !status.success() {
        tail.iter().for_each(|line| say!("  {line}"));
    }
    Ok(status)
}

/// Hands each line to `show` until the output ends, and then an empty one; gives the last ones.
fn follow(reader: &mut impl Read, mut show: impl FnMut(&str)) -> Result<VecDeque<String>> {
    let mut tail = VecDeque::new();
    let mut line = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = match reader.read(&mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        for byte in &buffer[..length] {
            if !matches!(byte, b'\n' | b'\r') {
                line.push(*byte);
                continue;
            }
            let text = String::from_utf8_lossy(&std::mem::take(&mut line)).trim_end().to_owned();
            if !text.is_empty() {
                show(&text);
                tail.push_back(text);
                if tail.len() > TAIL {
                    tail.pop_front();
                }
            }
        }
        if length == 0 {
            show("");
            return Ok(tail);
        }
    }
}

/// Writes `text` over the current line of the terminal, without a line break at its right edge.
fn in_place(text: &str) {
    let mut out = io::stdout().lock();
    // Nobody misses a progress line that cannot be written.
    let _ = write!(out, "\r\x1b[K\x1b[?7l{}{text}\x1b[?7h\r", if text.is_empty() { "" } else { "  " });
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_lines() {
        let text: String = (0..100).map(|n| format!("{n}\r\n")).collect();
        let mut shown = Vec::new();
        let tail = follow(&mut text.as_bytes(), |line| shown.push(line.to_owned())).unwrap();
        assert_eq!(shown.len(), 101);
        assert_eq!(tail.len(), TAIL);
        assert_eq!(tail.back().map(String::as_str), Some("99"));
    }

    #[test]
    fn a_failure_names_the_command() {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 3"]);
        let error = run("a step", command).unwrap_err().to_string();
        assert!(error.contains("a step failed") && error.contains("sh -c 'exit 3'"), "{error}");
    }
}
