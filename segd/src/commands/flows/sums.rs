//! The flows of an hour in a line.

use indicatif::{HumanBytes, HumanCount};
use segd_common::traffic::{Direction, Verdict};

use crate::history::{Conversation, Peer, Summary};
use crate::policy::ids::OTHER_SERVICE;
use crate::telemetry::line::LineStyle;
use crate::telemetry::text::printable;

const HOUR: &str = "%F %Hh";
const ZONES: usize = 28;
const PEER: usize = 22;
const SERVICE: usize = 20;
const RULE: usize = 18;

/// What stands above [`row`].
pub(super) fn header() -> String {
    format!(
        "{:<14}  {:<7}  {:<3}  {:<ZONES$}  {:<PEER$}  {:<SERVICE$}  {:>9}  {:>10}  {:>10}  {:<RULE$}  PROCESS",
        "HOUR",
        "VERDICT",
        "DIR",
        "FROM -> TO",
        "PEER",
        "SERVICE",
        "FLOWS",
        "RECEIVED",
        "SENT",
        "RULE OR REASON"
    )
}

pub(super) fn row(summary: &Summary, style: &LineStyle) -> String {
    let Summary { of, bytes, .. } = summary;
    let (verdict, colour) = match of.verdict {
        Verdict::Denied => ("denied ", 31),
        Verdict::Audited => ("audited", 33),
        Verdict::Allowed => ("allowed", 32),
    };
    let verdict = if style.colour { format!("\x1b[{colour}m{verdict}\x1b[0m") } else { verdict.to_owned() };
    let direction = if of.direction == Direction::Outbound { "out" } else { "in" };
    let rest = format!(
        "{direction:<3}  {:<ZONES$}  {:<PEER$}  {:<SERVICE$}  {:>9}  {:>10}  {:>10}  {:<RULE$}  {}",
        zones(of),
        peer(of),
        service(of),
        HumanCount(summary.flows).to_string(),
        HumanBytes(bytes.received).to_string(),
        HumanBytes(bytes.sent).to_string(),
        of.rule.as_deref().unwrap_or(of.reason.name()),
        process(of),
    );
    format!("{:<14}  {verdict}  {}", hour(summary, style), printable(rest.trim_end()))
}

pub(super) fn short(summary: &Summary, style: &LineStyle) -> String {
    let of = &summary.of;
    let line = format!(
        "{} {} {} {} x{} {} {} {}",
        of.verdict,
        of.direction,
        zones(of),
        service(of),
        summary.flows,
        peer(of),
        of.rule.as_deref().unwrap_or(of.reason.name()),
        process(of),
    );
    format!("{} {}", hour(summary, style), printable(&line))
}

fn hour(summary: &Summary, style: &LineStyle) -> String {
    summary.hour.to_zoned(style.time_zone.clone()).strftime(HOUR).to_string()
}

fn zones(of: &Conversation) -> String {
    let (from, to) = of.ends();
    format!("{from} -> {to}")
}

fn peer(of: &Conversation) -> String {
    match of.peer {
        Peer::Address(ip) => ip.to_string(),
        Peer::Others(1) => "and 1 more peer".to_owned(),
        Peer::Others(n) => format!("and {} more peers", HumanCount(n)),
    }
}

fn service(of: &Conversation) -> String {
    let port = match of.icmp {
        Some((kind, code)) => format!("{} {kind}/{code}", of.protocol),
        None if of.port == 0 => of.protocol.to_string(),
        None => format!("{}/{}", of.protocol, of.port),
    };
    if *of.service == *OTHER_SERVICE { port } else { format!("{} {port}", of.service) }
}

/// The last part of the program's path; its unit, if that is known, tells more.
fn process(of: &Conversation) -> String {
    let program = of.process.as_deref().map(|path| path.rsplit('/').next().unwrap_or(path));
    match (program, of.unit.as_deref()) {
        (Some(program), Some(unit)) => format!("{program} ({unit})"),
        (Some(name), None) | (None, Some(name)) => name.to_owned(),
        (None, None) => "-".to_owned(),
    }
}
