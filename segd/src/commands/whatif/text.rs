//! The report for people.

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use segd_common::traffic::Verdict;

use super::{Live, Report};
use crate::commands::output;
use crate::commands::safety;
use crate::insight::whatif::{Comparison, Counts, End, Few, Line, RuleLine, Section, Unsaid};
use crate::telemetry::text::printable;

/// `limit`: at most so many lines of each part.
pub(super) fn render(report: &Report, limit: usize, zone: &TimeZone) -> String {
    let Report { comparison: all, live, as_if_enforced, warnings, .. } = report;
    let mut out = head(report, zone);
    if let Some(live) = live {
        live_part(live, limit, *as_if_enforced, &mut out);
    }
    let parts = [
        ("NEWLY DENIED", "passed until now, and would be cut", &all.newly_denied),
        ("NEWLY AUDITED", "would pass only because of monitor mode", &all.newly_audited),
        ("NEWLY ALLOWED", "would be allowed, and was not", &all.newly_allowed),
    ];
    for (title, what, section) in parts {
        if section.counts.conversations > 0 {
            let _ = writeln!(out, "\n{title}: {what}");
            let was = !title.ends_with("ALLOWED");
            out += &rules(&section.rules, limit, was);
            out += &lines(section, zone);
        }
    }
    for Unsaid { why, counts } in &all.undecided {
        let _ = writeln!(out, "\nNOT DECIDED: {}: {}", amount(counts), printable(why));
    }
    moved(all, limit, &mut out);
    for warning in warnings {
        let _ = writeln!(out, "\nwarning: {warning}");
    }
    out.push('\n');
    out += &verdict(report, zone);
    out
}

fn head(report: &Report, zone: &TimeZone) -> String {
    let all = &report.comparison;
    let hosts = plural(all.hosts.len() as u64, "host");
    let mut out = match (all.first, all.last) {
        (Some(first), Some(last)) => format!(
            "{} against {} of {hosts}, seen {} to {}\n\n",
            report.dir.display(),
            amount(&all.observed),
            time(first, zone),
            time(last, zone)
        ),
        _ => format!("{}: no flow was observed\n\n", report.dir.display()),
    };
    let undecided = all.undecided.iter().fold(Counts::default(), |mut sum, unsaid| {
        sum.conversations += unsaid.counts.conversations;
        sum.recent_conversations += unsaid.counts.recent_conversations;
        sum.flows += unsaid.counts.flows;
        sum
    });
    let row = |what: &str, counts: &Counts| {
        let Counts { conversations, recent_conversations, flows } = counts;
        [what.to_owned(), flows.to_string(), conversations.to_string(), recent_conversations.to_string()]
    };
    let mut rows = vec![
        row("newly denied", &all.newly_denied.counts),
        row("newly audited", &all.newly_audited.counts),
        row("newly allowed", &all.newly_allowed.counts),
        row("unchanged", &all.unchanged.counts),
    ];
    if undecided.conversations > 0 {
        rows.push(row("not decided", &undecided));
    }
    if !report.as_if_enforced {
        rows.push(row("denied if everything were enforced", &all.if_enforced));
    }
    out += &output::table(["", "FLOWS", "CONVERSATIONS", "OF THESE RECENT"], rows);
    out.push('\n');
    out
}

fn live_part(live: &Live, limit: usize, as_if_enforced: bool, out: &mut String) {
    let Live { breaks, if_enforced } = live;
    out.push_str("\nLIVE ON THIS HOST: ");
    match breaks.len() {
        0 => out.push_str("nothing would be cut"),
        n => {
            let shown = breaks.get(..limit.min(n)).unwrap_or(breaks);
            let _ = write!(out, "{} would be cut\n{}", plural(n as u64, "kind"), safety::breaks(shown));
            more(n - shown.len(), out);
        }
    }
    if !as_if_enforced && !if_enforced.is_empty() {
        let n = if_enforced.len();
        let _ = write!(out, "; {n} if everything were enforced");
    }
    out.push('\n');
}

fn rules(all: &[RuleLine], limit: usize, was: bool) -> String {
    let shown = all.get(..limit.min(all.len())).unwrap_or(all);
    let rows = shown.iter().map(|line| {
        let RuleLine { rule, owner, defined, counts, hosts, .. } = line;
        let name = match rule {
            Some(rule) if *defined || !was => printable(rule),
            Some(rule) => format!("{} (gone)", printable(rule)),
            None => "no rule".to_owned(),
        };
        [
            name,
            owner.as_deref().map_or_else(|| "-".to_owned(), printable),
            counts.flows.to_string(),
            counts.conversations.to_string(),
            few(hosts),
        ]
    });
    let title = if was { "RULE UNTIL NOW" } else { "RULE" };
    let mut out = output::table([title, "OWNER", "FLOWS", "CONVERSATIONS", "HOSTS"], rows);
    more(all.len() - shown.len(), &mut out);
    out + "\n\n"
}

