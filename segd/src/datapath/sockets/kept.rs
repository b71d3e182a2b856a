//! What the programs keep of sockets: in `SEATS`, and of those without a seat in `SOCKETS`. Read by iterators of BPF over
//! `SEAT_BLOCKS` and `SOCKETS`, which need the kernel's own BTF.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use aya::maps::Map;
use aya::programs::{Program, ProgramError};
use aya::{Btf, Ebpf};
use segd_common::schema;
use segd_common::socket::Socket;

use crate::datapath::{Error, sys};

/// One of the two tables, and the programs that walk over it.
struct Walk {
    /// The name of what the kernel walks over.
    table: &'static str,
    /// What the kernel calls such an iterator.
    kind: &'static str,
    /// Writes what is kept of each socket.
    shows: &'static str,
    /// Counts what their flows have carried.
    settles: &'static str,
    /// Bytes that are read in one go of what the two write.
    pieces: [usize; 2],
}

/// What an iterator writes of a socket.
const RECORD: usize = COOKIE + size_of::<Socket>();
const COOKIE: usize = size_of::<u64>();
/// As much as the kernel has room for. Where a walk is taken up again, it begins with the bucket in which it was.
const MUCH: usize = 32 << 10;

const WALKS: [Walk; 2] = [
    Walk {
        table: schema::SEAT_BLOCKS,
        kind: "bpf_map_elem",
        shows: "live_seats",
        settles: "settle_seats",
        // These write something every now and then, whatever they find, for the sake of ending a call.
        pieces: [RECORD, 8],
    },
    Walk {
        table: schema::SOCKETS,
        kind: "bpf_sk_storage_map",
        shows: "live_sockets",
        settles: "settle_sockets",
        pieces: [MUCH, MUCH],
    },
];

/// A table, and the programs that walk over it.
#[derive(Debug)]
struct Loaded {
    table: OwnedFd,
    shows: OwnedFd,
    settles: OwnedFd,
}

/// The tables, once the kernel has taken the iterators over them: for those who have handles from before that too.
#[derive(Clone, Debug, Default)]
pub(in crate::datapath) struct Kept(Arc<OnceLock<[Loaded; 2]>>);

impl Kept {
    /// Loads the iterators.
    pub(in crate::datapath) fn load(&self, bpf: &mut Ebpf) -> Result<(), Error> {
        let [seats, sockets] = &WALKS;
        let btf = Btf::from_sys_fs().map_err(|e| refused(seats.shows)(e.into()))?;
        let loaded = [load(bpf, &btf, seats)?, load(bpf, &btf, sockets)?];
        // Whoever loads them twice goes on with the first ones.
        let _ = self.0.set(loaded);
        Ok(())
    }

    /// Whether they can be read.
    pub(in crate::datapath) fn is_readable(&self) -> bool {
        self.0.get().is_some()
    }

    /// What is kept of each socket, by SO_COOKIE.
    pub(in crate::datapath) fn read(&self) -> Result<HashMap<u64, Socket>, Error> {
        let loaded = self.0.get().ok_or(Error::Object { what: WALKS[0].shows })?;
        let mut all = HashMap::new();
        for (walk, loaded) in WALKS.iter().zip(loaded) {
            let bytes = sys::iterate(loaded.shows.as_fd(), loaded.table.as_fd(), walk.pieces[0])
                .map_err(|e| Error::io("read what is kept of sockets in", Path::new(walk.table), e))?;
            all.extend(records(&bytes));
        }
        Ok(all)
    }

    /// Has what live flows have carried counted by their labels. Where the tables cannot be read, every packet is counted at
    /// once, and there is nothing to do.
    pub(in crate::datapath) fn settle(&self) -> Result<(), Error> {
        for (walk, loaded) in WALKS.iter().zip(self.0.get().into_iter().flatten()) {
            sys::iterate(loaded.settles.as_fd(), loaded.table.as_fd(), walk.pieces[1])
                .map_err(|e| Error::io("walk over the sockets of", Path::new(walk.table), e))?;
        }
        Ok(())
    }
}

