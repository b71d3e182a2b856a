//! `segd.toml` into a [`Config`], or every error in it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use segd_common::traffic::{Direction, protocol};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Config, HostConfig, OnRevoke, history, names, sinks, units};
use crate::policy::diagnostics::{Diagnostics, suggest};
use crate::policy::failsafe::{Failsafe, check_ports};
use crate::policy::load::{parse_cidr, parse_ports};
use crate::policy::source::{Placed, Sources};
use crate::policy::walk::{Section, Walk, in_order};

const TABLES: [&str; 9] =
    ["host", "policy", "enforcement", "failsafe", "metrics", "sink", "control", "names", "history"];

pub(super) type Value<'t> = &'t Spanned<DeValue<'t>>;

pub(super) fn parse(sources: Sources) -> Result<Config, Diagnostics> {
    let sources = Arc::new(sources);
    let mut walk = Walk::new(&sources);
    let mut config = Config::default();
    for (file, source) in sources.files().iter().enumerate() {
        walk.document(file, &source.text, |walk, document| read(walk, document, &mut config));
    }
    walk.found.sort();
    if walk.found.errors() == 0 { Ok(config) } else { Err(walk.found) }
}

fn read(walk: &mut Walk, document: &DeTable<'_>, config: &mut Config) {
    for (key, span, value) in in_order(document) {
        let place = walk.place(span);
        match key {
            "host" => host(walk, value, &mut config.host),
            "failsafe" => failsafes(walk, value, config),
            "sink" => config.sinks = sinks::read(walk, value),
            "policy" => {
                let Some(section) = table(walk, key, value, &["dir"], &[]) else { continue };
                if let Some(dir) = path(walk, &section, "dir") {
                    config.policy_dir = dir;
                }
            }
            "enforcement" => {
                let keys = ["on_revoke", "max_exception_ttl"];
                let Some(section) = table(walk, key, value, &keys, &[]) else { continue };
                let words = [("reset", OnRevoke::Reset), ("drop", OnRevoke::Drop), ("keep", OnRevoke::Keep)];
                if let Some(word) = section.word(walk, "on_revoke", &words) {
                    config.on_revoke = word;
                }
                let forms = "write it like `24h` or `7d`";
                if let Some(ttl) = unit(walk, &section, "max_exception_ttl", forms, units::duration) {
                    config.max_exception_ttl = ttl;
                }
            }
            "metrics" => {
                let Some(section) = table(walk, key, value, &["listen"], &[]) else { continue };
                if let Some(address) = listen(walk, &section) {
                    config.metrics_listen = address;
                }
            }
            "control" => {
                let Some(section) = table(walk, key, value, &["group"], &[]) else { continue };
                if let Some(group) = section.text(walk, "group") {
                    config.control_group = group;
                }
            }
            "names" => names::read(walk, value, &mut config.names),
            "history" => history::read(walk, value, &mut config.history),
            _ => {
                let help = suggest(key, "valid tables", TABLES);
                walk.found.error(place, format!("unknown table or key `{key}`")).help = help;
            }
        }
    }
}

pub(super) fn table<'t>(
    walk: &mut Walk,
    name: &str,
    value: Value<'t>,
    known: &[&str],
    later: &[&str],
) -> Option<Section<'t>> {
    let table = walk.table(name, value)?;
    let place = walk.place(value.span());
    Some(Section::new(walk, format!("[{name}]"), place, table, known, later))
}

fn host(walk: &mut Walk, value: Value<'_>, host: &mut HostConfig) {
    let Some(section) = table(walk, "host", value, &["name", "zone", "labels"], &[]) else { return };
    host.name = section.text(walk, "name");
    host.zone = section.text(walk, "zone");
    let Some(labels) = section.value("labels").and_then(|v| walk.table("labels", v)) else { return };
    for (key, span, value) in in_order(labels) {
        let name = Placed { value: key.to_owned(), place: walk.place(span) };
        let place = walk.place(value.span());
        let Some(text) = value.get_ref().as_str() else {
            let found = value.get_ref().type_str();
            walk.found.error(place, format!("label `{key}` must be a string, not {found}"));
            continue;
        };
        let text = Placed { value: text.to_owned(), place };
        if walk.printable("labels", &name) && walk.printable("labels", &text) {
            host.labels.insert(name.value, text.value);
        }
    }
}

pub(super) fn path(walk: &mut Walk, section: &Section<'_>, key: &str) -> Option<PathBuf> {
    let text = section.string(walk, key)?;
    if text.value.is_empty() || text.value.contains('\0') {
        walk.found.error(text.place, format!("`{key}` is not a path"));
        return None;
    }
    Some(PathBuf::from(text.value))
}

fn listen(walk: &mut Walk, section: &Section<'_>) -> Option<SocketAddr> {
    let text = section.string(walk, "listen")?;
    let parsed = text.value.parse().ok();
    if parsed.is_none() {
        walk.found
            .error(text.place, format!("`{}` is not an address and port", text.value))
            .help("write it like `127.0.0.1:9464` or `[::1]:9464`");
    }
    parsed
}

fn failsafes(walk: &mut Walk, value: Value<'_>, config: &mut Config) {
    let mut all = Vec::new();
    for (place, table) in walk.tables("failsafe", value) {
        let keys = ["direction", "ports", "cidrs"];
        let section = Section::new(walk, "[[failsafe]]", place, table, &keys, &[]);
        section.require(walk, "direction", "\"inbound\" or \"outbound\"");
        section.require(walk, "ports", "[\"tcp/22\"]");
        let words = [("inbound", Direction::Inbound), ("outbound", Direction::Outbound)];
        let direction = section.word(walk, "direction", &words);
        let texts = section.strings(walk, "ports", "the failsafe lets nothing pass").unwrap_or_default();
        let mut ports = Vec::new();
        for text in &texts {
            let spec = parse_ports(walk, text);
            if spec.is_some_and(|s| s.protocol == protocol::RAW) {
                let help = "a failsafe is about packets; allow raw sockets with an [[allow]] rule";
                walk.found.error(text.place, "`raw` cannot be a failsafe").help(help);
            }
            ports.extend(spec);
        }
        let texts = section.strings(walk, "cidrs", "the failsafe is for nobody").unwrap_or_default();
        let cidrs = texts.iter().filter_map(|t| parse_cidr(walk, t)).map(|c| c.value).collect();
        let Some(direction) = direction else { continue };
        all.push(Failsafe { direction, ports, cidrs });
        if let Err(error) = check_ports(&all) {
            walk.found.error(place, error.to_string()).help("name fewer ports, or leave `cidrs` out");
            all.pop();
        }
    }
    config.failsafes = all;
}

pub(super) fn unit<T>(
    walk: &mut Walk,
    section: &Section<'_>,
    key: &str,
    forms: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let text = section.string(walk, key)?;
    let parsed = parse(&text.value);
    if parsed.is_none() {
        walk.found.error(text.place, format!("`{}` is not a valid `{key}`", text.value)).help(forms);
    }
    parsed
}
