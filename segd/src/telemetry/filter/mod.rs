//! Which flows somebody wants to see: on the command line, in a sink, in a query string; of records and of hourly sums.
//!
//! A filter is made of keys with values, and of negated keys: `zone=orders`, `not-port=53`. A flow has to satisfy every
//! key; of several values of one key, one is enough. A negated key is satisfied if none of its values fits.

mod facts;
mod key;
mod value;

use std::fmt;

use segd_common::traffic::Verdict;

use super::named::UnknownWord;
use super::record::FlowRecord;
use super::text::printable;
use crate::history::Summary;
pub(crate) use facts::{End, Facts, Program};
pub use key::Key;
use value::Value;

/// The default matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    terms: Vec<Term>,
}

/// A key with its values.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    key: Key,
    not: bool,
    values: Vec<Value>,
}

/// What is wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A word outside its set.
    #[error(transparent)]
    Word(#[from] UnknownWord),
    /// Neither a zone's name nor an address.
    #[error("`{}` is neither a zone, an address nor a CIDR; examples: orders, 10.0.0.7, 10.0.0.0/8", printable(.0))]
    Side(String),
    /// Not an address.
    #[error("`{}` is neither an address nor a CIDR; examples: 10.0.0.7, 10.0.0.0/8, 2001:db8::/32", printable(.0))]
    Address(String),
    /// Not a port.
    #[error(
        "`{}` is no port: {}; examples: 5432, tcp/5432, udp/4000-4010, icmp",
        printable(text),
        printable(why)
    )]
    Port {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// Not a protocol.
    #[error("`{}` is no protocol; known: {}, or a number from 0 to 255", printable(.0), super::protocol::names())]
    Protocol(String),
    /// An empty or unprintable name.
    #[error("`{text}` is no name of a {key}", text = printable(text))]
    Name {
        /// Of what.
        key: Key,
        /// What was given.
        text: String,
    },
    /// A key that is none of a filter's.
    #[error("unknown filter `{}`: the filters are {}, each also with `not-` before it", printable(.0), Key::names())]
    Key(String),
}

impl Filter {
    /// These verdicts; none: any.
    #[must_use]
    pub fn of_verdicts(verdicts: &[Verdict]) -> Self {
        let mut filter = Self::default();
        verdicts.iter().for_each(|verdict| filter.add(Key::Verdict, false, [Value::Verdict(*verdict)]));
        filter
    }

    /// Adds values, separated by commas, to a key ([`Key`]'s names; negated with `not-` before).
    ///
    /// # Errors
    /// The key is unknown or a value not valid for it.
    pub fn set(&mut self, key: &str, values: &str) -> Result<(), FilterError> {
        let (not, name) = match key.strip_prefix("not-") {
            Some(name) => (true, name),
            None => (false, key),
        };
        let known = Key::from_name(name).ok_or_else(|| FilterError::Key(key.to_owned()))?;
        let values = values.split(',').map(|value| Value::parse(known, value.trim()));
        let values = values.collect::<Result<Vec<_>, _>>()?;
        self.add(known, not, values);
        Ok(())
    }

    fn add(&mut self, key: Key, not: bool, values: impl IntoIterator<Item = Value>) {
        match self.terms.iter_mut().find(|term| (term.key, term.not) == (key, not)) {
            Some(term) => term.values.extend(values),
            None => self.terms.push(Term { key, not, values: values.into_iter().collect() }),
        }
    }

    /// Whether everything matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether a key is set, negated or not.
    #[must_use]
    pub fn has(&self, key: Key) -> bool {
        self.terms.iter().any(|term| term.key == key)
    }

    /// The keys that are set and their values, as [`Filter::set`] takes them.
    #[must_use]
    pub fn pairs(&self) -> Vec<(String, String)> {
        let values = |term: &Term| term.values.iter().map(Value::to_string).collect::<Vec<_>>().join(",");
        self.terms.iter().map(|term| (term.to_string(), values(term))).collect()
    }

    /// As a URL's query, without `?`; empty if nothing is set.
    #[must_use]
    pub fn to_query(&self) -> String {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(self.pairs()).finish()
    }

    /// From a URL's query.
    ///
    /// # Errors
    /// As [`Filter::set`].
    pub fn from_query(query: &str) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            filter.set(&key, &value)?;
        }
        Ok(filter)
    }

    /// The zones and workloads that it names, but for patterns.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let named = |term: &&Term| matches!(term.key, Key::Zone | Key::From | Key::To | Key::Workload);
        self.terms.iter().filter(named).flat_map(|term| &term.values).filter_map(Value::exact_name)
    }

    /// Whether `record` is wanted.
    #[must_use]
    pub fn matches(&self, record: &FlowRecord) -> bool {
        self.is_empty() || self.admits(&Facts::of_record(record))
    }

    /// Whether the flows of `summary` are wanted. Its flows have no single event, so the key `event` is not looked at. An
    /// address that is not known, as that of [`Peer::Others`](crate::history::Peer::Others), fits no value, and so
    /// satisfies every negated key.
    #[must_use]
    pub fn matches_summary(&self, summary: &Summary) -> bool {
        self.is_empty() || self.admits(&Facts::of_summary(summary))
    }

    /// Whether a flow is wanted of which this is known.
    #[must_use]
    pub(crate) fn admits(&self, facts: &Facts<'_>) -> bool {
        self.terms.iter().all(|term| term.admits(facts))
    }
}

impl Term {
    fn admits(&self, facts: &Facts<'_>) -> bool {
        if self.key == Key::Event && facts.event.is_none() {
            return true;
        }
        self.values.iter().any(|value| value.fits(self.key, facts)) != self.not
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.not { "not-" } else { "" }, self.key)
    }
}

#[cfg(test)]
mod tests;
