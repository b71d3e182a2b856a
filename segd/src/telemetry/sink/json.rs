//! Records as JSON in which no character can do anything to a terminal, a line or a header.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use crate::telemetry::record::FlowRecord;
use crate::telemetry::text::is_tricky;

/// Which characters are written as `\uXXXX`, besides those below U+0020, which JSON itself escapes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Escape {
    /// Those that could move a terminal's cursor, hide or reorder text.
    Tricky,
    /// All that are not ASCII, and DEL.
    NotAscii,
}

impl Formatter for Escape {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, to: &mut W, fragment: &str) -> io::Result<()> {
        // All of it without a branch, as almost always it is so: then bytes are compared many at a time.
        if fragment.bytes().fold(true, |plain, b| plain & b.is_ascii() & (b != b'\x7f')) {
            return to.write_all(fragment.as_bytes());
        }
        let mut plain = 0;
        for (at, c) in fragment.char_indices() {
            let escaped = match self {
                Self::Tricky => is_tricky(c),
                Self::NotAscii => !c.is_ascii() || c.is_ascii_control(),
            };
            if escaped {
                to.write_all(&fragment.as_bytes()[plain..at])?;
                plain = at + c.len_utf8();
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(to, "\\u{unit:04x}")?;
                }
            }
        }
        to.write_all(&fragment.as_bytes()[plain..])
    }
}

/// Appends `record` on one line, without a line end.
pub(super) fn append(record: &FlowRecord, escape: Escape, to: &mut Vec<u8>) -> io::Result<()> {
    record.serialize(&mut Serializer::with_formatter(to, escape)).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::record::tests::{denied, record};

    #[test]
    fn escapes_mean_the_same() {
        let mut hostile = record(&denied());
        hostile.host = "a\u{7f}\u{9b}31m\u{202e}ö\u{1f600}\n\"\\".into();
        for (escape, want) in [
            (Escape::Tricky, r#""host":"a\u007f\u009b31m\u202eö😀\n\"\\","#),
            (Escape::NotAscii, r#""host":"a\u007f\u009b31m\u202e\u00f6\ud83d\ude00\n\"\\","#),
        ] {
            let mut bytes = Vec::new();
            append(&hostile, escape, &mut bytes).unwrap();
            assert_eq!(serde_json::from_slice::<FlowRecord>(&bytes).unwrap(), hostile);
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.contains(want), "{text}");
        }
    }
}
