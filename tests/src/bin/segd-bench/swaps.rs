//! Whether traffic notices when the policy is swapped: times of answers with and without.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use segd_tests::{Agent, Load};

use crate::Options;
use crate::agents::{Agents, LITTLE, Plan};
use crate::estate::{CLIENT, SERVER, zone_file};
use crate::pair::{Make, Pair};
use crate::record::{Sample, progress};
use crate::traffic::tell;

const PART: &str = "swaps";

pub(crate) fn measure(options: &Options) -> Result<()> {
    let pair = Pair::new("bench-swaps")?;
    let size = options.typical();
    let texts = [0, 10].map(|changed| zone_file(&pair, size, true, changed));
    let plan = Plan { name: "swaps", port: 9501, zones: &texts[0], zone: [CLIENT, SERVER], log_size: LITTLE };
    let mut agents = Agents::start(&pair, &plan)?;
    let _attached = agents.attach()?;
    let load = Load::TcpRequest;
    let make = Make { load, seconds: options.seconds, warm_up: options.warm_up, parallel: 1, rate: None };
    for round in 1..=options.rounds {
        progress(&format!("swaps: round {round} of {}", options.rounds));
        agents.settle()?;
        let report = pair.make(options, make)?;
        tell(&Sample::of(PART, "still", round).at(size).load(load.name()), load, &report)?;

        let ended = AtomicBool::new(false);
        let [client, server] = agents.both();
        let (report, swaps) = thread::scope(|scope| {
            let swapping: Vec<_> = [client, server]
                .map(|agent| scope.spawn(|| swap_until(agent, &texts, &ended)))
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
        let sample = Sample::of(PART, "swapping", round).at(size).load(load.name());
        tell(&sample, load, &report)?;
        sample.tell("swaps", "1", f64::from(swaps))?;
    }
    Ok(())
}

/// Brings one policy after the other into force; gives how many.
fn swap_until(agent: &mut Agent, texts: &[String; 2], ended: &AtomicBool) -> Result<u32> {
    let mut swaps = 0;
    while !ended.load(Ordering::Relaxed) {
        agent.write_zones(&texts[usize::from(swaps % 2 == 0)])?;
        let applied = agent.segd(&["apply"]).context("segd apply")?;
        ensure!(applied.status.success(), "segd apply: {}", applied.stderr);
        swaps += 1;
    }
    Ok(swaps)
}
