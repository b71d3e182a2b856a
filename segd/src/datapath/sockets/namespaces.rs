//! The network namespaces of this host, by the processes in them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::thread;

use caps::{CapSet, Capability};
use nix::sched::{CloneFlags, setns};

use super::diag::Diag;
use crate::datapath::Error;

/// One network namespace.
#[derive(Clone, Debug)]
pub(super) struct Namespace {
    /// Its number (namespaces(7)).
    pub(super) inode: u64,
    /// `None`: this process's own.
    path: Option<PathBuf>,
}

/// This process's own.
///
/// # Errors
/// `/proc` is not there.
pub(super) fn own() -> Result<Namespace, Error> {
    let path = Path::new("/proc/self/ns/net");
    let inode = fs::metadata(path).map_err(|e| Error::io("read", path, e))?.ino();
    Ok(Namespace { inode, path: None })
}

/// The namespace of a process, if there is such a process and it may be seen.
pub(super) fn of_process(pid: u32) -> Option<Namespace> {
    let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
    Some(Namespace { inode: fs::metadata(&path).ok()?.ino(), path: Some(path) })
}

/// The own one first, then those of every other process, if they may be entered.
///
/// # Errors
/// As [`own`].
pub(super) fn all() -> Result<Vec<Namespace>, Error> {
    static TOLD: Once = Once::new();
    let own = own()?;
    let mut known = HashSet::from([own.inode]);
    let mut found = vec![own];
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(false) {
        TOLD.call_once(|| {
            tracing::info!(
                "without CAP_SYS_ADMIN, sockets of other network namespaces (containers) that are older than the \
                 agent are not looked at"
            );
        });
        return Ok(found);
    }
    let proc = Path::new("/proc");
    let processes = fs::read_dir(proc).map_err(|e| Error::io("list", proc, e))?;
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    found.extend(pids.filter_map(of_process).filter(|namespace| known.insert(namespace.inode)));
    Ok(found)
}

impl Namespace {
    /// Opens a netlink socket in it.
    pub(super) fn open(&self) -> io::Result<Diag> {
        let Some(path) = &self.path else {
            return Diag::open();
        };
        let file = File::open(path)?;
        // A thread of its own enters, as a thread's namespace is for everything that it does.
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET)?;
                Diag::open()
            });
            entered
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace ended badly")))
        })
    }
}
