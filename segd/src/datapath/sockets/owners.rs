//! Which process has a socket open: the only way to learn it of a socket that is older than the programs.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

/// A process that has a socket open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// As this process sees it.
    pub(super) pid: u32,
    /// Name of its main thread, NUL-padded.
    pub(super) comm: [u8; 16],
}

/// Descriptors looked at in one go; a host with more has some sockets without a process.
const MOST: usize = 1 << 20;

/// The process with the lowest id that has each of these sockets open, by the socket's inode.
pub(super) fn of(wanted: &HashSet<u32>) -> HashMap<u32, Process> {
    in_proc(Path::new("/proc"), wanted)
}

fn in_proc(proc: &Path, wanted: &HashSet<u32>) -> HashMap<u32, Process> {
    let mut found = HashMap::new();
    if wanted.is_empty() {
        return found;
    }
    let Ok(entries) = fs::read_dir(proc) else {
        return found;
    };
    let mut pids: Vec<u32> = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let mut left = MOST;
    for pid in pids {
        if found.len() >= wanted.len() || left == 0 {
            break;
        }
        let dir = proc.join(pid.to_string());
        // Gone meanwhile, or not ours to see.
        let Ok(descriptors) = fs::read_dir(dir.join("fd")) else { continue };
        let mut process = None;
        for link in descriptors.flatten().take(left) {
            left -= 1;
            let Ok(target) = fs::read_link(link.path()) else { continue };
            let Some(inode) = inode(&target).filter(|inode| wanted.contains(inode)) else { continue };
            let process = process.get_or_insert_with(|| Process { pid, comm: comm(&dir) });
            found.entry(inode).or_insert(*process);
        }
    }
    found
}

/// `socket:[12345]`.
fn inode(link: &Path) -> Option<u32> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn comm(dir: &Path) -> [u8; 16] {
    let mut comm = [0; 16];
    let text = fs::read(dir.join("comm")).unwrap_or_default();
    let name = text.strip_suffix(b"\n").unwrap_or(&text);
    for (to, from) in comm.iter_mut().take(15).zip(name) {
        *to = *from;
    }
    comm
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn this_process_has_its_own_socket_open() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode = inode(&link).unwrap();
        let found = of(&HashSet::from([inode, u32::MAX]));
        assert_eq!(found.len(), 1);
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(found[&inode].pid, std::process::id());
        assert!(found[&inode].comm.starts_with(name.trim_end().as_bytes()));
    }

    #[test]
    fn the_lowest_process_id_wins_and_what_is_no_socket_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        for (pid, comm, links) in [
            ("70", "worker\n", &["socket:[5]", "socket:[6]"][..]),
            ("7", "a-name-of-more-than-15\n", &["pipe:[6]", "/dev/null", "socket:[5]", "socket:[x]"]),
            ("irq", "", &["socket:[6]"]),
        ] {
            let fd = dir.path().join(pid).join("fd");
            fs::create_dir_all(&fd).unwrap();
            fs::write(dir.path().join(pid).join("comm"), comm).unwrap();
            for (n, link) in links.iter().enumerate() {
                symlink(link, fd.join(n.to_string())).unwrap();
            }
        }
        let found = in_proc(dir.path(), &HashSet::from([5, 6, 9]));
        assert_eq!((found[&5].pid, &found[&5].comm), (7, b"a-name-of-more-\0"));
        assert_eq!((found[&6].pid, &found[&6].comm), (70, b"worker\0\0\0\0\0\0\0\0\0\0"));
        assert_eq!(found.len(), 2);
    }
}
