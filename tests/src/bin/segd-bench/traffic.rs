//! Every load under every variant, one after the other, again and again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use segd::policy::{self, Policy, Sources};
use segd_tests::{Load, LoadReport};

use crate::Options;
use crate::agents::{Agents, LITTLE, Plan};
use crate::estate::{CLIENT, SERVER, Size, zone_file};
use crate::hooks::Programs;
use crate::nft::{Table, Whose};
use crate::pair::{Make, Pair};
use crate::record::{Sample, progress};

const PART: &str = "traffic";

/// A port of the server that no rule allows and nobody listens on.
const FORBIDDEN: u16 = 7999;

/// What is in the way of the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Nothing.
    Nothing,
    /// Programs that do nothing, on segd's hooks.
    Empty,
    /// The same, but each packet's socket has storage that is looked up.
    LookUp,
    /// segd, not one denial.
    Monitor,
    /// segd, what no rule allows denied.
    Enforce,
    /// segd as in `enforce`, with agents that are stopped: what the programs alone cost.
    Programs,
    /// nftables, with conntrack.
    Nft,
    /// The same for the sockets of one cgroup.
    NftCgroup,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Empty => "empty",
            Self::LookUp => "look-up",
            Self::Monitor => "segd-monitor",
            Self::Enforce => "segd-enforce",
            Self::Programs => "segd-programs",
            Self::Nft => "nft",
            Self::NftCgroup => "nft-cgroup",
        }
    }

    /// Whether it has a policy, so that there is one of it for each size.
    fn is_sized(self) -> bool {
        !matches!(self, Self::Nothing | Self::Empty | Self::LookUp)
    }

    /// What becomes of a connection attempt that no rule allows, where nobody listens.
    fn of_forbidden(self) -> &'static str {
        match self {
            Self::Nothing | Self::Empty | Self::LookUp | Self::Monitor => "ECONNREFUSED",
            Self::Enforce | Self::Programs => "EPERM",
            Self::Nft | Self::NftCgroup => segd_tests::TIMEOUT,
        }
    }
}

/// A kind with a policy of a size.
#[derive(Debug, Clone, Copy)]
struct Variant {
    kind: Kind,
    size: Size,
}

/// What was made ready for one size.
struct Ready {
    size: Size,
    monitor: Option<Agents>,
    enforce: Option<Agents>,
    nft: Vec<Table>,
}

/// What segd is held against.
struct Bare {
    empty: Programs,
    look_up: Programs,
}

pub(crate) fn measure(options: &Options) -> Result<()> {
    let pair = Pair::new("bench-traffic")?;
    let bare = Bare { empty: Programs::empty(&options.empty)?, look_up: Programs::look_up(&options.empty)? };
    let kinds = if options.variants.is_empty() { Kind::value_variants() } else { &options.variants };
    let mut ready = Vec::new();
    let mut port = 9500;
    for prefixes in &options.prefixes {
        for rules in &options.rules {
            let size = Size { prefixes: *prefixes, rules: *rules };
            ready.push(prepare(&pair, kinds, size, &mut port)?);
        }
    }
    let mut variants = Vec::new();
    for kind in kinds.iter().copied() {
        let sizes = ready.iter().map(|r| r.size).take(if kind.is_sized() { usize::MAX } else { 1 });
        variants.extend(sizes.map(|size| Variant { kind, size }));
    }
    for variant in &variants {
        with(&pair, &bare, &mut ready, *variant, |_| check(&pair, *variant))?;
    }
    for round in 1..=options.rounds {
        progress(&format!("traffic: round {round} of {}, {} variants", options.rounds, variants.len()));
        // Each round begins with another variant, so that none is always measured after the same one.
        variants.rotate_left(1);
        for variant in &variants {
            with(&pair, &bare, &mut ready, *variant, |agents| {
                one_round(options, &pair, *variant, round, agents)
            })?;
        }
    }
    Ok(())
}

/// Starts agents and loads sets, and leaves all of it out of the way.
fn prepare(pair: &Pair, kinds: &[Kind], size: Size, port: &mut u16) -> Result<Ready> {
    let begun = Instant::now();
    let mut agents = |enforce: bool, wanted: bool| -> Result<Option<Agents>> {
        if !wanted {
            return Ok(None);
        }
        *port += 1;
        let name = format!("{}{}", if enforce { "e" } else { "m" }, size.word());
        let zones = zone_file(pair, size, enforce, 0);
        let plan = Plan { name: &name, port: *port, zones: &zones, zone: [CLIENT, SERVER], log_size: LITTLE };
        let mut agents = Agents::start(pair, &plan).with_context(|| format!("agents for {size:?}"))?;
        agents.settle()?;
        agents.pause()?;
        Ok(Some(agents))
    };
    let has = |wanted: &[Kind]| kinds.iter().any(|kind| wanted.contains(kind));
    let monitor = agents(false, has(&[Kind::Monitor]))?;
    let enforce = agents(true, has(&[Kind::Enforce, Kind::Programs]))?;
    let mut nft = Vec::new();
    if has(&[Kind::Nft, Kind::NftCgroup]) {
        let policy = load(&zone_file(pair, size, true, 0))?;
        for (host, zone) in pair.hosts().into_iter().zip([CLIENT, SERVER]) {
            nft.push(Table::load(host, &format!("segd_{}", size.word()), &policy, zone)?);
        }
    }
    progress(&format!("traffic: {size:?} is ready after {:.1} s", begun.elapsed().as_secs_f64()));
    Ok(Ready { size, monitor, enforce, nft })
}

