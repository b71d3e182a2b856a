//! The flows that live now, each with its socket: as the programs know them, and older ones as the kernel lists their
//! sockets.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;

use segd_common::flow::{CLOSED, Flow, OPENED};
use segd_common::id::Generation;
use segd_common::socket::{Owner, Seed, Socket};
use segd_common::traffic::{Reason, Verdict, protocol};

use super::direction::Listeners;
use super::{Listed, PROTOCOLS, Row, list, owners_of, seeds};
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

/// Connections older than the programs of which these were not told, as there was no room or an agent ended too early.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::datapath) enum Untold {
    /// Nobody has looked yet.
    #[default]
    Unasked,
    /// Those that looked so when sockets were listed last; some may just have been made.
    Maybe(HashSet<u64>),
    /// There are none. Nobody makes older connections.
    Nobody,
}

impl Untold {
    /// After a list of all sockets, with those of them that nobody knows.
    fn after(self, unknown: HashSet<u64>) -> Self {
        match self {
            Self::Unasked if !unknown.is_empty() => Self::Maybe(unknown),
            Self::Maybe(before) if !before.is_disjoint(&unknown) => Self::Maybe(unknown),
            _ => Self::Nobody,
        }
    }
}

/// As [`Observer::live_sockets`]. The kernel is only asked for what the programs cannot know: whether sockets that were
/// there before them still are, and whether those of UDP are still connected.
pub(in crate::datapath) fn all(observer: &Observer) -> Result<Vec<LiveSocket>, Error> {
    // Before what the programs know, as they take seeds.
    let seeds = observer.seeds()?;
    let known = observer.kept.read();
    let older = match &known {
        Ok(known) => {
            let untold = observer.untold.lock().unwrap_or_else(PoisonError::into_inner);
            let is_waiting =
                |(cookie, seed): (&u64, &Seed)| seed.protocol != 0 && is_unknown(known.get(cookie));
            *untold != Untold::Nobody || seeds.iter().any(is_waiting)
        }
        Err(_) => true,
    };
    let known = known.unwrap_or_else(|error| {
        tracing::debug!(%error, "what the programs know of live sockets cannot be read");
        HashMap::new()
    });
    let mut live: Vec<LiveSocket> = live(&known).collect();
    let udp = live.iter().any(|socket| socket.flow.protocol == protocol::UDP);
    let protocols: &[u8] = match (older, udp) {
        (true, _) => &PROTOCOLS,
        (false, true) => &[protocol::UDP],
        (false, false) => return Ok(live),
    };
    let listed = match list(&observer.cgroup, observer.inode, protocols) {
        Ok(listed) => listed,
        Err(error) if known.is_empty() => return Err(error),
        Err(error) => {
            tracing::warn!("connections older than the agent are not looked at: {error}");
            return Ok(live);
        }
    };
    forget_disconnected(&mut live, &listed.rows);
    if older {
        live.extend(unknown(observer, &known, &seeds, &listed));
    }
    Ok(live)
}

/// The connections among these that the programs do not know, and what was found of them.
fn unknown(
    observer: &Observer,
    known: &HashMap<u64, Socket>,
    seeds: &HashMap<u64, Seed>,
    listed: &Listed,
) -> Vec<LiveSocket> {
    if listed.is_whole {
        observer.forget_seeds(useless(known, seeds, &listed.rows));
    }
    let rows = listed.rows.iter().filter(|row| row.is_flow() && is_unknown(known.get(&row.cookie)));
    let (told, untold): (Vec<&Row>, Vec<&Row>) =
        rows.partition(|row| seeds.get(&row.cookie).is_some_and(|seed| seed.protocol != 0));
    if observer.kept.is_readable() {
        let cookies = untold.iter().map(|row| row.cookie).collect();
        let mut before = observer.untold.lock().unwrap_or_else(PoisonError::into_inner);
        *before = std::mem::take(&mut *before).after(cookies);
    }
    let processes = owners_of(untold.iter().copied());
    let listeners = Listeners::among(&listed.rows);
    let told = told.into_iter().filter_map(|row| Some((row, *seeds.get(&row.cookie)?)));
    let untold = untold.into_iter().map(|row| (row, seeds::of_flow(row, &listeners, &processes)));
    let live = |(row, seed): (&Row, Seed)| LiveSocket {
        cookie: row.cookie,
        owner: seed.owner,
        flow: flow(row, seed.direction),
    };
    told.chain(untold).map(live).collect()
}

