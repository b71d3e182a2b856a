//! What the compiler makes of a policy for one host: the tables as the kernel will hold them. User space
//! looks them up through [`Tables`](super::view::Tables).

use std::sync::Arc;

use segd_common::addr::Addr;
use segd_common::id::{ServiceId, SubjectId};
use segd_common::table::{FailsafeKey, Pattern, PeerZone, PolicyEntry, PolicyKey, ServiceKey, Subject};

/// Tables of one generation. Each list is sorted (where there are prefixes, by length first) and free of
/// duplicates.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// What the host's sockets are decided as that belong to no workload.
    pub host: SubjectId,
    /// Cgroups of workloads, in the order in which they count; `expires` in nanoseconds since the Unix epoch.
    pub patterns: Vec<Pattern>,
    /// Users of workloads, by uid; `expires` as in `patterns`. A workload found by cgroup comes before.
    pub users: Vec<(u32, Subject)>,
    /// Whether live flows go on that this policy denies.
    pub keep_revoked: bool,
    /// Exact addresses (/32 and /128).
    pub hosts: Arc<Vec<(Addr, PeerZone)>>,
    /// IPv4 prefixes: length 0 to 31, address in network order with host bits zero.
    pub prefixes4: Arc<Vec<(u8, [u8; 4], PeerZone)>>,
    /// IPv6 prefixes: length 0 to 127, address in network order with host bits zero.
    pub prefixes6: Arc<Vec<(u8, [u8; 16], PeerZone)>>,
    /// Prefix length in bits, key, entry; `expires` in nanoseconds since the Unix epoch.
    pub policy: Vec<(u32, PolicyKey, PolicyEntry)>,
    /// Prefix length in bits, key, service.
    pub services: Vec<(u32, ServiceKey, ServiceId)>,
    /// Prefix length in bits, key.
    pub failsafes: Vec<(u32, FailsafeKey)>,
}
