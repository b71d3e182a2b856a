//! Makes traffic between two hosts of the lab as fast as it goes, or at a rate, and says how fast that was.
//!
//! `lab-load serve` runs on one host and `lab-load run` on the other, each bound to one CPU so that runs compare.
//! The sockets block, as those of most programs do.

mod bulk;
mod tally;
mod tcp;
mod udp;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use segd_tests::Load;

use crate::tally::Plan;

/// Makes traffic and measures it.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    end: End,
}

#[derive(Debug, Subcommand)]
enum End {
    /// Serve until standard input ends. Says `ready` when it does.
    Serve {
        /// For which load.
        load: Load,
        /// Where.
        address: SocketAddr,
        /// On which CPU; default: any.
        #[arg(long)]
        cpu: Option<usize>,
        /// How many connections are served at once, where each connection is one operation.
        #[arg(long, default_value_t = 1)]
        parallel: usize,
    },
    /// Make the load and report it, as one line of JSON.
    Run {
        /// Which.
        load: Load,
        /// Where its server is.
        address: SocketAddr,
        /// On which CPU; default: any.
        #[arg(long)]
        cpu: Option<usize>,
        /// How long to measure.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
        /// How long to run before that.
        #[arg(long, default_value_t = 0.2)]
        warm_up: f64,
        /// How many connections are in flight, where each connection is one operation.
        #[arg(long, default_value_t = 1)]
        parallel: usize,
        /// Operations a second; default: as many as there can be.
        #[arg(long)]
        rate: Option<f64>,
    },
}

fn main() -> Result<()> {
    match Cli::parse().end {
        End::Serve { load, address, cpu, parallel } => {
            bind_to(cpu)?;
            match load {
                Load::TcpConnect | Load::TcpRequest => tcp::serve(address, parallel)?,
                Load::UdpRequest => udp::serve(address, false)?,
                Load::UdpConnected => udp::serve(address, true)?,
                Load::TcpBulk | Load::TcpBulk8 => bulk::serve(address)?,
            }
            say("ready")?;
            // Ends with its standard input, that is when the bench lets go of it.
            io::copy(&mut io::stdin().lock(), &mut io::sink())?;
            Ok(())
        }
        End::Run { load, address, cpu, seconds, warm_up, parallel, rate } => {
            bind_to(cpu)?;
            let plan = Plan::new(Duration::from_secs_f64(warm_up), Duration::from_secs_f64(seconds), rate);
            let report = match load {
                Load::TcpConnect => plan.run(parallel, |plan| tcp::connects(address, plan)),
                Load::TcpRequest => plan.run(1, |plan| tcp::requests(address, plan)),
                Load::UdpRequest => plan.run(1, |plan| udp::requests(address, plan, false)),
                Load::UdpConnected => plan.run(1, |plan| udp::requests(address, plan, true)),
                Load::TcpBulk | Load::TcpBulk8 => {
                    plan.run(load.streams(), |plan| bulk::stream(address, plan))
                }
            };
            let report = report.with_context(|| format!("{} to {address}", load.name()))?;
            say(&serde_json::to_string(&report)?)
        }
    }
}

/// Threads that are started later are bound too.
fn bind_to(cpu: Option<usize>) -> Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(cpu).with_context(|| format!("there is no CPU {cpu}"))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot run on CPU {cpu}"))
}

fn say(line: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}
