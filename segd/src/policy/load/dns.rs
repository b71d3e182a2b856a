//! DNS names: what is wrong with one, and with all of them together.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::policy::model::Policy;
use crate::policy::source::{Place, Placed};
use crate::policy::walk::Walk;

/// Longest name as it is written (RFC 1035 section 2.3.4: 255 bytes on the wire).
const MAX_NAME: usize = 253;
/// Longest part between dots.
const MAX_LABEL: usize = 63;

/// Reads the name of a host (RFC 1123 section 2.1, and the underscore that is common in private zones); the result is
/// in lower case and without a dot at the end.
pub(super) fn dns_name(walk: &mut Walk, text: Placed<String>) -> Option<Placed<String>> {
    let Placed { value: written, place } = text;
    if let Ok(address) = written.parse::<IpAddr>() {
        let len = if address.is_ipv4() { 32 } else { 128 };
        walk.found
            .error(place, format!("`{written}` is an address, not a name"))
            .help(format!("put `{address}/{len}` into `cidrs`"));
        return None;
    }
    let name = written.strip_suffix('.').unwrap_or(&written).to_ascii_lowercase();
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let good = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A last label of digits would make it an address that is written wrong.
    let numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if name.len() > MAX_NAME || numeric || !name.split('.').all(good) {
        let help = if written.contains('*') {
            "name each host: segd cannot ask for all of a domain"
        } else if written.is_ascii() {
            "write it like `wms-db.example.com`"
        } else {
            "write it as DNS has it, in ASCII: `xn--...`"
        };
        walk.found.error(place, format!("`{written}` is not a DNS name")).help(help);
        return None;
    }
    Some(Placed { value: name, place })
}

/// Names that two zones have, or one has twice.
pub(super) fn check(walk: &mut Walk, policy: &Policy) {
    let mut all: Vec<(Place, &str, &str)> = Vec::new();
    for (zone, members) in &policy.zones {
        all.extend(members.names.iter().map(|n| (n.place, n.value.as_str(), zone.as_str())));
    }
    all.sort_unstable();
    let mut taken: BTreeMap<&str, (Place, &str)> = BTreeMap::new();
    for (place, name, zone) in all {
        let Some((first, other)) = taken.get(name) else {
            taken.insert(name, (place, zone));
            continue;
        };
        let (message, help) = if *other == zone {
            (format!("zone `{zone}` has the name `{name}` twice"), "leave it there once")
        } else {
            (format!("zones `{other}` and `{zone}` both have the name `{name}`"), "leave it in one zone")
        };
        walk.found.conflict(place, message, *first, "first here").help(help);
    }
}
