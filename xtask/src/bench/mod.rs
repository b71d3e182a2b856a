//! `cargo xtask bench`: measures segd against nothing, against programs that do nothing and against nftables.
//!
//! # What is measured
//! Two lab hosts, `client` and `server`, are joined by a switch; an agent runs on each. Everything is done by
//! `segd-bench` (in the crate `tests`), as root, which prints each figure; this module builds, asks, computes and shows.
//!
//! Variants of the part `traffic`:
//! - `nothing`: no program is attached, no table is there;
//! - `empty`: programs that only return 1, on the nine hooks that segd uses (`segd-ebpf/src/bin/empty.rs`);
//! - `look-up`: the same, but that each packet's socket is given storage, which each packet looks up and counts in;
//! - `segd-monitor`, `segd-enforce`: agents on both hosts, with every flow written into a file;
//! - `segd-programs`: as `segd-enforce`, with the agents stopped by SIGSTOP, so that the programs' cost is seen apart from
//!   that of waking and running the agents, which share the two CPUs with client and server (when the ring buffer is
//!   full, events are counted as lost);
//! - `nft`: nftables on both hosts: established connections pass by conntrack, a new one by one look-up of its peer's
//!   zone in an interval map and one of zone, protocol and port in a set; drop is the policy; counters as in segd;
//! - `nft-cgroup`: the same for sockets of the host's cgroup by `socket cgroupv2`, others pass.
//!
//! Policies are zone files made for the bench (`estate.rs`), the same on every run: as many prefixes as asked for, that
//! do not overlap, in 200 zones; half of the rules are for each host; the measured flow matches one prefix and one rule
//! in the middle. What nftables gets is made from the same files, read by segd's own library.
//!
//! Loads are made by `lab-load`: one client and one server process, each bound to a CPU, with blocking sockets and
//! requests of 64 bytes. `udp-connected` is connected on both sides, `udp-request` on neither. Bulk loads write 128 KiB
//! at a time. A load is measured after a warm-up, which counts nowhere.
//!
//! # How variants are switched
//! All agents run from the beginning, each on a cgroup in which nobody is, with its own pins. Their programs are taken
//! off there (BPF_LINK_DETACH) and for the time of a measurement put onto the hosts' cgroups by links of the bench's
//! own, in the same way as the empty ones. So in `nothing` there is really nothing, a switch takes some milliseconds
//! whatever the policy's size, and the agents go on reading what their programs tell them. Agents that are not measured
//! are stopped. After each load the bench waits until the agents have worked off what it left them. nftables' sets stay
//! loaded; its chains, and conntrack with them, come and go.
//!
//! That each variant holds its policy is checked before the first round, by a connection that no rule allows.
//!
//! A round is every variant with every load, once; each round begins with another variant. Figures are medians over the
//! rounds; ratios are computed round by round, so that what changes slowly on the machine does not matter; the spread
//! is from the least to the most. Bars are ratios of medians, as they were asked for; they are held against the policy
//! size at which segd does worst, which on a noisy machine is the one that had bad luck: what all sizes together come to
//! stands beside it.
//!
//! A bar has a `?` where its limit lies within the interval that has the median of its rounds in 95 of 100 runs (by ranks, as
//! in a sign test; at least six rounds). Two runs one after the other, of a tenth of a second as of a whole one, differ by
//! 10 to 18 % on the machine of the figures below, so that many short rounds tell more than few long ones: 7 rounds know
//! a ratio to 10 %, 40 to 4 %.
//!
//! Connections in TIME_WAIT would be timed out a minute later, under another variant: both hosts keep none.
//!
//! # The other parts
//! - `programs`: each program's instructions, also of programs that do nothing but look a packet's socket's storage up and
//!   count there (`look-up`), ns per run by the kernel's statistics under every load (both hosts
//!   together), and by BPF_PROG_TEST_RUN (cgroup_skb only; its packet has no real socket, so it goes by the flow table).
//!   With the smallest and the largest policy too: by how much of an operation's time the programs take more or less with
//!   another policy or mode, which shows one percent where rates differ by more from one round to the next;
//! - `tables`: the largest policy is loaded into an agent that holds a small one, then ten of its entries are changed by
//!   `segd apply`, in the zone file that holds them all (ten of its 200 zones) or in a small one beside it. Measured
//!   from the call of the command (with the start of its process) until the kernel judges by the new tables (its own
//!   table is watched, every 0.5 ms), and until the command ends. Zone files are synced to the disk before. Beside it,
//!   in one process: reading the text, checking, compiling, and bare batched updates with the same entries; memory;
//! - `swaps`: times of answers while both agents load another policy each second, again and again, and while they do not;
//! - `events`: every connection is counted, and logged or counted as lost, at the highest rate;
//! - `cpu`: the agents' CPU time at 10,000 connections a second (scaled if the machine makes fewer), and idle;
//! - `start`: from exec to the last program in place, with the example estate; `takeover`: agents killed and replaced
//!   under connections that must pass and others that must not.
//!
//! # What it shows and what not
//! Both hosts share one kernel and two CPUs, so an operation pays for both ends, and an agent's work is taken from the
//! load's. `segd-programs` shows the difference. On a machine with other work the figures mean little: the load
//! average is written into the report.
//!
//! SCHED_IDLE, as which threads of the agents run, counts within one scheduling group (sched(7)). Here all are in one; where
//! each service has its own, by its cgroup or by autogroup, they share the CPU as services do.
//!
//! The kernel's statistics read a clock twice a run, which is most of the 60 ns that an empty program shows, and see a
//! program only: not what the kernel does before it calls one, nor that it frees a socket's storage later, where there is
//! any. TEST_RUN repeats one packet with everything in the cache; under a load, where the CPU has slept or done other work
//! before each packet, half of what a program costs more than an empty one is memory that is not in the cache.
//! `egress` shows that most, as it is the first to run after a wake-up; beside other work on the machine it doubles.
//!
//! # What was tried
//! On two cores of an AMD EPYC in a virtual machine, with 1,000,000 prefixes in 200 zones, in milliseconds; before, a
//! change of ten entries was in force 650 to 860 after the call, of which reading the text as TOML took 550:
//! - long lists of prefixes read by a parser of their own, by as many threads as there are processors: 550 to 85; those
//!   that are as they were are found by a digest of their text (XXH3, 128 bits, salted) and not read at all: to 7;
//! - prefixes in one sorted list, from which overlaps are found and tables compiled, in place of a sort of all with
//!   their places in the files: a load went from 2600 to 1600 to 1900, 1.2 to 1.35 times the bare updates;
//! - that list made from the former one by what differs: 23 to 3; tables made from it in one pass: 32 to 7;
//! - records of the history without their long lists, which are kept once: 80 to 6, most of it fsync;
//! - buffers of many megabytes in huge pages (to be given 16 MB in small ones takes 15 on this machine);
//! - tables that the next generation is likely to have are put into its slot in advance: saves a wait of 13 to 15 for
//!   the kernel's RCU before the flip;
//! - what must be on the disk before the flip is written while the tables are made, and live sockets are listed while
//!   the policy is compiled: 61 to 64 until in force before, 41 to 52 with both (eight changes, median 46).
//!
//! From exec to enforcing, in milliseconds, with the example estate (medians of nine): programs verified two at a time,
//! 219 to 164; 238 when they had grown; 186 (175 to 212) since the verifier works while the policy is compiled, kept and
//! put into its slots, aya's reading of the kernel's BTF begins at exec and is done once in place of twice, and
//! the slots' clearing up (two waits for RCU of 14), the journal and the history's database wait until all is attached.
//!
//! What the agent takes of a core at 10,000 connections a second is 8.3 % with the ring buffer read every 5 ms; 5.6 to
//! 7.1 % with 40 ms, at which processes that end at once lost their unit in records.
//!
//! By the kernel's statistics, enforcing, in ns more than empty programs take; 6.18 on two virtual CPUs, quiet, best of
//! three rounds. First what came into segd:
//!
//! | what | before | after |
//! | --- | --- | --- |
//! | packets and bytes counted with the socket, and by labels when the flow ends or user space reads: two atomic adds and one cache line in place of four and three; established connections' packets before anything else, without `bpf_sk_fullsock` | TCP: ingress 125, egress 164 | 80, 110 |
//! | the same for connected UDP, with addresses and ports read straight from the packet instead of by `bpf_skb_load_bytes` | ingress 300, egress 410 | 85, 120 |
//! | an unconnected UDP socket is lent its last flow for a tenth of a second to a second: no LRU look-ups, no clock | sendmsg4 400, ingress 490, egress 505 | 80, 90, 80 |
//! | what was decided lately, by destination, in an array: no hash, no three tries, no look-up of the counter | connect4 1680 | 720 to 900 |
//! | all of that, and the same array for the four decisions of a connection that is accepted | a whole connection, both ends: 11,800 | 7,200 to 8,000 |
//!
//! Then, by the best of four rounds on a machine with other work: one look-up that finds the generation in force and what it
//! says in one cache line, decisions that each lie in one (Linux puts an array's values 8 bytes before one), no look-up of the
//! policy and no ancestors beyond the cgroup's own level at `sock_create`, nothing settled for a socket without a flow: a
//! whole connection 6,200 to 5,880, of which `sock_create` 1,720 to 1,450.
//!
//! Then, five to seven rounds interleaved: 184 bytes with a socket instead of 288, for which the kernel allocates 256 in place
//! of 512: a whole connection 6,730 to 6,090 (best) and 7,130 to 6,520 (median); handshakes like one that passed lately let
//! through without a closer look: ingress 112 to 57 and egress 94 to 59 in connect-request-close, where each runs ten times,
//! a whole connection to 5,050.
//!
//! Then what is kept of a socket in a table by its cookie (`SEATS`), not as storage, which serves where the place is held:
//! `sock_create` 1,370 to 410, and nothing is freed behind a connection; what packets read, what is received and what is sent
//! in three cache lines, as a socket is often received for on another CPU than it sends on (on this machine that is half of
//! the time as slow as with both on one core: its two speeds): a packet of a connection 51 to 21 (ingress) and 64 to 42 ns
//! (egress), where one storage look-up that counts takes 31 and 50. A whole connection 5,230 to 3,330 by the statistics. With
//! CPUs kept awake it takes 2.4 µs longer than with empty programs (49 rounds, of 65); a table of a sixteenth the size, no
//! events or no state callbacks make no difference that can be seen there.
//!
//! What the agents cost beside that, on the two CPUs of client and server (25 to 44 rounds, µs of a connection more than while
//! they are stopped): 13 to 16 of 95; none that could be seen since threads that only follow flows run as SCHED_IDLE (nice 10
//! gave nothing, nice 19 half of that). Where CPUs are kept awake a connection takes 55 to 75 and has less idle time to give: 15.
//! A core at 10,000 connections a second: 8.3 % to 5.1, since sinks and history gather without being woken by every batch, names
//! are looked up once, and records of one conversation are added up before they are looked for.
//!
//! Whether those threads keep that priority decides: on CPUs that halt, enforcing makes 1.02 times the connections of programs
//! with stopped agents (44 rounds), and 0.91 with threads at normal priority, which is what the bench saw before, for who was
//! stopped by it took himself for late when he went on. With CPUs kept awake it is 0.81 and 0.91: they take twice the CPU time
//! there, as each gap of the load that they fill takes an interrupt and two switches.
//!
//! A load that leaves no gaps starves them: bursts of 15,000 connections a second lost up to a fifth of their records (counted as
//! lost; 6 of 16 times) while it was looked twice a second whether the reader was late; 0.3 % once in 20 times since a thread
//! waits for the first event too and looks a tenth of a second later. At 10,000 a second and idle it takes no CPU that can be seen.
//!
//! What gave nothing, or too little for what it costs:
//! - one BTF tracepoint at a TCP socket's end (`tcp_destroy_sock`) in place of the callback at each change of state: `sock_ops`
//!   runs 9 times a connection in place of 17, but the tracepoint's four runs (each agent sees every socket of the machine)
//!   took as much: 5,050 before, 5,750 after, for 700 lines more;
//! - the state callback asked for when the connection is made and not when it is begun: one run less, but no count of
//!   retransmits of attempts that fail;
//! - JSON of records made by hand: saves a quarter of an event's way, for a second place that knows a record's fields.
//! - a listener that remembers its last peer: as fast as the array of decisions, but only for servers of one client;
//! - no process name and no cgroups of the socket's maker at `sock_create`: together 250 ns of 1,850. The rest is the kernel's
//!   allocation of the storage, which was to be paid wherever it was made, and again for the copy that an accepted socket got:
//!   a program that did nothing but give each socket storage took 2.7 to 3.0 of 64 µs. That is why there are seats now.
//!
//! Answers during swaps (`swaps`), p99 and p99.9 in ms of swaps without a pause, 0.15 and 0.2 to 0.9 without any:
//! - 1.9 and 4.2 in the beginning: the scheduler's slice of two agents and two commands that never rest on the two CPUs of
//!   client and server, and listing sockets by sock_diag, for which the kernel walks over its whole tables for milliseconds
//!   and lets nobody else run;
//! - 0.7 and 2.3 with live sockets from what the programs know, seats walked over in short stretches, and the threads that
//!   make a policy as SCHED_IDLE, 0.9 (p99.9) with a swap a second on each host. A change took 15 ms of an agent's CPU time and
//!   takes 9: sock_diag and the seats' walk 3, giving memory back and taking it again 2, lists of 50 prefixes read as TOML 1.
//!
//! What is left of it, by who ran while somebody waited for more than 0.3 ms: the two commands' processes half (2 ms each, of
//! which a program that does nothing takes 0.6), then the disk's writes, whose thread stays at normal priority as others may
//! wait for what it holds. The flip itself is one word. `segd apply` as SCHED_IDLE from its first line to its end took 2.5 to 1.8
//! (p99 0.9 to 0.5), but up to two seconds itself where others want every CPU; for a second at most, nothing that could be seen.
//!
//! Not tried, by what the parts cost alone: an LRU hash in place of the array of decisions (60 to 100 ns a look-up, 500 to
//! 900 ns for each new destination); plain in place of atomic adds for what TCP sends (its socket's lock is held, but not
//! behind a queue of nftables or IPsec, so counters might be wrong).

