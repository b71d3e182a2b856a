//! The agent's beginnings: how long until it enforces, and whether a packet slips through when a new one takes over.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use segd_common::schema;
use segd_tests::Report;

use crate::Options;
use crate::pair::Pair;
use crate::record::{Sample, progress};
use crate::usage;

/// The zone of the example estate that the host is put into.
const EXAMPLE_ZONE: &str = "orders";

/// From the start of the process to the last program in place; the policy is in force before the first one is.
#[expect(clippy::cast_precision_loss, reason = "bytes of memory")]
pub(crate) fn exec_to_enforcing(options: &Options) -> Result<()> {
    let zones = example(&options.example)?;
    for round in 1..=options.rounds {
        progress(&format!("start: round {round} of {}", options.rounds));
        let pair = Pair::new("bench-start")?;
        let builder = pair.client.agent().zone(EXAMPLE_ZONE).zones(&zones);
        let links = builder.bpffs().join(format!("v{}", schema::VERSION)).join("links");
        let begun = Instant::now();
        let (agent, enforcing) = thread::scope(|scope| {
            let watcher = scope.spawn(|| watch(&links));
            let agent = builder.start();
            (agent, watcher.join())
        });
        let ready = begun.elapsed();
        let mut agent = agent?;
        let enforcing = enforcing.map_err(|_| anyhow::anyhow!("the watching thread panicked"))??;
        let sample = Sample::of("start", "example", round);
        sample.tell("exec_to_enforcing", "ms", (enforcing - begun).as_secs_f64() * 1000.0)?;
        sample.tell("exec_to_ready", "ms", ready.as_secs_f64() * 1000.0)?;
        let pid = agent.process().pid();
        usage::settle(&[pid])?;
        sample.tell("agent_resident", "B", usage::resident(pid)? as f64)?;
    }
    Ok(())
}

/// When the last of the hooks was in place: `sendmsg6`, which the agent attaches last.
fn watch(links: &Path) -> Result<Instant> {
    let last = links.join("sendmsg6");
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        if last.exists() {
            return Ok(Instant::now());
        }
        thread::sleep(Duration::from_micros(200));
    }
    bail!("{} did not appear", last.display())
}

fn example(directory: &Path) -> Result<String> {
    let mut files = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    ensure!(!files.is_empty(), "{} holds no zone files", directory.display());
    let texts = files.iter().map(|file| fs::read_to_string(file).context("cannot read the example estate"));
    Ok(texts.collect::<Result<Vec<_>>>()?.join("\n"))
}

/// Agents are killed and started again under connection attempts that must pass and such that must not.
pub(crate) fn takeover(options: &Options) -> Result<()> {
    let pair = Pair::new("bench-takeover")?;
    let connects = 2000 * u64::from(options.rounds.max(1));
    let zones = format!(
        "[zone.a]\ncidrs = [\"{}\"]\n[zone.b]\ncidrs = [\"{}\"]\n\
         [[allow]]\nid = \"r\"\nfrom = \"a\"\nto = \"b\"\nservices = [\"tcp/5432\"]\n[[rollout]]\nmode = \"enforce\"\n",
        pair.client.v4_prefix(),
        pair.server.v4_prefix()
    );
    let mut agent = pair.client.agent().zones(&zones).start()?;
    let _server = pair.server.tcp_server(5432)?;
    let allowed = pair.server.v4_port(5432).to_string();
    let denied = pair.server.v4_port(6379).to_string();
    progress(&format!("takeover: {connects} connects"));
    let mut traffic =
        pair.client.actor(&["churn", &allowed, &denied, "--connects", &connects.to_string()])?;
    let mut takeovers = 0_u32;
    while traffic.process().ended()?.is_none() {
        agent.kill(Signal::SIGKILL)?;
        agent = agent.restart()?;
        takeovers += 1;
    }
    let outcome = traffic.next()?;
    let Report::Counted { outcomes } = &outcome else { bail!("lab-actor says {outcome:?}") };
    let count = |name: &str| outcomes.get(name).copied().unwrap_or(0);
    let right = count("ok").min(connects / 2) + count("EPERM").min(connects / 2);
    let sample = Sample::of("takeover", "segd-enforce", 1);
    #[expect(clippy::cast_precision_loss, reason = "some thousand connects")]
    let (connects, wrong) = (connects as f64, (connects - right) as f64);
    sample.tell("connects", "1", connects)?;
    sample.tell("takeovers", "1", f64::from(takeovers))?;
    sample.tell("wrong_verdicts", "1", wrong)
}
