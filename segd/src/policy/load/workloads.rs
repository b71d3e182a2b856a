//! `[workload.NAME]`.

use segd_common::table::PATTERN_BYTES;

use super::items::{ALL, Value, good_name};
use crate::policy::builtin::is_built_in;
use crate::policy::model::Policy;
use crate::policy::source::Placed;
use crate::policy::walk::{Section, Walk, in_order};
use crate::policy::workload::{Selector, User, Workload};

const KEYS: [&str; 9] =
    ["zone", "unit", "cgroup", "user", "inherit", "owner", "purpose", "expires", "description"];
const SELECTORS: [&str; 3] = ["unit", "cgroup", "user"];

/// Suffixes of the kinds of units that have sockets.
const UNITS: [&str; 3] = [".service", ".scope", ".slice"];

pub(super) fn read(walk: &mut Walk, value: Value<'_>, policy: &mut Policy) {
    let Some(table) = walk.table("workload", value) else { return };
    for (name, span, value) in in_order(table) {
        let place = walk.place(span);
        let Some(table) = walk.table(&format!("workload.{name}"), value) else { continue };
        let mut good = good_name(walk, "workload", name, place);
        if is_built_in(name) || name == ALL {
            let message = format!("`{name}` is built in and cannot be defined");
            walk.found.error(place, message).help("choose another name");
            good = false;
        }
        let section = Section::new(walk, format!("[workload.{name}]"), place, table, &KEYS, &[]);
        section.require(walk, "zone", "\"ZONE\"");
        let zone = section.string(walk, "zone");
        let selector = selector(walk, &section, name);
        let workload = Workload {
            description: section.text(walk, "description"),
            owner: section.text(walk, "owner"),
            purpose: section.text(walk, "purpose"),
            zone: zone.unwrap_or(Placed { value: String::new(), place }),
            inherit: section.boolean(walk, "inherit").unwrap_or(true),
            expires: section.instant(walk, "expires").map(|e| e.value),
            selector: selector.unwrap_or(Selector::NOTHING),
            place,
        };
        if let Some(first) = policy.workloads.get(name) {
            let message = format!("workload `{name}` is defined twice");
            walk.found.conflict(place, message, first.place, "first defined here");
        } else if good {
            policy.workloads.insert(name.to_owned(), workload);
        }
    }
}

fn selector(walk: &mut Walk, section: &Section<'_>, name: &str) -> Option<Selector> {
    let given: Vec<&str> = SELECTORS.into_iter().filter(|key| section.value(key).is_some()).collect();
    match *given.as_slice() {
        [] => {
            let message =
                format!("workload `{name}` selects nothing: `unit`, `cgroup` and `user` are missing");
            walk.found.error(section.place(), message).help("add one of them, as `unit = \"NAME.service\"`");
            None
        }
        [key @ ("unit" | "cgroup")] => {
            let text = section.string(walk, key)?;
            if key == "unit" { unit(walk, text) } else { cgroup(walk, text) }
        }
        ["user"] => user(walk, section),
        [first, second, ..] => {
            let message = format!("workload `{name}` has both `{first}` and `{second}`");
            walk.found
                .error(section.place(), message)
                .help("keep one of them, and define a workload of its own for the other");
            None
        }
        [_] => None,
    }
}

fn unit(walk: &mut Walk, text: Placed<String>) -> Option<Selector> {
    let Placed { value, place } = text;
    let stem = UNITS.iter().find_map(|suffix| value.strip_suffix(suffix));
    let plain = |c: char| c.is_ascii_alphanumeric() || ":_.\\@-".contains(c);
    let (message, help) = match stem {
        None => {
            let help = match value.rsplit_once('.') {
                Some((_, "socket" | "timer" | "path" | "target" | "mount")) => {
                    "its sockets are those of the .service that it starts".to_owned()
                }
                _ => format!("write the whole name, as `{value}.service`, .scope or .slice"),
            };
            (format!("`{value}` is not the name of a unit that has sockets"), help)
        }
        Some("" | "@") => (format!("`{value}` has no name in front"), "name the unit".to_owned()),
        Some(stem) if !stem.chars().all(plain) => (
            format!("`{value}` is not the name of a systemd unit"),
            "write a name without wildcards, `agent@.service` for every instance, or use `cgroup`".to_owned(),
        ),
        Some(_) => return fitting(walk, "unit", Selector::Unit(value), place),
    };
    walk.found.error(place, message).help(help);
    None
}

