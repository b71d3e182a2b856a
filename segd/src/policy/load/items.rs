//! Zones, services, rules, rollouts and tests, one table at a time.

use std::sync::Arc;

use jiff::Timestamp;
use segd_common::traffic::{Direction, Mode};
use toml::Spanned;
use toml::de::DeValue;

use super::canary::canary;
use super::cidr::parse_cidr;
use super::dns::dns_name;
use super::guard::guard;
use crate::policy::builtin::is_built_in;
use crate::policy::ids::OTHER_SERVICE;
use crate::policy::members::Cidrs;
use crate::policy::model::{Policy, Rollout, Rule, Service, ServiceRef, Test, Zone};
use crate::policy::ports::{PortSpec, reserved_word};
use crate::policy::source::{Place, Placed};
use crate::policy::walk::{Section, Walk, in_order};

/// In place of a zone: every zone.
pub(super) const ALL: &str = "all";

const NAME: &str = "[a-z0-9][a-z0-9_.-]*, at most 63 characters";

pub(super) type Value<'t> = &'t Spanned<DeValue<'t>>;

/// Names become metric labels, file names and words of commands.
pub(super) fn good_name(walk: &mut Walk, what: &str, name: &str, place: Place) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut bytes = name.bytes();
    let good = name.len() <= 63
        && bytes.next().is_some_and(plain)
        && bytes.all(|b| plain(b) || matches!(b, b'_' | b'.' | b'-'));
    if !good {
        walk.found.error(place, format!("`{name}` cannot name a {what}")).help(format!("use {NAME}"));
    }
    good
}

pub(super) fn zones(walk: &mut Walk, value: Value<'_>, policy: &mut Policy) {
    let Some(table) = walk.table("zone", value) else { return };
    for (name, span, value) in in_order(table) {
        let place = walk.place(span);
        let Some(table) = walk.table(&format!("zone.{name}"), value) else { continue };
        let mut good = good_name(walk, "zone", name, place);
        if is_built_in(name) || name == ALL {
            let message = format!("`{name}` is built in and cannot be defined");
            walk.found.error(place, message).help("choose another name");
            good = false;
        }
        let head = format!("[zone.{name}]");
        let section =
            Section::new(walk, head, place, table, &["description", "owner", "cidrs", "names"], &[]);
        let description = section.text(walk, "description");
        let owner = section.text(walk, "owner");
        let cidrs = cidrs(walk, &section, name);
        let names = section.strings(walk, "names", &format!("zone `{name}` has no names"));
        if section.value("cidrs").is_none() && section.value("names").is_none() {
            let message = format!("zone `{name}` has no members: `cidrs` and `names` are missing");
            walk.found.error(place, message).help("add `cidrs = [\"10.20.0.0/16\"]`");
        }
        let names = names.unwrap_or_default().into_iter().filter_map(|t| dns_name(walk, t)).collect();
        if let Some(first) = policy.zones.get(name) {
            let message = format!("zone `{name}` is defined twice");
            walk.found.conflict(place, message, first.place, "first defined here");
        } else if good {
            policy.zones.insert(name.to_owned(), Zone { description, owner, cidrs, names, place });
        }
    }
}

/// The prefixes of a zone.
fn cidrs(walk: &mut Walk, section: &Section<'_>, name: &str) -> Cidrs {
    let at = section.value("cidrs").map(|value| value.span().start);
    if let Some((base, list)) = at.and_then(|at| walk.cuts.list(at)) {
        return Cidrs::at(walk.file, base, Arc::clone(list));
    }
    let members = section.strings(walk, "cidrs", &format!("zone `{name}` has no members"));
    members.unwrap_or_default().iter().filter_map(|t| parse_cidr(walk, t)).collect()
}

pub(super) fn services(walk: &mut Walk, value: Value<'_>, policy: &mut Policy) {
    let Some(table) = walk.table("service", value) else { return };
    for (name, span, value) in in_order(table) {
        let place = walk.place(span);
        let Some(table) = walk.table(&format!("service.{name}"), value) else { continue };
        let mut good = good_name(walk, "service", name, place);
        if reserved_word(name) || name == OTHER_SERVICE || name == ALL {
            let message = format!("`{name}` is built in and cannot be defined");
            walk.found.error(place, message).help("choose another name");
            good = false;
        }
        let section =
            Section::new(walk, format!("[service.{name}]"), place, table, &["description", "ports"], &[]);
        let description = section.text(walk, "description");
        section.require(walk, "ports", "[\"tcp/8443\"]");
        let texts = section.strings(walk, "ports", &format!("service `{name}` has no ports"));
        let ports = texts.unwrap_or_default().iter().filter_map(|t| parse_ports(walk, t)).collect();
        if let Some(first) = policy.services.get(name) {
            let message = format!("service `{name}` is defined twice");
            walk.found.conflict(place, message, first.place, "first defined here");
        } else if good {
            policy.services.insert(name.to_owned(), Service { description, ports, place });
        }
    }
}

/// Reads a port specification.
pub(crate) fn parse_ports(walk: &mut Walk, text: &Placed<String>) -> Option<PortSpec> {
    match text.value.parse() {
        Ok(spec) => Some(spec),
        Err(bad) => {
            walk.found.error(text.place, bad.message).help(bad.help);
            None
        }
    }
}

