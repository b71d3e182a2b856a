//! Where the programs sit, and how they get there: attached anew, or put into the links that a former agent
//! left pinned, so that no packet goes unjudged in between.

use std::fs::File;
use std::num::NonZero;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{CgroupAttachMode, CgroupSkbAttachType, Program};
use serde::Serialize;

use super::sys::{self, CgroupLink};
use super::{Error, watch};

/// A program's hook.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// The program's and the pinned link's name.
    pub name: &'static str,
    pub(super) place: Place,
}

/// What a program is attached to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// The cgroup, by a number of `enum bpf_attach_type`, include/uapi/linux/bpf.h.
    Cgroup(u32),
    /// The tracepoint of its name in the category `cgroup`.
    Tracepoint,
}

impl Hook {
    const fn cgroup(name: &'static str, attach_type: u32) -> Self {
        Self { name, place: Place::Cgroup(attach_type) }
    }

    const fn tracepoint(name: &'static str) -> Self {
        Self { name, place: Place::Tracepoint }
    }
}

/// Every hook, in the order of attachment: what tells workloads, then what remembers sockets (their end before their
/// beginning, so that none is forgotten to be), then what judges their packets, then what judges system calls, which must
/// know the flows that packets began.
pub const HOOKS: [Hook; 11] = [
    Hook::tracepoint("cgroup_mkdir"),
    Hook::tracepoint("cgroup_rmdir"),
    Hook::cgroup("sock_release", 34),
    Hook::cgroup("sock_ops", 3),
    Hook::cgroup("sock_create", 2),
    Hook::cgroup("ingress", 0),
    Hook::cgroup("egress", 1),
    Hook::cgroup("connect4", 10),
    Hook::cgroup("connect6", 11),
    Hook::cgroup("sendmsg4", 14),
    Hook::cgroup("sendmsg6", 15),
];

/// The hooks at the cgroup, with their `enum bpf_attach_type`.
fn at_cgroup() -> impl Iterator<Item = (&'static Hook, u32)> {
    HOOKS.iter().filter_map(|hook| match hook.place {
        Place::Cgroup(attach_type) => Some((hook, attach_type)),
        Place::Tracepoint => None,
    })
}

/// What the kernel holds at a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attached {
    /// The hook's name.
    pub hook: &'static str,
    /// The program in the pinned link, if the link is attached to the cgroup.
    pub program_id: Option<u32>,
    /// The pinned link.
    pub link_id: Option<u32>,
}

impl Attached {
    /// Whether the hook is a tracepoint of the whole machine.
    pub(super) fn is_tracepoint(&self) -> bool {
        !at_cgroup().any(|(hook, _)| hook.name == self.hook)
    }
}

/// Programs that are verified at a time, which takes most of a start.
const AT_A_TIME: usize = 4;

/// Loads every program into the kernel: the verifier has its say before anything is attached.
pub(super) fn load(bpf: &mut Ebpf) -> Result<(), Error> {
    for hook in &HOOKS {
        program(bpf, hook)?;
    }
    let programs = bpf.programs_mut();
    let programs = programs.filter_map(|(name, p)| Some((HOOKS.iter().find(|hook| hook.name == name)?, p)));
    // Those at the end of a pile are taken first.
    let mut pile: Vec<(&Hook, &mut Program)> = programs.collect();
    pile.sort_by_key(|(hook, _)| matches!(hook.name, "ingress" | "egress"));
    let pile = Mutex::new(pile);
    let next = || pile.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let some = || std::iter::from_fn(next).try_for_each(|(hook, program)| load_one(hook, program));
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(AT_A_TIME);
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(some)).collect();
        let own = some();
        let panicked = |_| Err(Error::Object { what: "a thread to verify it" });
        let others = others.into_iter().map(|other| other.join().unwrap_or_else(panicked));
        others.fold(own, Result::and)
    })
}

fn load_one(hook: &Hook, program: &mut Program) -> Result<(), Error> {
    let loaded = match program {
        Program::CgroupSock(p) => p.load(),
        Program::CgroupSockAddr(p) => p.load(),
        Program::CgroupSkb(p) => p.load(),
        Program::SockOps(p) => p.load(),
        Program::TracePoint(p) => p.load(),
        _ => return Err(Error::Object { what: hook.name }),
    };
    loaded.map_err(|source| Error::Program { hook: hook.name, source: Box::new(source) })
}

fn program<'a>(bpf: &'a mut Ebpf, hook: &Hook) -> Result<&'a mut Program, Error> {
    bpf.program_mut(hook.name).ok_or(Error::Object { what: hook.name })
}

