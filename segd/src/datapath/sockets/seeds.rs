//! What is found out of sockets that are older than the programs, for the programs: `SEEDS`.

use std::collections::HashMap;

use aya::maps::{self, MapError};
use segd_common::schema;
use segd_common::socket::{Owner, Seed};

use super::direction::Listeners;
use super::owners::Process;
use super::{PROTOCOLS, Row, list, owners_of};
use crate::datapath::{Datapath, Error};

/// BPF_NOEXIST: what is there stays, for it may be in use.
const NOEXIST: u64 = 1;

/// What became of the sockets that are older than the programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seeded {
    /// Connections that the programs now know.
    pub flows: usize,
    /// Listeners and unconnected sockets whose process they now know.
    pub servers: usize,
    /// Sockets that found no room.
    pub left_out: usize,
}

impl Datapath {
    /// Tells the programs of every socket there is, whose connections they then decide by the side that began them
    /// and with the process that has them open. What they know already stays. To be called before and right after
    /// the programs are attached for the first time.
    ///
    /// # Errors
    /// The sockets cannot be listed. Connections older than the programs then pass.
    pub fn seed(&mut self) -> Result<Seeded, Error> {
        let rows = list(&self.observer.cgroup, self.observer.inode, &PROTOCOLS)?.rows;
        // A kernel that cannot tell has some seeds that nobody will take.
        let known = self.observer.kept.read().unwrap_or_default();
        let failed = |e| Error::map(schema::SEEDS, e);
        let map =
            self.programs.loaded()?.map_mut(schema::SEEDS).ok_or(Error::Object { what: schema::SEEDS })?;
        let mut map: maps::HashMap<_, u64, Seed> = maps::HashMap::try_from(map).map_err(failed)?;
        let is_new = |row: &Row| {
            known.get(&row.cookie).is_none_or(|s| s.owner.cgroup == 0) && map.get(&row.cookie, 0).is_err()
        };
        let new: Vec<&Row> = rows.iter().filter(|row| is_new(row)).collect();
        let processes = owners_of(new.iter().copied());
        let mut done = Seeded::default();
        for (cookie, seed) in seeds(new, &Listeners::among(&rows), &processes) {
            match map.insert(cookie, seed, NOEXIST) {
                Ok(()) if seed.protocol != 0 => done.flows += 1,
                Ok(()) => done.servers += 1,
                Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::EEXIST) => {}
                Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::E2BIG) => {
                    done.left_out += 1;
                }
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(done)
    }
}

/// Connections first: they matter more if not all fit.
fn seeds(
    rows: Vec<&Row>,
    listeners: &Listeners,
    processes: &HashMap<u32, Process>,
) -> impl Iterator<Item = (u64, Seed)> {
    let (flows, others): (Vec<&Row>, Vec<&Row>) = rows.into_iter().partition(|row| row.is_flow());
    let servers = others.into_iter().filter(|row| row.is_server());
    let flows = flows.into_iter().map(|row| (row.cookie, of_flow(row, listeners, processes)));
    let servers = servers.map(|row| (row.cookie, Seed { owner: owner(row, processes), ..Seed::default() }));
    flows.chain(servers)
}

/// Of a connection.
pub(super) fn of_flow(row: &Row, listeners: &Listeners, processes: &HashMap<u32, Process>) -> Seed {
    Seed {
        owner: owner(row, processes),
        peer: row.peer,
        peer_port: row.peer_port,
        protocol: row.protocol,
        direction: listeners.direction(row) as u8,
        pad: [0; 4],
    }
}

fn owner(row: &Row, processes: &HashMap<u32, Process>) -> Owner {
    let process = processes.get(&row.inode).filter(|_| row.inode != 0);
    Owner {
        cgroup: row.cgroup,
        pid: process.map_or(0, |p| p.pid),
        uid: row.uid,
        comm: process.map_or([0; 16], |p| p.comm),
    }
}
