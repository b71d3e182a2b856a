//! What is wrong with zone files or `segd.toml`, where, and what to do about it: for the terminal, with the
//! lines concerned, and as JSON.

use std::fmt::Write as _;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

use super::source::{Place, Sources};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing of it is loaded.
    Error,
    /// It is loaded, and probably not what was meant.
    Warning,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Name of the file.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The bytes that it is about.
    #[serde(skip)]
    pub place: Place,
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Another place that has to do with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub related: Option<Related>,
}

/// Another place that a finding has to do with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Related {
    /// Name of the file.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The bytes.
    #[serde(skip)]
    pub place: Place,
    /// What is there.
    pub message: String,
}

impl Diagnostic {
    /// Adds what to do.
    pub(crate) fn help(&mut self, text: impl Into<String>) -> &mut Self {
        self.help = Some(text.into());
        self
    }
}

/// All findings, in the order of the files and of the places in them.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Diagnostics {
    #[serde(skip)]
    sources: Arc<Sources>,
    items: Vec<Diagnostic>,
}

impl Diagnostics {
    pub(crate) fn new(sources: Arc<Sources>) -> Self {
        Self { sources, items: Vec::new() }
    }

    pub(crate) fn error(&mut self, place: Place, message: impl Into<String>) -> &mut Diagnostic {
        self.push(Severity::Error, place, message.into())
    }

    pub(crate) fn warning(&mut self, place: Place, message: impl Into<String>) -> &mut Diagnostic {
        self.push(Severity::Warning, place, message.into())
    }

    /// An error about something that is elsewhere too.
    pub(crate) fn conflict(
        &mut self,
        place: Place,
        message: impl Into<String>,
        other: Place,
        what: &str,
    ) -> &mut Diagnostic {
        let (line, column) = self.sources.line_column(other);
        let file = self.sources.name(other).to_owned();
        let related = Related { file, line, column, place: other, message: what.to_owned() };
        let diagnostic = self.error(place, message);
        diagnostic.related = Some(related);
        diagnostic
    }

    fn push(&mut self, severity: Severity, place: Place, message: String) -> &mut Diagnostic {
        let (line, column) = self.sources.line_column(place);
        let file = self.sources.name(place).to_owned();
        let (help, related) = (None, None);
        // What a file says is repeated in messages; it must not steer the terminal.
        let message = message.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}");
        self.items.push(Diagnostic { file, line, column, place, severity, message, help, related });
        let last = self.items.len() - 1;
        &mut self.items[last]
    }

    /// The line of a place, from 1.
    pub(crate) fn line(&self, place: Place) -> usize {
        self.sources.line_column(place).0
    }

    pub(crate) fn file_name(&self, file: usize) -> Option<String> {
        self.sources.files().get(file).map(|f| f.name.clone())
    }

    /// Adds what to do to the finding made last.
    pub(crate) fn help_last(&mut self, text: impl Into<String>) {
        if let Some(last) = self.items.last_mut() {
            last.help(text);
        }
    }

    pub(crate) fn sort(&mut self) {
        self.items.sort_by_key(|d| (d.place.file, d.place.start));
        self.items.dedup();
    }

    pub(crate) fn retain(&mut self, keep: impl FnMut(&Diagnostic) -> bool) {
        self.items.retain(keep);
    }

    /// Adds the findings of another step over the same sources.
    pub fn extend(&mut self, other: Self) {
        self.items.extend(other.items);
        self.sort();
    }

    /// The findings.
    #[must_use]
    pub fn items(&self) -> &[Diagnostic] {
        &self.items
    }

    /// No finding at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Number of errors.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.items.iter().filter(|d| d.severity == Severity::Error).count()
    }

    /// Number of warnings.
    #[must_use]
    pub fn warnings(&self) -> usize {
        self.items.len() - self.errors()
    }

    /// For people: of each finding a line `file:line:column: error: message`, then the text concerned.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for item in &self.items {
            let (name, style) = match item.severity {
                Severity::Error => ("error", "\x1b[1;91m"),
                Severity::Warning => ("warning", "\x1b[1;33m"),
            };
            let (style, bold, end) = if colour { (style, "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
            let Diagnostic { file, line, column, message, .. } = item;
            let _ =
                writeln!(out, "{bold}{file}:{line}:{column}:{end} {style}{name}{end}: {bold}{message}{end}");
            let _ = writeln!(out, "{}\n", renderer.render(&[self.snippet(item)]));
        }
        out
    }

    fn snippet<'a>(&'a self, item: &'a Diagnostic) -> Group<'a> {
        let level = match item.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut main = Snippet::source(self.text(item.place))
            .annotation(AnnotationKind::Primary.span(self.span(item.place)));
        let mut elsewhere = None;
        if let Some(related) = &item.related {
            let mark = AnnotationKind::Context.span(self.span(related.place)).label(&*related.message);
            if related.place.file == item.place.file {
                main = main.annotation(mark);
            } else {
                let text = self.text(related.place);
                elsewhere = Some(Snippet::source(text).path(&*related.file).annotation(mark));
            }
        }
        let mut group = Group::with_level(level).element(main);
        if let Some(snippet) = elsewhere {
            group = group.element(snippet);
        }
        if let Some(help) = &item.help {
            group = group.element(Level::HELP.message(&**help));
        }
        group
    }

    fn text(&self, place: Place) -> &str {
        self.sources.files().get(place.file).map_or("", |f| &f.text)
    }

    /// The bytes to mark; only those of the first line, for a value that spans several.
    fn span(&self, place: Place) -> std::ops::Range<usize> {
        let text = self.text(place);
        let start = text.floor_char_boundary(place.start);
        let end = text.floor_char_boundary(place.end.max(start));
        let line_end = text[start..].find('\n').map_or(text.len(), |n| start + n);
        start..end.min(line_end.max(start))
    }
}

/// The candidate that `word` was probably meant to be.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    let word = word.to_lowercase();
    let distance = |c: &'a str| {
        let shortened = word.len() >= 3 && c.starts_with(&word);
        (if shortened { 1 } else { strsim::damerau_levenshtein(&word, c) }, c)
    };
    candidates.into_iter().map(distance).filter(|(d, _)| *d <= limit).min().map(|(_, c)| c)
}

/// "did you mean", or all there is to choose from.
pub(crate) fn suggest<'a>(
    word: &str,
    what: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    if let Some(near) = nearest(word, candidates.iter().copied()) {
        return Some(format!("did you mean `{near}`?"));
    }
    if candidates.is_empty() || candidates.len() > 24 {
        return None;
    }
    let list: Vec<String> = candidates.iter().map(|c| format!("`{c}`")).collect();
    Some(format!("{what}: {}", list.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_takes_small_slips_only() {
        let zones = ["fulfillment", "orders", "transport"];
        assert_eq!(nearest("fulfilment", zones), Some("fulfillment"));
        assert_eq!(nearest("order", zones), Some("orders"));
        assert_eq!(nearest("Orders", zones), Some("orders"));
        assert_eq!(nearest("trans", zones), Some("transport"));
        assert_eq!(nearest("billing", zones), None);
        assert_eq!(
            suggest("billing", "zones", zones).unwrap(),
            "zones: `fulfillment`, `orders`, `transport`"
        );
    }
}
