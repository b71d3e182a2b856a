//! segd in one sitting: four hosts, from a flat network over monitor mode to enforcement and back. Every step checks
//! what it claims. `cargo xtask demo` builds and runs it.

mod clients;
mod estate;
mod narrator;
mod operations;
mod story;
mod tables;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::estate::Estate;
use crate::narrator::Narrator;

/// Seconds between two steps for who reads along.
const READING: f32 = 4.0;

/// Shows segd on four simulated hosts of this machine, with real servers and clients.
///
/// Needs root, PostgreSQL, Redis, nginx and curl. Nothing is left when it ends, also by Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "segd-demo")]
struct Cli {
    /// The pause before each step; default: 4 on a terminal, else 0.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pace: Option<Duration>,
    /// The directory of the demo's zone files.
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../zones/demo"))]
    zones: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let reading = if io::stdout().is_terminal() { READING } else { 0.0 };
    let mut narrator = Narrator::new(cli.pace.unwrap_or(Duration::from_secs_f32(reading)));
    match show(&mut narrator, &cli.zones) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("\nsegd-demo: step {} is not as it should be: {fault:#}", narrator.number());
            ExitCode::FAILURE
        }
    }
}

fn show(narrator: &mut Narrator, zones: &Path) -> Result<()> {
    let zones = zones.canonicalize().with_context(|| format!("no zone files at {}", zones.display()))?;
    // Shown as one would type it here.
    let here = std::env::current_dir().unwrap_or_default();
    let zones = zones.strip_prefix(here).unwrap_or(&zones);
    narrator.line("segd on four simulated hosts. One moment: PostgreSQL, Redis and nginx are starting.")?;
    let mut estate = Estate::new()?;
    story::flat(narrator, &mut estate)?;
    story::monitor(narrator, &mut estate, zones)?;
    story::stolen_credential(narrator, &estate)?;
    story::enforce_orders(narrator, &mut estate)?;
    story::enforce_everywhere(narrator, &mut estate)?;
    operations::on_call(narrator, &estate, zones)?;
    operations::killed(narrator, &mut estate)?;
    operations::back_to_monitor(narrator, &mut estate)?;
    let traces = estate.traces();
    drop(estate);
    let left: Vec<_> = traces.iter().filter(|path| path.exists()).collect();
    ensure!(left.is_empty(), "not all was removed: {left:?}");
    narrator.line("")?;
    narrator.line("That was segd. The four hosts are gone from this machine; nothing is left of them.")
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f32 = text.parse().map_err(|_| format!("`{text}` is no number of seconds"))?;
    Duration::try_from_secs_f32(number).map_err(|fault| fault.to_string())
}
