//! The tasks that follow the kernel: its ring buffer, flows that fall silent, the host's own addresses.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};
use nix::sys::eventfd::EventFd;
use segd_common::event::{Event, Kind};
use segd_common::flow::{CLOSED, DENIAL_NS, IDLE_NS, OPENED, OwnedFlow};
use segd_common::schema::EVENT_BYTES;
use tokio_util::sync::CancellationToken;

use super::background;
use super::core::Core;
use crate::datapath::{self, host};

const TICK: Duration = Duration::from_secs(1);
const SWEEP: Duration = Duration::from_secs(5);
const SURROUNDINGS: Duration = Duration::from_secs(5);

/// Events handed on at a time.
const BATCH: usize = 1024;

/// While events come they are left to gather for so long: the kernel wakes nobody for them meanwhile. Not longer, for
/// program and unit of a process that ends at once are looked up when its event is read.
const GATHER: Duration = Duration::from_millis(5);
/// The same when so many came in [`GATHER`] that the ring buffer would soon be full.
const GATHER_LITTLE: Duration = Duration::from_millis(1);
/// A quarter of what the ring buffer holds.
const MANY: usize = EVENT_BYTES as usize / (size_of::<Event>() + RECORD_HEADER) / 4;
/// BPF_RINGBUF_HDR_SZ of include/uapi/linux/bpf.h.
const RECORD_HEADER: usize = 8;

/// Hands every event of the ring buffer on, until `shutdown`; then what is left in it.
///
/// # Errors
/// The ring buffer cannot be waited for.
pub(super) async fn follow(
    ring: RingBuf<MapData>,
    core: Arc<Core>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let reading = move |stop: &EventFd| {
        let result = core.pulse.begin().and_then(|alarm| read(ring, &core, [stop, alarm]));
        core.pulse.end();
        result
    };
    background::until(shutdown, reading).await
}

/// On a thread of its own, as it waits for two different things: for the first event when there was none, which the
/// kernel wakes it for (a producer that finds the buffer read up does so), and else only for time to pass. So the
/// programs pay for a wake-up at most once in [`GATHER`].
fn read(mut ring: RingBuf<MapData>, core: &Core, [stop, alarm]: [&EventFd; 2]) -> io::Result<()> {
    let pulse = &core.pulse;
    let mut ticked: Option<Instant> = None;
    loop {
        if ticked.is_none_or(|at| at.elapsed() >= TICK) {
            core.collector.tick();
            ticked = Some(Instant::now());
        }
        let asked = pulse.asked();
        let taken = drain(&mut ring, core);
        pulse.answer(asked);
        let (other, time) = match taken {
            0 => (Some(ring.as_fd()), TICK),
            1..MANY => (None, GATHER),
            _ => (None, GATHER_LITTLE),
        };
        let stopped = background::wait(stop.as_fd(), std::iter::once(alarm.as_fd()).chain(other), time)?;
        // Heard; there may have been none.
        let _ = alarm.read();
        if stopped {
            drain(&mut ring, core);
            return Ok(());
        }
    }
}

/// Hands on what is in the ring buffer. Returns how many events that were.
fn drain(ring: &mut RingBuf<MapData>, core: &Core) -> usize {
    let mut taken = 0;
    loop {
        let mut batch = core.collector.batch();
        let before = taken;
        while taken - before < BATCH {
            let Some(item) = ring.next() else { break };
            if let Some(event) = datapath::event(&item) {
                core.take(&event, &mut batch);
            }
            taken += 1;
        }
        if taken - before < BATCH {
            return taken;
        }
    }
}

/// Tells what no packet tells any more: flows of unconnected sockets that fell silent for [`IDLE_NS`], and
/// denials that were joined while they waited for a further one.
pub(super) async fn sweep(core: Arc<Core>, shutdown: CancellationToken) {
    let mut every = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let now = host::boottime_ns();
        let (ended, untold) = tokio::task::block_in_place(|| {
            let mut counters = core.counters.lock().unwrap_or_else(PoisonError::into_inner);
            let ended = counters.take_idle(now.saturating_sub(IDLE_NS));
            (ended, counters.take_untold(now.saturating_sub(DENIAL_NS)))
        });
        let mut batch = core.collector.batch();
        for owned in ended.iter().filter(|o| o.flow.flags & (OPENED | CLOSED) == OPENED) {
            batch.take(&event(Kind::Close, owned, 1, now));
        }
        match untold {
            Ok(untold) => {
                for denial in untold {
                    core.take(&event(Kind::Deny, &denial.sample, denial.untold, now), &mut batch);
                }
            }
            Err(error) => tracing::warn!(%error, "cannot look for denials that were not told"),
        }
    }
}

fn event(kind: Kind, owned: &OwnedFlow, count: u64, now: u64) -> Event {
    Event {
        time: now,
        cookie: 0,
        count,
        owner: owned.owner,
        flow: owned.flow,
        rtt_us: 0,
        retransmits: 0,
        kind: kind as u8,
        pad: [0; 7],
    }
}

/// How far the wall clock may move against CLOCK_BOOTTIME before expiries are measured anew. Nanoseconds.
const CLOCK_STEP: u64 = 1_000_000_000;

/// Follows the host's own addresses, which are loopback and may decide the host's zone, and steps of its wall
/// clock, which expiries are written in.
pub(super) async fn surroundings(core: Arc<Core>, shutdown: CancellationToken) {
    let mut every = tokio::time::interval(SURROUNDINGS);
    let mut refused = None;
    let mut offset = host::boot_to_unix_ns();
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let found = match host::addresses() {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "cannot read the addresses of this host");
                continue;
            }
        };
        let stepped = host::boot_to_unix_ns().abs_diff(offset) > CLOCK_STEP;
        let moved = found != core.in_force().intent.around.addresses && refused.as_ref() != Some(&found);
        if !stepped && !moved {
            continue;
        }
        let now = host::boot_to_unix_ns();
        match tokio::task::block_in_place(|| core.move_to(found.clone())) {
            Ok(generation) => {
                tracing::info!(generation = generation.0, addresses = ?found,
                    "the addresses of this host or its wall clock changed");
                offset = now;
                refused = None;
            }
            Err(error) => {
                tracing::warn!(
                    "the addresses of this host or its wall clock changed, but the policy stays as it was: {error}"
                );
                refused = Some(found);
            }
        }
    }
}

/// Puts the former policy back into the agent's hands when nobody confirmed the new one in time (the kernel did it at
/// that instant), and forgets exceptions whose time is over.
pub(super) async fn deadlines(core: Arc<Core>, shutdown: CancellationToken) {
    let mut every = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = shutdown.cancelled() => return,
        }
        if !core.is_something_over() {
            continue;
        }
        tokio::task::block_in_place(|| {
            match core.lapse() {
                None => {}
                Some(Ok(done)) => {
                    tracing::warn!(
                        generation = done.generation.0,
                        "nobody confirmed the change: the former policy is back"
                    );
                }
                Some(Err(error)) => tracing::error!(
                    "nobody confirmed the change; the kernel went back to the former policy, the agent could not: {error}"
                ),
            }
            core.end_exceptions();
        });
    }
}