/// A list of services; names are looked up later, when every file is read.
fn service_refs(
    walk: &mut Walk,
    section: &Section<'_>,
    key: &str,
    nothing: &str,
) -> Option<Vec<Placed<ServiceRef>>> {
    let mut refs = Vec::new();
    for text in section.strings(walk, key, nothing)? {
        let place = text.place;
        if PortSpec::looks_like(&text.value) {
            let spec = parse_ports(walk, &text);
            refs.extend(spec.map(|s| Placed { value: ServiceRef::Ports(s), place }));
        } else {
            refs.push(Placed { value: ServiceRef::Named(text.value), place });
        }
    }
    Some(refs)
}

pub(super) fn rules(walk: &mut Walk, value: Value<'_>, policy: &mut Policy, now: Option<Timestamp>) {
    const KEYS: [&str; 7] = ["id", "from", "to", "services", "owner", "reason", "expires"];
    for (head, table) in walk.tables("allow", value) {
        let section = Section::new(walk, "[[allow]]", head, table, &KEYS, &[]);
        section.require(walk, "id", "\"a-stable-name\"");
        section.require(walk, "from", "\"ZONE\"");
        section.require(walk, "to", "\"ZONE\"");
        section.require(walk, "services", "[\"tcp/8443\"]");
        let id = section.string(walk, "id").filter(|id| good_name(walk, "rule", &id.value, id.place));
        let from = end_name(walk, &section, "from");
        let to = end_name(walk, &section, "to");
        for zone in [&from, &to].into_iter().filter(|z| z.value == "loopback") {
            let help = "remove the rule: what a host says to itself is always allowed";
            walk.found.error(zone.place, "a rule cannot name `loopback`").help(help);
        }
        let services = service_refs(walk, &section, "services", "the rule allows nothing");
        let owner = section.text(walk, "owner");
        let reason = section.text(walk, "reason");
        let expires = section.instant(walk, "expires");
        if let Some(end) = expires.as_ref().filter(|e| now.is_some_and(|now| e.value <= now)) {
            let name = id.as_ref().map_or("?", |id| &id.value);
            walk.found
                .error(end.place, format!("rule `{name}` expired at {}", end.value))
                .help("remove the rule, or give it a later date");
        }
        let place = id.as_ref().map_or(head, |id| id.place);
        policy.rules.push(Rule {
            id: id.map(|id| id.value).unwrap_or_default(),
            from,
            to,
            services: services.unwrap_or_default(),
            owner,
            reason,
            expires: expires.map(|e| e.value),
            place,
        });
    }
}

/// The name of a zone or workload, looked up later. What is missing or wrong is reported, and then the name is empty.
fn end_name(walk: &mut Walk, section: &Section<'_>, key: &str) -> Placed<String> {
    let name = section.string(walk, key);
    if let Some(name) = name.as_ref().filter(|n| n.value.is_empty()) {
        walk.found.error(name.place, format!("`{key}` is empty")).help("name a zone or workload");
    }
    name.unwrap_or_else(|| Placed { value: String::new(), place: section.place() })
}

pub(super) fn rollouts(walk: &mut Walk, value: Value<'_>, policy: &mut Policy) {
    const KEYS: [&str; 7] = ["subject", "direction", "peers", "services", "mode", "canary", "guard"];
    const DIRECTIONS: [(&str, Option<Direction>); 3] =
        [("inbound", Some(Direction::Inbound)), ("outbound", Some(Direction::Outbound)), ("both", None)];
    for (place, table) in walk.tables("rollout", value) {
        let section = Section::new(walk, "[[rollout]]", place, table, &KEYS, &[]);
        section.require(walk, "mode", "\"monitor\" or \"enforce\"");
        let subject = section.string(walk, "subject").filter(|s| s.value != ALL);
        if let Some(zone) = subject.as_ref().filter(|s| is_built_in(&s.value)) {
            walk.found
                .error(zone.place, format!("no host is in the built-in zone `{}`", zone.value))
                .help("name it under `peers`");
        }
        let direction = section.word(walk, "direction", &DIRECTIONS).flatten();
        let peers = section.strings(walk, "peers", "the rollout selects nothing");
        for peer in peers.iter().flatten().filter(|p| p.value == "loopback") {
            let help = "what a host says to itself is always allowed";
            walk.found.error(peer.place, "a rollout cannot name `loopback`").help(help);
        }
        let every = peers.iter().flatten().any(|p| p.value == ALL);
        let services = service_refs(walk, &section, "services", "the rollout selects nothing");
        let modes = [("monitor", Mode::Monitor), ("enforce", Mode::Enforce)];
        let mode = section.word(walk, "mode", &modes);
        let peers = peers.filter(|_| !every);
        policy.rollouts.push(Rollout {
            subject,
            direction,
            peers,
            services,
            mode: mode.unwrap_or(Mode::Monitor),
            canary: canary(walk, &section),
            guard: guard(walk, &section),
            place,
        });
    }
}

pub(super) fn tests(walk: &mut Walk, value: Value<'_>, policy: &mut Policy) {
    for (place, table) in walk.tables("test", value) {
        let section = Section::new(walk, "[[test]]", place, table, &["from", "to", "allow", "deny"], &[]);
        section.require(walk, "from", "\"ZONE\"");
        section.require(walk, "to", "\"ZONE\"");
        let from = end_name(walk, &section, "from");
        let to = end_name(walk, &section, "to");
        if section.value("allow").is_none() && section.value("deny").is_none() {
            walk.found
                .error(section.place(), "[[test]] tests nothing: `allow` and `deny` are both missing")
                .help("add `allow = [\"tcp/8443\"]` or `deny = [\"tcp/22\"]`");
        }
        let allow = service_refs(walk, &section, "allow", "tests nothing").unwrap_or_default();
        let deny = service_refs(walk, &section, "deny", "tests nothing").unwrap_or_default();
        policy.tests.push(Test { from, to, allow, deny, place });
    }
}