mod bars;
mod build;
mod plot;
mod report;
mod samples;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use self::bars::Bar;
use self::build::Built;
use self::samples::{Sample, Samples};
use crate::cargo;
use crate::command::{as_root, line_of};
use crate::interrupt::{self, Forward};
use crate::say::say;
use crate::setup::{Purpose, ensure};

/// Measure segd on two simulated hosts, against empty programs and nftables.
///
/// Takes about three quarters of an hour; --quick shows in some minutes that everything works. Use a machine that does
/// nothing else.
/// Results are printed and left in target/bench. Nothing else is left, also after Ctrl-C.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Measure only this: traffic, programs, tables, swaps, events, cpu, start, takeover. May be given several times.
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
    /// How often everything is measured.
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    /// How long each load is measured; more rounds tell more than longer ones.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.3)]
    seconds: f64,
    /// Numbers of prefixes.
    #[arg(long, value_delimiter = ',', default_value = "10,10000,1000000")]
    prefixes: Vec<usize>,
    /// Numbers of rules.
    #[arg(long, value_delimiter = ',', default_value = "10,10000")]
    rules: Vec<usize>,
    /// Only these variants: nothing, empty, look-up, monitor, enforce, programs, nft, nft-cgroup.
    #[arg(long, value_delimiter = ',')]
    variants: Vec<String>,
    /// Only these loads: tcp-connect, tcp-request, udp-request, udp-connected, tcp-bulk, tcp-bulk8.
    #[arg(long, value_delimiter = ',')]
    loads: Vec<String>,
    /// Two short rounds with small policies: shows that everything works, and nothing else.
    #[arg(long, conflicts_with_all = ["rounds", "seconds", "prefixes", "rules"])]
    quick: bool,
    /// Keep the CPUs from idle states: in a virtual machine, which leaves them by way of its host, rounds then differ by
    /// much less.
    #[arg(long)]
    awake: bool,
    /// Build in the dev profile; the agent is then several times slower than it is.
    #[arg(long)]
    dev: bool,
}

