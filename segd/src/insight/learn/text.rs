//! The proposal as a zone file: what it allows as TOML, what speaks for it as comments.

use std::fmt::Write as _;

use super::evidence::Evidence;
use super::left_out::LeftOut;
use super::rules::{ProposedRule, ProposedService};
use super::verify::Files;
use super::week::{WEEK, minute};
use super::zones::ProposedZone;
use super::{Proposal, Why};
use crate::telemetry::text::printable;

/// Names that are shown of each kind.
const SHOWN: usize = 6;

/// Prefixes on one line.
const ON_A_LINE: usize = 6;

/// What begins a text that somebody has to write.
pub(in crate::insight) const TODO: &str = "TODO";

/// A basic string: JSON's escapes are among TOML's (TOML 1.0, "String").
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// A key: bare if it can be.
pub(super) fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.chars().all(bare) { name.to_owned() } else { quoted(name) }
}

/// A list of strings, on several lines if it is long.
pub(super) fn list<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = texts.into_iter().map(|text| quoted(text.as_ref())).collect();
    if all.len() <= ON_A_LINE {
        return format!("[{}]", all.join(", "));
    }
    let lines: Vec<String> =
        all.chunks(ON_A_LINE).map(|line| format!("    {},\n", line.join(", "))).collect();
    format!("[\n{}]", lines.concat())
}

/// The zones.
pub(super) fn zones(zones: &[ProposedZone]) -> String {
    let mut out = String::new();
    for ProposedZone { name, cidrs, seen, recorded, roles } in zones {
        let _ = writeln!(out, "# {} seen", counted(*seen, "address", "addresses"));
        if *recorded {
            out += "# the records call it so; no zone file defines it\n";
        }
        if !roles.is_empty() {
            let _ = writeln!(out, "# {}", few(roles));
        }
        let _ = writeln!(out, "[zone.{}]", key(name));
        out += "description = \"TODO: what is there\"\nowner = \"TODO: who answers for it\"\n";
        let _ = writeln!(out, "cidrs = {}\n", list(cidrs.iter().map(ToString::to_string)));
    }
    out
}

/// The services.
pub(super) fn services(services: &[ProposedService]) -> String {
    let mut out = String::new();
    for ProposedService { name, ports } in services {
        let ports = list(ports.iter().map(ToString::to_string));
        let _ = writeln!(out, "[service.{}]\nports = {ports}\n", key(name));
    }
    out
}

/// The rules.
pub(super) fn rules(rules: &[ProposedRule]) -> String {
    let mut out = String::new();
    for ProposedRule { id, from, to, services, note, owner_of_to, evidence, .. } in rules {
        out += &comments(evidence);
        if let Some(note) = note {
            let _ = writeln!(out, "# {note}");
        }
        let (from, to) = (quoted(from), quoted(to));
        let _ = writeln!(out, "[[allow]]\nid = {}\nfrom = {from}\nto = {to}", quoted(id));
        let _ = writeln!(out, "services = {}", list(services));
        let owner = owner_of_to.as_ref().map(|owner| format!(", perhaps {owner}")).unwrap_or_default();
        let owner: String = format!("TODO: who answers for it{owner}").chars().take(200).collect();
        let _ = writeln!(out, "owner = {}\nreason = \"TODO: why it is needed\"\n", quoted(&owner));
    }
    out
}

fn comments(evidence: &Evidence) -> String {
    let Evidence { flows, bytes, clients, servers, hosts, first, last, hours, week, maturity, .. } = evidence;
    let mut out = format!("# {}\n", maturity.text());
    let (flows, clients) = (counted(*flows, "flow", "flows"), counted(*clients, "client", "clients"));
    let servers = counted(*servers, "server", "servers");
    let _ =
        writeln!(out, "# {flows} of {clients} to {servers}, {}; recorded by {}", size(*bytes), few(hosts));
    let (first, last) = (minute(*first), minute(*last));
    let _ = writeln!(
        out,
        "# {first} to {last}, in {}: {} UTC ({} of {WEEK})",
        counted(*hours, "hour", "hours"),
        week.text(),
        week.hours()
    );
    for (what, programs) in [("client", &evidence.client_programs), ("server", &evidence.server_programs)] {
        if !programs.is_empty() {
            let _ = writeln!(out, "# {what}: {}", few(programs));
        }
    }
    out
}

/// The whole file.
pub(super) fn file(proposal: &Proposal, files: &Files, draft: &str) -> String {
    let Proposal { first, last, hosts, flows, covered, maturity, self_check, notes, .. } = proposal;
    let mut out = String::new();
    let (hosts, flows) = (counted(*hosts, "host", "hosts"), counted(*flows, "flow", "flows"));
    let (first, last) = (minute(*first), minute(*last));
    let _ = writeln!(
        out,
        "# Proposed by `segd learn` from {flows} that {hosts} recorded from {first} to {last}."
    );
    let _ = writeln!(out, "# Readiness: {}", maturity.text());
    let what = match (proposal.from_scratch, files.len()) {
        (true, _) => "alone".to_owned(),
        (false, n) => format!("added to {}", counted(n, "present file", "present files")),
    };
    let came_out = match self_check.left_out_denied {
        0 => "all are allowed".to_owned(),
        denied => format!(
            "{} are allowed\n# and {denied} denied, all of them left out on purpose (listed at the end)",
            self_check.allowed
        ),
    };
    let _ = writeln!(
        out,
        "# Self-check: {what}, it passes `segd check` ({}); of {} replayed, {came_out}.",
        counted(self_check.warnings, "warning", "warnings"),
        counted(self_check.replayed, "hourly summary", "hourly summaries"),
    );
    if *covered > 0 {
        let by = if proposal.from_scratch { "failsafes allow" } else { "present rules and failsafes allow" };
        let _ = writeln!(out, "# {} that {by} need no rule here.", counted(*covered, "flow", "flows"));
    }
    for note in notes {
        let _ = writeln!(out, "# Note: {}", printable(note));
    }
    if proposal.rules.is_empty() {
        out += "# Nothing needs a rule that is not there.\n";
    }
    out.push('\n');
    out += files.head();
    out += draft;
    out += &left_out(&proposal.left_out);
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn left_out(entries: &[LeftOut]) -> String {
    let mut out = String::new();
    if entries.is_empty() {
        return out;
    }
    out += "# Left out on purpose:\n";
    let mut before: Option<&Why> = None;
    for entry in entries {
        if before != Some(&entry.why) {
            let _ = writeln!(out, "#\n# {}", printable(&entry.why.to_string()));
            before = Some(&entry.why);
        }
        let _ = writeln!(out, "#   {entry}");
    }
    out
}

/// `1 flow`, `2 flows`.
pub(super) fn counted(n: impl std::fmt::Display + PartialEq + From<u8>, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1.into() { one } else { many })
}

pub(super) fn few(names: &[String]) -> String {
    let mut shown = names.iter().take(SHOWN).map(|name| printable(name)).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        let _ = write!(shown, " and {} more", names.len() - SHOWN);
    }
    shown
}

/// Bytes with a binary prefix.
fn size(bytes: u64) -> String {
    const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (shift, unit) in UNITS {
        if bytes >> shift > 0 {
            let (whole, tenths) = (bytes >> shift, (bytes >> (shift - 10)) % 1024 * 10 / 1024);
            return format!("{whole}.{tenths} {unit}");
        }
    }
    format!("{bytes} B")
}
