//! A policy with as many prefixes as there may be: how long it takes into the kernel, how long a small change of it
//! takes, and what memory it costs. Beside it, the same entries put into bare maps.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use aya::maps::lpm_trie::Key;
use segd::policy::ids::Registry;
use segd::policy::{self, Compiled, Host, default_failsafes};
use segd_common::schema;
use segd_common::table::Active;
use segd_tests::Agent;

use crate::Options;
use crate::estate::{CLIENT, Size, beside_zone, zone_file};
use crate::pair::Pair;
use crate::record::{Sample, progress};
use crate::traffic::load;
use crate::{sys, usage};

const PART: &str = "tables";

/// How long the agent may take with a million prefixes, in a build without optimisation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(900);

/// How many entries a small change touches.
const CHANGED: usize = 10;

/// Prefixes of the policy before the large one.
const LITTLE: usize = 10;

/// BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LPM_TRIE and BPF_MAP_TYPE_ARRAY_OF_MAPS of include/uapi/linux/bpf.h.
const HASH: u32 = 1;
const TRIE: u32 = 11;
const ARRAY_OF_MAPS: u32 = 12;
/// BPF_F_NO_PREALLOC, which tries must have.
const NO_PREALLOC: u32 = 1;

/// The million prefixes come into force in an agent that holds a small policy; then ten of them change again and again,
/// in the file that holds them all or in another one beside it. The clock runs from the call of `segd apply` until the
/// kernel judges by the new tables, and until the command ends. Zone files are on the disk before.
#[expect(clippy::cast_precision_loss, reason = "bytes of memory")]
pub(crate) fn measure(options: &Options) -> Result<()> {
    let pair = Pair::new("bench-tables")?;
    let size = Size { prefixes: options.largest(), rules: options.typical().rules };
    let texts = [0, CHANGED].map(|changed| zone_file(&pair, size, true, changed));
    let little = zone_file(&pair, Size { prefixes: LITTLE, ..size }, true, 0);
    let builder = pair.client.agent().zone(CLIENT).patience(PATIENCE);
    let mut agent = builder.zones(&little).start()?;
    let beside = agent.builder().zone_dir().join("beside.toml");
    keep(&beside, &beside_zone(0, CHANGED))?;
    let switch = Switch::of(&agent)?;
    switch.apply(&agent)?;
    let pid = agent.process().pid();
    usage::settle(&[pid])?;
    let (slab, tables) = (unreclaimable()?, kernel_memory(&agent.builder().bpffs())?);
    let memory = |round: u32| -> Result<()> {
        usage::settle(&[pid])?;
        let sample = Sample::of(PART, "segd", round).at(size);
        sample.tell("agent_resident", "B", usage::resident(pid)? as f64)?;
        sample.tell("kernel_tables", "B", kernel_memory(&agent.builder().bpffs())? as f64)?;
        sample.tell("kernel_slab", "B", unreclaimable()?.saturating_sub(slab) as f64)
    };
    for round in 1..=options.rounds {
        progress(&format!("tables: round {round} of {} with {} prefixes", options.rounds, size.prefixes));
        bare(&texts[0], round, size)?;
        let zones = agent.builder().zone_dir().join("zones.toml");
        let sample = |what| Sample::of(PART, "segd", round).at(size).load(what);
        keep(&zones, &texts[0])?;
        switch.apply(&agent)?.tell(&sample("load"))?;
        sample("load").tell("agent_peak", "B", usage::peak(pid)? as f64)?;
        memory(round)?;
        for changed in [&texts[1], &texts[0]] {
            keep(&zones, changed)?;
            switch.apply(&agent)?.tell(&sample("same-file"))?;
            usage::settle(&[pid])?;
        }
        for salt in [1, 0] {
            keep(&beside, &beside_zone(salt, CHANGED))?;
            switch.apply(&agent)?.tell(&sample("other-file"))?;
            usage::settle(&[pid])?;
        }
        if round < options.rounds {
            keep(&zones, &little)?;
            switch.apply(&agent)?;
            usage::settle(&[pid])?;
        }
    }
    ensure!(kernel_memory(&agent.builder().bpffs())? > tables, "the tables did not grow");
    Ok(())
}

/// Writes a file that is on the disk then.
fn keep(path: &Path, text: &str) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(text.as_bytes())?;
    Ok(file.sync_all()?)
}

/// The kernel's word for the tables that are in force.
struct Switch(OwnedFd);

/// How long a change took from the call of the command.
struct Taken {
    /// Until the kernel judged by it.
    kernel: Duration,
    /// Until the command ended.
    command: Duration,
    /// What the agent says that it took, reading the files left out.
    inside: f64,
}

impl Taken {
    fn tell(&self, sample: &Sample<'_>) -> Result<()> {
        sample.tell("in_kernel", "s", self.kernel.as_secs_f64())?;
        sample.tell("command", "s", self.command.as_secs_f64())?;
        sample.tell("inside", "s", self.inside)
    }
}

impl Switch {
    fn of(agent: &Agent) -> Result<Self> {
        let maps = agent.builder().bpffs().join(format!("v{}", schema::VERSION)).join("maps");
        Ok(Self(sys::object_get(&maps.join(schema::ACTIVE))?))
    }

    /// The slot in force: it is another one after each change.
    fn now(&self) -> Result<u8> {
        let value = sys::lookup_bytes(&self.0, 0)?.context("no tables are in force")?;
        Ok(value[offset_of!(Active, slot)])
    }

