//! What a filter looks at, whatever it is that is filtered.

use std::net::IpAddr;

use segd_common::event::Kind;
use segd_common::traffic::{Direction, Reason, Verdict};

use crate::history::{Peer, Summary};
use crate::telemetry::protocol;
use crate::telemetry::record::{Endpoint, FlowRecord};

/// A flow, or flows that have this in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) host: &'a str,
    /// `None`: several.
    pub(crate) event: Option<Kind>,
    pub(crate) verdict: Verdict,
    pub(crate) reason: Reason,
    pub(crate) direction: Direction,
    /// Its number.
    pub(crate) protocol: Option<u8>,
    /// Who began it.
    pub(crate) src: End<'a>,
    /// With whom.
    pub(crate) dst: End<'a>,
    /// The server's.
    pub(crate) port: u16,
    /// Type and code.
    pub(crate) icmp: Option<(u8, u8)>,
    pub(crate) service: &'a str,
    pub(crate) rule: Option<&'a str>,
    pub(crate) workload: Option<&'a str>,
    pub(crate) program: Program<'a>,
}

/// One end of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End<'a> {
    /// `None`: unknown, or several.
    pub(crate) ip: Option<IpAddr>,
    pub(crate) zone: &'a str,
}

/// What is known of the local process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Program<'a> {
    pub(crate) comm: Option<&'a str>,
    pub(crate) exe: Option<&'a str>,
    pub(crate) unit: Option<&'a str>,
}

impl<'a> Facts<'a> {
    /// The end that is on the host that recorded it.
    pub(crate) fn local(&self) -> &End<'a> {
        match self.direction {
            Direction::Outbound => &self.src,
            Direction::Inbound => &self.dst,
        }
    }

    pub(crate) fn of_record(record: &'a FlowRecord) -> Self {
        let end = |end: &'a Endpoint| End { ip: Some(end.ip), zone: &end.zone };
        let process = record.process.as_ref();
        Self {
            host: &record.host,
            event: Some(record.event),
            verdict: record.verdict,
            reason: record.reason,
            direction: record.direction,
            protocol: protocol::number(&record.protocol),
            src: end(&record.src),
            dst: end(&record.dst),
            port: record.dst.port,
            icmp: record.icmp_type.zip(record.icmp_code),
            service: &record.service,
            rule: record.rule.as_deref(),
            workload: record.workload.as_deref(),
            program: process.map_or_else(Program::default, |process| Program {
                comm: Some(&process.comm),
                exe: process.exe.as_deref(),
                unit: process.unit.as_deref(),
            }),
        }
    }

    pub(crate) fn of_summary(summary: &'a Summary) -> Self {
        let of = &summary.of;
        let peer = match of.peer {
            Peer::Address(ip) => Some(ip),
            Peer::Others(_) => None,
        };
        let local = End { ip: of.local, zone: &of.subject };
        let peer = End { ip: peer, zone: &of.peer_zone };
        let (src, dst) = match of.direction {
            Direction::Outbound => (local, peer),
            Direction::Inbound => (peer, local),
        };
        let process = of.process.as_deref();
        Self {
            host: &of.host,
            event: None,
            verdict: of.verdict,
            reason: of.reason,
            direction: of.direction,
            protocol: protocol::number(&of.protocol),
            src,
            dst,
            port: of.port,
            icmp: of.icmp,
            service: &of.service,
            rule: of.rule.as_deref(),
            workload: of.workload.as_deref(),
            program: Program {
                comm: process.filter(|p| !p.starts_with('/')),
                exe: process.filter(|p| p.starts_with('/')),
                unit: of.unit.as_deref(),
            },
        }
    }
}
