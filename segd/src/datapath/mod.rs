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
mod programs;
mod slots;
mod sockets;
mod sys;
mod tables;
mod watch;

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{Map, RingBuf};
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
pub use programs::Preparation;
use programs::{Programs, loader};
use sockets::kept::Kept;
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
    programs: Programs,
    tables: Tables,
    /// Until somebody takes it.
    events: Option<Map>,
    kept: Kept,
    watch: Watch,
    pins: Pins,
    cgroup: File,
    observer: Observer,
}

impl Datapath {
    /// Loads programs and tables, taking over the tables that a former agent left pinned. Nothing is attached
    /// and no verdict changes. On an error nothing stays behind that was not there.
    ///
    /// The verifier goes on when this returns; whether the kernel takes the programs shows in [`apply`](Self::apply).
    ///
    /// `fresh_counters`: begin to count anew, as the numbers in the pinned counters have lost their names.
    ///
    /// # Errors
    /// Names what the host lacks.
    pub fn open(place: &Place, fresh_counters: bool) -> Result<Self, Error> {
        Self::open_prepared(Preparation::begin(), place, fresh_counters)
    }

    /// As [`open`](Self::open), with what was begun before.
    ///
    /// # Errors
    /// As there.
    pub fn open_prepared(
        preparation: Preparation,
        place: &Place,
        fresh_counters: bool,
    ) -> Result<Self, Error> {
        host::check_capabilities()?;
        let (cgroup, inode) = host::open_cgroup(&place.cgroup)?;
        let pins = Pins::open(&place.bpffs)?;
        if fresh_counters {
            pins.remove_counters()?;
        }
        let opened = programs::load(preparation, &pins, place.log_level).and_then(|mut bpf| {
            let tables = Tables::take(&mut bpf, place.cgroup.clone())?;
            let kept = Kept::default();
            let observer = Observer::new(kept.clone(), &pins, place.cgroup.clone(), inode)?;
            if pins.has_links() {
                // What the programs in place know of sockets is asked before others take over.
                load_kept(&kept, &mut bpf);
            }
            let events = bpf.take_map(schema::EVENTS);
            Ok(Self {
                programs: Programs::verify(bpf),
                tables,
                events,
                kept,
                watch: Watch::Off,
                pins: pins.clone(),
                cgroup,
                observer,
            })
        });
        if opened.is_err() && !pins.has_links() {
            pins.remove_own()?;
        }
        opened
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
        let (links, inode) = (self.pins.links(), self.observer.inode);
        let loaded = self.programs.loaded();
        let attached = loaded.and_then(|bpf| hooks::attach(bpf, &links, &self.cgroup, inode));
        if attached.is_err() && !was_attached {
            self.pins.remove_own()?;
        }
        let took_over = attached?;
        self.watch.pin(&links)?;
        Ok(took_over | (self.pins.remove_others()? > 0))
    }

    /// Does what can wait until the programs are in place.
    ///
    /// # Errors
    /// If they are not in the kernel.
    pub fn settle_in(&mut self) -> Result<(), Error> {
        self.tables.clear_up();
        // It reads the kernel's BTF once more, which takes as long as verifying a large program.
        if !self.kept.is_readable() {
            load_kept(&self.kept, self.programs.loaded()?);
        }
        Ok(())
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
        self.apply_once(compiled, fallback, || Ok(()))
    }

    /// As [`apply`](Self::apply). When all that is left is to bring it into force, `ready` is called; if it fails, the
    /// former policy stays.
    ///
    /// # Errors
    /// As there, and what `ready` fails with.
    pub fn apply_once<E: From<Error>>(
        &mut self,
        compiled: &Compiled,
        fallback: Option<Fallback<'_>>,
        ready: impl FnOnce() -> Result<(), E>,
    ) -> Result<Generation, E> {
        let attached = self.is_attached();
        let Self { programs, tables, watch, pins, observer, .. } = self;
        let has_workloads = |compiled: &Compiled| !compiled.patterns.is_empty();
        let needed = has_workloads(compiled) || fallback.is_some_and(|f| has_workloads(f.compiled));
        let begin = || {
            match watch.begin(programs.loaded()?) {
                Ok(()) => observer.watches(),
                Err(error) if needed => return Err(error),
                Err(error) => tracing::warn!("workloads by unit or cgroup will not be possible: {error}"),
            }
            if attached { watch.pin(&pins.links()) } else { Ok(()) }
        };
        let generation = tables.swap(compiled, fallback, begin, ready)?;
        // Else nobody reads what was there before, and it can wait.
        if attached {
            self.tables.clear_up();
        }
        Ok(generation)
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
        let map = self.events.take().ok_or(Error::Object { what: schema::EVENTS })?;
        RingBuf::try_from(map).map_err(|e| Error::map(schema::EVENTS, e))
    }

    /// The programs, with their own log, if [`Place::log_level`] asked for one. Waits until they are in the kernel.
    ///
    /// # Errors
    /// The kernel does not take them.
    pub fn programs(&mut self) -> Result<&mut Ebpf, Error> {
        self.programs.loaded()
    }

    /// Handles to what is counted.
    ///
    /// # Errors
    /// If the pins are gone.
    pub fn counters(&self) -> Result<Counters, Error> {
        Counters::open(&self.pins.maps(), self.kept.clone())
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

fn load_kept(kept: &Kept, bpf: &mut Ebpf) {
    if let Err(error) = kept.load(bpf) {
        tracing::warn!(
            "live flows are known by their sockets only: {error}; a kernel with /sys/kernel/btf/vmlinux is needed"
        );
    }
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
