//! A policy with as many prefixes as there may be: how long it takes into the kernel, how long a small change of it
//! takes, and what memory it costs. Beside it, the same entries put into bare maps.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::MapData;
use aya::maps::lpm_trie::Key;
use segd::policy::ids::Registry;
use segd::policy::{self, Compiled, Host, default_failsafes};
use segd_common::schema;
use segd_tests::Agent;

use crate::Options;
use crate::estate::{CLIENT, Size, zone_file};
use crate::pair::Pair;
use crate::record::{Sample, progress};
use crate::traffic::load;
use crate::{sys, usage};

const PART: &str = "tables";

/// How long the agent may take with a million prefixes, in a build without optimisation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(900);

/// How many entries a small change touches.
const CHANGED: usize = 10;

/// BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LPM_TRIE and BPF_MAP_TYPE_ARRAY_OF_MAPS of include/uapi/linux/bpf.h.
const HASH: u32 = 1;
const TRIE: u32 = 11;
const ARRAY_OF_MAPS: u32 = 12;
/// BPF_F_NO_PREALLOC, which tries must have.
const NO_PREALLOC: u32 = 1;

#[expect(clippy::cast_precision_loss, reason = "bytes of memory")]
pub(crate) fn measure(options: &Options) -> Result<()> {
    let pair = Pair::new("bench-tables")?;
    let size = Size { prefixes: options.largest(), rules: options.typical().rules };
    let texts = [0, CHANGED].map(|changed| zone_file(&pair, size, true, changed));
    let slab = unreclaimable()?;
    let begun = Instant::now();
    let builder = pair.client.agent().zone(CLIENT).patience(PATIENCE);
    let mut agent = builder.zones(&texts[0]).start()?;
    let started = begun.elapsed();
    let pid = agent.process().pid();
    usage::settle(&[pid])?;
    let once = Sample::of(PART, "segd", 1).at(size);
    once.tell("exec_to_ready", "s", started.as_secs_f64())?;
    once.tell("agent_resident", "B", usage::resident(pid)? as f64)?;
    once.tell("agent_peak", "B", usage::peak(pid)? as f64)?;
    once.tell("kernel_tables", "B", kernel_memory(&agent.builder().bpffs())? as f64)?;
    once.tell("kernel_slab", "B", unreclaimable()?.saturating_sub(slab) as f64)?;
    for round in 1..=options.rounds {
        progress(&format!("tables: round {round} of {} with {} prefixes", options.rounds, size.prefixes));
        let text = &texts[usize::from(round % 2 == 1)];
        bare(text, round, size)?;
        agent.write_zones(text)?;
        let sample = Sample::of(PART, "segd", round).at(size);
        let (taken, gave_up) = apply(&agent)?;
        sample.tell("change_command", "s", taken.as_secs_f64())?;
        sample.tell("command_gave_up", "1", f64::from(u8::from(gave_up)))?;
        let inside = agent.metrics()?.get("segd_policy_apply_seconds", &[]).context("no apply time")?;
        sample.tell("change_inside", "s", inside)?;
        usage::settle(&[pid])?;
        sample.tell("agent_resident", "B", usage::resident(pid)? as f64)?;
        sample.tell("kernel_tables", "B", kernel_memory(&agent.builder().bpffs())? as f64)?;
    }
    Ok(())
}

/// Has the zone files loaded anew, and waits until they are in force. The command gives up after a while, the agent
/// does not: says whether that happened.
fn apply(agent: &Agent) -> Result<(Duration, bool)> {
    let generation = || agent.metrics().ok()?.get("segd_policy_generation", &[]);
    let before = generation().context("the agent does not tell its generation")?;
    let begun = Instant::now();
    let applied = agent.segd(&["apply"])?;
    if applied.status.success() {
        return Ok((begun.elapsed(), false));
    }
    ensure!(applied.stderr.contains("nothing within"), "segd apply: {}", applied.stderr);
    while begun.elapsed() < PATIENCE {
        if generation().is_some_and(|now| now > before) {
            return Ok((begun.elapsed(), true));
        }
        thread::sleep(Duration::from_millis(50));
    }
    bail!("segd apply has brought nothing into force after {PATIENCE:?}")
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
