//! Flows on standard output.

use std::collections::HashSet;
use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write};

use jiff::tz::TimeZone;
use segd_common::traffic::Direction;
use serde::Serialize;

use super::super::output;
use super::super::{Failure, Outcome};
use super::{Format, sums};
use crate::history::Summary;
use crate::telemetry::FlowRecord;
use crate::telemetry::line::{self, LineStyle};
use crate::telemetry::needed::Remedy;
use crate::telemetry::text::printable;

/// Prints flows one after the other. A reader that went away ends the command without a word.
pub(super) struct Printer<W: Write = Stdout> {
    out: BufWriter<W>,
    format: Format,
    style: LineStyle,
    /// Print rules as in a zone file.
    explain: bool,
    /// What was explained.
    explained: HashSet<Remedy>,
    /// Above the first line.
    header: bool,
    /// Print each line at once.
    live: bool,
    shown: u64,
}

/// A record or a summary, as JSON.
#[derive(Serialize)]
struct Shown<'a, T: Serialize> {
    #[serde(flatten)]
    flow: &'a T,
    #[serde(flatten)]
    remedy: Option<Remedy>,
}

impl Printer {
    pub(super) fn new(format: Format, explain: bool) -> Self {
        let style =
            LineStyle { colour: output::colour(), time_zone: TimeZone::system(), dated: false, host: false };
        let header = io::stdout().is_terminal();
        Self::with(io::stdout(), format, explain, style, header)
    }
}

impl<W: Write> Printer<W> {
    pub(super) fn with(out: W, format: Format, explain: bool, style: LineStyle, header: bool) -> Self {
        Self {
            out: BufWriter::new(out),
            format,
            style,
            explain,
            explained: HashSet::new(),
            header: header && format == Format::Table,
            live: false,
            shown: 0,
        }
    }

    /// Whether flows come as they happen.
    pub(super) fn live(&mut self, live: bool) {
        self.live = live;
    }

    /// Flows of several hosts and days are to come.
    pub(super) fn of_several_hosts(&mut self) {
        (self.style.dated, self.style.host) = (true, true);
    }

    pub(super) fn record(&mut self, record: &FlowRecord) -> Result<(), Failure> {
        let remedy = Remedy::of_record(record);
        let line = match self.format {
            Format::Json => return self.json(record, remedy),
            Format::Table => self.style.render(record),
            Format::Compact => {
                let format = if self.style.dated { "%F %H:%M:%S" } else { "%H:%M:%S" };
                let time = record.time.to_zoned(self.style.time_zone.clone()).strftime(format);
                let host =
                    if self.style.host { format!("{} ", printable(&record.host)) } else { String::new() };
                format!("{time} {host}{}", line::message(record))
            }
        };
        let header = self.header.then(|| self.style.header());
        self.text(header, &line, remedy)
    }

    pub(super) fn sums(&mut self, summary: &Summary) -> Result<(), Failure> {
        let remedy = Remedy::of_summary(summary);
        let line = match self.format {
            Format::Json => return self.json(summary, remedy),
            Format::Table => sums::row(summary, &self.style),
            Format::Compact => sums::short(summary, &self.style),
        };
        let header = self.header.then(sums::header);
        self.text(header, &line, remedy)
    }

    /// So many came too fast.
    pub(super) fn lost(&mut self, lost: u64) -> Result<(), Failure> {
        if self.format == Format::Json {
            return self.print(&format!("{{\"lost\":{lost}}}"));
        }
        eprintln!("segd: {lost} flows came faster than they could be shown");
        Ok(())
    }

    fn json(&mut self, flow: &impl Serialize, remedy: Option<Remedy>) -> Result<(), Failure> {
        self.print(&output::json_line(&Shown { flow, remedy })?)
    }

    fn text(&mut self, header: Option<String>, line: &str, remedy: Option<Remedy>) -> Result<(), Failure> {
        if let Some(header) = header {
            self.header = false;
            self.write(&header)?;
        }
        match remedy {
            Some(remedy) if self.explain => {
                self.write(line)?;
                let is_new = self.explained.insert(remedy.clone());
                self.print(if is_new { explanation(&remedy) } else { String::new() }.trim_end())
            }
            Some(remedy) if self.format == Format::Table => {
                let needs = match remedy {
                    Remedy::Rule(needed) => format!("needs {needed}"),
                    Remedy::Help(help) => help,
                };
                self.print(&format!("{line}  {}", printable(&needs)))
            }
            _ => self.print(line),
        }
    }

    fn print(&mut self, line: &str) -> Result<(), Failure> {
        self.shown += 1;
        if !line.is_empty() {
            self.write(line)?;
        }
        if self.live { ended(self.out.flush()) } else { Ok(()) }
    }

    fn write(&mut self, line: &str) -> Result<(), Failure> {
        ended(writeln!(self.out, "{line}"))
    }

    /// At the end: says `nothing` if there was nothing.
    pub(super) fn end(mut self, nothing: &str) -> Outcome {
        ended(self.out.flush())?;
        if self.shown == 0 && self.format != Format::Json {
            eprintln!("segd: {nothing}");
        }
        Ok(0)
    }
}

fn ended(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// What a flow needs, in lines of a zone file.
fn explanation(remedy: &Remedy) -> String {
    let text = match remedy {
        Remedy::Help(help) => format!("# {help}"),
        Remedy::Rule(needed) => {
            let end = match needed.side {
                Direction::Outbound => "client",
                Direction::Inbound => "server",
            };
            let mut text = format!("# decided by the {end}'s host\n");
            if [&needed.from, &needed.to].iter().any(|zone| *zone == "unknown") {
                text += "# `unknown` is every address that no zone claims: rather put it into a zone\n";
            }
            text + &needed.to_toml()
        }
    };
    text.lines().map(|line| format!("    {}\n", printable(line))).collect()
}