fn lines(section: &Section, zone: &TimeZone) -> String {
    let rows = section.lines.iter().map(|line| {
        let Line { counts, hosts, peers, processes, .. } = line;
        [
            format!(
                "{} -> {}",
                end(&line.from, line.from_before.as_deref()),
                end(&line.to, line.to_before.as_deref())
            ),
            service(line),
            line.was.to_string(),
            why(line),
            match line.at {
                End::Client => "client",
                End::Server => "server",
                End::Both => "both ends",
            }
            .to_owned(),
            few(hosts),
            few(processes),
            format!("{}{}", if line.approximate { "~" } else { "" }, few(peers)),
            line.to_owner.as_deref().or(line.from_owner.as_deref()).map_or_else(|| "-".to_owned(), printable),
            counts.flows.to_string(),
            time(line.last, zone),
        ]
    });
    let header = [
        "ZONES",
        "SERVICE",
        "WAS",
        "WHY",
        "AT",
        "HOSTS",
        "PROCESS",
        "PEERS",
        "ZONE'S OWNER",
        "FLOWS",
        "LAST SEEN",
    ];
    let mut out = output::table(header, rows);
    more(section.more_lines, &mut out);
    out.push('\n');
    out
}

fn end(now: &str, before: Option<&str>) -> String {
    match before {
        Some(before) => format!("{} (was {})", printable(now), printable(before)),
        None => printable(now),
    }
}

fn service(line: &Line) -> String {
    let Line { protocol, port, icmp, service, .. } = line;
    let protocol = printable(protocol);
    let port = match (icmp, port) {
        (Some((kind, code)), _) => format!("{protocol}/{kind}.{code}"),
        (None, 0) => protocol,
        (None, port) => format!("{protocol}/{port}"),
    };
    if service == "other" { port } else { format!("{} {port}", printable(service)) }
}

fn why(line: &Line) -> String {
    match (&line.rule, line.now) {
        (Some(rule), Verdict::Allowed) => printable(rule),
        (Some(rule), _) => format!("{} {}", line.reason, printable(rule)),
        (None, _) => line.reason.to_string(),
    }
}

/// Hosts that the new zone files move, and those that they leave without a zone.
fn moved(all: &Comparison, limit: usize, out: &mut String) {
    let mut lines = Vec::new();
    for (name, host) in &all.hosts {
        let was = host.was.as_deref().unwrap_or("of a workload only");
        let told = match (&host.zone, host.by) {
            (Some(zone), "recorded") => format!(
                "{zone}, as recorded, which its addresses do not say; its agent refuses the files unless its \
                 segd.toml names the zone"
            ),
            (Some(zone), _) if Some(zone) == host.was.as_ref() => continue,
            (Some(zone), "addresses") => format!("{zone}, by its addresses; was {was}"),
            (Some(zone), _) => format!("{zone}, as --host-zone or its configuration says; was {was}"),
            (None, _) => format!("none; was {was}"),
        };
        lines.push(format!("{}: {}", printable(name), printable(&told)));
    }
    if lines.is_empty() {
        return;
    }
    let left = lines.len().saturating_sub(limit);
    lines.truncate(limit);
    let _ = write!(out, "\nHOSTS WHOSE ZONE IS NOT THE SAME, OR NOT SURE\n{}", lines.join("\n"));
    more(left, out);
    out.push('\n');
}

fn verdict(report: &Report, zone: &TimeZone) -> String {
    let Report { comparison: all, live, .. } = report;
    let live = live.as_ref().map_or(0, |live| live.breaks.len() as u64);
    let recent = all.newly_denied.counts.recent_conversations;
    let since = all.recent_since.map_or(String::new(), |since| format!(" seen since {}", time(since, zone)));
    let said = |what: String, n: u64| (n > 0).then_some(what);
    let parts = [
        said(format!("{}{since}", plural(recent, "conversation")), recent),
        said(format!("{} of live traffic", plural(live, "kind")), live),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() {
        let what = if all.recent_since.is_some() { format!("nothing{since}") } else { "nothing".to_owned() };
        return format!("ok: {what} would be cut");
    }
    format!("breaks: {} would be cut", parts.join(" and "))
}

fn amount(counts: &Counts) -> String {
    format!("{} in {}", plural(counts.flows, "flow"), plural(counts.conversations, "conversation"))
}

fn plural(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn few(few: &Few) -> String {
    /// Names in a cell.
    const MOST: usize = 2;
    let mut names: Vec<String> = few.some.iter().take(MOST).map(|name| printable(name)).collect();
    let rest = few.count.saturating_sub(names.len() as u64);
    if rest > 0 {
        names.push(format!("and {rest} more"));
    }
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}

fn more(n: usize, out: &mut String) {
    if n > 0 {
        let _ = write!(out, "\n... and {n} more");
    }
}

fn time(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string()
}