    /// Has the zone files loaded anew.
    fn apply(&self, agent: &Agent) -> Result<Taken> {
        let before = self.now()?;
        let ended = AtomicBool::new(false);
        let begun = Instant::now();
        let (applied, command, kernel) = thread::scope(|scope| {
            let watcher = scope.spawn(|| -> Result<Option<Duration>> {
                while !ended.load(Ordering::Relaxed) {
                    if self.now()? != before {
                        return Ok(Some(begun.elapsed()));
                    }
                    thread::sleep(Duration::from_micros(500));
                }
                Ok((self.now()? != before).then(|| begun.elapsed()))
            });
            let applied = agent.segd(&["apply"]);
            let command = begun.elapsed();
            ended.store(true, Ordering::Relaxed);
            (applied, command, watcher.join())
        });
        let applied = applied?;
        ensure!(applied.status.success(), "segd apply: {}", applied.stderr);
        let kernel = kernel.map_err(|_| anyhow::anyhow!("the watching thread panicked"))??;
        let kernel = kernel.context("segd apply has ended and the kernel has not changed")?;
        let inside = agent.metrics()?.get("segd_policy_apply_seconds", &[]).context("no apply time")?;
        Ok(Taken { kernel, command, inside })
    }
}

/// The same policy step by step in this process: text to policy, policy to tables, tables into bare maps by one
/// batched update each.
fn bare(text: &str, round: u32, size: Size) -> Result<()> {
    let sample = Sample::of(PART, "bare", round).at(size);
    let begun = Instant::now();
    let policy = load(text)?;
    sample.tell("parse", "s", begun.elapsed().as_secs_f64())?;
    let begun = Instant::now();
    let found =
        policy::check(&policy, &default_failsafes(), &policy::Resolved::new(), jiff::Timestamp::now());
    ensure!(found.errors() == 0, "{}", found.render(false));
    sample.tell("check", "s", begun.elapsed().as_secs_f64())?;
    let begun = Instant::now();
    let host = Host::in_zone(CLIENT, &[]);
    let compiled = policy::compile(&policy, host, &[], &default_failsafes(), &mut Registry::default())?;
    sample.tell("compile", "s", begun.elapsed().as_secs_f64())?;
    let Compiled { hosts, prefixes4, prefixes6, .. } = &compiled;
    let (keys, values): (Vec<_>, Vec<_>) = hosts.iter().copied().unzip();
    let mut taken = fill(HASH, &keys, &values)?;
    let four = prefixes4.iter().map(|(len, net, zone)| (Key::new(u32::from(*len), *net), *zone));
    let (keys, values): (Vec<_>, Vec<_>) = four.unzip();
    taken += fill(TRIE, &keys, &values)?;
    let six = prefixes6.iter().map(|(len, net, zone)| (Key::new(u32::from(*len), *net), *zone));
    let (keys, values): (Vec<_>, Vec<_>) = six.unzip();
    taken += fill(TRIE, &keys, &values)?;
    sample.tell("batched_updates", "s", taken.as_secs_f64())
}

fn fill<K, V>(kind: u32, keys: &[K], values: &[V]) -> Result<Duration> {
    let flags = if kind == TRIE { NO_PREALLOC } else { 0 };
    let length = |bytes: usize| u32::try_from(bytes);
    let begun = Instant::now();
    let entries = length(keys.len().max(1))?;
    let definition =
        aya_obj::Map::new_from_params(kind, length(size_of::<K>())?, length(size_of::<V>())?, entries, flags);
    let map = MapData::create(definition, "bench", None)?;
    if !keys.is_empty() {
        sys::update_batch(&map.fd().as_fd(), keys, values).context("a batched update")?;
    }
    Ok(begun.elapsed())
}

/// Bytes of all maps that are pinned there, and of the maps inside them, as the kernel accounts for them.
fn kernel_memory(bpffs: &Path) -> Result<u64> {
    let maps = bpffs.join(format!("v{}", schema::VERSION)).join("maps");
    let (mut seen, mut sum) = (BTreeSet::new(), 0);
    for pin in fs::read_dir(&maps).with_context(|| format!("cannot list {}", maps.display()))? {
        let map = sys::object_get(&pin?.path())?;
        sum += once(&map, &mut seen)?;
        if field(&map, "map_type:")? == u64::from(ARRAY_OF_MAPS) {
            for slot in 0..u32::try_from(field(&map, "max_entries:")?)? {
                if let Some(id) = sys::lookup(&map, slot)? {
                    sum += once(&sys::map_by_id(id)?, &mut seen)?;
                }
            }
        }
    }
    Ok(sum)
}

/// A map's bytes, if it was not seen before.
fn once(map: &OwnedFd, seen: &mut BTreeSet<u64>) -> Result<u64> {
    if seen.insert(field(map, "map_id:")?) { field(map, "memlock:") } else { Ok(0) }
}

/// A field of what proc(5) says of an open map.
fn field(map: &OwnedFd, name: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let value =
        text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    Ok(value.trim().parse()?)
}

/// Kernel memory that is not a cache, of the whole machine, in bytes. A trie's inner nodes are in it, which the
/// kernel leaves out of the map's own account.
fn unreclaimable() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let value = text.lines().find_map(|line| line.strip_prefix("SUnreclaim:")).context("no SUnreclaim")?;
    Ok(value.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
