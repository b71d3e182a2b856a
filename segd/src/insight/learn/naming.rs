//! Names for what is proposed: valid, unlike any that is there, and the same for the same traffic each time.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use crate::policy::builtin::is_built_in;

/// The longest name that zone files accept.
const LONGEST: usize = 63;

/// Names that are taken.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeSet<String>);

impl Names {
    pub(super) fn take<'a>(&mut self, names: impl IntoIterator<Item = &'a String>) {
        self.0.extend(names.into_iter().cloned());
    }

    /// `wanted`, or with a number if that is taken. It is then taken.
    pub(super) fn free(&mut self, wanted: &str) -> String {
        let wanted = fitting(wanted);
        let numbered = (2..).map(|n: u32| fitting(&format!("{wanted}-{n}")));
        let mut all = std::iter::once(wanted.clone()).chain(numbered);
        let free = all.find(|name| !self.0.contains(name)).unwrap_or(wanted);
        self.0.insert(free.clone());
        free
    }
}

/// A text whose every character may be in a name, cut to a name's length; of a longer one, a digest keeps it apart.
fn fitting(text: &str) -> String {
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let digest: String = Sha256::digest(text).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let head: String = text.chars().take(LONGEST - 9).collect();
    format!("{head}-{digest}")
}

/// Whether a zone of a record, which came from anywhere, can name a zone of a file.
pub(super) fn can_name_zone(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut bytes = name.bytes();
    name.len() <= LONGEST
        && bytes.next().is_some_and(plain)
        && bytes.all(|b| plain(b) || matches!(b, b'_' | b'.' | b'-'))
        && !is_built_in(name)
        && name != "all"
}

/// An address or a prefix as part of a name.
pub(super) fn of_address(text: &impl ToString) -> String {
    text.to_string().replace(['.', ':', '/'], "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_free_and_fit() {
        let mut names = Names::default();
        names.take(&["a-to-b-redis".to_owned()]);
        assert_eq!(names.free("a-to-b-redis"), "a-to-b-redis-2");
        assert_eq!(names.free("a-to-b-redis"), "a-to-b-redis-3");
        let long = "x".repeat(70);
        let (first, second) = (names.free(&long), names.free(&format!("{long}y")));
        assert_eq!((first.len(), second.len()), (63, 63));
        assert_ne!(first, second);
        assert!(can_name_zone("net-10-0-0-0-8") && can_name_zone("a.b_c"));
        for bad in ["", "unknown", "all", "Orders", "a\nb", "-a", "a\"b"] {
            assert!(!can_name_zone(bad), "{bad:?}");
        }
    }
}