fn load(bpf: &mut Ebpf, btf: &Btf, walk: &Walk) -> Result<Loaded, Error> {
    let table = match bpf.map(walk.table) {
        Some(Map::Array(table) | Map::SkStorage(table)) => table.fd().as_fd().try_clone_to_owned(),
        _ => return Err(Error::Object { what: walk.table }),
    };
    let table = table.map_err(|e: io::Error| Error::io("keep open", Path::new(walk.table), e))?;
    let mut program = |name: &'static str| {
        let Some(Program::Iter(program)) = bpf.program_mut(name) else {
            return Err(Error::Object { what: name });
        };
        program.load(walk.kind, btf).map_err(refused(name))?;
        let fd = program.fd().map_err(refused(name))?.as_fd();
        fd.try_clone_to_owned().map_err(|e| refused(name)(ProgramError::IOError(e)))
    };
    Ok(Loaded { shows: program(walk.shows)?, settles: program(walk.settles)?, table })
}

fn refused(hook: &'static str) -> impl FnOnce(ProgramError) -> Error {
    move |source| Error::Program { hook, source: Box::new(source) }
}

/// What the iterators write: each socket's cookie, and what is kept of it. Cookie 0 is no socket's.
fn records(bytes: &[u8]) -> impl Iterator<Item = (u64, Socket)> {
    bytes.chunks_exact(RECORD).filter_map(|record| {
        let (cookie, socket) = record.split_first_chunk::<COOKIE>()?;
        let socket = socket.first_chunk::<{ size_of::<Socket>() }>()?;
        // SAFETY: the program writes a whole `Socket`, which is plain data valid for every bit pattern; the chunk
        // has its size and may be unaligned.
        let socket = unsafe { socket.as_ptr().cast::<Socket>().read_unaligned() };
        Some((u64::from_ne_bytes(*cookie), socket)).filter(|(cookie, _)| *cookie != 0)
    })
}

#[cfg(test)]
mod tests {
    use aya::maps;
    use segd_common::flow::{Flow, OPENED};
    use segd_common::socket::{Owner, SEAT_SHIFT, Seat, UNTIL_RELEASE};
    use segd_common::traffic::protocol::{TCP, UDP};

    use super::*;

    fn socket(protocol: u8, flags: u8) -> Socket {
        let owner = Owner { cgroup: 9, pid: 1, ..Owner::NONE };
        Socket { owner, flow: Flow { protocol, flags, ..Flow::NONE }, ..Socket::default() }
    }

    #[test]
    fn what_the_iterators_write_is_read_back() {
        let (one, two) = (socket(TCP, OPENED), socket(UDP, 0));
        let mut bytes = Vec::new();
        for (cookie, socket) in [(7_u64, one), (0, one), (8, two)] {
            bytes.extend(cookie.to_ne_bytes());
            // SAFETY: plain data without padding.
            bytes.extend(unsafe {
                std::slice::from_raw_parts((&raw const socket).cast::<u8>(), size_of::<Socket>())
            });
        }
        assert_eq!(records(&bytes).collect::<Vec<_>>(), [(7, one), (8, two)]);
        assert_eq!(records(&bytes[..bytes.len() - 1]).count(), 1);
    }

    #[test]
    fn the_iterators_show_storage_and_held_seats() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: loading a program needs root");
            return;
        }
        let mut bpf = crate::datapath::loader(&0).load(crate::datapath::OBJECT).unwrap();
        let kept = Kept::default();
        assert!(kept.read().is_err());
        kept.load(&mut bpf).unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let stored = socket(TCP, OPENED);
        let mut map: maps::SkStorage<_, Socket> = bpf.map_mut(schema::SOCKETS).unwrap().try_into().unwrap();
        map.insert(&udp, stored, 0).unwrap();
        let seated = socket(UDP, 0);
        let cookie = u64::MAX >> SEAT_SHIFT;
        let mut map: maps::Array<_, Seat> = bpf.map_mut(schema::SEATS).unwrap().try_into().unwrap();
        map.set(
            3,
            Seat { whose: cookie << SEAT_SHIFT | UNTIL_RELEASE, socket: seated, ..Seat::default() },
            0,
        )
        .unwrap();
        map.set(4, Seat { whose: 4 << SEAT_SHIFT, socket: stored, ..Seat::default() }, 0).unwrap();
        kept.settle().unwrap();
        let mut found: Vec<_> = kept.read().unwrap().into_iter().collect();
        found.sort_unstable_by_key(|(cookie, _)| *cookie);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].0 != 0 && found[0].1 == stored, "{found:?}");
        assert_eq!(found[1], (cookie, seated));
    }
}
