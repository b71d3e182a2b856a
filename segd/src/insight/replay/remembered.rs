//! Names of zones by what their addresses were when flows were recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;

use crate::history::{Peer, Summary};
use crate::policy::{Policy, Resolved};

/// What names of zones stand for, with what they stood for when it was seen: who has only logs cannot know the former.
pub(crate) fn remembered(observed: &[Summary], policy: &Policy, names: &Resolved) -> Resolved {
    let mut seen: BTreeMap<&str, BTreeSet<IpAddr>> = BTreeMap::new();
    for Summary { of, .. } in observed {
        let Some((zone, members)) = policy.zones.get_key_value(&*of.peer_zone) else { continue };
        let Peer::Address(address) = of.peer else { continue };
        let address = address.to_canonical();
        if !members.names.is_empty() && !members.cidrs.iter().any(|cidr| cidr.value.contains(&address)) {
            seen.entry(zone).or_default().insert(address);
        }
    }
    let mut names = names.clone();
    for (zone, addresses) in seen {
        let known = policy.zones.get(zone).and_then(|members| members.names.first());
        let Some(name) = known.map(|name| &name.value) else { continue };
        let all: BTreeSet<IpAddr> =
            names.addresses(name).map(|(address, _)| address).chain(addresses).collect();
        names.set(name, all, Timestamp::UNIX_EPOCH);
    }
    names
}
