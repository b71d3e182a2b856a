//! What has flowed since the agent started: for the preview of a change, and for the guard, which counts only
//! denials of what flowed before.
//!
//! A flow is known by what a rule can tell apart, not by its ephemeral port: the local subject, the direction, the
//! peer's address, the protocol and the server's port. Three tables hold the [`CAPACITY`] seen last, in about 160 bytes
//! each (3.9 MB when they are full), and the names of programs and units, which they share with the flow records: what
//! this host began, what peers began and a rule allowed, and what peers began and no rule ever allowed. A peer can fill
//! the last one as it likes, and pushes nothing out of the others.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use segd_common::addr::Addr;
use segd_common::event::{Event, Kind};
use segd_common::flow::Flow;
use segd_common::id::SubjectId;
use segd_common::socket::Owner;
use segd_common::traffic::{Direction, Verdict};

use crate::telemetry::process::ProcessInfo;
use crate::telemetry::protocol::is_icmp;

/// Flows that are remembered in each of the tables.
pub const CAPACITY: NonZeroUsize = NonZeroUsize::new(8192).unwrap();

/// What makes two flows the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// What the local socket was decided as.
    pub subject: SubjectId,
    /// Who began it.
    pub direction: Direction,
    /// The other side.
    pub peer: Addr,
    /// IP protocol number.
    pub protocol: u8,
    /// The server's port, host byte order; ICMP: `type << 8 | code`.
    pub port: u16,
}

impl Key {
    /// Of a flow; `None` if its direction has no meaning.
    #[must_use]
    pub fn of(flow: &Flow) -> Option<Self> {
        let direction = Direction::from_byte(flow.direction)?;
        let port = if is_icmp(flow.protocol) {
            // The kernel keeps an ICMP type in one of the two ports; the other one is 0.
            flow.local_port.max(flow.peer_port)
        } else {
            direction.service_port(flow.local_port, flow.peer_port)
        };
        Some(Self { subject: flow.subject, direction, peer: flow.peer, protocol: flow.protocol, port })
    }
}

/// What is known of the flows of one [`Key`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// When the first one began: nanoseconds of CLOCK_BOOTTIME.
    pub first: u64,
    /// When the last one began or ended: nanoseconds of CLOCK_BOOTTIME.
    pub last: u64,
    /// How many began.
    pub count: u64,
    /// How the last one was decided.
    pub verdict: Verdict,
    /// Whether one of them was allowed, not only audited.
    pub allowed: bool,
    /// Whose socket the last one was.
    pub owner: Owner,
    /// Program and unit of that owner, if they could be found.
    pub process: ProcessInfo,
}

/// The tables. Its methods hold a lock for a microsecond; [`Seen::snapshot`] for about a millisecond.
#[derive(Debug)]
pub struct Seen(Mutex<Tables>);

#[derive(Debug)]
struct Tables {
    began_here: LruCache<Key, Sighting>,
    allowed: LruCache<Key, Sighting>,
    audited: LruCache<Key, Sighting>,
    evicted: u64,
}

impl Tables {
    fn get_mut(&mut self, key: &Key) -> Option<&mut Sighting> {
        match key.direction {
            Direction::Outbound => self.began_here.get_mut(key),
            Direction::Inbound => self.allowed.get_mut(key).or_else(|| self.audited.get_mut(key)),
        }
    }

    fn push(&mut self, key: Key, sighting: Sighting) {
        let table = match key.direction {
            Direction::Outbound => &mut self.began_here,
            Direction::Inbound if sighting.allowed => &mut self.allowed,
            Direction::Inbound => &mut self.audited,
        };
        self.evicted += u64::from(table.push(key, sighting).is_some());
    }

    fn iter(&self) -> impl Iterator<Item = (&Key, &Sighting)> {
        self.began_here.iter().chain(&self.allowed).chain(&self.audited)
    }
}

impl Default for Seen {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl Seen {
    fn with_capacity(capacity: NonZeroUsize) -> Self {
        let table = || LruCache::new(capacity);
        Self(Mutex::new(Tables { began_here: table(), allowed: table(), audited: table(), evicted: 0 }))
    }

