//! The object with the programs, on its way into the kernel. What takes long runs on threads beside the rest of a start:
//! reading the kernel's BTF, which aya's loader does whether it is needed or not, and the verifier.

use std::path::Path;
use std::thread::{self, JoinHandle};

use aya::{Ebpf, EbpfLoader};
use aya_obj::Object;

use super::pins::Pins;
use super::{Error, OBJECT, hooks};

/// What the kernel shows its types by.
const BTF: &str = "/sys/kernel/btf/vmlinux";

const BROKEN: Error = Error::Object { what: "thread to load it" };

/// A loader in the making.
pub struct Preparation(JoinHandle<EbpfLoader<'static>>);

impl Preparation {
    /// Begins to make a loader, which changes nothing in the kernel. To be called as early as can be.
    #[must_use]
    pub fn begin() -> Self {
        Self(thread::spawn(|| {
            let loader = EbpfLoader::new();
            aya::features();
            loader
        }))
    }
}

/// A loader of the object whose programs log at a level, as [`Place::log_level`](super::Place::log_level).
pub(super) fn loader(log_level: &u8) -> EbpfLoader<'_> {
    set_up(EbpfLoader::new(), log_level)
}

fn set_up<'a>(mut loader: EbpfLoader<'a>, log_level: &'a u8) -> EbpfLoader<'a> {
    loader.override_global(aya_log::LEVEL, log_level, false);
    // What sockets carry can be counted later if the iterator can be loaded that does it.
    if Path::new(BTF).exists() {
        loader.override_global("COUNTS_LATER", &1_u8, true);
    }
    if *log_level == 0 {
        // One page; the buffer of a log that nobody writes.
        loader.map_max_entries("AYA_LOGS", 4096);
    }
    loader
}

/// Makes the tables, or takes over those that are pinned. The programs are not in the kernel yet.
pub(super) fn load(preparation: Preparation, pins: &Pins, log_level: u8) -> Result<Ebpf, Error> {
    let object = Object::parse(OBJECT).map_err(|e| Error::Load(Box::new(e.into())))?;
    let pinned = pins.prepare(&object)?;
    let mut loader = set_up(preparation.0.join().map_err(|_| BROKEN)?, &log_level);
    for (name, path) in pinned {
        loader.map_pin_path(name, path);
    }
    loader.load(OBJECT).map_err(|e| Error::Load(Box::new(e)))
}

/// The programs, and how far they are.
pub(super) enum Programs {
    /// The verifier has its say.
    Verifying(JoinHandle<(Ebpf, Result<(), Error>)>),
    /// The kernel has them.
    Loaded(Ebpf),
    /// It did not take them.
    Refused,
}

impl Programs {
    /// Has the kernel verify them, on threads of their own.
    pub(super) fn verify(mut bpf: Ebpf) -> Self {
        Self::Verifying(thread::spawn(move || {
            let result = hooks::load(&mut bpf);
            (bpf, result)
        }))
    }

    /// Waits until the kernel has them.
    pub(super) fn loaded(&mut self) -> Result<&mut Ebpf, Error> {
        if let Self::Verifying(_) = self
            && let Self::Verifying(thread) = std::mem::replace(self, Self::Refused)
        {
            let (bpf, result) = thread.join().map_err(|_| BROKEN)?;
            result?;
            *self = Self::Loaded(bpf);
        }
        match self {
            Self::Loaded(bpf) => Ok(bpf),
            Self::Verifying(_) | Self::Refused => Err(BROKEN),
        }
    }
}
