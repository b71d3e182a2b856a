//! Sets of programs on all hooks, attached to a host's cgroup for the time of a measurement.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};
use segd_common::schema;
use segd_tests::Host;

use crate::sys;

/// The hooks with their numbers of `enum bpf_attach_type`, include/uapi/linux/bpf.h.
const HOOKS: [(&str, u32); 9] = [
    ("sock_create", 2),
    ("sock_release", 34),
    ("sock_ops", 3),
    ("ingress", 0),
    ("egress", 1),
    ("connect4", 10),
    ("connect6", 11),
    ("sendmsg4", 14),
    ("sendmsg6", 15),
];

/// A program on each hook, in the kernel but not attached.
pub(crate) struct Programs {
    programs: Vec<(&'static str, u32, OwnedFd)>,
    /// What keeps an object's maps.
    _object: Option<Ebpf>,
}

/// Attached programs. Dropping it takes them off.
pub(crate) struct Attached {
    _links: Vec<OwnedFd>,
}

impl Programs {
    /// Loads the programs that do nothing.
    pub(crate) fn empty(object: &Path) -> Result<Self> {
        Self::load(object, |hook| hook.to_owned())
    }

    /// Loads those that do nothing but look up the storage of each packet's socket, and count it there.
    pub(crate) fn look_up(object: &Path) -> Result<Self> {
        Self::load(object, |hook| match hook {
            "ingress" | "egress" => format!("{hook}_look_up"),
            _ => hook.to_owned(),
        })
    }

    fn load(object: &Path, name_at: impl Fn(&str) -> String) -> Result<Self> {
        let mut bpf = EbpfLoader::new().load_file(object).context("the object of empty programs")?;
        let mut programs = Vec::new();
        for (hook, attach_type) in HOOKS {
            let name = name_at(hook);
            let program = bpf.program_mut(&name).with_context(|| format!("no program {name}"))?;
            match program {
                Program::CgroupSock(p) => p.load(),
                Program::CgroupSockAddr(p) => p.load(),
                Program::CgroupSkb(p) => p.load(),
                Program::SockOps(p) => p.load(),
                other => anyhow::bail!("{name} is a {:?}", other.prog_type()),
            }
            .with_context(|| format!("the kernel does not take {name}"))?;
            let fd = program.fd()?.try_clone()?;
            programs.push((hook, attach_type, aya_fd(fd)?));
        }
        Ok(Self { programs, _object: Some(bpf) })
    }

    /// Takes the programs of a running agent off its cgroup, by its pins in `bpffs`. The agent is not told and goes on
    /// reading what they tell it, wherever they are attached from now on.
    pub(crate) fn of_agent(bpffs: &Path) -> Result<Self> {
        let links = bpffs.join(format!("v{}", schema::VERSION)).join("links");
        let mut programs = Vec::new();
        for (name, attach_type) in HOOKS {
            let pin = links.join(name);
            let link = sys::object_get(&pin).with_context(|| format!("cannot open {}", pin.display()))?;
            let id = sys::program_of(&link)?;
            programs.push((name, attach_type, sys::program_by_id(id)?));
            sys::link_detach(&link).with_context(|| format!("cannot detach {}", pin.display()))?;
        }
        // Those that tell of cgroups stay: they are not in the way of traffic.
        let names = fs::read_dir(&links)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let others = names.filter(|name| !name.starts_with("cgroup_")).count() - HOOKS.len();
        ensure!(others == 0, "segd has {others} hooks more than this bench knows; teach it");
        Ok(Self { programs, _object: None })
    }

    /// Attaches all of them to each host's cgroup.
    pub(crate) fn attach_to(&self, hosts: [&Host; 2]) -> Result<Vec<Attached>> {
        hosts.into_iter().map(|host| self.attach(host)).collect()
    }

    /// Attaches all of them to the host's cgroup.
    pub(crate) fn attach(&self, host: &Host) -> Result<Attached> {
        let cgroup = File::open(host.cgroup())?;
        let link = |(name, attach_type, program): &(&str, u32, OwnedFd)| {
            sys::link_create(program, &cgroup, *attach_type).with_context(|| format!("cannot attach {name}"))
        };
        Ok(Attached { _links: self.programs.iter().map(link).collect::<Result<_>>()? })
    }

    /// Each program with its name.
    pub(crate) fn each(&self) -> impl Iterator<Item = (&'static str, &OwnedFd)> {
        self.programs.iter().map(|(name, _, program)| (*name, program))
    }
}

fn aya_fd(fd: aya::programs::ProgramFd) -> Result<OwnedFd> {
    use std::os::fd::AsFd;
    Ok(fd.as_fd().try_clone_to_owned()?)
}
