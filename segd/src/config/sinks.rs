//! `[[sink]]`: where flow records go.

use std::path::Path;
use std::time::Duration;

use segd_common::traffic::Verdict;
use toml::de::{DeTable, DeValue};

use super::parse::{Value, path, table, unit};
use super::{Rotate, Sink, SinkTarget, units};
use crate::policy::diagnostics::suggest;
use crate::policy::source::{Place, Placed};
use crate::policy::walk::{Section, Walk, in_order};
use crate::telemetry::Filter;
use crate::telemetry::filter::FilterError;
use crate::telemetry::sink::syslog::{Address, Facility};
use crate::telemetry::sink::{Detail, Options, QUEUE, journald};
use crate::telemetry::text::printable;

/// Keys of every sink.
const COMMON: [&str; 7] = ["type", "name", "verdicts", "filter", "detail", "window", "queue"];
/// Those that one type has.
const OWN: [(Type, &[&str]); 4] = [
    (Type::File, &["path", "rotate"]),
    (Type::Stdout, &[]),
    (Type::Journald, &["socket"]),
    (Type::Syslog, &["address", "facility"]),
];
const DEFAULT_WINDOW: Duration = Duration::from_secs(60);
const LONGEST_WINDOW: Duration = Duration::from_secs(3600);
const LARGEST_QUEUE: u64 = 1_000_000;
const LONGEST_NAME: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    File,
    Stdout,
    Journald,
    Syslog,
}

impl Type {
    const WORDS: [(&str, Self); 4] = [
        ("file", Self::File),
        ("stdout", Self::Stdout),
        ("journald", Self::Journald),
        ("syslog", Self::Syslog),
    ];

    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }
}

/// All of them. Each has a name of its own, and each file one writer.
pub(super) fn read(walk: &mut Walk, value: Value<'_>) -> Vec<Sink> {
    let mut sinks: Vec<Sink> = Vec::new();
    for (place, table) in walk.tables("sink", value) {
        let Some((sink, place)) = sink(walk, place, table) else { continue };
        if sinks.iter().any(|other| other.options.name == sink.options.name) {
            let message = format!("there are two sinks called `{}`", sink.options.name);
            walk.found.error(place, message).help("give one of them another `name`");
        } else if let Some(path) = file(&sink)
            && sinks.iter().any(|other| file(other) == Some(path))
        {
            let message = format!("two sinks write to {}", path.display());
            walk.found.error(place, message).help("give each one a `path` of its own");
        }
        sinks.push(sink);
    }
    sinks
}

fn file(sink: &Sink) -> Option<&Path> {
    match &sink.target {
        SinkTarget::File { path, .. } => Some(path),
        SinkTarget::Stdout | SinkTarget::Journald { .. } | SinkTarget::Syslog { .. } => None,
    }
}

/// One, and where its name or else its beginning is.
fn sink(walk: &mut Walk, place: Place, table: &DeTable<'_>) -> Option<(Sink, Place)> {
    let known: Vec<&str> =
        COMMON.iter().copied().chain(OWN.iter().flat_map(|(_, keys)| keys.iter().copied())).collect();
    let section = Section::new(walk, "[[sink]]", place, table, &known, &[]);
    section.require(walk, "type", "\"file\", \"stdout\", \"journald\" or \"syslog\"");
    let kind = section.word(walk, "type", &Type::WORDS);
    let filter = filter(walk, &section);
    let detail = detail(walk, &section);
    let queue = section.integer(walk, "queue", 1..LARGEST_QUEUE + 1);
    let queue = queue.and_then(|n| usize::try_from(n).ok()).unwrap_or(QUEUE);
    let name = name(walk, &section);
    let kind = kind?;
    for (_, keys) in OWN.iter().filter(|(other, _)| *other != kind) {
        for key in *keys {
            if let Some(value) = section.value(key) {
                let (place, word) = (walk.place(value.span()), kind.word());
                walk.found.error(place, format!("`{key}` has no meaning for a sink of type `{word}`"));
            }
        }
    }
    let target = target(walk, &section, kind)?;
    let place = section.value("name").map_or(place, |value| walk.place(value.span()));
    let name = name.unwrap_or_else(|| match &target {
        SinkTarget::File { path, .. } => path.display().to_string(),
        SinkTarget::Syslog { address, .. } => address.to_string(),
        SinkTarget::Stdout | SinkTarget::Journald { .. } => kind.word().to_owned(),
    });
    Some((Sink { options: Options { name, filter, detail, queue }, target }, place))
}

/// A name is a label of metrics and part of the stages of `segd_lost_events_total`.
fn name(walk: &mut Walk, section: &Section<'_>) -> Option<String> {
    let name = section.string(walk, "name")?;
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.value.is_empty() || name.value.len() > LONGEST_NAME || !name.value.chars().all(good) {
        walk.found
            .error(name.place, format!("`{}` is no name for a sink", name.value.escape_debug()))
            .help(format!("use 1 to {LONGEST_NAME} letters, digits, dots, hyphens and underscores"));
        return None;
    }
    Some(name.value)
}

