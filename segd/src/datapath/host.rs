//! What the host offers: the cgroup2 mount, a BPF file system, capabilities, its own addresses and clocks.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability};
use nix::sys::statfs::{self, FsType};
use nix::time::{ClockId, clock_gettime};

use super::Error;

/// CGROUP2_SUPER_MAGIC of include/uapi/linux/magic.h.
const CGROUP2_MAGIC: FsType = FsType(0x6367_7270);
/// BPF_FS_MAGIC of include/uapi/linux/magic.h.
const BPF_FS_MAGIC: FsType = FsType(0xcafe_4a11);

/// What loading, attaching and pinning need (CAP_PERFMON: without it the verifier refuses pointer arithmetic
/// that it allows the privileged).
pub const CAPABILITIES: [Capability; 3] =
    [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];

/// Where cgroup2 is mounted, by `/proc/self/mountinfo`: on a hybrid host that is not `/sys/fs/cgroup`.
///
/// # Errors
/// [`Error::NoCgroup2`] if there is no such mount.
pub fn cgroup2_root() -> Result<PathBuf, Error> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| Error::io("read", Path::new("/proc/self/mountinfo"), e))?;
    cgroup2_in(&mounts).ok_or(Error::NoCgroup2)
}

/// The mount point of the first whole cgroup2 hierarchy in a mountinfo text (proc_pid_mountinfo(5)).
fn cgroup2_in(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(unescape(point)))
    })
}

/// mountinfo writes space, tab, newline and backslash as `\ooo`.
fn unescape(text: &str) -> String {
    let mut out = text.to_owned();
    for (code, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        out = out.replace(code, plain);
    }
    out
}

/// Opens a cgroup2 directory; returns it with its inode, which is the cgroup's id.
pub(super) fn open_cgroup(path: &Path) -> Result<(fs::File, u64), Error> {
    let dir = fs::File::open(path).map_err(|e| Error::io("open the cgroup", path, e))?;
    if statfs::fstatfs(&dir).is_ok_and(|s| s.filesystem_type() != CGROUP2_MAGIC) {
        return Err(Error::NotCgroup2 { path: path.to_owned() });
    }
    let inode = dir.metadata().map_err(|e| Error::io("read the cgroup", path, e))?.ino();
    Ok((dir, inode))
}

/// Whether a path is on a BPF file system; of a path that does not exist, its nearest parent that does.
pub(super) fn is_bpffs(path: &Path) -> bool {
    let there = path.ancestors().find(|p| p.exists());
    there.is_some_and(|p| statfs::statfs(p).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC))
}

/// Whether this process has [`CAPABILITIES`].
pub(super) fn check_capabilities() -> Result<(), Error> {
    let has = |c: Capability| caps::has_cap(None, CapSet::Effective, c).unwrap_or(false);
    if has(Capability::CAP_SYS_ADMIN) {
        return Ok(());
    }
    let missing: Vec<String> = CAPABILITIES.into_iter().filter(|c| !has(*c)).map(|c| c.to_string()).collect();
    if missing.is_empty() { Ok(()) } else { Err(Error::Capabilities { missing: missing.join(", ") }) }
}

/// The addresses of this network namespace's interfaces, without those of the loopback range.
///
/// # Errors
/// What getifaddrs(3) reports.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let found: BTreeSet<IpAddr> = nix::ifaddrs::getifaddrs()?
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .filter(|ip| !ip.is_loopback())
        .collect();
    Ok(found.into_iter().collect())
}

/// Nanoseconds of CLOCK_BOOTTIME, which the programs measure by.
#[must_use]
pub fn boottime_ns() -> u64 {
    u64::try_from(read_clock(ClockId::CLOCK_BOOTTIME)).unwrap_or(0)
}

/// What to add to nanoseconds of CLOCK_BOOTTIME to get nanoseconds since the Unix epoch. It changes when the
/// wall clock is set, so take it anew now and then.
#[must_use]
pub fn boot_to_unix_ns() -> i64 {
    read_clock(ClockId::CLOCK_REALTIME).saturating_sub(read_clock(ClockId::CLOCK_BOOTTIME))
}

fn read_clock(clock: ClockId) -> i64 {
    // Both clocks exist on every kernel that can run BPF (2.6.39), so an error cannot happen.
    clock_gettime(clock).map_or(0, |t| t.tv_sec().saturating_mul(1_000_000_000).saturating_add(t.tv_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_on_hybrid_and_unified_hosts() {
        let hybrid = "30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                      31 30 0:27 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw\n\
                      32 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        assert_eq!(cgroup2_in(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        let part = "31 30 0:27 /docker/x /mnt rw - cgroup2 cgroup2 rw\n\
                    33 30 0:27 / /sys/fs/c\\040g rw - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_in(part), Some(PathBuf::from("/sys/fs/c g")));
        assert_eq!(cgroup2_in("32 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"), None);
    }

    #[test]
    fn this_machine_has_clocks_and_a_bpffs_is_told_apart() {
        assert!(boot_to_unix_ns() > 0 && boottime_ns() > 0);
        assert!(!is_bpffs(Path::new("/proc/no/such")));
    }
}