/// Puts the programs at the cgroup in place. `links` is the directory of pinned links; `cgroup` the opened cgroup directory
/// with its inode. Returns whether any link was taken over from a former agent.
///
/// On an error, links that this call made are removed again; links that were there stay, with the old or the
/// new program, which judge by the same tables.
pub(super) fn attach(bpf: &mut Ebpf, links: &Path, cgroup: &File, inode: u64) -> Result<bool, Error> {
    let mut made = Made(Vec::new());
    let mut took_over = false;
    for (hook, attach_type) in at_cgroup() {
        let pin = links.join(hook.name);
        let program = program(bpf, hook)?;
        if pin.exists() {
            match take_over(program, hook, attach_type, &pin, inode)? {
                Taken::Yes => {
                    took_over = true;
                    continue;
                }
                Taken::Detached => std::fs::remove_file(&pin).map_err(|e| Error::io("remove", &pin, e))?,
            }
        }
        let link = create(program, hook, cgroup)?;
        link.pin(&pin).map_err(|source| Error::Pin { path: pin.clone(), source: Box::new(source) })?;
        made.0.push(pin);
    }
    made.0.clear();
    Ok(took_over)
}

/// Pins made so far; removed on drop unless kept.
struct Made(Vec<std::path::PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        for pin in &self.0 {
            if let Err(e) = std::fs::remove_file(pin) {
                tracing::error!("cannot remove {}: {e}; `segd detach` does", pin.display());
            }
        }
    }
}

enum Taken {
    Yes,
    /// The link is attached nowhere any more.
    Detached,
}

fn take_over(program: &Program, hook: &Hook, wanted: u32, pin: &Path, inode: u64) -> Result<Taken, Error> {
    let link = sys::object_get(pin).map_err(|e| Error::io("open", pin, e))?;
    let info = sys::cgroup_link(link.as_fd()).map_err(|e| Error::io("read", pin, e))?;
    let Some(CgroupLink { cgroup, .. }) = info.filter(|l| l.attach_type == wanted) else {
        return Err(Error::ForeignPin { path: pin.to_owned() });
    };
    if cgroup == 0 {
        return Ok(Taken::Detached);
    }
    if cgroup != inode {
        return Err(Error::OtherCgroup { path: pin.to_owned(), is: cgroup, wanted: inode });
    }
    let fd = program.fd().map_err(|source| Error::Program { hook: hook.name, source: Box::new(source) })?;
    match sys::link_update(link.as_fd(), fd.as_fd()) {
        Ok(()) => Ok(Taken::Yes),
        Err(e) if e.raw_os_error() == Some(libc::ENOLINK) => Ok(Taken::Detached),
        Err(e) => Err(Error::io("put the new program into", pin, e)),
    }
}

fn create(program: &mut Program, hook: &Hook, cgroup: &File) -> Result<FdLink, Error> {
    // The one mode that aya can ask for by link; links always run beside others' programs.
    let mode = CgroupAttachMode::Single;
    let link = match program {
        Program::CgroupSock(p) => {
            p.attach(cgroup, mode).and_then(|id| p.take_link(id)).map(|l| FdLink::try_from(l).map_err(drop))
        }
        Program::CgroupSockAddr(p) => {
            p.attach(cgroup, mode).and_then(|id| p.take_link(id)).map(|l| FdLink::try_from(l).map_err(drop))
        }
        Program::CgroupSkb(p) => {
            let side = if hook.name == "ingress" {
                CgroupSkbAttachType::Ingress
            } else {
                CgroupSkbAttachType::Egress
            };
            p.attach(cgroup, side, mode)
                .and_then(|id| p.take_link(id))
                .map(|l| FdLink::try_from(l).map_err(drop))
        }
        Program::SockOps(p) => {
            p.attach(cgroup, mode).and_then(|id| p.take_link(id)).map(|l| FdLink::try_from(l).map_err(drop))
        }
        _ => return Err(Error::Object { what: hook.name }),
    };
    link.map_err(|source| Error::Program { hook: hook.name, source: Box::new(source) })?
        .map_err(|()| Error::Object { what: hook.name })
}

/// What the kernel holds at each hook of `cgroup`, read from the pinned links.
pub(super) fn attached(links: &Path, inode: u64) -> Vec<Attached> {
    let held = |hook: &Hook| match hook.place {
        Place::Tracepoint => watch::pinned(links, hook),
        Place::Cgroup(attach_type) => {
            let link = sys::object_get(&links.join(hook.name)).ok()?;
            let held = sys::cgroup_link(link.as_fd()).ok()??;
            (held.attach_type == attach_type && held.cgroup == inode).then_some((held.id, held.program))
        }
    };
    HOOKS
        .iter()
        .map(|hook| {
            let (link_id, program_id) = held(hook).unzip();
            Attached { hook: hook.name, program_id, link_id }
        })
        .collect()
}

/// Programs at our hooks of a cgroup that are not ours: (hook, program id).
pub(super) fn foreign(cgroup: BorrowedFd<'_>, ours: &[Attached]) -> Vec<(&'static str, u32)> {
    let mut found = Vec::new();
    for (hook, attach_type) in at_cgroup() {
        for id in sys::programs_at(cgroup, attach_type).unwrap_or_default() {
            if !ours.iter().any(|a| a.program_id == Some(id)) {
                found.push((hook.name, id));
            }
        }
    }
    found
}

/// Removes a pinned link; the program leaves its hook when the last descriptor is closed.
pub(super) fn detach(pin: &Path) -> std::io::Result<()> {
    match PinnedLink::from_pin(pin) {
        Ok(link) => link.unpin().map(drop),
        Err(_) => std::fs::remove_file(pin),
    }
}
