//! Looks at what the kernel holds, by handles of its own: whoever looks keeps no change of the policy waiting, and
//! waits for none.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{self, Map, MapData, MapError};
use segd_common::schema;
use segd_common::socket::Seed;

use super::hooks::{self, Attached};
use super::pins::Pins;
use super::sockets::kept::Kept;
use super::sockets::live::{self, Untold};
use super::sockets::{LiveSocket, Subjects};
use super::tables::{Current, InForce};
use super::{Error, cgroups};
use crate::policy::Compiled;

/// Handles to what one data path put into the kernel.
#[derive(Clone)]
pub struct Observer {
    pub(super) cgroup: PathBuf,
    pub(super) inode: u64,
    pins: Pins,
    /// What the programs keep of sockets.
    pub(super) kept: Kept,
    seeds: Arc<Mutex<maps::HashMap<MapData, u64, Seed>>>,
    pub(super) untold: Arc<Mutex<Untold>>,
    current: Arc<Current>,
    /// Whether this agent attached the tracepoints.
    watches: Arc<AtomicBool>,
}

impl Observer {
    pub(super) fn new(kept: Kept, pins: &Pins, cgroup: PathBuf, inode: u64) -> Result<Self, Error> {
        let pinned = |name: &'static str| {
            MapData::from_pin(pins.maps().join(name))
                .and_then(Map::from_map_data)
                .map_err(|e| Error::map(name, e))
        };
        let seeds = pinned(schema::SEEDS)?.try_into().map_err(|e: MapError| Error::map(schema::SEEDS, e))?;
        Ok(Self {
            cgroup,
            inode,
            pins: pins.clone(),
            kept,
            seeds: Arc::new(Mutex::new(seeds)),
            untold: Arc::default(),
            current: Arc::new(Current::new(pinned(schema::ACTIVE)?)?),
            watches: Arc::default(),
        })
    }

    /// The tracepoints are attached from now on.
    pub(super) fn watches(&self) {
        self.watches.store(true, Ordering::Relaxed);
    }

    /// What is in force, and what follows it by itself.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn in_force(&self) -> Result<InForce, Error> {
        self.current.in_force()
    }

    /// What the kernel holds at each hook; without those that tell of cgroups where they are out of reach and no
    /// workload needs them.
    #[must_use]
    pub fn attached(&self) -> Vec<Attached> {
        let mut all = hooks::attached(&self.pins.links(), self.inode);
        if !self.watches.load(Ordering::Relaxed) && !self.current.has_workloads().unwrap_or(true) {
            all.retain(|hook| hook.program_id.is_some() || !hook.is_tracepoint());
        }
        all
    }

    /// Every live TCP connection and connected UDP socket, of all network namespaces, but those within this host.
    /// Sockets older than the programs are among them as far as sock_diag(7) shows them. Takes milliseconds for
    /// thousands of sockets.
    ///
    /// # Errors
    /// Neither the programs nor the kernel can be asked.
    pub fn live_sockets(&self) -> Result<Vec<LiveSocket>, Error> {
        live::all(self)
    }

    /// What sockets are decided as by a policy, with the cgroups that there are now.
    ///
    /// # Errors
    /// The tree of cgroups cannot be read.
    pub fn subjects<'a>(&self, compiled: &'a Compiled) -> Result<Subjects<'a>, Error> {
        Ok(Subjects { compiled, cgroups: cgroups::workloads(&self.cgroup, &compiled.patterns)? })
    }

    /// What the programs were told of older sockets and have not used yet, by SO_COOKIE.
    pub(super) fn seeds(&self) -> Result<HashMap<u64, Seed>, Error> {
        let seeds = self.seeds.lock().unwrap_or_else(PoisonError::into_inner);
        // A table that changes while it is walked may start its walk again.
        let all = seeds.iter().take(4 * schema::SEED_ENTRIES as usize);
        all.collect::<Result<_, _>>().map_err(|e| Error::map(schema::SEEDS, e))
    }

    /// Forgets what was told of sockets that are gone, or that the programs know by themselves.
    pub(super) fn forget_seeds(&self, cookies: impl Iterator<Item = u64>) {
        let mut seeds = self.seeds.lock().unwrap_or_else(PoisonError::into_inner);
        for cookie in cookies {
            match seeds.remove(&cookie) {
                // Taken meanwhile.
                Ok(()) | Err(MapError::KeyNotFound | MapError::ElementNotFound) => {}
                Err(MapError::SyscallError(e)) if e.io_error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return tracing::debug!(%error, "what was known of sockets that are gone stays");
                }
            }
        }
    }
}
