//! What the compiler makes of a policy for one host: the tables as the kernel will hold them. User space
//! looks them up through [`Tables`](super::view::Tables).

use segd_common::addr::Addr;
use segd_common::id::{ServiceId, SubjectId, ZoneId};
use segd_common::table::{FailsafeKey, PolicyEntry, PolicyKey, ServiceKey};

/// Tables of one generation. Each list is sorted (where there are prefixes, by length first) and free of
/// duplicates.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// What the host's sockets are decided as.
    pub host: SubjectId,
    /// Exact addresses (/32 and /128).
    pub hosts: Vec<(Addr, ZoneId)>,
    /// IPv4 prefixes: length 0 to 31, address in network order with host bits zero.
    pub prefixes4: Vec<(u8, [u8; 4], ZoneId)>,
    /// IPv6 prefixes: length 0 to 127, address in network order with host bits zero.
    pub prefixes6: Vec<(u8, [u8; 16], ZoneId)>,
    /// Prefix length in bits, key, entry; `expires` in nanoseconds since the Unix epoch.
    pub policy: Vec<(u32, PolicyKey, PolicyEntry)>,
    /// Prefix length in bits, key, service.
    pub services: Vec<(u32, ServiceKey, ServiceId)>,
    /// Prefix length in bits, key.
    pub failsafes: Vec<(u32, FailsafeKey)>,
}
