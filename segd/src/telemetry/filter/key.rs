//! What a filter can look at.

use std::fmt;

/// A key of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// `allowed`, `audited` or `denied`.
    Verdict,
    /// `open`, `close`, `deny`, `revoke` or `summary`.
    Event,
    /// Why it was decided so.
    Reason,
    /// `outbound` or `inbound`, seen from the host.
    Direction,
    /// The zone or workload of either end.
    Zone,
    /// Who began the flow: a zone, workload, address or CIDR.
    From,
    /// With whom: a zone, workload, address or CIDR.
    To,
    /// The local workload.
    Workload,
    /// Address or CIDR of either end.
    Address,
    /// The server's port, with or without protocol.
    Port,
    /// The IP protocol.
    Protocol,
    /// The service that the server's port is called.
    Service,
    /// The local process: name of its thread, path of its program or the last part of it, or systemd unit.
    Process,
    /// The host that recorded it.
    Host,
    /// The rule that allowed it.
    Rule,
}

impl Key {
    /// All, in the order in which help texts tell of them.
    pub const ALL: [Self; 15] = [
        Self::Verdict,
        Self::Zone,
        Self::From,
        Self::To,
        Self::Workload,
        Self::Address,
        Self::Port,
        Self::Protocol,
        Self::Service,
        Self::Process,
        Self::Direction,
        Self::Event,
        Self::Reason,
        Self::Rule,
        Self::Host,
    ];

    /// As in [`Filter::set`](super::Filter::set).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Verdict => "verdict",
            Self::Event => "event",
            Self::Reason => "reason",
            Self::Direction => "direction",
            Self::Zone => "zone",
            Self::From => "from",
            Self::To => "to",
            Self::Workload => "workload",
            Self::Address => "address",
            Self::Port => "port",
            Self::Protocol => "protocol",
            Self::Service => "service",
            Self::Process => "process",
            Self::Host => "host",
            Self::Rule => "rule",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.name() == name)
    }

    /// All names, for messages.
    pub(super) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
