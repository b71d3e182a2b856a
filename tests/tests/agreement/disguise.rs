//! The same policy said otherwise: as that of a workload instead of the host, and with part of its peers in the cohort
//! of a canary, which is treated as the rest. So what is known of the policy holds of its disguise.

use std::sync::Arc;

use segd::policy::Compiled;
use segd::policy::ids::Registry;
use segd_common::id::{SubjectId, ZoneId};
use segd_common::table::{PeerZone, PolicyKey, Subject};

use crate::estate::Estate;
use crate::naive::{self, Answer, Flow};
use crate::rng::Rng;

/// The name of the workload.
const ROBOT: &str = "robot";

/// Who the host's sockets are.
pub(crate) struct Disguise {
    pub(crate) subject: Subject,
    pub(crate) name: String,
}

impl Disguise {
    /// Says a compiled policy otherwise. The workload is that of user 0: `BPF_PROG_TEST_RUN` has a socket of his.
    pub(crate) fn put_on(
        rng: &mut Rng,
        compiled: &mut Compiled,
        registry: &mut Registry,
        host: &str,
    ) -> Self {
        let mut group = |peer: &mut PeerZone| {
            if peer.zone != ZoneId::LOOPBACK && rng.percent(30) {
                peer.group = cohort(peer.zone);
            }
        };
        Arc::make_mut(&mut compiled.hosts).iter_mut().for_each(|(_, peer)| group(peer));
        Arc::make_mut(&mut compiled.prefixes4).iter_mut().for_each(|(.., peer)| group(peer));
        Arc::make_mut(&mut compiled.prefixes6).iter_mut().for_each(|(.., peer)| group(peer));
        let of_peers = compiled.policy.iter().filter(|(len, ..)| *len > PolicyKey::ANY_PEER);
        let others: Vec<_> =
            of_peers.map(|(len, key, e)| (*len, PolicyKey { peer: cohort(key.peer), ..*key }, *e)).collect();
        compiled.policy.extend(others);
        let disguise = Self::of_subject(rng, compiled, registry, host);
        // As the compiler leaves it.
        compiled.policy.sort_unstable_by_key(|(len, key, _)| (*len, *key));
        disguise
    }

    fn of_subject(rng: &mut Rng, compiled: &mut Compiled, registry: &mut Registry, host: &str) -> Self {
        if rng.percent(40) {
            return Self { subject: Subject::lasting(compiled.host), name: host.to_owned() };
        }
        let id = SubjectId::from(registry.zone(ROBOT).unwrap());
        compiled.policy.iter_mut().for_each(|(_, key, _)| key.subject = id);
        // Long past, or never.
        let expires = if rng.percent(25) { 1 } else { 0 };
        let subject = Subject { expires, ..Subject::lasting(id) };
        compiled.users = vec![(0, subject)];
        Self { subject, name: ROBOT.to_owned() }
    }

    /// What is said of a flow of which the host would be told `answer`.
    pub(crate) fn answer(&self, estate: &Estate, flow: &Flow, answer: &Answer) -> Answer {
        let is_free = ["loopback", "control"].contains(&answer.reason.as_str());
        if self.subject.expires == 0 || is_free {
            return answer.clone();
        }
        let (verdict, reason) = if naive::is_failsafe(estate, flow) {
            ("allowed", "failsafe")
        } else {
            ("denied", "workload-expired")
        };
        Answer { verdict: verdict.to_owned(), reason: reason.to_owned(), rule: None, ..answer.clone() }
    }
}

/// A number that no zone has.
fn cohort(zone: ZoneId) -> ZoneId {
    if zone == ZoneId::ANY { zone } else { ZoneId(zone.0 + 2000) }
}
