//! The DNS names of zones: who looks them up, when again, and which addresses hold meanwhile.
//!
//! A name keeps its addresses until another answer comes. A look-up that fails (no server answers, SERVFAIL, REFUSED) or
//! that finds nothing (NXDOMAIN, no address) leaves them in force, is shown, and is repeated: that a name is gone may be
//! a mistake or an attack, and must not cut a zone's traffic. To take a name's addresses away, remove the name from the
//! zone file. If one family brings addresses and the other fails, the former's are replaced and the latter's stay.
//!
//! Names are taken as they stand, as if they ended in a dot: no search domain of `/etc/resolv.conf` is added.

mod resolver;
mod state;

use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use resolver::Resolver;
pub use state::{Answer, Bounds, Failure, Family, MAX_ADDRESSES, Name, State};

/// Look-ups at a time.
const CONCURRENCY: usize = 8;

/// A round of look-ups ends after this long; names that had no turn are due still, and come first in the next round.
const ROUND: Duration = Duration::from_secs(60);

/// Looks up the names that are due and takes the answers. Tells whether the addresses of any name are others than
/// before. Ends within a minute; if it is dropped, the answers so far are taken.
pub async fn refresh(resolver: &Resolver, state: &mut State) -> bool {
    let deadline = Instant::now() + ROUND;
    let mut due = state.due(Timestamp::now(), resolver.bounds()).into_iter();
    let lookup = resolver.lookup();
    let mut running = JoinSet::new();
    let mut changed = false;
    loop {
        while running.len() < CONCURRENCY
            && let Some(name) = due.next()
        {
            let lookup = lookup.clone();
            running.spawn(async move {
                let answer = lookup.addresses(&name).await;
                (name, answer)
            });
        }
        match tokio::time::timeout_at(deadline, running.join_next()).await {
            Ok(Some(Ok((name, answer)))) => {
                changed |= state.update(&name, answer, Timestamp::now(), resolver.bounds());
            }
            // A look-up that panicked leaves its name due.
            Ok(Some(Err(error))) => tracing::error!(%error, "a look-up ended"),
            Ok(None) | Err(_) => return changed,
        }
    }
}