fn target(walk: &mut Walk, section: &Section<'_>, kind: Type) -> Option<SinkTarget> {
    match kind {
        Type::Stdout => Some(SinkTarget::Stdout),
        Type::File => {
            section.require(walk, "path", "\"/var/log/segd/flows.jsonl\"");
            let path = path(walk, section, "path");
            let rotate = rotate(walk, section);
            Some(SinkTarget::File { path: path?, rotate })
        }
        Type::Journald => {
            let socket = match section.value("socket") {
                Some(_) => path(walk, section, "socket")?,
                None => journald::SOCKET.into(),
            };
            Some(SinkTarget::Journald { socket })
        }
        Type::Syslog => {
            let facility = section.word(walk, "facility", &Facility::words()).unwrap_or_default();
            let address = match section.string(walk, "address") {
                Some(text) => match text.value.parse::<Address>() {
                    Ok(address) => address,
                    Err(help) => {
                        let message =
                            format!("`{}` is no address of a syslog server", printable(&text.value));
                        walk.found.error(text.place, message).help(help.to_string());
                        return None;
                    }
                },
                None if section.value("address").is_some() => return None,
                None => Address::Unix("/dev/log".into()),
            };
            Some(SinkTarget::Syslog { address, facility })
        }
    }
}

fn detail(walk: &mut Walk, section: &Section<'_>) -> Detail {
    let summary = section.word(walk, "detail", &[("each", false), ("summary", true)]).unwrap_or_default();
    let forms = "write it like `60s` or `5m`, from 1s to 1h";
    let fits = |text: &str| {
        units::duration(text).filter(|time| (Duration::from_secs(1)..=LONGEST_WINDOW).contains(time))
    };
    let window = unit(walk, section, "window", forms, fits);
    match (summary, section.value("window")) {
        (true, _) => Detail::Summary { window: window.unwrap_or(DEFAULT_WINDOW) },
        (false, None) => Detail::Each,
        (false, Some(value)) => {
            let place = walk.place(value.span());
            walk.found.error(place, "`window` has no meaning without `detail = \"summary\"`");
            Detail::Each
        }
    }
}

/// `verdicts` and `filter`, which has the same keys as `segd flows` and takes them the same way.
fn filter(walk: &mut Walk, section: &Section<'_>) -> Filter {
    let mut filter = Filter::default();
    if let Some(words) = section.strings(walk, "verdicts", "the sink records nothing") {
        let verdicts: Vec<Verdict> = words.iter().filter_map(|word| verdict(walk, word)).collect();
        filter = Filter::of_verdicts(&verdicts);
    }
    let Some(table) = section.value("filter").and_then(|value| walk.table("filter", value)) else {
        return filter;
    };
    for (key, span, value) in in_order(table) {
        let (key_place, place) = (walk.place(span), walk.place(value.span()));
        let Some(text) = text(value.get_ref()) else {
            let message = format!("filter `{}` must be a string, a number or a list of them", printable(key));
            walk.found.error(place, message);
            continue;
        };
        if key == "verdict" && section.value("verdicts").is_some() {
            walk.found.error(key_place, "`verdicts` says already which ones").help("leave one of them out");
            continue;
        }
        match filter.set(key, &text) {
            Ok(()) => {}
            Err(error @ FilterError::Key(_)) => drop(walk.found.error(key_place, error.to_string())),
            Err(error) => drop(walk.found.error(place, error.to_string())),
        }
    }
    filter
}

/// As on a command line: what a list holds is separated by commas.
fn text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        DeValue::Array(items) => {
            let texts: Option<Vec<_>> = items.iter().map(|item| text(item.get_ref())).collect();
            texts.map(|texts| texts.join(","))
        }
        _ => None,
    }
}

fn verdict(walk: &mut Walk, word: &Placed<String>) -> Option<Verdict> {
    let found = Verdict::ALL.iter().copied().find(|v| v.name() == word.value);
    if found.is_none() {
        let help = suggest(&word.value, "verdicts", Verdict::ALL.iter().map(|v| v.name()));
        walk.found.error(word.place, format!("unknown verdict `{}`", printable(&word.value))).help = help;
    }
    found
}

fn rotate(walk: &mut Walk, section: &Section<'_>) -> Rotate {
    let mut rotate = Rotate::default();
    let Some(value) = section.value("rotate") else { return rotate };
    let Some(section) = table(walk, "rotate", value, &["size", "age", "keep"], &[]) else { return rotate };
    let forms = "write it like `64MiB` or `10MB`, at least 4KiB";
    let large_enough = |text: &str| units::size(text).filter(|n| *n >= 4096);
    if let Some(size) = unit(walk, &section, "size", forms, large_enough) {
        rotate.size = size;
    }
    rotate.age = unit(walk, &section, "age", "write it like `24h`, `7d` or `1h 30m`", units::duration);
    if let Some(keep) = section.integer(walk, "keep", 0..10_001) {
        rotate.keep = u32::try_from(keep).unwrap_or(u32::MAX);
    }
    rotate
}
