//! What a change that is not made yet would break: the flows that live now and what was seen since the start, put to
//! the tables that would come.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use segd_common::decide::{Facts, decide};
use segd_common::flow::{Flow, IDLE_NS};
use segd_common::id::SubjectId;
use segd_common::socket::Owner;
use segd_common::table::Subject;
use segd_common::traffic::{Direction, Mode, Verdict};

use super::InstallError;
use super::changes;
use super::core::{Core, lock};
use super::intent::{Around, Intent, Stance};
use super::maker::Prepared;
use crate::control::api::ModeOverride;
use crate::control::changes::Break;
use crate::datapath::{self, Counters, Observer, Subjects, host};
use crate::policy::{self, Compiled, Resolved, Sources, Tables};
use crate::rollout::preview::{self, Broken, Passing};
use crate::rollout::seen::{Key, Seen};
use crate::telemetry::protocol;
use crate::telemetry::record::Endpoint;
use crate::telemetry::{Collector, process::ProcessInfo};

/// A flow that lives now and passes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    owner: Owner,
    flow: Flow,
    /// Held by a socket of its own; else by the packets of one that talks to several peers.
    is_connected: bool,
}

/// Every flow that lives now and passes. Takes milliseconds for thousands of sockets.
fn live(observer: &Observer, counters: &Counters) -> Result<Vec<Live>, datapath::Error> {
    let sockets = observer.live_sockets()?;
    let sockets = sockets.iter().map(|s| Live { owner: s.owner, flow: s.flow, is_connected: true });
    let others = counters.live_flows(host::boottime_ns().saturating_sub(IDLE_NS)).into_iter();
    let others = others.map(|o| Live { owner: o.owner, flow: o.flow, is_connected: false });
    let passes = |live: &Live| Verdict::from_byte(live.flow.verdict).is_some_and(Verdict::passes);
    Ok(sockets.chain(others).filter(passes).collect())
}

/// What an agent that begins can know of what flowed before: what lives. To be called before it changes anything.
pub(super) fn seen_so_far(observer: &Observer, counters: &Counters, collector: &Collector) -> Seen {
    let seen = Seen::default();
    match live(observer, counters) {
        Ok(all) => {
            for Live { owner, flow, .. } in all {
                let process = |owner: &Owner| -> ProcessInfo { collector.process_info(owner) };
                seen.began(&flow, &owner, flow.started, 1, process);
            }
        }
        Err(error) => tracing::warn!("what flows already is not known to previews and guards: {error}"),
    }
    seen
}

/// What a change does to what passes now.
#[derive(Default)]
pub(super) struct Effects {
    /// What it breaks, for people.
    pub(super) breaks: Vec<Break>,
    /// What flowed, as it was decided and as the change decides it; but what peers began and no rule ever allowed is
    /// not among it, for they could begin that just to be denied.
    pub(super) flowing: HashSet<Key>,
    /// What of it no rule allowed so far, and the change denies.
    pub(super) unruled: HashSet<Key>,
}

/// What flows of sockets that may be gone are decided as.
struct Owners<'a> {
    subjects: Subjects<'a>,
    workloads: HashMap<SubjectId, Subject>,
}

impl<'a> Owners<'a> {
    fn new(observer: &Observer, compiled: &'a Compiled) -> Result<Self, datapath::Error> {
        let by_cgroup = compiled.patterns.iter().map(|p| p.subject);
        let by_user = compiled.users.iter().map(|(_, subject)| *subject);
        let workloads = by_cgroup.chain(by_user).map(|subject| (subject.id, subject)).collect();
        Ok(Self { subjects: observer.subjects(compiled)?, workloads })
    }

    /// A workload's next socket is in another cgroup if its unit was started anew, so what counts is what the last one
    /// was decided as.
    fn of(&self, decided: SubjectId, owner: &Owner) -> Subject {
        self.workloads.get(&decided).copied().unwrap_or_else(|| self.subjects.of(owner))
    }
}

impl Core {
    /// Every flow that lives now and passes.
    pub(super) fn live(&self) -> Result<Vec<Live>, InstallError> {
        Ok(live(&self.observer, &lock(&self.counters))?)
    }