    /// Takes an event: a flow that began is entered or counted, one that ended was seen once more. Denials are no
    /// flows. `process` is asked only if the owner is another one than the last time, and must answer at once.
    pub fn take(&self, event: &Event, process: impl FnOnce(&Owner) -> ProcessInfo) {
        match Kind::from_byte(event.kind) {
            Some(Kind::Open) => self.began(&event.flow, &event.owner, event.time, event.count, process),
            Some(Kind::Close | Kind::Revoke) => {
                let Some(key) = Key::of(&event.flow) else { return };
                if let Some(known) = self.tables().get_mut(&key) {
                    known.last = known.last.max(event.time);
                }
            }
            Some(Kind::Deny | Kind::Summary) | None => {}
        }
    }

    /// Enters `count` flows that began at `time`, such as one of a socket that is older than the agent.
    pub fn began(
        &self,
        flow: &Flow,
        owner: &Owner,
        time: u64,
        count: u64,
        process: impl FnOnce(&Owner) -> ProcessInfo,
    ) {
        let (Some(key), Some(verdict)) = (Key::of(flow), Verdict::from_byte(flow.verdict)) else { return };
        let allowed = verdict == Verdict::Allowed;
        let mut tables = self.tables();
        if let Some(known) = tables.get_mut(&key) {
            known.last = known.last.max(time);
            known.count = known.count.saturating_add(count);
            known.verdict = verdict;
            if known.owner != *owner {
                known.owner = *owner;
                known.process = process(owner);
            }
            if allowed && !known.allowed {
                known.allowed = true;
                if let Some(moved) = tables.audited.pop(&key) {
                    tables.push(key, moved);
                }
            }
            return;
        }
        let process = process(owner);
        tables
            .push(key, Sighting { first: time, last: time, count, verdict, allowed, owner: *owner, process });
    }

    /// What is known of such flows.
    #[must_use]
    pub fn sighting(&self, key: &Key) -> Option<Sighting> {
        let tables = self.tables();
        let all = [&tables.began_here, &tables.allowed, &tables.audited];
        all.into_iter().find_map(|table| table.peek(key)).cloned()
    }

    /// All flows: of each table those first that were seen last.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(Key, Sighting)> {
        self.tables().iter().map(|(key, sighting)| (*key, sighting.clone())).collect()
    }

    /// How many flows were forgotten because a table was full.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.tables().evicted
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For [`Seen::take`], from what a flow record found already.
impl From<&crate::telemetry::record::Process> for ProcessInfo {
    fn from(process: &crate::telemetry::record::Process) -> Self {
        Self { exe: process.exe.as_ref().map(Arc::clone), unit: process.unit.as_ref().map(Arc::clone) }
    }
}

#[cfg(test)]
mod tests {
    use segd_common::traffic::protocol;

    use super::*;

    fn flow(peer: u8, direction: Direction, peer_port: u16, local_port: u16) -> Flow {
        Flow {
            peer: Addr::v4([10, 0, 0, peer]),
            direction: direction as u8,
            peer_port,
            local_port,
            protocol: protocol::TCP,
            subject: SubjectId(16),
            ..Flow::NONE
        }
    }

    fn event(kind: Kind, time: u64, flow: Flow) -> Event {
        Event {
            time,
            cookie: 0,
            count: 1,
            owner: Owner { pid: 7, ..Owner::NONE },
            flow,
            rtt_us: 0,
            retransmits: 0,
            kind: kind as u8,
            pad: [0; 7],
        }
    }

    fn unit(name: &str) -> ProcessInfo {
        ProcessInfo { exe: None, unit: Some(name.into()) }
    }

    fn forbidden(_: &Owner) -> ProcessInfo {
        panic!("the process of a known owner is looked up again")
    }

    #[test]
    fn the_ephemeral_port_does_not_make_another_flow() {
        let seen = Seen::default();
        seen.take(&event(Kind::Open, 10, flow(1, Direction::Outbound, 5432, 40_001)), |_| unit("a"));
        seen.take(&event(Kind::Open, 20, flow(1, Direction::Outbound, 5432, 40_002)), forbidden);
        seen.take(&event(Kind::Open, 30, flow(1, Direction::Inbound, 40_003, 5432)), |_| unit("b"));
        seen.take(&event(Kind::Close, 40, flow(1, Direction::Outbound, 5432, 40_001)), forbidden);
        seen.take(&event(Kind::Close, 40, flow(9, Direction::Outbound, 5432, 40_001)), forbidden);
        seen.take(&event(Kind::Deny, 50, flow(2, Direction::Outbound, 5432, 40_001)), forbidden);
        let rows: Vec<_> = seen
            .snapshot()
            .into_iter()
            .map(|(k, s)| (k.direction, k.port, s.first, s.last, s.count, s.process))
            .collect();
        assert_eq!(
            rows,
            [
                (Direction::Outbound, 5432, 10, 40, 2, unit("a")),
                (Direction::Inbound, 5432, 30, 30, 1, unit("b")),
            ]
        );
    }

