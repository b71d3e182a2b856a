//! The words of a decision as text: in records, in filters and on the control socket.

use std::fmt;
use std::marker::PhantomData;

use segd_common::event::Kind;
use segd_common::traffic::{Direction, Mode, Reason, Verdict};
use serde::de::{self, Visitor};
use serde::{Deserializer, Serializer};

use super::text::printable;

/// A closed set of words. Use as `#[serde(with = "named")]`.
pub(crate) trait Named: Copy + 'static {
    /// What the word says something about.
    const WHAT: &'static str;
    /// Every word of the set.
    const WORDS: &'static [Self];
    /// The word itself.
    fn word(self) -> &'static str;
}

macro_rules! named {
    ($($t:ty, $what:literal;)*) => {
        $(impl Named for $t {
            const WHAT: &'static str = $what;
            const WORDS: &'static [Self] = <$t>::ALL;
            fn word(self) -> &'static str {
                self.name()
            }
        })*
    };
}
named! {
    Direction, "direction";
    Kind, "event";
    Mode, "mode";
    Reason, "reason";
    Verdict, "verdict";
}

/// A word that is not in its set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is no {what}: it must be one of {words}")]
pub struct UnknownWord {
    word: String,
    what: &'static str,
    words: String,
}

pub(crate) fn parse<T: Named>(text: &str) -> Result<T, UnknownWord> {
    T::WORDS.iter().copied().find(|w| w.word() == text).ok_or_else(|| UnknownWord {
        word: printable(text),
        what: T::WHAT,
        words: T::WORDS.iter().map(|w| w.word()).collect::<Vec<_>>().join(", "),
    })
}

pub(crate) fn serialize<T: Named, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(value.word())
}

pub(crate) fn deserialize<'de, T: Named, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    struct Word<T>(PhantomData<T>);
    impl<T: Named> Visitor<'_> for Word<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a {}", T::WHAT)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            parse(text).map_err(E::custom)
        }
    }
    from.deserialize_str(Word(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_or_listed() {
        assert_eq!(parse("denied"), Ok(Verdict::Denied));
        assert_eq!(
            parse::<Direction>("sideways").unwrap_err().to_string(),
            "`sideways` is no direction: it must be one of outbound, inbound"
        );
    }
}
