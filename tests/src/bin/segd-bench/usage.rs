//! What a process has used so far, from proc(5).

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// CPU time of all of a process's threads that live, in nanoseconds: the first field of each one's schedstat.
pub(crate) fn cpu_ns(pid: u32) -> Result<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("the process is gone")?;
    let mut sum = 0;
    for task in tasks.flatten() {
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
        sum += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// Resident memory in bytes.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    field(pid, "VmRSS:")
}

/// The most memory that was ever resident, in bytes.
pub(crate) fn peak(pid: u32) -> Result<u64> {
    field(pid, "VmHWM:")
}

fn field(pid: u32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}

/// Waits until the processes do nothing any more: less than 1 ms in 60.
pub(crate) fn settle(pids: &[u32]) -> Result<()> {
    const STEP: Duration = Duration::from_millis(60);
    let until = Instant::now() + Duration::from_secs(120);
    let all = || pids.iter().map(|pid| cpu_ns(*pid)).sum::<Result<u64>>();
    let mut before = all()?;
    while Instant::now() < until {
        sleep(STEP);
        let now = all()?;
        if now.saturating_sub(before) < 1_000_000 {
            return Ok(());
        }
        before = now;
    }
    bail!("an agent still works two minutes after the load has ended")
}
