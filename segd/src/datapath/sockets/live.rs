//! The flows that live now, each with its socket: as the programs know them, and older ones as the kernel lists
//! their sockets.

use std::collections::HashMap;

use segd_common::flow::{CLOSED, Flow, OPENED};
use segd_common::socket::{Owner, Seed, Socket};
use segd_common::traffic::{Reason, Verdict};

use super::direction::Listeners;
use super::{Row, list, owners_of, seeds};
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
    let known = observer.kept.read();
    let rows = list(&observer.cgroup, observer.inode);
    let (known, rows) = match (known, rows) {
        (Ok(known), Ok(rows)) => (known, rows),
        (Ok(known), Err(error)) => {
            tracing::warn!("connections older than the agent are not looked at: {error}");
            (known, Vec::new())
        }
        (Err(error), Ok(rows)) => {
            tracing::debug!(%error, "what the programs know of live sockets cannot be read");
            (HashMap::new(), rows)
        }
        (Err(error), Err(_)) => return Err(error),
    };
    let older: Vec<&Row> = rows.iter().filter(|row| is_unknown(row, &known)).collect();
    let told = |row: &&Row| Some((row.cookie, observer.seed(row.cookie)?));
    let seeds: HashMap<u64, Seed> =
        older.iter().filter_map(told).filter(|(_, seed)| seed.protocol != 0).collect();
    let processes = owners_of(older.iter().copied().filter(|row| !seeds.contains_key(&row.cookie)));
    let listeners = Listeners::among(&rows);
    let older = older.into_iter().map(|row| {
        let seed = seeds.get(&row.cookie);
        let owner = seed.map_or_else(|| seeds::owner(row, &processes), |seed| seed.owner);
        let direction = seed.map_or_else(|| listeners.direction(row) as u8, |seed| seed.direction);
        LiveSocket { cookie: row.cookie, owner, flow: flow(row, direction) }
    });
    Ok(live(&known, &rows).chain(older).collect())
}

/// Flows that began and did not end. A UDP socket may have been disconnected since.
fn live<'a>(known: &'a HashMap<u64, Socket>, rows: &[Row]) -> impl Iterator<Item = LiveSocket> + use<'a> {
    let idle: std::collections::HashSet<u64> =
        rows.iter().filter(|row| !row.is_flow()).map(|row| row.cookie).collect();
    let open = |flow: &Flow| flow.protocol != 0 && flow.flags & (OPENED | CLOSED) == OPENED;
    known
        .iter()
        .filter(move |(cookie, socket)| open(&socket.flow) && !idle.contains(cookie))
        .map(|(&cookie, socket)| LiveSocket { cookie, owner: socket.owner, flow: socket.flow })
}

/// Whether a row is a flow that the programs know nothing of. They know the maker of a socket that is younger than
/// they; if it has no flow, then because it talks to this very host.
fn is_unknown(row: &Row, known: &HashMap<u64, Socket>) -> bool {
    let unknown = known.get(&row.cookie).is_none_or(|s| s.flow.protocol == 0 && s.owner.cgroup == 0);
    row.is_flow() && unknown
}

fn flow(row: &Row, direction: u8) -> Flow {
    Flow {
        peer: row.peer,
        local: row.local,
        peer_port: row.peer_port,
        local_port: row.local_port,
        protocol: row.protocol,
        direction,
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
        let rows = [
            row(1, TCP, ESTABLISHED),
            row(4, UDP, ESTABLISHED),
            // Disconnected since.
            row(5, UDP, CLOSE),
            // Within this host: the programs know it, and not as a flow.
            row(6, TCP, ESTABLISHED),
            // Older: one that has had packets on no connection of its own, and one without any.
            row(7, TCP, ESTABLISHED),
            row(8, TCP, ESTABLISHED),
        ];
        let mut cookies: Vec<u64> = live(&known, &rows).map(|l| l.cookie).collect();
        cookies.sort_unstable();
        assert_eq!(cookies, [1, 4]);
        let older: Vec<u64> =
            rows.iter().filter(|row| is_unknown(row, &known)).map(|row| row.cookie).collect();
        assert_eq!(older, [7, 8]);
    }
}
