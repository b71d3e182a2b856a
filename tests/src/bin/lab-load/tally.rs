//! How long a load runs, what is counted of it, and what is reported.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use segd_tests::LoadReport;

/// When to count, and how fast to go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    start: Instant,
    count_from: Instant,
    end: Instant,
    /// The time from one operation's beginning to the next one's.
    pace: Option<Duration>,
}

/// What one operation came to.
pub(crate) enum Done {
    /// Answered, with so many bytes sent.
    Answered(usize),
    /// No answer came.
    Lost,
}

/// What one thread counted.
pub(crate) struct Tally {
    times: Histogram<u64>,
    operations: u64,
    with_warm_up: u64,
    bytes: u64,
    lost: u64,
    until: Instant,
}

impl Plan {
    pub(crate) fn new(warm_up: Duration, length: Duration, rate: Option<f64>) -> Self {
        let start = Instant::now();
        let count_from = start + warm_up;
        Self {
            start,
            count_from,
            end: count_from + length,
            pace: rate.map(|r| Duration::from_secs_f64(1.0 / r)),
        }
    }

    /// Runs `load` on `threads` threads and sums up.
    pub(crate) fn run(
        self,
        threads: usize,
        load: impl Fn(Self) -> io::Result<Tally> + Sync,
    ) -> Result<LoadReport> {
        // Each thread has its share of the rate.
        let share = Self { pace: self.pace.map(|pace| pace * u32::try_from(threads).unwrap_or(1)), ..self };
        let (tallies, cpu_us) = thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| load(share))).collect();
            thread::sleep(self.count_from.saturating_duration_since(Instant::now()));
            let before = cpu_time()?;
            let tallies = workers.into_iter().map(|worker| {
                let counted = worker.join().map_err(|_| anyhow!("a thread of the load panicked"))?;
                counted.context("a system call failed")
            });
            let tallies = tallies.collect::<Result<Vec<_>>>()?;
            anyhow::Ok((tallies, cpu_time()? - before))
        })?;
        let mut times = histogram();
        for tally in &tallies {
            times.add(&tally.times)?;
        }
        let sum = |count: fn(&Tally) -> u64| tallies.iter().map(count).sum();
        let until = tallies.iter().map(|tally| tally.until).max().context("no thread ran")?;
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of an operation")]
        let percentile = |p: f64| (!times.is_empty()).then(|| times.value_at_quantile(p) as f64 / 1000.0);
        Ok(LoadReport {
            seconds: until.saturating_duration_since(self.count_from).as_secs_f64(),
            operations: sum(|t| t.operations),
            with_warm_up: sum(|t| t.with_warm_up),
            bytes: sum(|t| t.bytes),
            lost: sum(|t| t.lost),
            p50_us: percentile(0.5),
            p99_us: percentile(0.99),
            p999_us: percentile(0.999),
            cpu_us,
        })
    }

    /// Repeats `operation` until the plan's end. With `timed`, each one's time is kept.
    pub(crate) fn repeat(
        self,
        timed: bool,
        mut operation: impl FnMut() -> io::Result<Done>,
    ) -> io::Result<Tally> {
        let mut tally = Tally {
            times: histogram(),
            operations: 0,
            with_warm_up: 0,
            bytes: 0,
            lost: 0,
            until: self.count_from,
        };
        let mut due = self.start;
        loop {
            if let Some(pace) = self.pace {
                due += pace;
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            let begun = Instant::now();
            if begun >= self.end {
                return Ok(tally);
            }
            let done = operation()?;
            let counts = begun >= self.count_from;
            match done {
                Done::Answered(bytes) => {
                    tally.with_warm_up += 1;
                    if counts {
                        tally.until = Instant::now();
                        tally.operations += 1;
                        tally.bytes += bytes as u64;
                        if timed {
                            let taken = tally.until.duration_since(begun).as_nanos();
                            tally.times.saturating_record(u64::try_from(taken).unwrap_or(u64::MAX));
                        }
                    }
                }
                Done::Lost => tally.lost += 1,
            }
        }
    }
}

/// Nanoseconds, with three significant digits.
#[expect(clippy::expect_used, reason = "3 is a number of digits that it takes")]
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds and digits are valid")
}

fn cpu_time() -> Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("getrusage")?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(u64::try_from(micros)?)
}
