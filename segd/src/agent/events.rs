//! The tasks that follow the kernel: its ring buffer, flows that fall silent, the host's own addresses.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use segd_common::event::{Event, Kind};
use segd_common::flow::{CLOSED, DENIAL_NS, IDLE_NS, OPENED, OwnedFlow};
use tokio::io::unix::AsyncFd;
use tokio::io::{self, Interest};
use tokio_util::sync::CancellationToken;

use super::core::Core;
use crate::datapath::{self, host};
use crate::telemetry::Collector;

const TICK: Duration = Duration::from_secs(1);
const SWEEP: Duration = Duration::from_secs(5);
const SURROUNDINGS: Duration = Duration::from_secs(5);

/// Events handed on before other tasks get their turn.
const BATCH: usize = 1024;

/// Hands every event of the ring buffer to the collector, until `shutdown`; then what is left in it.
///
/// # Errors
/// The ring buffer cannot be waited for.
pub(super) async fn follow(
    ring: RingBuf<MapData>,
    collector: Arc<Collector>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    // SAFETY: the descriptor is the ring buffer's own, which it keeps open for as long as it lives.
    let mut ring =
        unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(io::Error::from)?;
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            guard = ring.readable_mut() => {
                let mut guard = guard?;
                if drain(guard.get_inner_mut(), &collector, BATCH) < BATCH {
                    guard.clear_ready();
                }
            }
            _ = tick.tick() => collector.tick(),
            () = shutdown.cancelled() => break,
        }
        tokio::task::yield_now().await;
    }
    drain(ring.get_mut(), &collector, usize::MAX);
    Ok(())
}

fn drain(ring: &mut RingBuf<MapData>, collector: &Collector, most: usize) -> usize {
    let mut taken = 0;
    while taken < most {
        let Some(item) = ring.next() else { break };
        if let Some(event) = datapath::event(&item) {
            collector.take(&event);
        }
        taken += 1;
    }
    taken
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
        for owned in ended.iter().filter(|o| o.flow.flags & (OPENED | CLOSED) == OPENED) {
            core.collector.take(&event(Kind::Close, owned, 1, now));
        }
        match untold {
            Ok(untold) => {
                for denial in untold {
                    core.collector.take(&event(Kind::Deny, &denial.sample, denial.untold, now));
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
        let moved = found != core.in_force().addresses && refused.as_ref() != Some(&found);
        if !stepped && !moved {
            continue;
        }
        offset = host::boot_to_unix_ns();
        match tokio::task::block_in_place(|| core.move_to(found.clone())) {
            Ok(generation) => {
                tracing::info!(generation = generation.0, addresses = ?found,
                    "the addresses of this host or its wall clock changed");
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
