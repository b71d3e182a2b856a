//! What an edge's service is called.

use std::sync::Arc;

use segd_common::traffic::protocol;

use crate::history::Conversation;
use crate::policy::ids::OTHER_SERVICE;
use crate::telemetry::protocol as protocols;

/// As a zone file would write it: `tcp/5432`, `icmp/echo`, `icmp/3`, `sctp`.
pub(super) fn port(of: &Conversation) -> String {
    let number = protocols::number(&of.protocol);
    match (number, of.icmp) {
        (Some(protocol::ICMP), Some((8, _))) | (Some(protocol::ICMPV6), Some((128, _))) => {
            format!("{}/echo", of.protocol)
        }
        (_, Some((kind, _))) => format!("{}/{kind}", of.protocol),
        (Some(protocol::TCP | protocol::UDP), None) if of.port == 0 => format!("{}/several", of.protocol),
        (Some(protocol::TCP | protocol::UDP), None) => format!("{}/{}", of.protocol, of.port),
        (Some(number), None) if protocols::name(number) == number.to_string() => format!("proto/{number}"),
        _ => of.protocol.to_string(),
    }
}

/// Whether a service of the zone files names the port.
pub(super) fn is_named(service: &Arc<str>) -> bool {
    **service != *OTHER_SERVICE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insight::map::samples::Seen;

    #[test]
    fn ports_are_written_as_in_zone_files() {
        for (protocol, number, icmp, want) in [
            ("tcp", 5432, None, "tcp/5432"),
            ("udp", 53, None, "udp/53"),
            ("tcp", 0, None, "tcp/several"),
            ("icmp", 0, Some((8, 0)), "icmp/echo"),
            ("icmpv6", 0, Some((128, 0)), "icmpv6/echo"),
            ("icmp", 0, Some((3, 1)), "icmp/3"),
            ("icmp", 0, None, "icmp"),
            ("sctp", 0, None, "sctp"),
            ("47", 0, None, "proto/47"),
        ] {
            let mut seen = Seen::out("h", "a", "10.0.0.1", "10.0.0.2", "b").summary();
            (seen.of.protocol, seen.of.port, seen.of.icmp) = (protocol.into(), number, icmp);
            assert_eq!(port(&seen.of), want);
        }
    }
}
