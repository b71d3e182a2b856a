//! Walks a parsed TOML document by hand, so that one run reports every error in it with its place.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil;
use jiff::tz::{Offset, TimeZone};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml::value::{Datetime, Offset as TomlOffset};

use super::diagnostics::{Diagnostics, suggest};
use super::lift::Cuts;
use super::source::{Place, Placed, Sources};

/// Longest text of an owner, reason, description or label, in characters.
const MAX_TEXT: usize = 200;

/// The findings so far, and which file is being read.
pub(crate) struct Walk {
    pub(crate) file: usize,
    pub(crate) found: Diagnostics,
    /// Names of files with syntax errors: some of what they say is not known.
    pub(crate) broken: Vec<String>,
    /// What was taken out of the text that is walked through.
    pub(crate) cuts: Cuts,
}

impl Walk {
    pub(crate) fn new(sources: &Arc<Sources>) -> Self {
        let found = Diagnostics::new(Arc::clone(sources));
        Self { file: 0, found, broken: Vec::new(), cuts: Cuts::default() }
    }

    pub(crate) fn place(&self, span: Range<usize>) -> Place {
        Place { file: self.file, start: self.cuts.whole(span.start), end: self.cuts.whole(span.end) }
    }

    /// Parses file number `file`; what is wrong with its syntax is reported, and what could be read goes to
    /// `items`. After a syntax error only those findings of `items` stay that it cannot have caused.
    pub(crate) fn document(&mut self, file: usize, text: &str, items: impl FnOnce(&mut Self, &DeTable<'_>)) {
        self.file = file;
        let (document, errors) = DeTable::parse_recoverable(text);
        let mut broken = Vec::new();
        let mut previous = None;
        for error in &errors {
            let place = self.place(error.span().unwrap_or(0..0));
            let line = self.found.line(place);
            let same_line = broken.contains(&line);
            broken.push(line);
            // After an open bracket each line that follows is the same error again.
            let repeated = previous.replace(error.message()) == Some(error.message());
            if !same_line && !repeated {
                self.found.error(place, error.message());
            } else if repeated {
                self.found.help_last("look for a bracket or quote before it that is not closed");
            }
        }
        if !errors.is_empty() {
            self.broken.extend(self.found.file_name(file));
        }
        let before = self.found.items().len();
        items(self, document.get_ref());
        if !broken.is_empty() {
            let mut n = 0;
            self.found.retain(|d| {
                n += 1;
                let consequence = broken.contains(&d.line) || d.message.contains("missing");
                n <= before || !consequence
            });
        }
    }

    fn wrong_type(&mut self, value: &Spanned<DeValue<'_>>, key: &str, wanted: &str) {
        let found = value.get_ref().type_str();
        let article = if found.starts_with(['a', 'i', 'o']) { "an" } else { "a" };
        let place = self.place(value.span());
        self.found.error(place, format!("`{key}` must be {wanted}, not {article} {found}"));
    }

    /// Every table of an array of tables (`[[name]]`).
    pub(crate) fn tables<'t>(
        &mut self,
        name: &str,
        value: &'t Spanned<DeValue<'t>>,
    ) -> Vec<(Place, &'t DeTable<'t>)> {
        let Some(array) = value.get_ref().as_array() else {
            let found = if value.get_ref().is_table() { "a table" } else { value.get_ref().type_str() };
            let place = self.place(value.span());
            self.found
                .error(place, format!("`{name}` must be a list of tables, not {found}"))
                .help(format!("begin each one with `[[{name}]]`"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in array.iter() {
            match item.get_ref().as_table() {
                Some(table) => tables.push((self.place(item.span()), table)),
                None => self.wrong_type(item, name, "a list of tables"),
            }
        }
        tables
    }

    /// The table behind a key.
    pub(crate) fn table<'t>(
        &mut self,
        name: &str,
        value: &'t Spanned<DeValue<'t>>,
    ) -> Option<&'t DeTable<'t>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.wrong_type(value, name, "a table");
        }
        table
    }

    /// Checks that a text fits on one line of a table or log: printable, not too long.
    pub(crate) fn printable(&mut self, key: &str, text: &Placed<String>) -> bool {
        let wrong = unprintable(key, &text.value);
        let right = wrong.is_none();
        if let Some(message) = wrong {
            self.found.error(text.place, message);
        }
        right
    }
}

