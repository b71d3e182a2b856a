//! A flow record as one line on a terminal.

use std::fmt::Write;

use jiff::tz::TimeZone;
use segd_common::event::Kind;
use segd_common::traffic::{Direction, Verdict};

use super::record::{Endpoint, FlowRecord};
use super::text::printable;

/// How lines look.
#[derive(Clone, Debug)]
pub struct LineStyle {
    /// Colours the verdict with ANSI escapes.
    pub colour: bool,
    /// The time zone of the first column.
    pub time_zone: TimeZone,
    /// Whether the day stands before the time.
    pub dated: bool,
    /// Whether the host that recorded it stands behind the time.
    pub host: bool,
}

const HOST_WIDTH: usize = 14;
const ZONES_WIDTH: usize = 28;
const ADDRESS_WIDTH: usize = 22;
const SERVICE_WIDTH: usize = 12;
const RULE_WIDTH: usize = 18;

impl LineStyle {
    /// Time, verdict, direction, zones, server, service, rule (or why there is none), process, then what else
    /// is worth telling. No newline at the end.
    #[must_use]
    pub fn render(&self, record: &FlowRecord) -> String {
        let format = if self.dated { "%F %H:%M:%S%.3f" } else { "%H:%M:%S%.3f" };
        let time = record.time.to_zoned(self.time_zone.clone()).strftime(format);
        let verdict = self.verdict(record);
        let direction = match record.direction {
            Direction::Outbound => "out",
            Direction::Inbound => "in",
        };
        let zones = format!("{} -> {}", record.src.zone, record.dst.zone);
        let rule = record.rule.as_deref().unwrap_or(record.reason.name());
        let mut rest = format!(
            "{direction:<3}  {zones:<ZONES_WIDTH$}  {:<ADDRESS_WIDTH$}  {:<SERVICE_WIDTH$}  {rule:<RULE_WIDTH$}  {}",
            server(record),
            record.service,
            process(record),
        );
        note(&mut rest, record);
        let host =
            if self.host { format!("{:<HOST_WIDTH$}  ", printable(&record.host)) } else { String::new() };
        format!("{time}  {host}{verdict}  {}", printable(rest.trim_end()))
    }

    /// What stands above the columns.
    #[must_use]
    pub fn header(&self) -> String {
        let time = if self.dated { format!("{:<23}", "TIME") } else { format!("{:<12}", "TIME") };
        let host = if self.host { format!("{:<HOST_WIDTH$}  ", "HOST") } else { String::new() };
        format!(
            "{time}  {host}{:<7}  {:<3}  {:<ZONES_WIDTH$}  {:<ADDRESS_WIDTH$}  {:<SERVICE_WIDTH$}  {:<RULE_WIDTH$}  PROCESS",
            "VERDICT", "DIR", "FROM -> TO", "SERVER", "SERVICE", "RULE OR REASON",
        )
    }

    fn verdict(&self, record: &FlowRecord) -> String {
        let (word, colour) = match (record.event, record.verdict) {
            (Kind::Revoke, _) => ("revoked", 31),
            (_, Verdict::Denied) => ("denied", 31),
            (_, Verdict::Audited) => ("audited", 33),
            (_, Verdict::Allowed) => ("allowed", 32),
        };
        if self.colour { format!("\x1b[{colour}m{word:<7}\x1b[0m") } else { format!("{word:<7}") }
    }
}

/// A record as one line of plain text without its time, for logs that keep a time of their own.
#[must_use]
pub(crate) fn message(record: &FlowRecord) -> String {
    let what = if record.event == Kind::Revoke { "revoked" } else { record.verdict.name() };
    let rule = record.rule.as_deref().unwrap_or(record.reason.name());
    let mut line = format!(
        "{what} {} {} -> {} {} {} {rule} {}",
        record.direction.name(),
        record.src.zone,
        record.dst.zone,
        server(record),
        record.service,
        process(record),
    );
    note(&mut line, record);
    printable(&line)
}

fn server(record: &FlowRecord) -> String {
    let Endpoint { ip, port, zone: _ } = &record.dst;
    match (record.icmp_type, record.icmp_code) {
        (Some(kind), Some(code)) => format!("{ip} {} {kind}/{code}", record.protocol),
        _ if record.protocol == "tcp" => std::net::SocketAddr::new(*ip, *port).to_string(),
        _ => format!("{}/{}", std::net::SocketAddr::new(*ip, *port), record.protocol),
    }
}