fn cgroup(walk: &mut Walk, text: Placed<String>) -> Option<Selector> {
    let Placed { value, place } = text;
    let inside = value.strip_prefix('/');
    let parts: Vec<&str> = inside.unwrap_or_default().split('/').collect();
    let (message, help) = if let Some(rest) = value.strip_prefix("/sys/fs/cgroup") {
        let help = format!("write it from the root of the cgroup2 tree on: `{rest}`");
        (format!("`{value}` is a path of files"), help)
    } else if inside.is_none() {
        let help = format!("write `/{value}`: a path from the root of the cgroup2 tree on");
        (format!("`{value}` does not begin with `/`"), help)
    } else if value == "/" || parts == ["*"] {
        let help =
            "what belongs to no workload is decided as the zone of the host; name a cgroup below the root";
        (format!("`{value}` is every process of the host"), help.to_owned())
    } else if parts.iter().any(|p| matches!(*p, "" | "." | "..")) {
        let help = "write it without `//`, `.`, `..` and `/` at the end";
        (format!("`{value}` is not the path of a cgroup"), help.to_owned())
    } else if value.contains("**") {
        let help =
            "write `*`: it stands for any characters but `/`, and what is below a cgroup belongs to it";
        (format!("`**` in `{value}` has no meaning"), help.to_owned())
    } else if let Some(c) = value.chars().find(|c| c.is_control()) {
        (format!("`cgroup` holds the control character {c:?}"), "remove it".to_owned())
    } else {
        return fitting(walk, "cgroup", Selector::Cgroup(value), place);
    };
    walk.found.error(place, message).help(help);
    None
}

/// The kernel compares texts of limited length.
fn fitting(
    walk: &mut Walk,
    key: &str,
    selector: Selector,
    place: crate::policy::source::Place,
) -> Option<Selector> {
    let length = selector.pattern_text().map_or(0, |(text, _)| text.len());
    if length > PATTERN_BYTES {
        let message = format!("`{key}` has {length} bytes; {PATTERN_BYTES} is the most");
        walk.found.error(place, message).help("shorten it with `*` in a `cgroup`");
        return None;
    }
    Some(selector)
}

fn user(walk: &mut Walk, section: &Section<'_>) -> Option<Selector> {
    // The kernel takes the last number for "no user".
    if section.value("user").is_some_and(|v| v.get_ref().as_integer().is_some()) {
        let uid = section.integer(walk, "user", 0..u64::from(u32::MAX))?;
        return u32::try_from(uid).ok().map(|uid| Selector::User(User::Id(uid)));
    }
    let Placed { value, place } = section.string(walk, "user")?;
    let all_digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let user = if all_digits {
        value.parse().ok().filter(|uid| *uid != u32::MAX).map(User::Id)
    } else {
        // What no line of /etc/passwd can hold, and what the directory services of systemd refuse.
        let bad = |c: char| c.is_control() || c.is_whitespace() || ":/*".contains(c);
        let good = !value.is_empty() && value.len() <= 255 && !value.starts_with('-') && !value.contains(bad);
        good.then(|| User::Name(value.clone()))
    };
    if user.is_none() {
        let message = format!("`{value}` is neither the name of a user nor a uid");
        walk.found.error(place, message).help("write it like `user = \"invbot\"` or `user = 991`");
    }
    user.map(Selector::User)
}
