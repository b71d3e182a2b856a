//! The words of a decision: direction, protocol, verdict, mode, reason. Each is one byte in a map.

macro_rules! byte_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal $text:literal,)* }) => {
        $(#[$doc])*
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name { $($(#[$vdoc])* $variant = $value,)* }

        impl $name {
            /// Every value, in the order of its numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The value that byte `b` stands for in a map or an event.
            #[inline(always)]
            #[must_use]
            pub const fn from_byte(b: u8) -> Option<Self> {
                match b { $($value => Some(Self::$variant),)* _ => None }
            }

            /// Its name in zone files, records, labels and on the terminal.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        #[cfg(any(test, feature = "user"))]
        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

byte_enum! {
    /// Who began the flow, seen from this host.
    Direction {
        /// A local socket began it.
        Outbound = 0 "outbound",
        /// The peer began it.
        Inbound = 1 "inbound",
    }
}

impl Direction {
    /// The port that a policy names: the server's, which is the peer's when this host began.
    #[inline(always)]
    #[must_use]
    pub const fn service_port(self, local: u16, peer: u16) -> u16 {
        match self {
            Self::Outbound => peer,
            Self::Inbound => local,
        }
    }
}

byte_enum! {
    /// What happens to traffic that no rule allows.
    Mode {
        /// It passes and is recorded as audited.
        Monitor = 0 "monitor",
        /// It is denied.
        Enforce = 1 "enforce",
    }
}

byte_enum! {
    /// What was decided.
    Verdict {
        /// A rule (or a built-in reason) lets it pass.
        Allowed = 0 "allowed",
        /// No rule allows it; monitor mode let it pass.
        Audited = 1 "audited",
        /// No rule allows it and it was stopped.
        Denied = 2 "denied",
    }
}

impl Verdict {
    /// Whether the packet goes on.
    #[inline(always)]
    #[must_use]
    pub const fn passes(self) -> bool {
        !matches!(self, Self::Denied)
    }
}

byte_enum! {
    /// Why it was decided so.
    Reason {
        /// No rule allows it.
        NoRule = 0 "no-rule",
        /// A rule allows it.
        Rule = 1 "rule",
        /// The rule that would allow it has expired.
        Expired = 2 "rule-expired",
        /// A failsafe entry that no policy can cut.
        Failsafe = 3 "failsafe",
        /// The host talks to itself.
        Loopback = 4 "loopback",
        /// ICMP errors, neighbour discovery and multicast membership, which no policy can cut.
        Control = 5 "control",
        /// The connection is older than the agent.
        Preexisting = 6 "preexisting",
        /// A fragment without the transport header.
        Fragment = 7 "fragment",
        /// A packet that cannot be parsed.
        Malformed = 8 "malformed",
        /// A kind of socket that the policy cannot judge by its packets, and no rule names it.
        SocketType = 9 "socket-type",
        /// The kernel had no memory to remember the socket.
        NoMemory = 10 "no-memory",
        /// The local workload has expired.
        WorkloadExpired = 11 "workload-expired",
        /// A newer policy denies it, but live flows are kept.
        Kept = 12 "kept",
    }
}

/// Numbers of the IANA protocol registry, as in the IP header.
pub mod protocol {
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: u8 = 1;
    /// IGMP (RFC 3376).
    pub const IGMP: u8 = 2;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// ICMP for IPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;
    /// UDP-Lite (RFC 3828).
    pub const UDPLITE: u8 = 136;
    /// Reserved by IANA; here the service entry `raw`: sockets of type `SOCK_RAW`.
    pub const RAW: u8 = 255;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip() {
        for &v in Verdict::ALL {
            assert_eq!(Verdict::from_byte(v as u8), Some(v));
        }
        for &r in Reason::ALL {
            assert_eq!(Reason::from_byte(r as u8), Some(r));
        }
        assert_eq!(Reason::from_byte(200), None);
    }
}
