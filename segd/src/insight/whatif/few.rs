//! Some of many.

use std::collections::BTreeSet;

use serde::Serialize;

/// Names shown of many.
const MOST: usize = 10;

/// Names, of which there may be too many to show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Few {
    /// How many there are.
    pub count: u64,
    /// The first ten.
    pub some: Vec<String>,
}

impl Few {
    /// Of these, and `more` without a name.
    pub(super) fn of<T: AsRef<str>>(names: &BTreeSet<T>, more: u64) -> Self {
        let count = u64::try_from(names.len()).unwrap_or(u64::MAX).saturating_add(more);
        Self { count, some: names.iter().take(MOST).map(|name| name.as_ref().to_owned()).collect() }
    }
}
