//! What has flowed since the agent started: for the preview of a change, and for the guard, which counts only
//! denials of what flowed before.
//!
//! A flow is known by what a rule can tell apart, not by its ephemeral port: the local subject, the direction, the
//! peer's address, the protocol and the server's port. The table holds the [`CAPACITY`] seen last, in about 160 bytes
//! each (2.6 MB when it is full), and the names of programs and units, which it shares with the flow records.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use segd_common::addr::Addr;
use segd_common::event::{Event, Kind};
use segd_common::flow::{Flow, Owner};
use segd_common::id::SubjectId;
use segd_common::traffic::{Direction, Verdict};

use crate::telemetry::process::ProcessInfo;
use crate::telemetry::protocol::is_icmp;

/// Flows that are remembered.
pub const CAPACITY: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

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
        let port = match direction {
            // The kernel keeps an ICMP type in one of the two ports; the other one is 0.
            _ if is_icmp(flow.protocol) => flow.local_port.max(flow.peer_port),
            Direction::Outbound => flow.peer_port,
            Direction::Inbound => flow.local_port,
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
    /// Whose socket the last one was.
    pub owner: Owner,
    /// Program and unit of that owner, if they could be found.
    pub process: ProcessInfo,
}

/// The table. Its methods hold a lock for a microsecond; [`Seen::snapshot`] for about a millisecond.
#[derive(Debug)]
pub struct Seen(Mutex<Table>);

#[derive(Debug)]
struct Table {
    flows: LruCache<Key, Sighting>,
    evicted: u64,
}

impl Default for Seen {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl Seen {
    fn with_capacity(capacity: NonZeroUsize) -> Self {
        Self(Mutex::new(Table { flows: LruCache::new(capacity), evicted: 0 }))
    }

    /// Takes an event: a flow that began is entered or counted, one that ended was seen once more. Denials are no
    /// flows. `process` is asked only if the owner is another one than the last time, and must answer at once.
    pub fn take(&self, event: &Event, process: impl FnOnce(&Owner) -> ProcessInfo) {
        match Kind::from_byte(event.kind) {
            Some(Kind::Open) => self.began(&event.flow, &event.owner, event.time, event.count, process),
            Some(Kind::Close | Kind::Revoke) => {
                let Some(key) = Key::of(&event.flow) else { return };
                if let Some(known) = self.table().flows.get_mut(&key) {
                    known.last = known.last.max(event.time);
                }
            }
            Some(Kind::Deny) | None => {}
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
        let mut table = self.table();
        if let Some(known) = table.flows.get_mut(&key) {
            known.last = known.last.max(time);
            known.count = known.count.saturating_add(count);
            known.verdict = verdict;
            if known.owner != *owner {
                known.owner = *owner;
                known.process = process(owner);
            }
            return;
        }
        let process = process(owner);
        let sighting = Sighting { first: time, last: time, count, verdict, owner: *owner, process };
        let evicted = table.flows.push(key, sighting).is_some();
        table.evicted += u64::from(evicted);
    }

    /// Whether such a flow began before an instant of CLOCK_BOOTTIME, in nanoseconds, and was let pass.
    #[must_use]
    pub fn was_flowing(&self, key: &Key, before: u64) -> bool {
        self.table().flows.peek(key).is_some_and(|sighting| sighting.first < before)
    }

    /// All flows, those first that were seen last.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(Key, Sighting)> {
        self.table().flows.iter().map(|(key, sighting)| (*key, sighting.clone())).collect()
    }

    /// How many flows were forgotten because the table was full.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.table().evicted
    }

    fn table(&self) -> MutexGuard<'_, Table> {
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
    fn only_what_began_before_counts_as_flowing() {
        let seen = Seen::default();
        let event = event(Kind::Open, 100, flow(1, Direction::Outbound, 53, 9));
        seen.take(&event, |_| unit("a"));
        let key = Key::of(&event.flow).unwrap();
        assert!(seen.was_flowing(&key, 101));
        assert!(!seen.was_flowing(&key, 100));
        assert!(!seen.was_flowing(&Key { port: 54, ..key }, 101));
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
        assert!(seen.was_flowing(&key(1), 9));
        seen.take(&event(Kind::Open, 5, flow(4, Direction::Outbound, 443, 9)), |_| unit("a"));
        assert!(!seen.was_flowing(&key(1), 9));
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
