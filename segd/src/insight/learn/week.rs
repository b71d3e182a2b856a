//! Which hours of the week were seen. All in UTC: hosts of one estate may be in several time zones.

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::history::summary::HOUR;

/// Hours of a week.
pub(super) const WEEK: u32 = 168;

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// A set of hours of the week. Bit 0 is Monday from 00:00 to 01:00 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Week([u64; 3]);

impl Week {
    /// Adds the hour that begins so many seconds after the Unix epoch, which was a Thursday.
    pub(super) fn add(&mut self, hour: i64) {
        let slot = (hour.div_euclid(HOUR) + 3 * 24).rem_euclid(i64::from(WEEK));
        let slot = usize::try_from(slot).unwrap_or(0);
        if let Some(word) = self.0.get_mut(slot / 64) {
            *word |= 1 << (slot % 64);
        }
    }

    /// Adds those of another set.
    pub(super) fn join(&mut self, other: Self) {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
    }

    /// How many there are, of 168.
    #[must_use]
    pub fn hours(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    fn has(&self, slot: usize) -> bool {
        self.0.get(slot / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    /// Days of which an hour is in the set, from Monday on.
    fn days(&self) -> [bool; 7] {
        std::array::from_fn(|day| (0..24).any(|hour| self.has(day * 24 + hour)))
    }

    /// Hours of the day that are in the set on some day.
    fn hours_of_day(&self) -> [bool; 24] {
        std::array::from_fn(|hour| (0..7).any(|day| self.has(day * 24 + hour)))
    }

    /// As `Mon-Fri, 06-18 h`.
    #[must_use]
    pub fn text(&self) -> String {
        let days = runs(&self.days(), |n| DAYS.get(n).copied().unwrap_or("").to_owned());
        let hours = runs(&self.hours_of_day(), |n| format!("{n:02}"));
        format!("{days}, {hours} h")
    }
}

/// Runs of what is set, as `a-c, e`.
fn runs(set: &[bool], name: impl Fn(usize) -> String) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut at = 0;
    while at < set.len() {
        let length = set.iter().skip(at).take_while(|set| **set).count();
        match length {
            0 => {}
            1 => parts.push(name(at)),
            _ => parts.push(format!("{}-{}", name(at), name(at + length - 1))),
        }
        at += length + 1;
    }
    parts.join(" ")
}

impl Serialize for Week {
    /// Days and hours of the day, and the number of hours of the week.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown {
            hours_of_168: u32,
            days: Vec<&'static str>,
            hours_of_day: Vec<usize>,
        }
        let set = |set: &[bool]| set.iter().enumerate().filter(|(_, s)| **s).map(|(n, _)| n).collect();
        let days: Vec<usize> = set(&self.days());
        let days = days.into_iter().filter_map(|n| DAYS.get(n).copied()).collect();
        Shown { hours_of_168: self.hours(), days, hours_of_day: set(&self.hours_of_day()) }.serialize(to)
    }
}

/// RFC 3339 to the minute: seconds say nothing in evidence.
pub(super) fn minute(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%MZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_fall_on_their_days() {
        let of = |times: &[&str]| {
            let mut week = Week::default();
            for time in times {
                week.add(time.parse::<Timestamp>().unwrap().as_second());
            }
            (week.hours(), week.text())
        };
        // 2026-11-22 is a Sunday.
        assert_eq!(of(&["2026-11-22T23:59:59Z"]), (1, "Sun, 23 h".to_owned()));
        assert_eq!(of(&["2026-11-23T00:00:00Z", "2026-11-30T00:10:00Z"]), (1, "Mon, 00 h".to_owned()));
        let many = ["2026-11-23T06:00:00Z", "2026-11-24T07:00:00Z", "2026-11-26T08:00:00Z"];
        assert_eq!(of(&many), (3, "Mon-Tue Thu, 06-08 h".to_owned()));
        assert_eq!(of(&["1969-12-31T23:00:00Z"]).1, "Wed, 23 h");
    }
}
