//! Text that somebody else chose (a process's name, a path), made safe to print.

use std::borrow::Cow;
use std::sync::Arc;

/// The text with every character that could move a terminal's cursor, hide or reorder text replaced by
/// U+FFFD.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if is_tricky(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// NUL-padded bytes as printable text; bytes that are no UTF-8 become U+FFFD.
pub(crate) fn from_padded(bytes: &[u8]) -> Arc<str> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    match String::from_utf8_lossy(&bytes[..end]) {
        Cow::Borrowed(text) if !text.contains(is_tricky) => text.into(),
        text => printable(&text).into(),
    }
}

/// Whether a character could move a terminal's cursor, hide or reorder text.
pub(crate) fn is_tricky(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_become_harmless() {
        for (raw, want) in [
            (&b"psql\0\0\0\0"[..], "psql"),
            (b"a\x1b[2Jb\0junk", "a\u{fffd}[2Jb"),
            (b"a\nb\r", "a\u{fffd}b\u{fffd}"),
            (b"\xff\xfe\0", "\u{fffd}\u{fffd}"),
            ("x\u{202e}gpj".as_bytes(), "x\u{fffd}gpj"),
            (b"Lager-\xc3\xa4\xc3\xb6", "Lager-äö"),
            (b"0123456789abcdef", "0123456789abcdef"),
        ] {
            assert_eq!(&*from_padded(raw), want, "{raw:?}");
        }
    }
}
