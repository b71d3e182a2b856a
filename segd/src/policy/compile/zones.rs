//! Which zone each address is in.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use segd_common::addr::Addr;
use segd_common::id::ZoneId;
use segd_common::table::PeerZone;

use crate::policy::builtin::BUILT_IN_PREFIXES;
use crate::policy::compiled::Compiled;

/// Fills `hosts`, `prefixes4` and `prefixes6`. What the host calls itself is loopback, whoever claims it.
pub(super) fn fill(
    out: &mut Compiled,
    members: impl Iterator<Item = (IpNet, ZoneId)>,
    own_addresses: &[IpAddr],
) {
    let (mut hosts, mut four, mut six) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (net, zone) in members.chain(BUILT_IN_PREFIXES) {
        if net.prefix_len() == net.max_prefix_len() {
            hosts.insert(Addr::from(net.addr()), zone);
            continue;
        }
        match net {
            IpNet::V4(v4) => four.insert((v4.prefix_len(), v4.addr().octets()), zone),
            IpNet::V6(v6) => six.insert((v6.prefix_len(), v6.addr().octets()), zone),
        };
    }
    hosts.extend(own_addresses.iter().map(|ip| (Addr::from(*ip), ZoneId::LOOPBACK)));
    let plain = PeerZone::plain;
    out.hosts = hosts.into_iter().map(|(addr, zone)| (addr, plain(zone))).collect();
    out.prefixes4 = four.into_iter().map(|((len, net), zone)| (len, net, plain(zone))).collect();
    out.prefixes6 = six.into_iter().map(|((len, net), zone)| (len, net, plain(zone))).collect();
}
