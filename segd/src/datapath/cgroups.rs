//! The cgroups that were there before the programs knew their patterns. Those made later the programs see themselves.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use segd_common::glob;
use segd_common::schema;
use segd_common::table::{Pattern, Subject};

use super::{Error, host, sys};

/// A cgroup of a workload.
struct Match {
    /// Inode of its directory, which is its id.
    id: u64,
    path: PathBuf,
    subject: Subject,
    /// Whether its own path matches, and not only an ancestor's.
    own: bool,
}

/// How many cgroups are put into a table that match by an ancestor alone. Sockets that remember their ancestors do not
/// need them, those older than the programs do until their first packet.
const MOST_BELOW: usize = schema::WORKLOAD_CGROUPS as usize / 4;

/// Puts the cgroups of a tree that match into a table of workloads, and the workloads themselves.
///
/// # Errors
/// If the tree cannot be read, or the table has no room for them.
pub(super) fn fill(table: &MapData, tree: &Path, patterns: &[Pattern]) -> Result<(), Error> {
    let (own, mut matches): (Vec<Match>, Vec<Match>) = find(tree, patterns)?.into_iter().partition(|m| m.own);
    matches.truncate(MOST_BELOW);
    matches.extend(own);
    let workloads: BTreeMap<u64, Subject> =
        patterns.iter().map(|p| (Subject::key(p.subject.id), p.subject)).collect();
    let (ids, subjects): (Vec<u64>, Vec<Subject>) =
        matches.iter().map(|m| (m.id, m.subject)).chain(workloads).unzip();
    let failed = |source| Error::Fill { table: schema::WORKLOADS, entries: ids.len(), source };
    sys::map_update_batch(table.fd().as_fd(), &ids, &subjects).map_err(failed)?;
    // One that went in between was taken out by the programs before it was put in here.
    for gone in matches.iter().filter(|m| !m.path.exists()) {
        match sys::map_delete(table.fd().as_fd(), &gone.id) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
    }
    Ok(())
}

/// The cgroups of workloads in a tree, by their ids, with what their sockets are decided as.
///
/// # Errors
/// If the tree cannot be read.
pub(super) fn workloads(tree: &Path, patterns: &[Pattern]) -> Result<HashMap<u64, Subject>, Error> {
    if patterns.is_empty() {
        return Ok(HashMap::new());
    }
    Ok(find(tree, patterns)?.into_iter().map(|m| (m.id, m.subject)).collect())
}

/// The cgroups in a tree that match, with `tree` itself.
fn find(tree: &Path, patterns: &[Pattern]) -> Result<Vec<Match>, Error> {
    let tree = tree.canonicalize().map_err(|e| Error::io("find", tree, e))?;
    let root = host::cgroup2_root()?;
    let Ok(below) = tree.strip_prefix(&root) else {
        return Err(Error::OutsideRoot { path: tree, root });
    };
    let top = PathBuf::from("/").join(below);
    let (_, id) = host::open_cgroup(&tree)?;
    let mut found = Vec::new();
    // Each with its path from the root, which is what patterns are written in.
    let mut open = vec![(id, tree, top)];
    while let Some((id, path, from_root)) = open.pop() {
        let text = from_root.as_os_str().as_bytes();
        if let Some(pattern) = glob::best(patterns, text) {
            let own = glob::matched(pattern, text) as usize == text.len();
            found.push(Match { id, path: path.clone(), subject: pattern.subject, own });
        }
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(e) if is_gone(&e) => continue,
            Err(e) => return Err(Error::io("list", &path, e)),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) if is_gone(&e) => break,
                Err(e) => return Err(Error::io("list", &path, e)),
            };
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push((entry.ino(), entry.path(), from_root.join(entry.file_name())));
            }
        }
    }
    Ok(found)
}

/// Whether a directory was removed while it was read.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}
