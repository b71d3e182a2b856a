//! The guard: watches what a change breaks for a while after it, and says when that is too much. Pure; the caller
//! tells it what happens, undoes the change and journals the [`Breach`].

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::Duration;

use segd_common::traffic::Direction;
use serde::Serialize;

use super::seen::Key;

/// Offenders that are kept by name; what further ones do is counted.
pub const MAX_OFFENDERS: usize = 20;

/// Failures of the probe in a row that are a breach.
pub const PROBE_FAILURES: u32 = 2;

/// Denials of what a peer begins count once in this time. Nanoseconds.
const INBOUND_NS: u64 = 10 * SECOND;

/// What a change may break, and for how long that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Denials in any sixty seconds of what flowed before the change; more are a breach. `None`: any number. What this
    /// host begins counts each time it is denied, as each is an error for somebody. What a peer begins counts once in
    /// ten seconds for each peer and port: a dropped packet is sent again, and by itself that is no further failure.
    pub max_denied_per_minute: Option<u64>,
    /// Live flows that the change cut; more are a breach. `None`: any number.
    pub max_cut: Option<u64>,
    /// How long after the change.
    pub window: Duration,
}

/// Who was denied or cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Offender {
    /// Who to whom: `fulfillment 10.20.1.4 -> orders 10.30.0.1 tcp/5432`.
    pub flow: String,
    /// Whose socket it is: `postgres (wms.service)`.
    pub process: Option<String>,
}

/// What happened to one [`Offender`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Who.
    #[serde(flatten)]
    pub offender: Offender,
    /// Denials.
    pub denied: u64,
    /// Live flows cut.
    pub cut: u64,
}

/// Why a change is to be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Cause {
    /// Too many denials.
    Denied {
        /// In the last minute.
        count: u64,
        /// What was allowed.
        limit: u64,
    },
    /// Too many live flows were cut.
    Cut {
        /// Since the change.
        count: u64,
        /// What was allowed.
        limit: u64,
    },
    /// The probe, which succeeded before the change, fails.
    Probe {
        /// In a row.
        failures: u32,
        /// Of the last one.
        error: String,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied { count, limit } => {
                write!(f, "{count} denials in a minute of what flowed before; {limit} are allowed")
            }
            Self::Cut { count, limit } => write!(f, "{count} live flows were cut; {limit} are allowed"),
            Self::Probe { failures, error } => {
                write!(f, "the probe failed {failures} times in a row: {error}")
            }
        }
    }
}

/// What is journaled of a change that is undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Breach {
    /// The limit that was passed.
    pub cause: Cause,
    /// Who was denied or cut since the change, the most affected first.
    pub offenders: Vec<Tally>,
    /// Denials and cuts of whoever is not among them.
    pub others: u64,
}

/// How the probe did before the change.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Baseline {
    Unknown,
    Good,
    Bad,
}

/// A change that is watched. Times are nanoseconds of one clock that never goes back.
#[derive(Debug)]
pub struct Watch {
    limits: Limits,
    ends_at: u64,
    minute: Minute,
    /// When a denial of what a peer began counted last; as many as flowed before the change at most.
    counted: HashMap<Key, u64>,
    cut: u64,
    tallies: Vec<Tally>,
    others: u64,
    baseline: Baseline,
    failures: u32,
    /// A breach is told once.
    breached: bool,
}

impl Watch {
    /// Of a change that came into force at `started`.
    #[must_use]
    pub fn new(limits: Limits, started: u64) -> Self {
        let window = u64::try_from(limits.window.as_nanos()).unwrap_or(u64::MAX);
        Self {
            limits,
            ends_at: started.saturating_add(window),
            minute: Minute::default(),
            counted: HashMap::new(),
            cut: 0,
            tallies: Vec::new(),
            others: 0,
            baseline: Baseline::Unknown,
            failures: 0,
            breached: false,
        }
    }

