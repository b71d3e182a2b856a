//! How commands print: tables for people, JSON for programs, colour only on a terminal.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};

use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::Failure;
use crate::telemetry::text::is_tricky;

/// `--output`.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Output {
    /// How to print
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Aligned text for people
    Table,
    /// JSON for programs
    Json,
}

impl Output {
    pub(super) fn is_json(self) -> bool {
        self.output == Format::Json
    }
}

/// Whether standard output wants colour: a terminal, and the user did not say no (<https://no-color.org>).
pub(super) fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Prints a value as JSON, indented on a terminal.
pub(super) fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = if io::stdout().is_terminal() {
        serde_json::to_string_pretty(value)?
    } else {
        serde_json::to_string(value)?
    };
    print(&harmless(&text))
}

/// A value as JSON on one line.
pub(super) fn json_line<T: Serialize>(value: &T) -> Result<String, Failure> {
    Ok(harmless(&serde_json::to_string(value)?))
}

/// JSON in which no character can do anything to a terminal: those that could, which strings may hold but for the ones
/// that JSON escapes itself, are escaped.
fn harmless(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_tricky(c) && c != '\n' {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Prints text and a newline. A reader that went away ends the command without a word.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// A borderless table with a header.
pub(super) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_does_nothing_to_a_terminal_and_means_the_same() {
        for (text, want) in [
            ("a\u{9b}31m\u{7f}", r#""a\u009b31m\u007f""#),
            ("x\u{202e}gpj\u{e0001}\n", r#""x\u202egpj\udb40\udc01\n""#),
            ("ö😀\"\\", r#""ö😀\"\\""#),
        ] {
            let Ok(line) = json_line(&text) else { panic!("{text:?}") };
            assert_eq!(line, want);
            assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
        }
    }
}
