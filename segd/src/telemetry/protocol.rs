//! Names of IP protocols in records, filters and labels.

use std::borrow::Cow;

use segd_common::traffic::protocol;

const NAMES: [(u8, &str); 7] = [
    (protocol::ICMP, "icmp"),
    (protocol::TCP, "tcp"),
    (protocol::UDP, "udp"),
    (protocol::ICMPV6, "icmpv6"),
    (protocol::SCTP, "sctp"),
    (protocol::UDPLITE, "udplite"),
    (protocol::RAW, "raw"),
];

/// The name of an IP protocol number; the number itself where segd has no name for it.
#[must_use]
pub fn name(number: u8) -> Cow<'static, str> {
    match NAMES.iter().find(|(n, _)| *n == number) {
        Some((_, name)) => Cow::Borrowed(name),
        None => Cow::Owned(number.to_string()),
    }
}

/// The number of a name that [`name`] gives.
#[must_use]
pub fn number(name: &str) -> Option<u8> {
    NAMES.iter().find(|(_, n)| *n == name).map(|(number, _)| *number).or_else(|| name.parse().ok())
}

/// Whether ports of this protocol are `type << 8 | code`.
#[must_use]
pub fn is_icmp(number: u8) -> bool {
    matches!(number, protocol::ICMP | protocol::ICMPV6)
}

/// Whether segd tells ports of this protocol apart.
pub(crate) fn has_ports(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::UDP)
}

/// All names, for messages.
pub(crate) fn names() -> String {
    NAMES.map(|(_, name)| name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_round_trips() {
        for n in 0..=u8::MAX {
            assert_eq!(number(&name(n)), Some(n));
        }
        assert_eq!(name(47), "47");
        assert_eq!(number("tpc"), None);
    }
}
