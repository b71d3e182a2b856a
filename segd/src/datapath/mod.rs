//! The agent's hands in the kernel: load, attach, pin, fill and flip, read back, live sockets. The only place that
//! touches bpf(2) and netlink.

mod cgroups;
mod counters;
mod error;
mod hooks;
pub mod host;
mod large;
mod observer;
mod pins;
pub mod probe;
mod slots;
mod sockets;
mod sys;
mod tables;
mod watch;

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use aya::maps::RingBuf;
use aya::{Ebpf, EbpfLoader};
use aya_obj::Object;
use segd_common::event::Event;
use segd_common::id::Generation;
use segd_common::schema;

pub use counters::{Counters, Usage};
pub use error::Error;
pub use hooks::{Attached, HOOKS};
pub use observer::Observer;
pub use sockets::{LiveSocket, Seeded, Subjects, Target, destroy};

use crate::policy::Compiled;
use pins::Pins;
use tables::Tables;
pub use tables::{Fallback, InForce, Pending};
use watch::Watch;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/segd-ebpf.o"));

/// Where the programs are attached and their state is pinned.
#[derive(Clone, Debug)]
pub struct Place {
    /// A directory of a cgroup2 file system; its whole tree is judged.
    pub cgroup: PathBuf,
    /// A directory on a BPF file system, of this agent alone.
    pub bpffs: PathBuf,
    /// Level of the programs' own log (0 off, 1 error to 5 trace). For debugging: it slows every new flow.
    pub log_level: u8,
}

/// The programs and tables of one agent. Dropping it leaves what is pinned in force.
pub struct Datapath {
    bpf: Ebpf,
    tables: Tables,
    watch: Watch,
    pins: Pins,
    cgroup: File,
    observer: Observer,
}

impl Datapath {
    /// Loads programs and tables, taking over the tables that a former agent left pinned. Nothing is attached
    /// and no verdict changes. On an error nothing stays behind that was not there.
    ///
    /// `fresh_counters`: begin to count anew, as the numbers in the pinned counters have lost their names.
    ///
    /// # Errors
    /// Names what the host lacks.
    pub fn open(place: &Place, fresh_counters: bool) -> Result<Self, Error> {
        host::check_capabilities()?;
        let (cgroup, inode) = host::open_cgroup(&place.cgroup)?;
        let pins = Pins::open(&place.bpffs)?;
        if fresh_counters {
            pins.remove_counters()?;
        }
        let opened = load(&pins, place).and_then(|(bpf, tables)| {
            let observer = Observer::new(&bpf, &pins, place.cgroup.clone(), inode)?;
            Ok((bpf, tables, observer))
        });
        if opened.is_err() && !pins.has_links() {
            pins.remove_own()?;
        }
        let (bpf, tables, observer) = opened?;
        Ok(Self { bpf, tables, watch: Watch::Off, pins, cgroup, observer })
    }

