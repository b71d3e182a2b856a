//! `guard` of a `[[rollout]]`.

use std::time::Duration;

use crate::policy::guard::{BadProbe, DEFAULT_PROBE_TIMEOUT, DEFAULT_WINDOW, Guard, Probe};
use crate::policy::source::Placed;
use crate::policy::walk::{Section, Walk};

const KEYS: [&str; 5] = ["max_denied_per_minute", "probe", "probe_timeout", "window", "max_cut"];

pub(super) fn guard(walk: &mut Walk, rollout: &Section<'_>) -> Option<Placed<Guard>> {
    let value = rollout.value("guard")?;
    let place = walk.place(value.span());
    let table = walk.table("guard", value)?;
    let section = Section::new(walk, "`guard`", place, table, &KEYS, &[]);
    let limits = ["max_denied_per_minute", "probe", "max_cut"];
    if limits.iter().all(|key| section.value(key).is_none()) {
        walk.found
            .error(place, "the guard watches nothing")
            .help("add `max_denied_per_minute`, `probe` or `max_cut`");
        return None;
    }
    let limit = |walk: &mut Walk, key| section.integer(walk, key, 0..u64::from(u32::MAX));
    let guard = Guard {
        max_denied_per_minute: limit(walk, "max_denied_per_minute"),
        probe: probe(walk, &section),
        probe_timeout: duration(walk, &section, "probe_timeout").unwrap_or(DEFAULT_PROBE_TIMEOUT),
        window: duration(walk, &section, "window").unwrap_or(DEFAULT_WINDOW),
        max_cut: limit(walk, "max_cut"),
    };
    if guard.probe.is_some() && guard.probe_timeout >= guard.window {
        walk.found
            .error(place, "the guard's probe may take as long as the guard watches")
            .help("make `probe_timeout` shorter, or `window` longer");
    }
    Some(Placed { value: guard, place })
}

fn duration(walk: &mut Walk, section: &Section<'_>, key: &str) -> Option<Duration> {
    let text = section.string(walk, key)?;
    let parsed = crate::policy::duration::duration(&text.value);
    if parsed.is_none() {
        let message = format!("`{}` is not a time that something can take", text.value);
        walk.found.error(text.place, message).help("write it like `10m`, `90s` or `1h 30m`");
    }
    parsed
}

fn probe(walk: &mut Walk, section: &Section<'_>) -> Option<Probe> {
    let value = section.value("probe")?;
    let place = walk.place(value.span());
    let parsed = if value.get_ref().as_array().is_some() {
        let words = section.strings(walk, "probe", "the probe is no command")?;
        Probe::command(words.into_iter().map(|word| word.value).collect())
    } else {
        section.string(walk, "probe")?.value.parse()
    };
    match parsed {
        Ok(probe) => Some(probe),
        Err(BadProbe { message, help }) => {
            walk.found.error(place, message).help(help);
            None
        }
    }
}
