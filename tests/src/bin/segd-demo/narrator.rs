//! What the audience sees: steps, sentences, commands with what they print. Paced for reading.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

/// Words that stand out, with their ANSI colours.
const COLOURED: [(&str, u8); 5] =
    [("allowed", 32), ("audited", 33), ("denied", 31), ("EPERM", 31), ("silence", 31)];

/// Tells the story on standard output. Its methods fail when nobody can read it any more.
pub(crate) struct Narrator {
    pace: Duration,
    colour: bool,
    step: u32,
    /// Whether the last line was empty.
    blank: Cell<bool>,
}

impl Narrator {
    /// `pace` is the pause before each step.
    pub(crate) fn new(pace: Duration) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { pace, colour: wanted && io::stdout().is_terminal(), step: 0, blank: Cell::new(true) }
    }

    /// A new step, after a pause.
    pub(crate) fn step(&mut self, title: &str) -> Result<()> {
        if self.step > 0 {
            sleep(self.pace);
        }
        self.step += 1;
        let title = format!("{}. {title}", self.step);
        self.line("")?;
        self.line(&if self.colour { format!("\x1b[1m{title}\x1b[0m") } else { title })
    }

    /// The number of the step that is told.
    pub(crate) fn number(&self) -> u32 {
        self.step
    }

    /// A sentence or two.
    pub(crate) fn say(&self, text: &str) -> Result<()> {
        text.lines().try_for_each(|line| self.line(&format!("   {line}")))
    }

    /// A command that ran on `host`, and what it printed.
    pub(crate) fn command(&self, host: &str, command: &str, printed: &str) -> Result<()> {
        sleep(self.pace / 2);
        let prompt = format!("   {host}# {command}");
        self.line("")?;
        self.line(&if self.colour { format!("\x1b[36m{prompt}\x1b[0m") } else { prompt })?;
        self.output(printed)?;
        self.line("")
    }

    /// Text with columns, such as a command prints it.
    pub(crate) fn output(&self, text: &str) -> Result<()> {
        text.trim_end()
            .lines()
            .try_for_each(|line| self.line(format!("     {}", self.coloured(line)).trim_end()))
    }

    fn coloured(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for (word, colour) in COLOURED.iter().filter(|_| self.colour) {
            line = line.replace(word, &format!("\x1b[{colour}m{word}\x1b[0m"));
        }
        line
    }

    /// A line at the left edge.
    pub(crate) fn line(&self, text: &str) -> Result<()> {
        // Never two empty lines in a row.
        if self.blank.replace(text.is_empty()) && text.is_empty() {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).context("nobody reads this any more")
    }
}
