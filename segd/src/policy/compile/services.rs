//! The service trie: what each port is called.

use std::collections::BTreeSet;

use segd_common::id::ServiceId;
use segd_common::table::ServiceKey;

use super::prefixes::{prefixes, sweep};
use crate::policy::model::Policy;
use crate::policy::ports::PortSpec;

/// The name of a port: of the services that claim it, the one with the narrowest range there, then the first
/// by name.
pub(crate) fn name_of(policy: &Policy, protocol: u8, port: u16) -> Option<&str> {
    let claims = policy.services.iter().filter_map(|(name, service)| {
        let ranges = service.ports.iter().filter(|s| s.contains(protocol, port));
        ranges.map(PortSpec::len).min().map(|len| (len, name.as_str()))
    });
    claims.min().map(|(_, name)| name)
}

/// Entries of the service trie, sorted. `number` gives a service its number.
pub(super) fn entries(
    policy: &Policy,
    number: impl Fn(&str) -> ServiceId,
) -> Vec<(u32, ServiceKey, ServiceId)> {
    let specs = || policy.services.values().flat_map(|s| &s.ports).copied();
    let protocols: BTreeSet<u8> = specs().map(|s| s.protocol).collect();
    let mut out = Vec::new();
    for protocol in protocols {
        let cells = sweep(protocol, specs(), |port| {
            name_of(policy, protocol, port).map_or(ServiceId::OTHER, &number)
        });
        for (len, port, service) in prefixes(&cells, ServiceId::OTHER) {
            out.push((ServiceKey::ANY_PORT + len, ServiceKey::new(protocol, port), service));
        }
    }
    out.sort();
    out
}
