//! Removes everything of a lab by its id alone: for the end of a lab, for signals, and for labs whose process died.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::{cgroup, lab_id, netns};

/// Below this directory each lab has one of its own, named by its id.
pub(crate) const RUN: &str = "/run";

/// Removes what lab `id` has on this machine, in the order in which it can go: processes, mounts (with them the
/// pinned programs), cgroups, network namespaces, directories. What cannot be removed does not keep the rest.
pub(crate) fn remove(id: &str) -> Result<()> {
    let directory = Path::new(RUN).join(id);
    let cgroup = cgroup::root().map(|root| root.join(lab_id::cgroup(id)));
    let mut faults = Vec::new();
    let mut note = |done: Result<()>| faults.extend(done.err().map(|e| format!("{e:#}")));
    if let Ok(cgroup) = &cgroup {
        note(cgroup::kill_all(cgroup));
    }
    note(unmount_below(&directory));
    if let Ok(cgroup) = &cgroup {
        note(cgroup::remove_tree(cgroup));
    }
    for path in namespaces(id) {
        note(netns::remove(&path));
    }
    if directory.exists() {
        note(
            fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display())),
        );
    }
    if !faults.is_empty() {
        bail!("{id} could not be removed altogether:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

/// Removes the labs of processes that are gone.
pub(crate) fn reap() -> Result<()> {
    let mut ids = BTreeSet::new();
    ids.extend(names_in(Path::new(RUN)));
    ids.extend(names_in(&cgroup::root()?).filter_map(|n| Some(n.strip_suffix(lab_id::SLICE)?.to_owned())));
    ids.extend(names_in(Path::new(netns::DIRECTORY)).filter_map(|n| Some(n.split_once('.')?.0.to_owned())));
    for id in ids.iter().filter(|id| lab_id::is_orphan(id)) {
        // Another test process may be at the same orphan: what it removed first is no fault.
        if let Err(fault) = remove(id)
            && Path::new(RUN).join(id).exists()
        {
            return Err(fault);
        }
    }
    Ok(())
}

fn names_in(directory: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

fn namespaces(id: &str) -> Vec<PathBuf> {
    let prefix = format!("{id}.");
    let directory = Path::new(netns::DIRECTORY);
    names_in(directory).filter(|name| name.starts_with(&prefix)).map(|name| directory.join(name)).collect()
}

fn unmount_below(directory: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    for point in points.filter(|point| point.starts_with(directory)).collect::<Vec<_>>().into_iter().rev() {
        match umount2(point, MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => bail!("cannot unmount {}: {errno}", point.display()),
        }
    }
    Ok(())
}
