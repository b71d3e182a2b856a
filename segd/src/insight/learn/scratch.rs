//! Zone files without their rules: what a set that is proposed from nothing builds on.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ipnet::IpNet;

use super::text::{key, list, quoted};
use crate::policy::Policy;
use crate::policy::model::{ServiceRef, Test};
use crate::policy::source::Placed;
use crate::policy::workload::{Selector, User};

/// Zones, services, workloads and what tests say must be denied. Rules are what is to be found out; rollouts and tests
/// of what must be allowed would be about rules that may no longer be there. `extra`: further prefixes of zones.
pub(super) fn base(policy: &Policy, extra: &BTreeMap<String, Vec<IpNet>>) -> String {
    let mut out = String::new();
    for (name, zone) in &policy.zones {
        let _ = writeln!(out, "[zone.{}]", key(name));
        text(&mut out, "description", zone.description.as_ref());
        text(&mut out, "owner", zone.owner.as_ref());
        let own = zone.cidrs.iter().map(|cidr| cidr.value);
        let more = extra.get(name).into_iter().flatten().copied();
        let cidrs: Vec<String> = own.chain(more).map(|net| net.to_string()).collect();
        if !cidrs.is_empty() {
            let _ = writeln!(out, "cidrs = {}", list(&cidrs));
        }
        if !zone.names.is_empty() {
            let _ = writeln!(out, "names = {}", list(zone.names.iter().map(|name| &name.value)));
        }
        out.push('\n');
    }
    for (name, workload) in &policy.workloads {
        let _ = writeln!(out, "[workload.{}]", key(name));
        let _ = writeln!(out, "zone = {}", quoted(&workload.zone.value));
        let _ = match &workload.selector {
            Selector::Unit(unit) => writeln!(out, "unit = {}", quoted(unit)),
            Selector::Cgroup(path) => writeln!(out, "cgroup = {}", quoted(path)),
            Selector::User(User::Name(name)) => writeln!(out, "user = {}", quoted(name)),
            Selector::User(User::Id(uid)) => writeln!(out, "user = {uid}"),
        };
        if !workload.inherit {
            out += "inherit = false\n";
        }
        text(&mut out, "description", workload.description.as_ref());
        text(&mut out, "owner", workload.owner.as_ref());
        text(&mut out, "purpose", workload.purpose.as_ref());
        if let Some(end) = workload.expires {
            let _ = writeln!(out, "expires = {end}");
        }
        out.push('\n');
    }
    for (name, service) in &policy.services {
        let _ = writeln!(out, "[service.{}]", key(name));
        text(&mut out, "description", service.description.as_ref());
        let _ = writeln!(out, "ports = {}\n", list(service.ports.iter().map(ToString::to_string)));
    }
    for Test { from, to, deny, .. } in policy.tests.iter().filter(|test| !test.deny.is_empty()) {
        let deny = list(deny.iter().map(|Placed { value, .. }: &Placed<ServiceRef>| value.to_string()));
        let (from, to) = (quoted(&from.value), quoted(&to.value));
        let _ = writeln!(out, "[[test]]\nfrom = {from}\nto = {to}\ndeny = {deny}\n");
    }
    out
}

fn text(out: &mut String, name: &str, text: Option<&String>) {
    if let Some(text) = text {
        let _ = writeln!(out, "{name} = {}", quoted(text));
    }
}
