//! `canary` of a `[[rollout]]`.

use ipnet::IpNet;

use super::cidr::parse_cidr;
use crate::policy::canary::Canary;
use crate::policy::source::Placed;
use crate::policy::walk::{Section, Walk};

pub(super) fn canary(walk: &mut Walk, rollout: &Section<'_>) -> Option<Canary> {
    let value = rollout.value("canary")?;
    let place = walk.place(value.span());
    let table = walk.table("canary", value)?;
    let section = Section::new(walk, "`canary`", place, table, &["percent", "hosts", "peers"], &[]);
    let keys = ["percent", "hosts", "peers"];
    if !table.is_empty() && keys.iter().all(|key| section.value(key).is_none()) {
        return None;
    }
    if table.is_empty() {
        walk.found
            .error(place, "the canary is of nothing")
            .help("write `{ percent = 10 }`, `{ hosts = [\"NAME\"] }` or `{ peers = \"10.20.4.0/24\" }`");
        return None;
    }
    let percent = section.integer(walk, "percent", 0..101).and_then(|n| u8::try_from(n).ok());
    let hosts = section.strings(walk, "hosts", "the canary is of no host").unwrap_or_default();
    let hosts = hosts.into_iter().filter_map(|text| host(walk, text)).collect();
    let peers = section.one_or_more(walk, "peers", "the canary is for no peer").unwrap_or_default();
    let peers: Vec<IpNet> = peers.iter().filter_map(|t| parse_cidr(walk, t)).map(|c| c.value).collect();
    Some(Canary { percent, hosts, peers, place })
}

fn host(walk: &mut Walk, text: Placed<String>) -> Option<String> {
    let Placed { value, place } = text;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.*".contains(c);
    if value.is_empty() || !value.chars().all(plain) {
        walk.found
            .error(place, format!("`{value}` is not the name of a host"))
            .help("write it as the host calls itself, `*` for any characters: `orders-db-*`");
        return None;
    }
    Some(value.to_ascii_lowercase())
}
