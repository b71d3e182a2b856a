//! Tries what the agent needs of this host, one thing at a time and without a trace, for `segd doctor`.

use std::os::fd::AsFd as _;
use std::path::Path;

use aya::util::KernelVersion;

use super::pins::Pins;
use super::watch::Watch;
use super::{Error, OBJECT, hooks, host, sockets};

/// The oldest kernel that segd is tried on.
const OLDEST: (u8, u8) = (6, 1);

/// The running kernel, if it is new enough.
///
/// # Errors
/// It is too old, or does not tell.
pub fn kernel() -> Result<String, Error> {
    let (major, minor) = OLDEST;
    let running = nix::sys::utsname::uname()
        .map_err(|e| Error::io("read the version of", Path::new("the kernel"), e.into()))?;
    let release = running.release().to_string_lossy().into_owned();
    match KernelVersion::current() {
        Ok(version) if version >= KernelVersion::new(major, minor, 0) => Ok(format!("Linux {release}")),
        _ => Err(Error::Kernel { release, oldest: format!("{major}.{minor}") }),
    }
}

/// The capabilities of this process.
///
/// # Errors
/// Names those that are missing.
pub fn capabilities() -> Result<String, Error> {
    host::check_capabilities()?;
    Ok(host::CAPABILITIES.map(|c| c.to_string()).join(", "))
}

/// The cgroup that would be judged.
///
/// # Errors
/// There is none, or it is no cgroup2 directory.
pub fn cgroup(path: Option<&Path>) -> Result<String, Error> {
    let path = match path {
        Some(path) => path.to_owned(),
        None => host::cgroup2_root()?,
    };
    host::open_cgroup(&path)?;
    Ok(format!("{} (its whole tree is judged)", path.display()))
}

/// The directory for pins.
///
/// # Errors
/// It is not on a BPF file system.
pub fn bpffs(path: &Path) -> Result<String, Error> {
    if !host::is_bpffs(path) {
        return Err(Error::NotBpffs { path: path.to_owned() });
    }
    Ok(path.display().to_string())
}

/// Loads every program into the kernel, unattached, and drops it again.
///
/// # Errors
/// The verifier's word.
pub fn programs() -> Result<String, Error> {
    host::check_capabilities()?;
    let mut bpf = super::loader(&0).load(OBJECT).map_err(|e| Error::Load(Box::new(e)))?;
    hooks::load(&mut bpf)?;
    sockets::kept::Kept::default().load(&mut bpf)?;
    let mut verified: Vec<_> = bpf
        .programs()
        .filter_map(|(name, p)| Some((p.info().ok()?.verified_instruction_count()?, name)))
        .collect();
    verified.sort_unstable_by(|a, b| b.cmp(a));
    let total: u32 = verified.iter().map(|(count, _)| count).sum();
    let each: Vec<_> = verified.iter().map(|(count, name)| format!("{name} {count}")).collect();
    // The limit is BPF_COMPLEXITY_LIMIT_INSNS, include/linux/bpf.h.
    Ok(format!(
        "{} programs load; the verifier walked {total} instructions ({}; a program may have 1000000)",
        each.len(),
        each.join(", ")
    ))
}

/// The tracepoints that tell of new cgroups, by which workloads are told. Attaches to them for a moment.
///
/// # Errors
/// They are out of reach: then no policy with workloads by unit or cgroup can come into force.
pub fn tracepoints() -> Result<String, Error> {
    host::check_capabilities()?;
    let mut bpf = super::loader(&0).load(OBJECT).map_err(|e| Error::Load(Box::new(e)))?;
    hooks::load(&mut bpf)?;
    Watch::default().begin(&mut bpf)?;
    Ok("units and cgroups can be workloads: the kernel tells of new cgroups".to_owned())
}

/// Who else is attached at the cgroup, and what segd itself has in place.
#[must_use]
pub fn neighbours(cgroup: Option<&Path>, bpffs: &Path) -> Vec<(&'static str, String)> {
    let Some(path) = cgroup.map(Path::to_owned).or_else(|| host::cgroup2_root().ok()) else {
        return Vec::new();
    };
    let Ok((dir, inode)) = host::open_cgroup(&path) else {
        return Vec::new();
    };
    let ours = hooks::attached(&Pins::at(bpffs).links(), inode);
    let count = ours.iter().filter(|a| a.program_id.is_some()).count();
    let mut rows = vec![("segd", format!("{count} of {} hooks attached", ours.len()))];
    for (hook, program) in hooks::foreign(dir.as_fd(), &ours) {
        rows.push((
            "neighbour",
            format!("program {program} of somebody else is attached at {hook}; segd leaves it alone"),
        ));
    }
    rows
}
