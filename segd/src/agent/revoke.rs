//! Live flows that a newer policy denies: their sockets are destroyed, so that the application learns of it at once
//! and an idle connection does not wait for its next packet. Off the path of events.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use segd_common::addr::Addr;
use segd_common::decide::{Facts, decide};
use segd_common::event::{Event, Kind};
use segd_common::flow::Flow;
use segd_common::id::Generation;
use segd_common::table::Subject;
use segd_common::traffic::{Direction, Reason, Verdict};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::core::Core;
use crate::config::OnRevoke;
use crate::datapath::{self, LiveSocket, Target, host};
use crate::policy::Compiled;
use crate::policy::view::Tables;

/// Sockets that may wait to be destroyed.
const QUEUE: usize = 8192;

/// Revoked sockets that are remembered, so that each is told once.
const REMEMBERED: usize = 65_536;

/// What happens to a flow whose socket is not destroyed.
const DROPPED: &str = "their packets are dropped";

/// Where revoked flows go.
#[derive(Debug)]
pub(super) struct Revoker {
    on_revoke: OnRevoke,
    queue: Mutex<Vec<Target>>,
    queued: Notify,
    told: Mutex<Told>,
    lost: AtomicU64,
    changed: Notify,
}

/// The sockets whose flows were told as revoked, by cookie, and when each was last, in nanoseconds of CLOCK_BOOTTIME.
/// The oldest are forgotten.
#[derive(Debug, Default)]
struct Told {
    times: HashMap<u64, u64>,
    order: VecDeque<u64>,
}

impl Told {
    /// Whether the flow of a socket was not told of before. `now`: of CLOCK_BOOTTIME, in nanoseconds. A UDP socket may
    /// be connected again, with the same cookie: that flow began after the one before was told.
    fn first(&mut self, cookie: u64, flow: &Flow, now: u64) -> bool {
        match self.times.insert(cookie, now) {
            Some(told) if flow.started <= told => {
                self.times.insert(cookie, told);
                return false;
            }
            Some(_) => return true,
            None => {}
        }
        self.order.push_back(cookie);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.times.remove(&oldest);
        }
        true
    }
}

impl Revoker {
    pub(super) fn new(on_revoke: OnRevoke) -> Self {
        Self {
            on_revoke,
            queue: Mutex::default(),
            queued: Notify::new(),
            told: Mutex::default(),
            lost: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    /// Has the live flows looked through, soon and once for several changes that come at a time.
    pub(super) fn policy_changed(&self) {
        self.changed.notify_one();
    }

    /// Takes notice of an event of the kernel. Returns whether it is to be told: a flow that was cut by [`cut_idle`]
    /// was told already. Waits for nobody.
    pub(super) fn notice(&self, event: &Event) -> bool {
        if event.kind != Kind::Revoke as u8 || self.on_revoke != OnRevoke::Reset || event.cookie == 0 {
            return true;
        }
        let first = self.first(event.cookie, &event.flow, event.time);
        if first {
            self.destroy(Target::from(event));
        }
        first
    }

    fn first(&self, cookie: u64, flow: &Flow, now: u64) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).first(cookie, flow, now)
    }

    fn destroy(&self, target: Target) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() < QUEUE {
            queue.push(target);
            self.queued.notify_one();
            return;
        }
        drop(queue);
        let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
        // Told at 1, 2, 4, 8 and so on.
        if lost.is_power_of_two() {
            tracing::warn!(lost, "too many connections were revoked at once to reset them all; {DROPPED}");
        }
    }

    /// Destroys what is queued.
    fn destroy_queued(&self) {
        let queued = std::mem::take(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner));
        if queued.is_empty() {
            return;
        }
        match datapath::destroy(&queued) {
            Ok(failed) => {
                if let Some((target, error)) = failed.first() {
                    let (sockets, cookie) = (failed.len(), target.cookie());
                    tracing::warn!(sockets, cookie, "cannot reset revoked connections; {DROPPED}: {error}");
                }
            }
            Err(error) => tracing::warn!("cannot reset revoked connections; {DROPPED}: {error}"),
        }
    }

    /// Cuts the live flows that the policy in force denies and that the kernel has not decided again yet, as no packet
    /// came: each socket is destroyed and its flow handed to `tell`. To be called after each generation that came into
    /// force. Returns how many were cut.
    ///
    /// `subject` says what a socket is decided as.
    pub(super) fn cut_idle(
        &self,
        live: &[LiveSocket],
        compiled: &Compiled,
        generation: Generation,
        subject: impl Fn(&LiveSocket) -> Subject,
        tell: impl Fn(&Event),
    ) -> usize {
        if self.on_revoke != OnRevoke::Reset {
            return 0;
        }
        let time = host::boottime_ns();
        let tables = Tables::new(compiled, unix_ns());
        let mut cut = 0;
        for socket in live {
            let Some(flow) = denied(&tables, socket, &subject(socket), generation) else { continue };
            if !self.first(socket.cookie, &socket.flow, time) {
                continue;
            }
            tell(&Event {
                time,
                cookie: socket.cookie,
                count: 1,
                owner: socket.owner,
                flow: if flow.started == 0 { Flow { started: time, ..flow } } else { flow },
                rtt_us: 0,
                retransmits: 0,
                kind: Kind::Revoke as u8,
                pad: [0; 7],
            });
            self.destroy(Target::from(socket));
            cut += 1;
        }
        cut
    }
}