/// Seeds that nobody will take: of sockets that ended between being listed and being seen, or that the programs saw made.
fn useless(
    known: &HashMap<u64, Socket>,
    seeds: &HashMap<u64, Seed>,
    rows: &[Row],
) -> impl Iterator<Item = u64> {
    let there: HashSet<u64> = rows.iter().map(|row| row.cookie).collect();
    seeds.keys().copied().filter(move |cookie| !there.contains(cookie) || !is_unknown(known.get(cookie)))
}

/// Flows that the programs know, which began and did not end.
fn live(known: &HashMap<u64, Socket>) -> impl Iterator<Item = LiveSocket> {
    let open = |flow: &Flow| flow.protocol != 0 && flow.flags & (OPENED | CLOSED) == OPENED;
    known.iter().filter(move |(_, socket)| open(&socket.flow)).map(|(&cookie, socket)| LiveSocket {
        cookie,
        owner: socket.owner,
        flow: socket.flow,
    })
}

/// A UDP socket may have been disconnected since its flow began, which the programs do not see.
fn forget_disconnected(live: &mut Vec<LiveSocket>, rows: &[Row]) {
    let idle: HashSet<u64> = rows.iter().filter(|row| !row.is_flow()).map(|row| row.cookie).collect();
    live.retain(|socket| !idle.contains(&socket.cookie));
}

/// Whether the programs know nothing of a socket. They know the maker of one that is younger than they; if it has no flow,
/// then because it talks to this very host. A seed that is being taken in this moment has not begun.
fn is_unknown(known: Option<&Socket>) -> bool {
    known.is_none_or(|socket| {
        let flow = &socket.flow;
        let is_taken_now = flow.generation == Generation::NONE && flow.flags == 0;
        if flow.protocol == 0 { socket.owner.cgroup == 0 } else { is_taken_now }
    })
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
        let mut all: Vec<LiveSocket> = live(&known).collect();
        assert_eq!(cookies(&all), [1, 4, 5]);
        forget_disconnected(&mut all, &[row(4, UDP, ESTABLISHED), row(5, UDP, CLOSE)]);
        assert_eq!(cookies(&all), [1, 4]);
    }

    #[test]
    fn seeds_are_of_use_while_their_sockets_live_and_were_not_met() {
        let taken = Flow { protocol: TCP, ..Flow::NONE };
        let met = Flow { flags: OPENED, generation: Generation(1), ..taken };
        let known = HashMap::from([
            (1, Socket { flow: taken, ..socket(TCP, 0) }),
            (2, Socket { flow: met, ..socket(TCP, 0) }),
            // Within this host, and one of which the programs know nothing.
            (3, socket(0, 0)),
            (4, Socket::default()),
        ]);
        let seeds: HashMap<u64, Seed> = (1..=6).map(|cookie| (cookie, Seed::default())).collect();
        let rows: Vec<Row> = (1..=5).map(|cookie| row(cookie, TCP, ESTABLISHED)).collect();
        let mut gone: Vec<u64> = useless(&known, &seeds, &rows).collect();
        gone.sort_unstable();
        assert_eq!(gone, [2, 3, 6]);
    }

    #[test]
    fn nobody_is_untold_once_no_stranger_stays() {
        let set = |cookies: &[u64]| cookies.iter().copied().collect::<HashSet<u64>>();
        assert_eq!(Untold::Unasked.after(set(&[])), Untold::Nobody);
        let first = Untold::Unasked.after(set(&[1, 2]));
        assert_eq!(first, Untold::Maybe(set(&[1, 2])));
        let second = first.after(set(&[2, 3]));
        assert_eq!(second, Untold::Maybe(set(&[2, 3])), "2 stays");
        assert_eq!(second.after(set(&[4])), Untold::Nobody, "4 was made meanwhile");
        assert_eq!(Untold::Nobody.after(set(&[5])), Untold::Nobody);
    }
}
