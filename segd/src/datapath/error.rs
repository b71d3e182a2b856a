//! What can go wrong between the agent and the kernel, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;

/// An error of the data path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No unified hierarchy.
    #[error(
        "no cgroup2 file system is mounted, so there is nothing to attach to; on a host with cgroup v1 only, \
         `mount -t cgroup2 none /sys/fs/cgroup/unified` or boot with systemd.unified_cgroup_hierarchy=1"
    )]
    NoCgroup2,
    /// The directory given is something else.
    #[error("{} is not a directory of a cgroup2 file system; leave --cgroup away to use its root", path.display())]
    NotCgroup2 {
        /// The directory.
        path: PathBuf,
    },
    /// Its path in the kernel's eyes cannot be told.
    #[error(
        "the cgroup {} is not below the root of the cgroup2 tree at {}, so workloads cannot be told by their cgroup's \
         path; give --cgroup by its path there",
        path.display(), root.display()
    )]
    OutsideRoot {
        /// The directory.
        path: PathBuf,
        /// Where the whole tree is mounted.
        root: PathBuf,
    },
    /// Pins need a BPF file system.
    #[error(
        "{} is not on a BPF file system; `mount -t bpf bpf /sys/fs/bpf` mounts one (systemd does so at boot)",
        path.display()
    )]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// Too old.
    #[error("Linux {release} is too old: segd needs {oldest} or newer")]
    Kernel {
        /// The running one.
        release: String,
        /// The oldest that segd is tried on.
        oldest: String,
    },
    /// Not privileged enough.
    #[error("segd needs the capabilities {missing}; run it as root or by its systemd unit")]
    Capabilities {
        /// Names, joined by commas.
        missing: String,
    },
    /// A pinned map of another shape.
    #[error(
        "the pinned map {} is not what this segd expects ({what}); `segd detach` removes it, and enforcement \
         with it, until the agent starts again",
        path.display()
    )]
    MapShape {
        /// The pin.
        path: PathBuf,
        /// The first difference.
        what: String,
    },
    /// A pinned link that is not what its name says.
    #[error("the pinned link {} is not segd's; `segd detach` removes it", path.display())]
    ForeignPin {
        /// The pin.
        path: PathBuf,
    },
    /// A pinned link of another cgroup.
    #[error(
        "the pinned link {} is attached to cgroup {is}, not to {wanted}: another agent uses this --bpffs; \
         give this one its own, or `segd detach` the other",
        path.display()
    )]
    OtherCgroup {
        /// The pin.
        path: PathBuf,
        /// Inode of the cgroup it is attached to.
        is: u64,
        /// Inode of the cgroup wanted.
        wanted: u64,
    },
    /// The embedded object lacks something: a build error.
    #[error("the embedded BPF object has no usable {what}; this build of segd is broken")]
    Object {
        /// The program or map.
        what: &'static str,
    },
    /// The object as a whole was refused.
    #[error("the kernel did not take the BPF object: {0:#}")]
    Load(#[source] Box<aya::EbpfError>),
    /// A program was refused.
    #[error("the kernel did not take the program at {hook}: {source:#}")]
    Program {
        /// The hook.
        hook: &'static str,
        /// The kernel's word.
        source: Box<ProgramError>,
    },
    /// A tracepoint is out of reach.
    #[error(
        "cannot attach to the tracepoint cgroup/{hook}, by which a workload's new cgroups are noticed: {source:#}; the \
         kernel needs CONFIG_FTRACE, and `mount -t tracefs tracefs /sys/kernel/tracing`"
    )]
    Tracepoint {
        /// The tracepoint's name.
        hook: &'static str,
        /// The kernel's word.
        source: Box<ProgramError>,
    },
    /// A pin could not be made.
    #[error("cannot pin {}: {source:#}", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// The kernel's word.
        source: Box<PinError>,
    },
    /// A map could not be used.
    #[error("cannot use the map {map}: {source:#}")]
    Map {
        /// The map.
        map: &'static str,
        /// The kernel's word.
        source: Box<MapError>,
    },
    /// A table could not be filled.
    #[error(
        "cannot put {entries} entries into the table {table}: {source}; the former policy stays in force"
    )]
    Fill {
        /// The table.
        table: &'static str,
        /// How many.
        entries: usize,
        /// The kernel's word.
        source: io::Error,
    },
    /// A table beyond what the kernel can hold.
    #[error("{entries} entries are too many for the table {table}; the former policy stays in force")]
    TooLarge {
        /// The table.
        table: &'static str,
        /// How many.
        entries: usize,
    },
    /// 2^32 policies.
    #[error("the generation number is used up; `segd detach` starts anew")]
    Generations,
    /// sock_diag(7).
    #[error(
        "cannot list the sockets of this host: {source}; segd needs the kernel modules inet_diag, tcp_diag and udp_diag"
    )]
    Sockets {
        /// The kernel's word.
        source: io::Error,
    },
    /// A file or directory.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
}

impl Error {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    pub(super) fn map(map: &'static str, source: MapError) -> Self {
        Self::Map { map, source: Box::new(source) }
    }

    /// Whether more privilege would help.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Capabilities { .. } => true,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            _ => false,
        }
    }
}