/// The flow as it stands under these tables, if it passed and they deny it.
fn denied(
    tables: &Tables<'_>,
    socket: &LiveSocket,
    subject: &Subject,
    generation: Generation,
) -> Option<Flow> {
    let flow = socket.flow;
    let passed = Verdict::from_byte(flow.verdict).is_some_and(Verdict::passes);
    // The programs let a connection go on whose direction they could not know.
    let exempt = flow.reason == Reason::Preexisting as u8 && flow.generation != Generation::NONE;
    if !passed || exempt || flow.generation == generation && flow.expires == 0 {
        return None;
    }
    let direction = Direction::from_byte(flow.direction)?;
    let port = direction.service_port(flow.local_port, flow.peer_port);
    let peer: Addr = flow.peer;
    let facts = Facts { subject: *subject, direction, protocol: flow.protocol, peer, port };
    let decision = decide(tables, &facts);
    if decision.verdict.passes() {
        return None;
    }
    Some(Flow {
        generation,
        zone: decision.zone,
        service: decision.service,
        rule: decision.rule,
        subject: subject.id,
        verdict: decision.verdict as u8,
        reason: decision.reason as u8,
        expires: decision.expires,
        ..flow
    })
}

/// Destroys the sockets of revoked flows.
pub(super) async fn destroy(core: Arc<Core>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = core.revoker.queued.notified() => {}
            () = shutdown.cancelled() => return,
        }
        tokio::task::block_in_place(|| core.revoker.destroy_queued());
    }
}

/// Looks through the live flows after every change of the policy, and when something in it expires.
pub(super) async fn follow(core: Arc<Core>, shutdown: CancellationToken) {
    loop {
        let expiry = next_expiry(&core.in_force().compiled, unix_ns());
        let wait = expiry.map_or(Duration::MAX, |at| Duration::from_nanos(at.saturating_sub(unix_ns())));
        tokio::select! {
            () = core.revoker.changed.notified() => {}
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => return,
        }
        if core.revoker.on_revoke == OnRevoke::Reset {
            tokio::task::block_in_place(|| look_through(&core));
        }
    }
}

fn look_through(core: &Core) {
    let now = core.in_force();
    let observer = &core.observer;
    let way = core.give_way();
    // Beside whoever changes the policy, so what was listed may be of a generation that is past by now.
    let found = observer.live_sockets().and_then(|live| Ok((live, observer.subjects(&now.compiled)?)));
    drop(way);
    let (generation, (live, subjects)) = match (core.generation(), found) {
        (Ok(generation), Ok(found)) => (generation, found),
        (Err(error), _) | (_, Err(error)) => {
            tracing::warn!("idle connections that the policy denies are cut at their next packet: {error}");
            return;
        }
    };
    if generation != now.generation {
        // Another is in force, or its time has passed and the tables of what it fell back to are made in a moment:
        // then this comes again.
        return;
    }
    let subject = |socket: &LiveSocket| subjects.of(&socket.owner);
    let tell = |event: &Event| core.tell(event, &mut core.collector.batch());
    let cut = core.revoker.cut_idle(&live, &now.compiled, generation, subject, tell);
    if cut > 0 {
        tracing::info!(
            generation = generation.0,
            cut,
            of = live.len(),
            "reset live connections that the policy denies"
        );
    }
}

/// The first instant after `now` at which something expires; nanoseconds since the Unix epoch.
fn next_expiry(compiled: &Compiled, now: u64) -> Option<u64> {
    let rules = compiled.policy.iter().map(|(_, _, entry)| entry.expires);
    let patterns = compiled.patterns.iter().map(|pattern| pattern.subject.expires);
    let users = compiled.users.iter().map(|(_, subject)| subject.expires);
    rules.chain(patterns).chain(users).filter(|at| *at > now).min()
}

fn unix_ns() -> u64 {
    host::boottime_ns().saturating_add_signed(host::boot_to_unix_ns())
}

#[cfg(test)]
mod tests;