    #[test]
    fn the_last_owner_and_verdict_are_kept() {
        let seen = Seen::default();
        let first = event(Kind::Open, 10, flow(1, Direction::Outbound, 5432, 1));
        seen.take(&first, |_| unit("a"));
        let owner = Owner { pid: 8, ..first.owner };
        let audited = Flow { verdict: Verdict::Audited as u8, ..first.flow };
        seen.take(&Event { owner, flow: audited, ..first }, |owner| unit(&owner.pid.to_string()));
        let (_, sighting) = seen.snapshot().remove(0);
        assert_eq!((sighting.owner.pid, sighting.verdict), (8, Verdict::Audited));
        assert_eq!(sighting.process, unit("8"));
    }

    #[test]
    fn what_peers_only_try_pushes_nothing_else_out() {
        let seen = Seen::with_capacity(NonZeroUsize::new(2).unwrap());
        let audited = |flow: Flow| Flow { verdict: Verdict::Audited as u8, ..flow };
        let (ours, theirs) = (flow(1, Direction::Outbound, 443, 9), flow(1, Direction::Inbound, 9, 5432));
        let tried = audited(flow(2, Direction::Inbound, 9, 5432));
        for flow in [ours, theirs, tried] {
            seen.take(&event(Kind::Open, 1, flow), |_| unit("a"));
        }
        let known = |flow: &Flow| seen.sighting(&Key::of(flow).unwrap());
        assert!(known(&theirs).unwrap().allowed && !known(&tried).unwrap().allowed);
        // Once allowed it stays so, whatever comes later.
        let allowed = Flow { verdict: Verdict::Allowed as u8, ..tried };
        seen.take(&event(Kind::Open, 2, allowed), |_| unit("a"));
        seen.take(&event(Kind::Open, 3, tried), |_| unit("a"));
        assert_eq!(known(&tried).map(|s| (s.allowed, s.verdict, s.count)), Some((true, Verdict::Audited, 3)));
        for peer in 10..60 {
            let forged = audited(flow(peer, Direction::Inbound, 9, 5432));
            seen.take(&event(Kind::Open, 4, forged), |_| unit("a"));
        }
        assert!([ours, theirs, tried].iter().all(|flow| known(flow).is_some()));
        assert_eq!((seen.evicted(), seen.snapshot().len()), (48, 5));
    }

    #[test]
    fn icmp_is_known_by_its_type() {
        let ping = Flow { protocol: protocol::ICMP, ..flow(1, Direction::Inbound, 8 << 8, 0) };
        assert_eq!(Key::of(&ping).unwrap().port, 8 << 8);
        assert_eq!(Key::of(&Flow { direction: 9, ..ping }), None);
    }

    #[test]
    fn the_longest_unseen_goes_first_and_is_counted() {
        let seen = Seen::with_capacity(NonZeroUsize::new(2).unwrap());
        for (time, peer) in [(1, 1), (2, 2), (3, 1), (4, 3)] {
            seen.take(&event(Kind::Open, time, flow(peer, Direction::Outbound, 443, 9)), |_| unit("a"));
        }
        let key = |peer| Key::of(&flow(peer, Direction::Outbound, 443, 9)).unwrap();
        let left: Vec<_> = seen.snapshot().into_iter().map(|(key, _)| key).collect();
        assert_eq!(left, [key(3), key(1)]);
        assert_eq!(seen.evicted(), 1);
        // To ask is not to see.
        assert!(seen.sighting(&key(1)).is_some());
        seen.take(&event(Kind::Open, 5, flow(4, Direction::Outbound, 443, 9)), |_| unit("a"));
        assert!(seen.sighting(&key(1)).is_none());
    }

    #[test]
    fn the_memory_is_what_the_documentation_says() {
        // A boxed node with two links, its allocation's header, and 16 bytes and a control byte a slot of a table that
        // is at most 7/8 full.
        let node = size_of::<Key>() + size_of::<Sighting>() + 2 * 8 + 16;
        let slot = 17 * CAPACITY.get().next_power_of_two() * 2 / CAPACITY.get();
        assert!((150..=230).contains(&(node + slot)), "{node} + {slot}");
    }
}
