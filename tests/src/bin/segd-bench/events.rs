//! What the agent makes of many flows: whether it tells or counts each of them, and what CPU time that takes.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use segd_tests::{Agent, Load};

use crate::Options;
use crate::agents::{Agents, LITTLE, Plan};
use crate::estate::{CLIENT, SERVER, zone_file};
use crate::pair::{Make, Pair};
use crate::record::{Sample, progress};
use crate::usage;

/// Connections in flight where the machine is to make as many as it can.
const PARALLEL: usize = 4;

/// The rate at which the agent's CPU time is measured.
const RATE: f64 = 10_000.0;

/// What one agent has counted and told so far.
#[derive(Debug, Clone, Copy, Default)]
struct Account {
    flows: f64,
    lines: f64,
    lost: f64,
}

impl Account {
    fn of(agent: &Agent) -> Result<Self> {
        let metrics = agent.metrics()?;
        let log = File::open(agent.builder().flow_log())?;
        #[expect(clippy::cast_precision_loss, reason = "lines of a log")]
        let lines = BufReader::with_capacity(1 << 20, log).split(b'\n').count() as f64;
        Ok(Self {
            flows: metrics.sum("segd_flows_total", &[]),
            lines,
            lost: metrics.sum("segd_lost_events_total", &[]),
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            flows: self.flows - before.flows,
            lines: self.lines - before.lines,
            lost: self.lost - before.lost,
        }
    }

    /// Each flow has a beginning and an end; how many of them are neither in the log nor counted as lost.
    fn missing(self) -> f64 {
        self.flows * 2.0 - self.lines - self.lost
    }
}

/// At the highest rate of connections that this machine makes.
pub(crate) fn adding_up(options: &Options) -> Result<()> {
    const PART: &str = "events";
    let pair = Pair::new("bench-events")?;
    let zones = zone_file(&pair, options.typical(), true, 0);
    // The log must not begin anew while its lines are counted.
    let plan = Plan { name: "events", port: 9501, zones: &zones, zone: [CLIENT, SERVER], log_size: "4GiB" };
    let mut agents = Agents::start(&pair, &plan)?;
    let _attached = agents.attach()?;
    for round in 1..=options.rounds {
        progress(&format!("events: round {round} of {}", options.rounds));
        let accounts = |agents: &mut Agents| -> Result<Vec<Account>> {
            agents.both().into_iter().map(|agent| Account::of(agent)).collect()
        };
        let before = accounts(&mut agents)?;
        let make = Make {
            load: Load::TcpConnect,
            seconds: options.seconds.max(1.0),
            warm_up: 0.0,
            parallel: PARALLEL,
            rate: None,
        };
        let report = pair.make(options, make)?;
        agents.settle()?;
        // Sinks write what they hold after a moment.
        sleep(Duration::from_millis(1500));
        let after = accounts(&mut agents)?;
        for ((name, before), after) in ["client", "server"].into_iter().zip(before).zip(after) {
            let account = after.since(before);
            let sample = Sample::of(PART, name, round).load(Load::TcpConnect.name());
            sample.tell("rate", "1/s", report.rate(Load::TcpConnect))?;
            #[expect(clippy::cast_precision_loss, reason = "connections of some seconds")]
            let made = report.with_warm_up as f64;
            sample.tell("connections", "1", made)?;
            sample.tell("flows_counted", "1", account.flows)?;
            sample.tell("records_logged", "1", account.lines)?;
            sample.tell("events_lost", "1", account.lost)?;
            sample.tell("flows_not_counted", "1", made - account.flows)?;
            sample.tell("events_missing", "1", account.missing())?;
        }
    }
    Ok(())
}

/// The agent's CPU time: at a steady rate of connections, and without any.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds of some seconds")]
pub(crate) fn cpu(options: &Options) -> Result<()> {
    const PART: &str = "cpu";
    let pair = Pair::new("bench-cpu")?;
    let zones = zone_file(&pair, options.typical(), true, 0);
    let plan = Plan { name: "cpu", port: 9501, zones: &zones, zone: [CLIENT, SERVER], log_size: LITTLE };
    let mut agents = Agents::start(&pair, &plan)?;
    let attached = agents.attach()?;
    for round in 1..=options.rounds {
        progress(&format!("cpu: round {round} of {}", options.rounds));
        agents.settle()?;
        let pids = agents.pids();
        let before = pids.map(usage::cpu_ns);
        let make = Make {
            load: Load::TcpConnect,
            seconds: options.seconds.max(1.0),
            warm_up: 0.0,
            parallel: PARALLEL,
            rate: Some(RATE),
        };
        let report = pair.make(options, make)?;
        agents.settle()?;
        for ((name, pid), before) in ["client", "server"].into_iter().zip(pids).zip(before) {
            let used = usage::cpu_ns(pid)?.saturating_sub(before?) as f64;
            let sample = Sample::of(PART, name, round).load(Load::TcpConnect.name());
            sample.tell("rate", "1/s", report.rate(Load::TcpConnect))?;
            // What it would be at the full rate, if the machine did not make that.
            sample.tell("core_at_10000_a_second", "%", used / report.with_warm_up as f64 * RATE / 1e7)?;
            sample.tell("per_flow", "ns", used / report.with_warm_up as f64)?;
        }
    }
    // Nothing happens, but what it does by the clock. A longer time than one period of that.
    let length = options.length().max(Duration::from_secs(1)) * 10;
    agents.settle()?;
    let pids = agents.pids();
    let (begun, before) = (Instant::now(), pids.map(usage::cpu_ns));
    sleep(length);
    let passed = begun.elapsed().as_nanos() as f64;
    for ((name, pid), before) in ["client", "server"].into_iter().zip(pids).zip(before) {
        let used = usage::cpu_ns(pid)?.saturating_sub(before?) as f64;
        Sample::of(PART, name, 1).tell("idle_core", "%", used / passed * 100.0)?;
    }
    ensure!(agents.client().metrics()?.sum("segd_flows_total", &[]) > 0.0, "the agent saw no flow");
    drop(attached);
    Ok(())
}