/// What keeps a text from fitting on one line of a table or log.
pub(crate) fn unprintable(key: &str, text: &str) -> Option<String> {
    if let Some(c) = text.chars().find(|c| c.is_control()) {
        return Some(format!("`{key}` holds the control character {c:?}"));
    }
    let length = text.chars().count();
    (length > MAX_TEXT).then(|| format!("`{key}` has {length} characters; {MAX_TEXT} is the most"))
}

/// Keys of a table in the order in which they are written.
pub(crate) fn in_order<'t>(table: &'t DeTable<'t>) -> Vec<(&'t str, Range<usize>, &'t Spanned<DeValue<'t>>)> {
    let mut entries: Vec<_> = table.iter().map(|(k, v)| (&**k.get_ref(), k.span(), v)).collect();
    entries.sort_by_key(|(_, span, _)| span.start);
    entries
}

/// One table of known keys.
pub(crate) struct Section<'t> {
    /// As messages name it: `[zone.orders]`.
    name: String,
    place: Place,
    entries: BTreeMap<&'t str, (Range<usize>, &'t Spanned<DeValue<'t>>)>,
}

impl<'t> Section<'t> {
    /// Reports keys that are neither in `known` nor in `later` (those that a later version will know).
    pub(crate) fn new(
        walk: &mut Walk,
        name: impl Into<String>,
        place: Place,
        table: &'t DeTable<'t>,
        known: &[&str],
        later: &[&str],
    ) -> Self {
        let name = name.into();
        let mut entries = BTreeMap::new();
        for (key, span, value) in in_order(table) {
            let at = walk.place(span.clone());
            if later.contains(&key) {
                not_supported(walk, at, &format!("`{key}` in {name}"), "remove it");
            } else if known.contains(&key) {
                entries.insert(key, (span, value));
            } else {
                let help = suggest(key, "valid keys", known.iter().copied());
                walk.found.error(at, format!("unknown key `{key}` in {name}")).help = help;
            }
        }
        Self { name, place, entries }
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// The value of a key, if it is there.
    pub(crate) fn value(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.entries.get(key).map(|(_, value)| *value)
    }

    /// A text.
    pub(crate) fn string(&self, walk: &mut Walk, key: &str) -> Option<Placed<String>> {
        let value = self.value(key)?;
        match value.get_ref().as_str() {
            Some(text) => Some(Placed { value: text.to_owned(), place: walk.place(value.span()) }),
            None => {
                walk.wrong_type(value, key, "a string");
                None
            }
        }
    }

    /// A printable text of limited length.
    pub(crate) fn text(&self, walk: &mut Walk, key: &str) -> Option<String> {
        let text = self.string(walk, key)?;
        walk.printable(key, &text).then_some(text.value)
    }

    /// Reports that `key` is missing; `what` says what it should be.
    pub(crate) fn require(&self, walk: &mut Walk, key: &str, what: &str) {
        if !self.entries.contains_key(key) {
            let message = format!("{} is missing `{key}`", self.name);
            walk.found.error(self.place, message).help(format!("add `{key} = {what}`"));
        }
    }

    /// A list of texts. An empty one is reported as `nothing`.
    pub(crate) fn strings(&self, walk: &mut Walk, key: &str, nothing: &str) -> Option<Vec<Placed<String>>> {
        let value = self.value(key)?;
        let Some(array) = value.get_ref().as_array() else {
            walk.wrong_type(value, key, "a list of strings");
            return None;
        };
        if array.is_empty() {
            let place = walk.place(value.span());
            walk.found.error(place, format!("{nothing}: `{key}` is empty"));
            return None;
        }
        let mut texts = Vec::new();
        for item in array.iter() {
            match item.get_ref().as_str() {
                Some(text) => {
                    texts.push(Placed { value: text.to_owned(), place: walk.place(item.span()) });
                }
                None => walk.wrong_type(item, key, "a list of strings"),
            }
        }
        Some(texts)
    }

    /// A text, or a list of texts as of [`Section::strings`].
    pub(crate) fn one_or_more(
        &self,
        walk: &mut Walk,
        key: &str,
        nothing: &str,
    ) -> Option<Vec<Placed<String>>> {
        match self.value(key)?.get_ref().as_str() {
            Some(_) => self.string(walk, key).map(|text| vec![text]),
            None => self.strings(walk, key, nothing),
        }
    }

    /// One word of a fixed set.
    pub(crate) fn word<T: Copy>(&self, walk: &mut Walk, key: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.string(walk, key)?;
        let found = words.iter().find(|(word, _)| *word == text.value);
        if found.is_none() {
            let list: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            let message = format!("`{}` is not a valid `{key}`", text.value);
            walk.found.error(text.place, message).help(format!("write one of {}", list.join(", ")));
        }
        found.map(|(_, value)| *value)
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self, walk: &mut Walk, key: &str) -> Option<bool> {
        let value = self.value(key)?;
        let found = value.get_ref().as_bool();
        if found.is_none() {
            walk.wrong_type(value, key, "`true` or `false`");
        }
        found
    }

    /// A whole number within limits.
    pub(crate) fn integer(&self, walk: &mut Walk, key: &str, range: Range<u64>) -> Option<u64> {
        let value = self.value(key)?;
        let Some(integer) = value.get_ref().as_integer() else {
            walk.wrong_type(value, key, "a whole number");
            return None;
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.filter(|n| range.contains(n));
        if number.is_none() {
            let place = walk.place(value.span());
            let message = format!("`{key}` must be from {} to {}", range.start, range.end - 1);
            walk.found.error(place, message);
        }
        number
    }

    /// An instant: a date (its first moment in UTC) or a date and time with offset.
    pub(crate) fn instant(&self, walk: &mut Walk, key: &str) -> Option<Placed<Timestamp>> {
        let value = self.value(key)?;
        let place = walk.place(value.span());
        let Some(datetime) = value.get_ref().as_datetime() else {
            walk.wrong_type(value, key, "a date or a date and time");
            if let Some(text) = value.get_ref().as_str().filter(|t| t.parse::<Datetime>().is_ok()) {
                let text = text.to_owned();
                walk.found.help_last(format!("write {key} = {text}, without quotes"));
            }
            return None;
        };
        match timestamp(datetime) {
            Ok(value) => Some(Placed { value, place }),
            Err(message) => {
                walk.found
                    .error(place, format!("`{key}`: {message}"))
                    .help("write it like 2027-06-30 (UTC) or 2027-06-30T18:00:00+02:00");
                None
            }
        }
    }
}

/// What a later version will know is an error rather than ignored: a policy must not mean less than it says.
pub(crate) fn not_supported(walk: &mut Walk, place: Place, what: &str, remedy: &str) {
    let message = format!("{what} is not supported yet by this version of segd");
    walk.found.error(place, message).help(format!("{remedy}; nothing is loaded while it is there"));
}

fn timestamp(t: &Datetime) -> Result<Timestamp, String> {
    let Some(date) = t.date else {
        return Err("a time without a date".to_owned());
    };
    let text = |e: jiff::Error| e.to_string();
    let year = i16::try_from(date.year).unwrap_or(i16::MAX);
    let [month, day] = [date.month, date.day].map(|n| i8::try_from(n).unwrap_or(i8::MAX));
    let date = civil::Date::new(year, month, day).map_err(text)?;
    let (time, offset) = match (t.time, t.offset) {
        (None, _) => (civil::Time::midnight(), Offset::UTC),
        (Some(_), None) => return Err("a time without its offset from UTC".to_owned()),
        (Some(time), Some(offset)) => {
            let [hour, minute, second] = [time.hour, time.minute, time.second.unwrap_or(0)]
                .map(|n| i8::try_from(n).unwrap_or(i8::MAX));
            let nanosecond = i32::try_from(time.nanosecond.unwrap_or(0)).unwrap_or(0);
            let time = civil::Time::new(hour, minute, second, nanosecond).map_err(text)?;
            let minutes = match offset {
                TomlOffset::Z => 0,
                TomlOffset::Custom { minutes } => i32::from(minutes),
            };
            (time, Offset::from_seconds(minutes * 60).map_err(text)?)
        }
    };
    let zoned = civil::DateTime::from_parts(date, time).to_zoned(TimeZone::fixed(offset));
    zoned.map(|z| z.timestamp()).map_err(text)
}
