//! The flows that live now, each with its socket: as the programs know them, and older ones as they were found when the
//! programs came.

use std::collections::{HashMap, HashSet};

use segd_common::flow::{CLOSED, Flow, OPENED};
use segd_common::socket::{Owner, Seed, Socket};
use segd_common::traffic::{Reason, Verdict, protocol};

use super::direction::Listeners;
use super::{PROTOCOLS, Row, list, owners_of, seeds};
use crate::datapath::{Error, Observer};

/// A live TCP connection, or the flow of a connected UDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveSocket {
    /// SO_COOKIE.
    pub cookie: u64,
    /// Who made it; of one older than the programs, who has it open.
    pub owner: Owner,
    /// As it was decided last. With [`Reason::Preexisting`] and generation 0: not yet by the programs; then only
    /// ends, protocol and direction are known.
    pub flow: Flow,
}

/// As [`Observer::live_sockets`].
pub(in crate::datapath) fn all(observer: &Observer) -> Result<Vec<LiveSocket>, Error> {
    // Before what the programs know, where a seed is from the moment on in which they take it.
    let seeds = observer.seeds();
    let known = match observer.kept.read() {
        Ok(known) => known,
        Err(error) => {
            tracing::debug!(%error, "what the programs know of live sockets cannot be read");
            return listed(observer, &seeds);
        }
    };
    let mut live: Vec<LiveSocket> = live(&known, &seeds).collect();
    if live.iter().any(|socket| socket.flow.protocol == protocol::UDP) {
        match list(&observer.cgroup, observer.inode, &[protocol::UDP]) {
            Ok(rows) => forget_disconnected(&mut live, &rows),
            Err(error) => {
                tracing::warn!("UDP sockets that were disconnected may count as connected: {error}");
            }
        }
    }
    Ok(live)
}

/// Flows that the programs know, which began and did not end, and those that they have not met yet.
fn live(known: &HashMap<u64, Socket>, seeds: &HashMap<u64, Seed>) -> impl Iterator<Item = LiveSocket> {
    let open = |flow: &Flow| flow.protocol != 0 && flow.flags & (OPENED | CLOSED) == OPENED;
    let older = seeds.iter().filter(|(cookie, seed)| {
        seed.protocol != 0 && known.get(cookie).is_none_or(|socket| socket.flow.protocol == 0)
    });
    known
        .iter()
        .filter(move |(_, socket)| open(&socket.flow))
        .map(|(&cookie, socket)| LiveSocket { cookie, owner: socket.owner, flow: socket.flow })
        .chain(older.map(|(&cookie, seed)| LiveSocket { cookie, owner: seed.owner, flow: flow(seed) }))
}

/// A UDP socket may have been disconnected since its flow began, which the programs do not see.
fn forget_disconnected(live: &mut Vec<LiveSocket>, rows: &[Row]) {
    let idle: HashSet<u64> = rows.iter().filter(|row| !row.is_flow()).map(|row| row.cookie).collect();
    live.retain(|socket| !idle.contains(&socket.cookie));
}

/// Every connection as the kernel lists it, where nobody can read what the programs know.
fn listed(observer: &Observer, seeds: &HashMap<u64, Seed>) -> Result<Vec<LiveSocket>, Error> {
    let rows = list(&observer.cgroup, observer.inode, &PROTOCOLS)?;
    let flows: Vec<&Row> = rows.iter().filter(|row| row.is_flow()).collect();
    let is_told = |row: &Row| seeds.get(&row.cookie).filter(|seed| seed.protocol != 0);
    let processes = owners_of(flows.iter().copied().filter(|row| is_told(row).is_none()));
    let listeners = Listeners::among(&rows);
    let live = flows.into_iter().map(|row| {
        let seed = is_told(row).copied().unwrap_or_else(|| seeds::of_flow(row, &listeners, &processes));
        LiveSocket { cookie: row.cookie, owner: seed.owner, flow: flow(&seed) }
    });
    Ok(live.collect())
}

fn flow(seed: &Seed) -> Flow {
    Flow {
        peer: seed.peer,
        local: seed.local,
        peer_port: seed.peer_port,
        local_port: seed.local_port,
        protocol: seed.protocol,
        direction: seed.direction,
        verdict: Verdict::Allowed as u8,
        reason: Reason::Preexisting as u8,
        ..Flow::NONE
    }
}

#[cfg(test)]
mod tests {
    use segd_common::addr::Addr;
    use segd_common::traffic::protocol::{TCP, UDP};

    use super::super::state::{CLOSE, ESTABLISHED};
    use super::*;

    fn socket(protocol: u8, flags: u8) -> Socket {
        let owner = Owner { cgroup: 9, pid: 1, ..Owner::NONE };
        Socket { owner, flow: Flow { protocol, flags, ..Flow::NONE }, ..Socket::default() }
    }

    fn row(cookie: u64, protocol: u8, state: u8) -> Row {
        Row {
            cookie,
            family: 2,
            protocol,
            state,
            interface: 0,
            local: Addr::v4([10, 0, 0, 1]),
            peer: Addr::v4([10, 0, 0, 2]),
            local_port: 1000,
            peer_port: 2000,
            inode: 1,
            uid: 0,
            cgroup: 9,
            netns: 1,
        }
    }

    fn cookies(live: &[LiveSocket]) -> Vec<u64> {
        let mut cookies: Vec<u64> = live.iter().map(|l| l.cookie).collect();
        cookies.sort_unstable();
        cookies
    }

    #[test]
    fn flows_that_began_and_did_not_end_and_older_sockets_are_live() {
        let known = HashMap::from([
            (1, socket(TCP, OPENED)),
            (2, socket(TCP, OPENED | CLOSED)),
            (3, socket(UDP, 0)),
            (4, socket(UDP, OPENED)),
            (5, socket(UDP, OPENED)),
            (6, socket(0, 0)),
            (7, Socket::default()),
        ]);
        let seed = Seed { protocol: TCP, local_port: 7, ..Seed::default() };
        let seeds = HashMap::from([
            // Taken in this moment.
            (1, seed),
            (2, seed),
            // Not met yet, or not on a connection of its own.
            (7, seed),
            (8, seed),
            // A listener.
            (9, Seed::default()),
        ]);
        let mut all: Vec<LiveSocket> = live(&known, &seeds).collect();
        assert_eq!(cookies(&all), [1, 4, 5, 7, 8]);
        let older = |l: &LiveSocket| l.flow.reason == Reason::Preexisting as u8 && l.flow.local_port == 7;
        assert!(all.iter().all(|l| older(l) == (l.cookie > 6)), "{all:?}");

        forget_disconnected(&mut all, &[row(4, UDP, ESTABLISHED), row(5, UDP, CLOSE)]);
        assert_eq!(cookies(&all), [1, 4, 7, 8]);
    }
}
