//! The tracepoints by which the programs learn of cgroups as they come and go. They concern the whole machine, and no
//! verdict hangs on them: so they run from the first policy on, before the programs that judge are attached.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::thread;

use aya::Ebpf;
use aya::programs::Program;
use aya::programs::links::FdLink;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::hooks::{HOOKS, Hook, Place};
use super::{Error, sys};

/// Where aya looks for tracefs.
const TRACEFS: &str = "/sys/kernel/tracing";
/// The same where debugfs brings it.
const IN_DEBUGFS: &str = "/sys/kernel/debug/tracing";

/// Whether the tracepoints are attached.
#[derive(Debug, Default)]
pub(super) enum Watch {
    /// Not by this agent.
    #[default]
    Off,
    /// For as long as this process lives.
    Held(Vec<(&'static str, FdLink)>),
    /// By links that are pinned.
    Pinned,
}

impl Watch {
    /// Attaches the tracepoints if they are not.
    ///
    /// # Errors
    /// The kernel has none, or does not show them.
    pub(super) fn begin(&mut self, bpf: &mut Ebpf) -> Result<(), Error> {
        if let Self::Off = self {
            *self = Self::Held(with_tracefs(|| attach(bpf))?);
        }
        Ok(())
    }

    /// Pins the links in the place of a former agent's, so that none is missing in between.
    ///
    /// # Errors
    /// If a pin cannot be made.
    pub(super) fn pin(&mut self, links: &Path) -> Result<(), Error> {
        let Self::Held(held) = std::mem::replace(self, Self::Pinned) else {
            return Ok(());
        };
        for (name, link) in held {
            let (pin, new) = (links.join(name), links.join(format!("{name}-new")));
            match fs::remove_file(&new) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", &new, e)),
                _ => {}
            }
            link.pin(&new).map_err(|source| Error::Pin { path: new.clone(), source: Box::new(source) })?;
            fs::rename(&new, &pin).map_err(|e| Error::io("put a new link into the place of", &pin, e))?;
        }
        Ok(())
    }
}

fn attach(bpf: &mut Ebpf) -> Result<Vec<(&'static str, FdLink)>, Error> {
    HOOKS
        .iter()
        .filter(|hook| matches!(hook.place, Place::Tracepoint))
        .map(|hook| {
            let failed = |source| Error::Tracepoint { hook: hook.name, source: Box::new(source) };
            let Some(Program::TracePoint(program)) = bpf.program_mut(hook.name) else {
                return Err(Error::Object { what: hook.name });
            };
            let id = program.attach("cgroup", hook.name).map_err(failed)?;
            let link = program.take_link(id).map_err(failed)?;
            FdLink::try_from(link)
                .map(|link| (hook.name, link))
                .map_err(|_| Error::Object { what: hook.name })
        })
        .collect()
}

/// Does something where the file system of the tracepoints is mounted: if it is nowhere, on a thread that has mounts of
/// its own.
fn with_tracefs<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    let there = |path: &&str| fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
    if [TRACEFS, IN_DEBUGFS].iter().any(there) {
        return work();
    }
    let alone = || {
        let failed = |e: nix::Error| Error::io("mount tracefs on", Path::new(TRACEFS), e.into());
        unshare(CloneFlags::CLONE_NEWNS).map_err(failed)?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(failed)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("tracefs"), TRACEFS, Some("tracefs"), flags, None::<&str>).map_err(failed)?;
        work()
    };
    let panicked =
        || Error::io("mount tracefs on", Path::new(TRACEFS), io::Error::other("its thread panicked"));
    thread::scope(|scope| scope.spawn(alone).join().unwrap_or_else(|_| Err(panicked())))
}

/// Id of the pinned link of a tracepoint, and of its program.
pub(super) fn pinned(links: &Path, hook: &Hook) -> Option<(u32, u32)> {
    let link = sys::object_get(&links.join(hook.name)).ok()?;
    sys::perf_link(link.as_fd()).ok()?
}
