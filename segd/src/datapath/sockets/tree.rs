//! The cgroups that the programs judge.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::datapath::Error;

/// Inode of the root of every cgroup2 hierarchy (`cgroup_setup_root`, kernel/cgroup/cgroup.c).
const ROOT: u64 = 1;

/// A cgroup and all below it.
#[derive(Debug)]
pub(super) enum Tree {
    /// The whole hierarchy, with cgroups that were removed while sockets of theirs live on.
    Whole,
    /// These, by inode.
    Of(HashSet<u64>),
}

impl Tree {
    /// The tree below a directory, whose inode is given.
    ///
    /// # Errors
    /// The directory cannot be listed. One below it may be removed meanwhile.
    pub(super) fn below(path: &Path, inode: u64) -> Result<Self, Error> {
        if inode == ROOT {
            return Ok(Self::Whole);
        }
        let mut inodes = HashSet::from([inode]);
        let entries = fs::read_dir(path).map_err(|e| Error::io("list the cgroup", path, e))?;
        let mut open = vec![entries];
        while let Some(entries) = open.pop() {
            for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
                let Ok(metadata) = entry.metadata() else { continue };
                inodes.insert(metadata.ino());
                open.extend(fs::read_dir(entry.path()));
            }
        }
        Ok(Self::Of(inodes))
    }

    /// Whether a cgroup is in it, by its inode.
    pub(super) fn has(&self, cgroup: u64) -> bool {
        match self {
            Self::Whole => true,
            Self::Of(inodes) => inodes.contains(&cgroup),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_below_are_in_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        fs::create_dir_all(dir.path().join("x")).unwrap();
        fs::write(dir.path().join("a/cgroup.procs"), "").unwrap();
        let inode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().ino();
        let tree = Tree::below(&dir.path().join("a"), inode("a")).unwrap();
        for (name, within) in [
            ("a", true),
            ("a/b", true),
            ("a/b/c", true),
            ("x", false),
            (".", false),
            ("a/cgroup.procs", false),
        ] {
            assert_eq!(tree.has(inode(name)), within, "{name}");
        }
        assert!(Tree::below(Path::new("/nowhere"), ROOT).unwrap().has(17), "the root has every cgroup");
    }
}