fn process(record: &FlowRecord) -> String {
    match &record.process {
        Some(process) if process.pid == 0 => printable(&process.comm),
        Some(process) => format!("{}[{}]", printable(&process.comm), process.pid),
        None => "-".to_owned(),
    }
}

fn note(line: &mut String, record: &FlowRecord) {
    // Writing to a String cannot fail.
    let _ = match record.event {
        Kind::Close | Kind::Revoke => {
            let ms = record.duration_ms.unwrap_or(0);
            write!(line, "  {} after {ms} ms", if record.event == Kind::Close { "closed" } else { "cut" })
                .and_then(|()| write!(line, ", {} B in, {} B out", record.bytes.received, record.bytes.sent))
        }
        Kind::Summary => {
            let (flows, bytes) = (record.count, record.bytes);
            write!(line, "  {flows} began, {} B in, {} B out", bytes.received, bytes.sent)
        }
        Kind::Deny | Kind::Open if record.count > 1 => write!(line, "  x{}", record.count),
        Kind::Deny | Kind::Open => Ok(()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::record::tests::{denied, event, record};

    #[test]
    fn lines_are_aligned() {
        let plain = LineStyle { colour: false, time_zone: TimeZone::UTC, dated: false, host: false };
        let mut ping = event(Kind::Open);
        ping.flow.protocol = 1;
        ping.flow.peer_port = 8 << 8;
        ping.flow.local_port = 0;
        ping.flow.direction = Direction::Inbound as u8;
        ping.owner = segd_common::socket::Owner::default();
        let lines = std::iter::once(plain.header()).chain(
            [event(Kind::Open), event(Kind::Close), denied(), ping].map(|e| plain.render(&record(&e))),
        );
        let want = "\
TIME          VERDICT  DIR  FROM -> TO                    SERVER                  SERVICE       RULE OR REASON      PROCESS
00:01:30.500  allowed  out  fulfillment -> orders         10.30.0.5:5432          postgres      wms-to-orders-db    psql[1234]
00:01:30.500  allowed  out  fulfillment -> orders         10.30.0.5:5432          postgres      wms-to-orders-db    psql[1234]  closed after 2500 ms, 4096 B in, 900 B out
00:01:30.500  denied   out  fulfillment -> orders         10.30.0.5:5432          postgres      no-rule             -  x3
00:01:30.500  allowed  in   orders -> fulfillment         10.20.0.7 icmp 8/0      postgres      wms-to-orders-db    -";
        assert_eq!(lines.collect::<Vec<_>>().join("\n"), want);
    }

    #[test]
    fn for_a_log_without_columns() {
        let mut summary = record(&event(Kind::Close));
        (summary.event, summary.count, summary.src.port) = (Kind::Summary, 7, 0);
        summary.process.as_mut().unwrap().pid = 0;
        for (record, want) in [
            (
                record(&denied()),
                "denied outbound fulfillment -> orders 10.30.0.5:5432 postgres no-rule -  x3",
            ),
            (
                record(&event(Kind::Revoke)),
                "revoked outbound fulfillment -> orders 10.30.0.5:5432 postgres wms-to-orders-db psql[1234]  \
                 cut after 2500 ms, 4096 B in, 900 B out",
            ),
            (
                summary,
                "allowed outbound fulfillment -> orders 10.30.0.5:5432 postgres wms-to-orders-db psql  \
                 7 began, 4096 B in, 900 B out",
            ),
        ] {
            assert_eq!(message(&record), want);
        }
    }

    #[test]
    fn colour_does_not_shift_columns_and_names_cannot_colour() {
        let style = LineStyle { colour: true, time_zone: TimeZone::UTC, dated: true, host: true };
        let mut refused = record(&denied());
        refused.process = record(&event(Kind::Open)).process;
        refused.process.as_mut().unwrap().comm = "x\x1b[32m".into();
        refused.src.zone = "x\x1b[2J".into();
        let line = style.render(&refused);
        assert!(
            line.starts_with("2026-01-01 00:01:30.500  wms-app-1       \x1b[31mdenied \x1b[0m  out"),
            "{line:?}"
        );
        assert_eq!(line.matches('\x1b').count(), 2, "{line:?}");
    }
}
