//! Each program for itself: its size, and what a run costs by the kernel's statistics and by BPF_PROG_TEST_RUN.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use aya::sys::{Stats, enable_stats};
use nix::net::if_::if_nametoindex;
use segd_tests::Load;

use crate::Options;
use crate::agents::{Agents, LITTLE, Plan};
use crate::estate::{CLIENT, SERVER, zone_file};
use crate::hooks::Programs;
use crate::pair::{Make, Pair};
use crate::record::{Sample, progress};
use crate::sys::{self, ProgramFacts};

const PART: &str = "programs";

const ENFORCE: &str = "segd-enforce";

/// Runs in one BPF_PROG_TEST_RUN.
const REPEAT: u32 = 500_000;

pub(crate) fn measure(options: &Options) -> Result<()> {
    let pair = Pair::new("bench-programs")?;
    let typical = options.typical();
    let bare = [("empty", Programs::empty(&options.empty)?), ("look-up", Programs::look_up(&options.empty)?)];
    let mut kinds = vec![("segd-monitor", typical), (ENFORCE, typical)];
    // Others are measured for whether the size matters.
    kinds.extend(options.extremes().into_iter().filter(|size| *size != typical).map(|size| (ENFORCE, size)));
    let mut judging = Vec::new();
    for ((name, size), port) in kinds.into_iter().zip(9501..) {
        let zones = zone_file(&pair, size, name == ENFORCE, 0);
        let unique = format!("{name}-{}", size.word());
        let plan = Plan { name: &unique, port, zones: &zones, zone: [CLIENT, SERVER], log_size: LITTLE };
        judging.push((name, size, Agents::start(&pair, &plan)?));
    }
    for (name, programs) in &bare {
        sizes(name, programs)?;
    }
    for (name, _, agents) in judging.iter().filter(|(_, size, _)| *size == typical) {
        sizes(name, agents.programs()[0])?;
    }
    let _statistics = enable_stats(Stats::RunTime).context("the kernel does not count run times")?;
    for round in 1..=options.rounds {
        progress(&format!("programs: round {round} of {}", options.rounds));
        for load in options.loads() {
            for (name, programs) in &bare {
                let attached = programs.attach_to(pair.hosts())?;
                let sample = Sample::of(PART, name, round).load(load.name());
                under_load(options, &pair, [programs, programs], &sample, load)?;
                drop(attached);
            }
            for (name, size, agents) in &mut judging {
                let attached = agents.attach()?;
                let sample = Sample::of(PART, name, round).at(*size).load(load.name());
                under_load(options, &pair, agents.programs(), &sample, load)?;
                if *name == ENFORCE {
                    // Without waking the agents, and without being preempted by them.
                    agents.pause()?;
                    let sample = Sample::of(PART, "segd-programs", round).at(*size).load(load.name());
                    under_load(options, &pair, agents.programs(), &sample, load)?;
                    agents.resume()?;
                }
                drop(attached);
                agents.settle()?;
            }
        }
        for (name, programs) in &bare {
            test_runs(&pair, programs, &Sample::of(PART, name, round))?;
        }
        for (name, size, agents) in &judging {
            test_runs(&pair, agents.programs()[0], &Sample::of(PART, name, round).at(*size))?;
        }
    }
    Ok(())
}

fn sizes(name: &str, programs: &Programs) -> Result<()> {
    for (hook, program) in programs.each() {
        let facts = sys::program_facts(program)?;
        let sample = Sample::of(PART, name, 1).load(hook);
        // An instruction has 8 bytes; one with a 64-bit constant takes the place of two.
        sample.tell("translated", "instructions", f64::from(facts.translated / 8))?;
        sample.tell("verified", "instructions", f64::from(facts.verified))?;
        sample.tell("jitted", "B", f64::from(facts.jitted))?;
    }
    Ok(())
}