/// The file of results.
#[derive(Debug, Serialize)]
struct Results<'a> {
    environment: Environment,
    bars: &'a [Bar],
    samples: &'a [Sample],
}

/// Where and on what it was measured.
#[derive(Debug, Serialize)]
struct Environment {
    begun: String,
    kernel: String,
    processor: String,
    processors: usize,
    /// Before the first measurement, over one minute.
    load_average: String,
    commit: String,
    profile: &'static str,
    arguments: Vec<String>,
}

impl Bench {
    pub(crate) fn execute(self) -> Result<()> {
        let toolchain = ensure(Purpose::Bench)?;
        say!("Building segd, its bench and the empty programs");
        let built = build::build(&toolchain, self.dev)?;
        let arguments = self.arguments();
        let environment = Environment::new(self.dev, arguments.clone())?;
        say!(
            "{} on {}, load average {}",
            environment.kernel,
            environment.processor,
            environment.load_average
        );
        if environment.load_average.parse::<f64>().is_ok_and(|average| average > 0.3) {
            say!("warning: this machine has other work; the figures will mean little");
        }
        let directory = cargo::root().join("target/bench");
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let mut samples = Samples::default();
        let measured = measure(&built, &arguments, &mut samples);
        // What was measured before a failure is shown and kept too.
        let bars = bars::bars(&samples);
        report::print(&samples, &bars);
        let results = Results { environment, bars: &bars, samples: samples.all() };
        write(&directory, &results, &samples)?;
        measured
    }