    /// Takes how the probe did before the change. One that failed then proves nothing, and neither does one that was
    /// not run.
    ///
    /// # Errors
    /// It failed; the text is a warning for people.
    pub fn probed_before(&mut self, result: Result<(), String>) -> Result<(), String> {
        self.baseline = if result.is_ok() { Baseline::Good } else { Baseline::Bad };
        result.map_err(|error| {
            format!("the guard's probe fails already before the change, so it is not heeded: {error}")
        })
    }

    /// `n` denials of what flowed before the change.
    pub fn denied(&mut self, now: u64, n: u64, key: &Key, offender: Offender) -> Option<Breach> {
        if self.is_over(now) {
            return None;
        }
        self.tally(offender, n, |tally| &mut tally.denied);
        let counts = self.failures_in(now, n, key);
        self.minute.add(now, counts);
        let (count, limit) = (self.minute.sum(now), self.limits.max_denied_per_minute?);
        (count > limit).then(|| self.breach(Cause::Denied { count, limit }))
    }

    /// How many of so many denials count.
    fn failures_in(&mut self, now: u64, n: u64, key: &Key) -> u64 {
        if key.direction == Direction::Outbound {
            return n;
        }
        match self.counted.get(key) {
            Some(last) if now.saturating_sub(*last) < INBOUND_NS => 0,
            _ => {
                self.counted.insert(*key, now);
                1
            }
        }
    }

    /// `n` live flows that the change cut.
    pub fn cut(&mut self, now: u64, n: u64, offender: Offender) -> Option<Breach> {
        if self.is_over(now) {
            return None;
        }
        self.tally(offender, n, |tally| &mut tally.cut);
        self.cut = self.cut.saturating_add(n);
        let (count, limit) = (self.cut, self.limits.max_cut?);
        (count > limit).then(|| self.breach(Cause::Cut { count, limit }))
    }

    /// The probe was run. Heeded only if it succeeded before the change; a single failure is none.
    pub fn probe(&mut self, now: u64, result: Result<(), String>) -> Option<Breach> {
        if self.is_over(now) || self.baseline != Baseline::Good {
            return None;
        }
        let Err(error) = result else {
            self.failures = 0;
            return None;
        };
        self.failures += 1;
        let failures = self.failures;
        (failures >= PROBE_FAILURES).then(|| self.breach(Cause::Probe { failures, error }))
    }

    /// Denials in the minute before `now`, and live flows cut so far.
    pub fn counts(&mut self, now: u64) -> (u64, u64) {
        (self.minute.sum(now), self.cut)
    }

    /// When the window is over.
    #[must_use]
    pub fn ends_at(&self) -> u64 {
        self.ends_at
    }

    fn is_over(&self, now: u64) -> bool {
        self.breached || now >= self.ends_at
    }

    fn tally(&mut self, offender: Offender, n: u64, count: impl Fn(&mut Tally) -> &mut u64) {
        let known = self.tallies.iter().position(|tally| tally.offender == offender);
        let at = known.or_else(|| {
            (self.tallies.len() < MAX_OFFENDERS).then(|| {
                self.tallies.push(Tally { offender, denied: 0, cut: 0 });
                self.tallies.len() - 1
            })
        });
        let counted = match at.and_then(|at| self.tallies.get_mut(at)) {
            Some(tally) => count(tally),
            None => &mut self.others,
        };
        *counted = counted.saturating_add(n);
    }

    fn breach(&mut self, cause: Cause) -> Breach {
        self.breached = true;
        let mut offenders = std::mem::take(&mut self.tallies);
        offenders.sort_by_key(|tally| std::cmp::Reverse(tally.denied.saturating_add(tally.cut)));
        Breach { cause, offenders, others: self.others }
    }
}

const SECOND: u64 = 1_000_000_000;

/// Sums over the last sixty seconds; what happened within a second of the clock is one entry, so there are at most 61.
#[derive(Debug, Default)]
struct Minute(VecDeque<(u64, u64)>);