/// Makes a load and tells what each program's runs took, those of both hosts together.
#[expect(clippy::cast_precision_loss, reason = "counts of some seconds")]
fn under_load(
    options: &Options,
    pair: &Pair,
    programs: [&Programs; 2],
    sample: &Sample<'_>,
    load: Load,
) -> Result<()> {
    // The programs of both hosts may be the same ones.
    let same = std::ptr::eq(programs[0], programs[1]);
    let facts = || -> Result<Vec<(&str, ProgramFacts)>> {
        let all = programs.iter().take(if same { 1 } else { 2 });
        all.flat_map(|p| p.each()).map(|(hook, program)| Ok((hook, sys::program_facts(program)?))).collect()
    };
    let before = facts()?;
    let make = Make { load, seconds: options.seconds, warm_up: 0.0, parallel: 1, rate: None };
    let report = pair.make(options, make)?;
    let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for ((hook, before), (_, after)) in before.into_iter().zip(facts()?) {
        let (ns, runs) = sums.entry(hook).or_default();
        *ns += after.run_ns - before.run_ns;
        *runs += after.runs - before.runs;
    }
    let mut all = 0;
    for (hook, (ns, runs)) in sums {
        // What runs once per process says nothing.
        if runs >= 100 {
            sample.tell(&format!("ns_per_run.{hook}"), "ns", ns as f64 / runs as f64)?;
            sample.tell(
                &format!("runs_per_operation.{hook}"),
                "1",
                runs as f64 / report.with_warm_up as f64,
            )?;
        }
        all += ns;
    }
    sample.tell("ns_per_operation", "ns", all as f64 / report.with_warm_up as f64)?;
    sample.tell("operation", "ns", options.seconds * 1e9 / report.with_warm_up as f64)
}

/// BPF_PROG_TEST_RUN over a datagram of a flow that is known after the first run; only cgroup_skb programs have it.
/// The packet has no socket but a dummy, so what it shows is the way over the flow table.
fn test_runs(pair: &Pair, programs: &Programs, sample: &Sample<'_>) -> Result<()> {
    // What leaves first: the answer passes by its flow.
    for (hook, leaving) in [("egress", true), ("ingress", false)] {
        let program = programs.each().find_map(|(name, program)| (name == hook).then_some(program));
        let program = program.with_context(|| format!("no program {hook}"))?;
        let packet = datagram(pair, leaving)?;
        let ran = pair.client.observe(|| {
            let device = if_nametoindex("eth0").map_err(std::io::Error::from)?;
            sys::test_run(program, &packet, device, REPEAT)
        })?;
        let (verdict, ns) = ran.with_context(|| format!("BPF_PROG_TEST_RUN of {hook}"))?;
        ensure!(verdict & 1 == 1, "{hook} of {} denies the test packet", sample.variant);
        sample.clone().load(hook).tell("test_run", "ns", f64::from(ns))?;
    }
    Ok(())
}

/// A datagram between the client and the UDP server, with its Ethernet header.
fn datagram(pair: &Pair, leaving: bool) -> Result<Vec<u8>> {
    let octets = |host: &segd_tests::Host| match host.v4() {
        std::net::IpAddr::V4(v4) => Ok(v4.octets()),
        std::net::IpAddr::V6(_) => anyhow::bail!("the lab's IPv4 addresses are IPv4"),
    };
    let (client, server) = (octets(&pair.client)?, octets(&pair.server)?);
    let service = Load::UdpRequest.port().to_be_bytes();
    let ephemeral = 40_000_u16.to_be_bytes();
    let (from, to) = if leaving { (client, server) } else { (server, client) };
    let (source, destination) = if leaving { (ephemeral, service) } else { (service, ephemeral) };
    let mut packet = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    // Version and header length, TOS, length 60, no fragment, 64 hops, UDP, no checksum (nobody checks it here).
    packet.extend([0x45, 0, 0, 60, 0, 1, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(from);
    packet.extend(to);
    packet.extend(source);
    packet.extend(destination);
    packet.extend([0, 40, 0, 0]);
    packet.extend([7; 32]);
    Ok(packet)
}
