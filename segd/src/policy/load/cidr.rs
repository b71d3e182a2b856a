//! CIDRs: what is wrong with one, and with all of them together.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::policy::builtin::owner_of;
use crate::policy::model::Policy;
use crate::policy::source::{Place, Placed};
use crate::policy::walk::Walk;

/// Reads a CIDR without host bits.
pub(crate) fn parse_cidr(walk: &mut Walk, text: &Placed<String>) -> Option<Placed<IpNet>> {
    let place = text.place;
    let written = &text.value;
    let Ok(net) = written.parse::<IpNet>() else {
        let error = walk.found.error(place, format!("`{written}` is not a CIDR"));
        if let Ok(address) = written.parse::<IpAddr>() {
            let len = if address.is_ipv4() { 32 } else { 128 };
            error.help(format!("write `{address}/{len}` for this one address"));
        } else {
            error.help("write it like `10.20.0.0/16` or `2001:db8:20::/48`");
        }
        return None;
    };
    if let Some(v4) = as_v4_mapped(net) {
        walk.found.error(place, format!("`{written}` is an IPv4-mapped IPv6 prefix")).help(format!(
            "write `{v4}`: segd decides IPv4-mapped addresses as the IPv4 ones they stand for"
        ));
        return None;
    }
    if net != net.trunc() {
        walk.found.error(place, format!("`{written}` has host bits set")).help(format!(
            "write `{}`, or `{}` for this one address",
            net.trunc(),
            single(net.addr())
        ));
        return None;
    }
    Some(Placed { value: net, place })
}

fn single(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// The IPv4 prefix that a prefix inside `::ffff:0:0/96` stands for.
fn as_v4_mapped(net: IpNet) -> Option<IpNet> {
    let IpNet::V6(v6) = net else { return None };
    let v4 = v6.addr().to_ipv4_mapped()?;
    let len = v6.prefix_len().checked_sub(96)?;
    IpNet::new(IpAddr::V4(v4), len).ok().map(|n| n.trunc())
}

/// Prefixes that two zones claim, that one claims twice, or that are the built-in zones' own.
pub(super) fn check(walk: &mut Walk, policy: &Policy) {
    if !policy.index.has_conflicts() {
        return;
    }
    let mut all: Vec<(IpNet, Place, &str)> = Vec::new();
    for (name, zone) in &policy.zones {
        all.extend(zone.cidrs.iter().map(|c| (c.value, c.place, name.as_str())));
    }
    all.sort_unstable();
    let mut claimed: Option<(IpNet, Place, &str)> = None;
    for (net, place, zone) in all {
        if let Some(owner) = owner_of(net) {
            let what = if owner == "loopback" { "always allowed" } else { "a zone of its own" };
            walk.found
                .error(place, format!("`{net}` belongs to the built-in zone `{owner}`"))
                .help(format!("remove it: `{owner}` is {what}"));
        } else if let Some((_, first, other)) = claimed.filter(|(known, ..)| *known == net) {
            let message = if other == zone {
                format!("zone `{zone}` names the prefix `{net}` twice")
            } else {
                format!("zones `{other}` and `{zone}` both claim the prefix `{net}`")
            };
            let what = format!("first claimed by `{other}` here");
            walk.found
                .conflict(place, message, first, &what)
                .help("leave it in one zone; a longer prefix inside it may be in another");
        } else {
            claimed = Some((net, place, zone));
        }
    }
}
