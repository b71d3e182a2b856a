//! What a policy that is not in force yet would break: traffic that passes now and that it denies. Pure.

use std::collections::BTreeMap;

use segd_common::addr::Addr;
use segd_common::decide::{Facts, View, decide};
use segd_common::id::{RuleId, ServiceId, ZoneId};
use segd_common::socket::Owner;
use segd_common::table::Subject;
use segd_common::traffic::{Direction, Reason};

/// Traffic that passes now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passing {
    /// Whether a socket holds it open; else it was seen since the agent started.
    pub live: bool,
    /// What the policy decides its socket as.
    pub subject: Subject,
    /// Who began.
    pub direction: Direction,
    /// IP protocol number.
    pub protocol: u8,
    /// The other side.
    pub peer: Addr,
    /// As [`Facts::port`].
    pub port: u16,
    /// Whose socket it is, or was last.
    pub owner: Owner,
    /// Flows of this kind.
    pub count: u64,
    /// When the last one began, in nanoseconds of CLOCK_BOOTTIME; 0: not known.
    pub last: u64,
}

impl Passing {
    fn facts(&self) -> Facts {
        let Self { subject, direction, protocol, peer, port, .. } = *self;
        Facts { subject, direction, protocol, peer, port }
    }
}

/// Whether it would pass.
pub fn passes<V: View>(next: &V, passing: &Passing) -> bool {
    decide(next, &passing.facts()).verdict.passes()
}

/// Traffic that would not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// What passes now.
    pub passing: Passing,
    /// Why it would not.
    pub reason: Reason,
    /// The zone that the other side would be in.
    pub zone: ZoneId,
    /// What the port would be called.
    pub service: ServiceId,
    /// The rule that allowed it until it expired.
    pub rule: RuleId,
}

/// What distinguishes traffic for a person: connections of one process to one server are one line.
type Line = (bool, u16, u8, u8, [u8; 16], u16, [u8; 16]);

/// Of all that passes, what `next` denies: live sockets first, then by how often it was seen.
///
/// What is seen and live at the same time is live only.
pub fn broken<V: View>(next: &V, passing: impl IntoIterator<Item = Passing>) -> Vec<Broken> {
    let mut lines: BTreeMap<Line, Broken> = BTreeMap::new();
    for passing in passing {
        let Passing { subject, direction, protocol, peer, port, .. } = passing;
        let decision = decide(next, &passing.facts());
        if decision.verdict.passes() {
            continue;
        }
        let line: Line = (
            passing.live,
            subject.id.0,
            direction as u8,
            protocol,
            peer.bytes(),
            port,
            if passing.live { passing.owner.comm } else { [0; 16] },
        );
        match lines.get_mut(&line) {
            Some(known) => {
                known.passing.count += passing.count;
                if passing.last > known.passing.last {
                    known.passing.last = passing.last;
                    known.passing.owner = passing.owner;
                }
            }
            None => {
                let (reason, zone, service) = (decision.reason, decision.zone, decision.service);
                lines.insert(line, Broken { passing, reason, zone, service, rule: decision.rule });
            }
        }
    }
    let is_live = |b: &Broken| {
        let p = &b.passing;
        let first: Line =
            (true, p.subject.id.0, p.direction as u8, p.protocol, p.peer.bytes(), p.port, [0; 16]);
        let last = (first.0, first.1, first.2, first.3, first.4, first.5, [0xff; 16]);
        lines.range(first..=last).next().is_some()
    };
    let mut all: Vec<Broken> = lines.values().filter(|b| b.passing.live || !is_live(b)).cloned().collect();
    all.sort_by_key(|b| (!b.passing.live, std::cmp::Reverse(b.passing.count)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ids::Registry;
    use crate::policy::{Host, Policy, Sources, Tables, compile, load};

    fn policy(rules: &str) -> Policy {
        let text = format!(
            "[zone.orders]\ncidrs = [\"10.1.0.0/16\"]\n[zone.transport]\ncidrs = [\"10.2.0.0/16\"]\n\
             [[rollout]]\nmode = \"enforce\"\n{rules}"
        );
        load(Sources::from_texts([("z.toml", text)]), jiff::Timestamp::UNIX_EPOCH).unwrap()
    }

    fn passing(live: bool, peer: u8, port: u16, comm: &[u8; 4], last: u64) -> Passing {
        let mut owner = Owner { pid: u32::from(peer), ..Owner::NONE };
        owner.comm[..4].copy_from_slice(comm);
        Passing {
            live,
            subject: Subject::default(),
            direction: Direction::Outbound,
            protocol: 6,
            peer: Addr::v4([10, 2, 0, peer]),
            port,
            owner,
            count: 1,
            last,
        }
    }

    #[test]
    fn what_is_denied_is_told_once_and_live_first() {
        let rule = "[[allow]]\nid = \"r\"\nfrom = \"orders\"\nto = \"transport\"\nservices = [\"tcp/443\"]\n";
        let compiled =
            compile(&policy(rule), Host::in_zone("orders", &[]), &[], &[], &mut Registry::default()).unwrap();
        let tables = Tables::new(&compiled, 1);
        let all = [
            passing(false, 1, 5432, b"psql", 5),
            passing(false, 1, 5432, b"java", 9),
            passing(false, 2, 80, b"curl", 3),
            passing(true, 2, 80, b"curl", 0),
            passing(true, 2, 80, b"curl", 0),
            passing(true, 2, 80, b"wget", 0),
            passing(true, 1, 443, b"java", 0),
        ];
        let all = all.map(|p| Passing { subject: Subject::lasting(compiled.host), ..p });
        let found = broken(&tables, all);
        let told: Vec<_> = found
            .iter()
            .map(|b| {
                let p = &b.passing;
                let comm = String::from_utf8_lossy(&p.owner.comm[..4]).into_owned();
                (p.live, p.peer.bytes()[15], p.port, comm, p.count, p.last)
            })
            .collect();
        assert_eq!(
            told,
            [
                (true, 2, 80, "curl".into(), 2, 0),
                (true, 2, 80, "wget".into(), 1, 0),
                (false, 1, 5432, "java".into(), 2, 9),
            ]
        );
        assert!(found.iter().all(|b| b.reason == Reason::NoRule));
    }
}
