//! Measures segd on two hosts of the lab, against nothing, against programs that do nothing, and against nftables.
//!
//! `cargo xtask bench` builds it, runs it as root and says what the figures mean; its documentation tells how each is
//! measured. Here they are only made: one [`record::Sample`] a line on standard output, as JSON; progress goes to
//! standard error. Nothing is left when it ends, also by a signal.

mod agents;
mod cost;
mod estate;
mod events;
mod hooks;
mod nft;
mod pair;
mod record;
mod start;
mod swaps;
mod sys;
mod tables;
mod traffic;
mod usage;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use segd_tests::Load;

/// Measures segd and prints what it measured, one JSON object a line.
#[derive(Debug, Parser)]
struct Cli {
    /// What to measure; default: everything.
    #[arg(long)]
    only: Vec<Part>,
    #[command(flatten)]
    options: Options,
}

/// What all parts go by.
#[derive(Debug, Clone, clap::Args)]
struct Options {
    /// The object with programs that do nothing.
    #[arg(long)]
    empty: PathBuf,
    /// The directory of the example estate's zone files.
    #[arg(long)]
    example: PathBuf,
    /// How often everything is measured.
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    /// How long a load is measured.
    #[arg(long, default_value_t = 0.3)]
    seconds: f64,
    /// How long it runs before that.
    #[arg(long, default_value_t = 0.1)]
    warm_up: f64,
    /// Numbers of prefixes.
    #[arg(long, value_delimiter = ',', default_value = "10,10000,1000000")]
    prefixes: Vec<usize>,
    /// Numbers of rules.
    #[arg(long, value_delimiter = ',', default_value = "10,10000")]
    rules: Vec<usize>,
    /// Loads; default: all.
    #[arg(long, value_delimiter = ',')]
    loads: Vec<Load>,
    /// Variants; default: all.
    #[arg(long, value_delimiter = ',')]
    variants: Vec<traffic::Kind>,
    /// Keep the CPUs from idle states.
    #[arg(long)]
    awake: bool,
    /// The CPU of the client.
    #[arg(long, default_value_t = 0)]
    client_cpu: usize,
    /// The CPU of the server.
    #[arg(long, default_value_t = 1)]
    server_cpu: usize,
}

/// A part of the measurement, each on hosts of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Rates and times of every load under every variant.
    Traffic,
    /// What each program costs per run, and its size.
    Programs,
    /// Loading many prefixes, changing a few of them, and the memory that they take.
    Tables,
    /// Times of answers while the policy is swapped again and again.
    Swaps,
    /// Whether every flow is counted, and logged or counted as lost.
    Events,
    /// What the agent's CPU time is at 10,000 flows a second, and without any.
    Cpu,
    /// From exec to enforcing.
    Start,
    /// New agents in place of old ones, under traffic.
    Takeover,
}

impl Options {
    fn loads(&self) -> Vec<Load> {
        if self.loads.is_empty() { Load::ALL.to_vec() } else { self.loads.clone() }
    }

    fn largest(&self) -> usize {
        self.prefixes.iter().copied().max().unwrap_or(10)
    }

    /// The middle one.
    fn typical(&self) -> estate::Size {
        let mut prefixes = self.prefixes.clone();
        prefixes.sort_unstable();
        let prefixes = prefixes.get(prefixes.len() / 2).copied().unwrap_or(10);
        estate::Size { prefixes, rules: self.rules.iter().copied().min().unwrap_or(10) }
    }

    /// The smallest and the largest one.
    fn extremes(&self) -> [estate::Size; 2] {
        let (prefixes, rules) = (&self.prefixes, &self.rules);
        let size = |prefixes: Option<&usize>, rules: Option<&usize>| estate::Size {
            prefixes: prefixes.copied().unwrap_or(10),
            rules: rules.copied().unwrap_or(10),
        };
        [size(prefixes.iter().min(), rules.iter().min()), size(prefixes.iter().max(), rules.iter().max())]
    }

    fn length(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

fn main() -> Result<()> {
    let Cli { only, options } = Cli::parse();
    let _awake = options.awake.then(awake).transpose()?;
    let parts = if only.is_empty() { Part::value_variants().to_vec() } else { only };
    for part in parts {
        let measured = match part {
            Part::Traffic => traffic::measure(&options),
            Part::Programs => cost::measure(&options),
            Part::Tables => tables::measure(&options),
            Part::Swaps => swaps::measure(&options),
            Part::Events => events::adding_up(&options),
            Part::Cpu => events::cpu(&options),
            Part::Start => start::exec_to_enforcing(&options),
            Part::Takeover => start::takeover(&options),
        };
        measured.with_context(|| format!("the part {part:?} failed"))?;
    }
    Ok(())
}

/// As long as the file is open, no CPU may go to an idle state that it takes time to leave
/// (Documentation/power/pm_qos_interface.rst).
fn awake() -> Result<File> {
    const FILE: &str = "/dev/cpu_dma_latency";
    let open = || -> std::io::Result<File> {
        let mut file = File::options().write(true).open(FILE)?;
        file.write_all(&0_i32.to_ne_bytes())?;
        Ok(file)
    };
    open().with_context(|| format!("cannot write {FILE}"))
}
