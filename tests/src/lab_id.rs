//! The name under which everything of one lab is made, and from which its owner can be told.
//!
//! `segd-lab-<pid>-<start>-<n>-<name>`: the owning process, when it started (so that a reused pid is not taken
//! for the owner), the how manyeth lab of that process, and the name that the test gave.

use std::fs;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "segd-lab-";

/// Where systemd looks for units, and segd with it, all directories end in this.
pub(crate) const SLICE: &str = ".slice";

/// The id of a new lab of this process. Names are cut short, for the paths of unix sockets hold 107 bytes.
pub(crate) fn new(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let pid = process::id();
    let start = start_of(pid).unwrap_or(0);
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(24).collect();
    format!("{PREFIX}{pid}-{start}-{count}-{name}")
}

/// The name of a lab's cgroup.
pub(crate) fn cgroup(id: &str) -> String {
    format!("{id}{SLICE}")
}

/// Whether `id` is a lab's, and the process that made it is gone.
pub(crate) fn is_orphan(id: &str) -> bool {
    owner(id).is_some_and(|(pid, start)| start_of(pid) != Some(start))
}

/// The pid and the start time of the process that made lab `id`; `None` if `id` is no lab's.
fn owner(id: &str) -> Option<(u32, u64)> {
    let mut parts = id.strip_prefix(PREFIX)?.splitn(4, '-');
    let pid = parts.next()?.parse().ok()?;
    let start = parts.next()?.parse().ok()?;
    let _count: u32 = parts.next()?.parse().ok()?;
    Some((pid, start))
}

/// When process `pid` started, in clock ticks after boot; `None` if there is no such process or it is a zombie.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may hold anything: count from its end (proc_pid_stat(5)).
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_of_this_process_is_no_orphan() {
        let id = new("two words/and more");
        assert!(id.ends_with("-two-words-and-more"), "{id}");
        assert_eq!(owner(&id).map(|(pid, _)| pid), Some(process::id()));
        assert!(!is_orphan(&id));
    }

    #[test]
    fn a_reused_pid_is_not_the_owner() {
        assert!(is_orphan(&format!("segd-lab-{}-1-1-x", process::id())));
    }

    #[test]
    fn what_is_no_lab_is_never_an_orphan() {
        for name in ["system.slice", "segd-lab-", "segd-lab-1", "segd-lab-x-1-1-a", "segd-lab-1-1-x-a"] {
            assert!(!is_orphan(name), "{name}");
        }
    }
}