    /// For `segd-bench`.
    fn arguments(&self) -> Vec<String> {
        let list = |numbers: &[usize]| numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let mut arguments: Vec<String> = self.only.iter().map(|part| format!("--only={part}")).collect();
        if self.quick {
            let quick =
                ["--rounds=2", "--seconds=0.2", "--warm-up=0.1", "--prefixes=10,1000", "--rules=10,100"];
            arguments.extend(quick.map(str::to_owned));
        } else {
            arguments.push(format!("--rounds={}", self.rounds));
            arguments.push(format!("--seconds={}", self.seconds));
            arguments.push(format!("--prefixes={}", list(&self.prefixes)));
            arguments.push(format!("--rules={}", list(&self.rules)));
        }
        arguments.extend(self.awake.then(|| "--awake".to_owned()));
        arguments.extend(self.variants.iter().map(|variant| format!("--variants={variant}")));
        arguments.extend(self.loads.iter().map(|load| format!("--loads={load}")));
        arguments
    }
}

/// Runs `segd-bench` as root and takes what it prints.
fn measure(built: &Built, arguments: &[String], samples: &mut Samples) -> Result<()> {
    let mut command: Command = as_root("env");
    command.arg(format!("SEGD_BIN={}", built.segd.display())).arg(&built.bench);
    command.arg("--empty").arg(&built.empty);
    command.arg("--example").arg(cargo::root().join("zones/warehouse"));
    command.args(arguments).current_dir(cargo::root()).stdout(Stdio::piped());
    interrupt::check()?;
    let mut child = command.spawn().with_context(|| format!("cannot run {}", line_of(&command)))?;
    let forward = Forward::to(&child);
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let sample = serde_json::from_str(&line).with_context(|| format!("segd-bench wrote {line:?}"))?;
            samples.add(sample);
        }
    }
    drop(forward);
    let status = child.wait()?;
    interrupt::check()?;
    if !status.success() {
        bail!("the bench failed ({status}); the command was:\n  {}", line_of(&command));
    }
    Ok(())
}

fn write(directory: &Path, results: &Results<'_>, samples: &Samples) -> Result<()> {
    let json = directory.join("bench.json");
    fs::write(&json, serde_json::to_string_pretty(results)?)
        .with_context(|| format!("cannot write {}", json.display()))?;
    say!("\n{}", json.display());
    let svg = directory.join("bench.svg");
    if plot::draw(samples, &svg)? {
        say!("{}", svg.display());
    }
    Ok(())
}

impl Environment {
    fn new(dev: bool, arguments: Vec<String>) -> Result<Self> {
        let kernel = nix::sys::utsname::uname().context("uname")?;
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let mut git = Command::new("git");
        git.args(["describe", "--always", "--dirty"]).current_dir(cargo::root());
        Ok(Self {
            begun: jiff::Timestamp::now().to_string(),
            kernel: format!("Linux {}", kernel.release().display()),
            processor: model.map_or("an unknown processor", |(_, name)| name.trim()).to_owned(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            load_average: load.split(' ').next().unwrap_or_default().to_owned(),
            commit: crate::command::output(&mut git).unwrap_or_default().trim().to_owned(),
            profile: if dev { "dev" } else { "release" },
            arguments,
        })
    }
}