impl Minute {
    fn add(&mut self, now: u64, n: u64) {
        let second = now / SECOND;
        match self.0.back_mut() {
            Some((last, count)) if *last >= second => *count = count.saturating_add(n),
            _ => self.0.push_back((second, n)),
        }
    }

    fn sum(&mut self, now: u64) -> u64 {
        while self.0.front().is_some_and(|(second, _)| second + 60 <= now / SECOND) {
            self.0.pop_front();
        }
        self.0.iter().fold(0, |sum, (_, n)| sum.saturating_add(*n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 5_000 * SECOND;

    fn limits(denied: Option<u64>, cut: Option<u64>) -> Limits {
        Limits { max_denied_per_minute: denied, max_cut: cut, window: Duration::from_secs(600) }
    }

    fn who(name: &str) -> Offender {
        Offender { flow: name.to_owned(), process: None }
    }

    fn key(direction: Direction, peer: u8) -> Key {
        let subject = segd_common::id::SubjectId(16);
        let peer = segd_common::addr::Addr::v4([10, 0, 0, peer]);
        Key { subject, direction, peer, protocol: 6, port: 5432 }
    }

    #[derive(Clone, Copy)]
    enum Step {
        Denied(u64),
        Cut(u64),
        Good,
        Bad,
    }
    use Step::{Bad, Cut, Denied, Good};

    /// Which step, counted from 0, is a breach, and why.
    fn run(limits: Limits, before: Option<bool>, steps: &[(u64, Step)]) -> Option<(usize, String)> {
        let mut watch = Watch::new(limits, START);
        if let Some(good) = before {
            let result = if good { Ok(()) } else { Err("refused".to_owned()) };
            assert_eq!(watch.probed_before(result).is_ok(), good);
        }
        let mut found = None;
        for (n, (second, step)) in steps.iter().enumerate() {
            let now = START + second * SECOND;
            let breach = match *step {
                Denied(count) => watch.denied(now, count, &key(Direction::Outbound, 1), who("a")),
                Cut(count) => watch.cut(now, count, who("b")),
                Good => watch.probe(now, Ok(())),
                Bad => watch.probe(now, Err("refused".to_owned())),
            };
            if let Some(breach) = breach {
                assert!(found.is_none(), "a breach is told once");
                found = Some((n, breach.cause.to_string()));
            }
        }
        found
    }

    #[test]
    fn each_limit_holds_to_the_last_one_and_no_further() {
        let denied = limits(Some(3), None);
        let cut = limits(None, Some(2));
        let too_many = |n| Some((n, "4 denials in a minute of what flowed before; 3 are allowed".to_owned()));
        let probe = |n| Some((n, "the probe failed 2 times in a row: refused".to_owned()));
        type Case<'s> = (&'s str, Limits, Option<bool>, &'s [(u64, Step)], Option<(usize, String)>);
        let cases: &[Case<'_>] = &[
            ("at the limit", denied, None, &[(0, Denied(1)), (1, Denied(2))], None),
            ("above it", denied, None, &[(0, Denied(1)), (1, Denied(2)), (2, Denied(1))], too_many(2)),
            ("joined denials", denied, None, &[(0, Denied(4))], too_many(0)),
            ("a minute later", denied, None, &[(0, Denied(3)), (60, Denied(3)), (120, Denied(3))], None),
            (
                "within a minute",
                denied,
                None,
                &[(0, Denied(1)), (30, Denied(2)), (59, Denied(1))],
                too_many(2),
            ),
            (
                "the window slides",
                denied,
                None,
                &[(0, Denied(3)), (61, Denied(1)), (90, Denied(3))],
                too_many(2),
            ),
            ("told once", denied, None, &[(0, Denied(4)), (1, Denied(9)), (2, Cut(9))], too_many(0)),
            ("after the end", denied, None, &[(600, Denied(9))], None),
            ("just before the end", denied, None, &[(599, Denied(4))], too_many(0)),
            ("no limit", limits(None, None), None, &[(0, Denied(u64::MAX)), (0, Cut(u64::MAX))], None),
            ("cuts at the limit", cut, None, &[(0, Cut(1)), (300, Cut(1))], None),
            (
                "cuts add up",
                cut,
                None,
                &[(0, Cut(1)), (300, Cut(1)), (500, Cut(1))],
                Some((2, "3 live flows were cut; 2 are allowed".to_owned())),
            ),
            (
                "none may be cut",
                limits(None, Some(0)),
                None,
                &[(0, Cut(1))],
                Some((0, "1 live flows were cut; 0 are allowed".to_owned())),
            ),
            ("a single failure", cut, Some(true), &[(0, Bad), (5, Good), (10, Bad), (15, Good)], None),
            ("two in a row", cut, Some(true), &[(0, Good), (5, Bad), (10, Bad)], probe(2)),
            ("it failed before", cut, Some(false), &[(0, Bad), (5, Bad), (10, Bad)], None),
            ("it was not run before", cut, None, &[(0, Bad), (5, Bad)], None),
            ("it failed before and recovered", cut, Some(false), &[(0, Good), (5, Bad), (10, Bad)], None),
        ];
        for (name, limits, before, steps, wanted) in cases {
            assert_eq!(run(*limits, *before, steps), *wanted, "{name}");
        }
    }

    #[test]
    fn packets_that_a_peer_sends_again_are_one_failure() {
        let mut watch = Watch::new(limits(Some(4), None), START);
        let (a, b) = (key(Direction::Inbound, 1), key(Direction::Inbound, 2));
        for (second, key, counted) in
            [(0, &a, 1), (1, &a, 1), (3, &a, 1), (3, &b, 2), (9, &a, 2), (10, &a, 3)]
        {
            let now = START + second * SECOND;
            assert_eq!(watch.denied(now, 7, key, who("peer")), None);
            assert_eq!(watch.counts(now).0, counted, "{second} {key:?}");
        }
        assert_eq!(watch.denied(START + 20 * SECOND, 1, &b, who("peer")), None);
        let breach = watch.denied(START + 20 * SECOND, 1, &a, who("peer")).unwrap();
        assert_eq!(breach.offenders[0].denied, 44, "the journal has them all");
    }

    #[test]
    fn a_probe_that_fails_before_the_change_is_a_warning() {
        let mut watch = Watch::new(limits(None, None), START);
        let warning = watch.probed_before(Err("connection refused".to_owned())).unwrap_err();
        assert_eq!(
            warning,
            "the guard's probe fails already before the change, so it is not heeded: connection refused"
        );
    }

    #[test]
    fn offenders_are_joined_sorted_and_bounded() {
        let mut watch = Watch::new(limits(Some(100), None), START);
        for n in 0..25 {
            assert_eq!(watch.denied(START, 2, &key(Direction::Outbound, 1), who(&format!("host {n}"))), None);
        }
        assert_eq!(watch.cut(START, 5, who("host 7")), None);
        let breach = watch.denied(START, 51, &key(Direction::Outbound, 1), who("host 3")).unwrap();
        assert_eq!(breach.offenders.len(), MAX_OFFENDERS);
        assert_eq!(breach.offenders[0], Tally { offender: who("host 3"), denied: 53, cut: 0 });
        assert_eq!(breach.offenders[1], Tally { offender: who("host 7"), denied: 2, cut: 5 });
        assert_eq!(breach.others, 10);
        let json = serde_json::to_value(&breach).unwrap();
        assert_eq!(json["cause"]["what"], "denied");
        assert_eq!(json["offenders"][0]["flow"], "host 3");
    }

    #[test]
    fn the_end_is_the_window_after_the_start() {
        assert_eq!(Watch::new(limits(None, None), START).ends_at(), START + 600 * SECOND);
        let forever = Limits { window: Duration::MAX, ..limits(None, None) };
        assert_eq!(Watch::new(forever, START).ends_at(), u64::MAX);
    }
}