/// The zone file as segd reads it.
pub(crate) fn load(text: &str) -> Result<Policy> {
    let sources = Sources::from_texts([("zones.toml", text)]);
    policy::load(sources, jiff::Timestamp::now()).map_err(|found| anyhow::anyhow!(found.render(false)))
}

/// Does `work` while the variant is in the way; it is given the agents if there are some that run.
fn with<T>(
    pair: &Pair,
    bare: &Bare,
    ready: &mut [Ready],
    variant: Variant,
    work: impl FnOnce(Option<&mut Agents>) -> Result<T>,
) -> Result<T> {
    let ready = ready.iter_mut().find(|r| r.size == variant.size).context("no such size")?;
    match variant.kind {
        Kind::Nothing => work(None),
        Kind::Empty | Kind::LookUp => {
            let programs = if variant.kind == Kind::Empty { &bare.empty } else { &bare.look_up };
            let _attached = programs.attach_to(pair.hosts())?;
            work(None)
        }
        Kind::Monitor => judged(ready.monitor.as_mut(), work),
        Kind::Enforce => judged(ready.enforce.as_mut(), work),
        Kind::Programs => judged(ready.enforce.as_mut(), |agents| {
            let agents = agents.context("no agents run")?;
            agents.pause()?;
            let result = work(None);
            agents.resume()?;
            result
        }),
        Kind::Nft | Kind::NftCgroup => {
            let whose = if variant.kind == Kind::Nft { Whose::Hosts } else { Whose::Cgroups };
            let _active = ready.nft.iter().map(|t| t.activate(whose)).collect::<Result<Vec<_>>>()?;
            work(None)
        }
    }
}

/// Does `work` while these agents run and their programs are in the way.
fn judged<T>(agents: Option<&mut Agents>, work: impl FnOnce(Option<&mut Agents>) -> Result<T>) -> Result<T> {
    let agents = agents.context("no agents were started")?;
    agents.resume()?;
    let active = agents.attach()?;
    let result = work(Some(&mut *agents))?;
    drop(active);
    agents.settle()?;
    agents.pause()?;
    Ok(result)
}

/// The variant is what it says: what no rule allows fares as it should.
fn check(pair: &Pair, variant: Variant) -> Result<()> {
    let outcome = pair.client.tcp_connect(pair.server.v4_port(FORBIDDEN))?;
    let wanted = variant.kind.of_forbidden();
    ensure!(
        outcome.errno() == Some(wanted),
        "{variant:?}: a forbidden connect gave {outcome:?}, not {wanted}"
    );
    Ok(())
}

fn one_round(
    options: &Options,
    pair: &Pair,
    variant: Variant,
    round: u32,
    mut agents: Option<&mut Agents>,
) -> Result<()> {
    for load in options.loads() {
        let make = Make { load, seconds: options.seconds, warm_up: options.warm_up, parallel: 1, rate: None };
        let before = agents.as_mut().map(|agents| agents.cpu_ns()).transpose()?;
        let report =
            pair.make(options, make).with_context(|| format!("{} under {variant:?}", load.name()))?;
        let mut sample = Sample::of(PART, variant.kind.name(), round).load(load.name());
        if variant.kind.is_sized() {
            sample = sample.at(variant.size);
        }
        tell(&sample, load, &report)?;
        if let (Some(agents), Some(before)) = (agents.as_mut(), before) {
            agents.settle()?;
            #[expect(clippy::cast_precision_loss, reason = "nanoseconds of some seconds")]
            let used = (agents.cpu_ns()? - before) as f64 / report.with_warm_up as f64;
            sample.tell("agents_cpu_per_operation", "ns", used)?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Tells a load's figures.
#[expect(clippy::cast_precision_loss, reason = "counts of some seconds")]
pub(crate) fn tell(sample: &Sample<'_>, load: Load, report: &LoadReport) -> Result<()> {
    sample.tell("rate", if load.streams() > 0 { "B/s" } else { "1/s" }, report.rate(load))?;
    sample.tell(
        "client_cpu_per_operation",
        "ns",
        report.cpu_us as f64 * 1000.0 / report.operations as f64,
    )?;
    if report.lost > 0 {
        sample.tell("lost", "1", report.lost as f64)?;
    }
    for (metric, time) in [("p50", report.p50_us), ("p99", report.p99_us), ("p99.9", report.p999_us)] {
        if let Some(time) = time {
            sample.tell(metric, "us", time)?;
        }
    }
    Ok(())
}