    /// Whether a former agent's programs are in place.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.pins.has_links()
    }

    /// Puts the programs in place, each into the link that a former agent left, if there is one; then takes off
    /// what agents of other versions left. Returns whether there was anything.
    ///
    /// # Errors
    /// Names the hook that failed; then none stays attached that was not before.
    pub fn attach(&mut self) -> Result<bool, Error> {
        let was_attached = self.is_attached();
        let attached = hooks::attach(&mut self.bpf, &self.pins.links(), &self.cgroup, self.observer.inode);
        if attached.is_err() && !was_attached {
            self.pins.remove_own()?;
        }
        let took_over = attached?;
        // Not before, as it reads the kernel's BTF once more, which takes as long as verifying a large program.
        if let Err(error) = sockets::live::load(&mut self.bpf) {
            tracing::warn!(
                "live flows are known by their sockets only: {error}; a kernel with /sys/kernel/btf/vmlinux is needed"
            );
        }
        self.watch.pin(&self.pins.links())?;
        Ok(took_over | (self.pins.remove_others()? > 0))
    }

    /// Unpins what was prepared and is not attached, after a start that failed.
    ///
    /// # Errors
    /// If something could not be removed.
    pub fn abandon(self) -> Result<(), Error> {
        if self.is_attached() { Ok(()) } else { self.pins.remove_own().map(drop) }
    }

    /// The generation in force, as the kernel holds it.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn generation(&self) -> Result<Generation, Error> {
        Ok(self.in_force()?.generation)
    }

    /// What is in force, and what follows it by itself.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn in_force(&self) -> Result<InForce, Error> {
        self.observer.in_force()
    }

    /// The generation that the next [`apply`](Self::apply) brings into force. A fallback gets the number before it.
    ///
    /// # Errors
    /// If the kernel cannot be asked, or the numbers are used up.
    pub fn next_generation(&self, with_fallback: bool) -> Result<Generation, Error> {
        self.tables.next(with_fallback)
    }

    /// Brings a compiled policy into force as a whole, and returns its generation. With a fallback, that takes its place
    /// at the deadline, whether an agent runs or not. What was pending before is not any more.
    ///
    /// From the first call on this process also has the programs learn of new cgroups.
    ///
    /// # Errors
    /// Before the last step anything that fails leaves the former policy in force.
    pub fn apply(
        &mut self,
        compiled: &Compiled,
        fallback: Option<Fallback<'_>>,
    ) -> Result<Generation, Error> {
        // Before the tables that they fill are there, so that no cgroup is made unseen between the two.
        if let Err(error) = self.watch.begin(&mut self.bpf) {
            let has_workloads = |compiled: &Compiled| !compiled.patterns.is_empty();
            if has_workloads(compiled) || fallback.is_some_and(|f| has_workloads(f.compiled)) {
                return Err(error);
            }
            tracing::warn!("workloads by unit or cgroup will not be possible: {error}");
        } else {
            self.observer.watches();
        }
        if self.is_attached() {
            self.watch.pin(&self.pins.links())?;
        }
        self.tables.swap(compiled, fallback)
    }

    /// Lets generations go on from this number if the kernel's own is lower, as after a reboot: each number is given
    /// once.
    pub fn go_on_from(&mut self, generation: Generation) {
        self.tables.go_on_from(generation);
    }

    /// The ring buffer of [`Event`]s, once.
    ///
    /// # Errors
    /// If it was taken before.
    pub fn take_events(&mut self) -> Result<RingBuf<aya::maps::MapData>, Error> {
        let map = self.bpf.take_map(schema::EVENTS).ok_or(Error::Object { what: schema::EVENTS })?;
        RingBuf::try_from(map).map_err(|e| Error::map(schema::EVENTS, e))
    }

    /// The programs' own log, if [`Place::log_level`] asked for one.
    pub fn programs(&mut self) -> &mut Ebpf {
        &mut self.bpf
    }

    /// Handles to what is counted.
    ///
    /// # Errors
    /// If the pins are gone.
    pub fn counters(&self) -> Result<Counters, Error> {
        let settling = sockets::live::iterator(&self.bpf, sockets::live::SETTLING);
        Counters::open(&self.pins.maps(), settling)
    }

    /// As [`Observer::attached`].
    #[must_use]
    pub fn attached(&self) -> Vec<Attached> {
        self.observer.attached()
    }

    /// Handles to what is in the kernel, for those who look at it while it changes.
    #[must_use]
    pub fn observer(&self) -> Observer {
        self.observer.clone()
    }

    /// Programs at our hooks of the cgroup that are not ours: (hook, program id).
    #[must_use]
    pub fn foreign(&self) -> Vec<(&'static str, u32)> {
        hooks::foreign(self.cgroup.as_fd(), &self.attached())
    }
}

/// A loader of the object whose programs log at a level, as [`Place::log_level`].
fn loader(log_level: &u8) -> EbpfLoader<'_> {
    let mut loader = EbpfLoader::new();
    loader.override_global(aya_log::LEVEL, log_level, false);
    // What sockets carry can be counted later if the iterator can be loaded that does it.
    if aya::Btf::from_sys_fs().is_ok() {
        loader.override_global("COUNTS_LATER", &1_u8, true);
    }
    if *log_level == 0 {
        // One page; the buffer of a log that nobody writes.
        loader.map_max_entries("AYA_LOGS", 4096);
    }
    loader
}

fn load(pins: &Pins, place: &Place) -> Result<(Ebpf, Tables), Error> {
    let object = Object::parse(OBJECT).map_err(|e| Error::Load(Box::new(e.into())))?;
    let mut loader = loader(&place.log_level);
    for (name, path) in pins.prepare(&object)? {
        loader.map_pin_path(name, path);
    }
    let mut bpf = loader.load(OBJECT).map_err(|e| Error::Load(Box::new(e)))?;
    hooks::load(&mut bpf)?;
    let tables = Tables::take(&mut bpf, place.cgroup.clone())?;
    Ok((bpf, tables))
}

/// Takes every program and pin of an agent off this host, whether it runs or not. Returns how many hooks were
/// freed.
///
/// # Errors
/// If something could not be removed.
pub fn detach(bpffs: &Path) -> Result<usize, Error> {
    Pins::at(bpffs).remove_all()
}

/// How many hooks an agent's pins hold, whether it runs or not.
#[must_use]
pub fn pinned_hooks(bpffs: &Path) -> usize {
    Pins::at(bpffs).link_count()
}

/// Reads a ring buffer item.
#[must_use]
pub fn event(bytes: &[u8]) -> Option<Event> {
    let chunk = bytes.first_chunk::<{ size_of::<Event>() }>()?;
    // SAFETY: the programs write whole `Event`s, which are plain data valid for every bit pattern; the chunk
    // has its size and may be unaligned.
    Some(unsafe { chunk.as_ptr().cast::<Event>().read_unaligned() })
}
