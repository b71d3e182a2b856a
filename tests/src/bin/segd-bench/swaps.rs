//! Whether traffic notices when the policy is swapped: times of answers without swaps, with one a second, and with swaps that
//! follow upon each other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use segd_tests::{Agent, Load};

use crate::Options;
use crate::agents::{Agents, LITTLE, Plan};
use crate::estate::{CLIENT, SERVER, zone_file};
use crate::pair::{Make, Pair};
use crate::record::{Sample, progress};
use crate::traffic::tell;

const PART: &str = "swaps";

/// Variants, and how long after the beginning of one swap the next one begins on the same host.
const PACES: [(&str, Duration); 2] = [("each-second", Duration::from_secs(1)), ("swapping", Duration::ZERO)];

/// Seconds of a measurement: of a policy a second, two come into force on each host.
const LEAST: f64 = 2.0;

pub(crate) fn measure(options: &Options) -> Result<()> {
    let pair = Pair::new("bench-swaps")?;
    let size = options.typical();
    let texts = [0, 10].map(|changed| zone_file(&pair, size, true, changed));
    let plan = Plan { name: "swaps", port: 9501, zones: &texts[0], zone: [CLIENT, SERVER], log_size: LITTLE };
    let mut agents = Agents::start(&pair, &plan)?;
    let _attached = agents.attach()?;
    let load = Load::TcpRequest;
    let seconds = options.seconds.max(LEAST);
    let make = Make { load, seconds, warm_up: options.warm_up, parallel: 1, rate: None };
    for round in 1..=options.rounds {
        progress(&format!("swaps: round {round} of {}", options.rounds));
        agents.settle()?;
        let report = pair.make(options, make)?;
        tell(&Sample::of(PART, "still", round).at(size).load(load.name()), load, &report)?;
        for (variant, pause) in PACES {
            let ended = AtomicBool::new(false);
            let [client, server] = agents.both();
            let (report, swaps) = thread::scope(|scope| {
                let swapping: Vec<_> = [client, server]
                    .map(|agent| scope.spawn(|| swap_until(agent, &texts, pause, &ended)))
                    .into_iter()
                    .collect();
                let report = pair.make(options, make);
                ended.store(true, Ordering::Relaxed);
                let mut swaps = 0;
                for thread in swapping {
                    swaps += thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
                }
                anyhow::Ok((report?, swaps))
            })?;
            let sample = Sample::of(PART, variant, round).at(size).load(load.name());
            tell(&sample, load, &report)?;
            sample.tell("swaps", "1", f64::from(swaps))?;
        }
    }
    Ok(())
}

/// Brings one policy after the other into force; gives how many.
fn swap_until(agent: &mut Agent, texts: &[String; 2], pause: Duration, ended: &AtomicBool) -> Result<u32> {
    let mut swaps = 0;
    while !ended.load(Ordering::Relaxed) {
        let began = Instant::now();
        agent.write_zones(&texts[usize::from(swaps % 2 == 0)])?;
        let applied = agent.segd(&["apply"]).context("segd apply")?;
        ensure!(applied.status.success(), "segd apply: {}", applied.stderr);
        swaps += 1;
        while began.elapsed() < pause && !ended.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(swaps)
}