    /// What a change does to these and to what was seen.
    pub(super) fn effects(&self, live: &[Live], next: &Prepared) -> Result<Effects, InstallError> {
        let owners = Owners::new(&self.observer, &next.compiled)?;
        let now = u64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(u64::MAX);
        let tables = Tables::new(&next.compiled, now);
        let mut effects = Effects::default();
        let mut all = Vec::new();
        for Live { owner, flow, is_connected } in live {
            let Some(key) = Key::of(flow) else { continue };
            let subject =
                if *is_connected { owners.subjects.of(owner) } else { owners.of(flow.subject, owner) };
            let is_allowed = flow.verdict == Verdict::Allowed as u8;
            let passing = passing(true, &key, subject, (*owner, 1, flow.started));
            effects.note(key, &passing, is_allowed, &tables);
            all.push(passing);
        }
        let in_force = self.in_force();
        let present = Owners::new(&self.observer, &in_force.compiled)?;
        let before = Tables::new(&in_force.compiled, now);
        for (key, sighting) in self.seen_until_now() {
            let subject = present.of(key.subject, &sighting.owner);
            let Key { direction, protocol, peer, port, .. } = key;
            if !decide(&before, &Facts { subject, direction, protocol, peer, port }).verdict.passes() {
                // Denied already, so that is no news.
                continue;
            }
            let subject = owners.of(key.subject, &sighting.owner);
            let passing = passing(false, &key, subject, (sighting.owner, sighting.count, sighting.last));
            effects.note(key, &passing, sighting.allowed, &tables);
            all.push(passing);
        }
        let broken = preview::broken(&tables, all);
        effects.breaks = broken.iter().map(|b| self.told(b, next)).collect();
        Ok(effects)
    }

    /// What other zone files would break of what lives and of what was seen since the start: in their own modes and
    /// those that were set at run time, and were everything enforced. Changes nothing. Blocks.
    pub(super) fn preview(
        &self,
        files: Sources,
        names: Resolved,
    ) -> Result<(Vec<Break>, Vec<Break>), InstallError> {
        let _way = self.give_way();
        let at = Timestamp::now();
        let policy = policy::load(files, at).map_err(InstallError::Policy)?;
        let live = self.live()?;
        let now = self.in_force();
        let stance = changes::stance(policy, now.intent.stance.overrides.clone(), at, Vec::new());
        let around = Around { names: Arc::new(names), ..now.intent.around.clone() };
        let breaks = |stance: Stance| -> Result<Vec<Break>, InstallError> {
            let intent = Intent { stance, around: around.clone(), pending: None, held: None };
            let prepared = self.maker.prepare(intent, &now.registry)?;
            Ok(self.effects(&live, &prepared)?.breaks)
        };
        let everywhere = ModeOverride {
            mode: Mode::Enforce,
            subject: None,
            service: None,
            direction: None,
            set_by: 0,
            set_at: at,
        };
        let enforced = breaks(stance.with_overrides(vec![everywhere]))?;
        Ok((breaks(stance)?, enforced))
    }

    fn told(&self, broken: &Broken, next: &Prepared) -> Break {
        let passing = &broken.passing;
        let port = if protocol::is_icmp(passing.protocol) { 0 } else { passing.port };
        let peer = Endpoint { ip: passing.peer.into(), port: 0, zone: next.registry.zone_name(broken.zone) };
        let own = self
            .in_force()
            .intent
            .around
            .addresses
            .iter()
            .find(|a| a.is_ipv4() == peer.ip.is_ipv4())
            .copied();
        let unspecified =
            if peer.ip.is_ipv4() { std::net::IpAddr::from([0; 4]) } else { std::net::IpAddr::from([0; 16]) };
        let local = Endpoint {
            ip: own.unwrap_or(unspecified),
            port: 0,
            zone: next.registry.subject_name(passing.subject.id),
        };
        let (src, dst) = match passing.direction {
            Direction::Outbound => (local, Endpoint { port, ..peer }),
            Direction::Inbound => (peer, Endpoint { port, ..local }),
        };
        let process = self.collector.process(&passing.owner);
        Break {
            live: passing.live,
            direction: passing.direction,
            protocol: protocol::name(passing.protocol).into_owned(),
            src,
            dst,
            service: next.registry.service_name(broken.service).to_string(),
            reason: broken.reason,
            process: process.as_ref().map(|p| p.comm.to_string()),
            pid: process.as_ref().map(|p| p.pid).filter(|_| passing.live),
            unit: process.and_then(|p| p.unit).map(|u| u.to_string()),
            count: passing.count,
            last: (passing.last != 0).then(|| self.collector.clock().wall(passing.last)),
        }
    }
}

fn passing(live: bool, key: &Key, subject: Subject, (owner, count, last): (Owner, u64, u64)) -> Passing {
    let Key { direction, protocol, peer, port, .. } = *key;
    Passing { live, subject, direction, protocol, peer, port, owner, count, last }
}

impl Effects {
    fn note(&mut self, key: Key, passing: &Passing, allowed: bool, tables: &Tables<'_>) {
        let keys = [key, Key { subject: passing.subject.id, ..key }];
        if allowed || key.direction == Direction::Outbound {
            self.flowing.extend(keys);
        }
        if !allowed && !preview::passes(tables, passing) {
            self.unruled.extend(keys);
        }
    }
}
