//! What the names in zones stand for, asked while they are checked.

use std::sync::Arc;

use jiff::Timestamp;

use crate::config::NamesConfig;
use crate::names::{Resolver, State, refresh};
use crate::policy::{Diagnostics, Policy, Resolved};

/// Looks every name up. What fails is a warning: whoever checks files need not see the DNS of the hosts.
pub(in crate::commands) async fn look_up(
    policy: &Policy,
    config: &NamesConfig,
    now: Timestamp,
) -> (Resolved, Diagnostics) {
    let mut found = Diagnostics::new(Arc::clone(&policy.sources));
    let mut state = State::default();
    state.follow(policy.dns_names());
    if !state.is_empty() {
        refresh(&Resolver::new(config), &mut state).await;
    }
    let mut resolved = Resolved::new();
    for name in policy.zones.values().flat_map(|zone| &zone.names) {
        let Some(known) = state.get(&name.value) else { continue };
        let written = &name.value;
        if let Some(failure) = &known.failed {
            let message = format!("`{written}` cannot be looked up: {}", failure.error);
            found.warning(name.place, message).help("--no-resolve leaves names alone");
        } else if known.addresses.is_empty() {
            found.warning(name.place, format!("there was no time to look `{written}` up"));
        }
        if !known.refused.is_empty() {
            let refused: Vec<String> = known.refused.iter().map(ToString::to_string).collect();
            let message = format!("`{written}` has addresses that no other host can have");
            found.warning(name.place, message).help(format!("{} are left out", refused.join(", ")));
        }
        if known.left_out > 0 {
            let message = format!("`{written}` has {} addresses too many", known.left_out);
            found.warning(name.place, message).help("name their CIDRs instead");
        }
        // Asked one after the other, none was there before the other.
        resolved.set(written, known.addresses.keys().copied(), now);
    }
    (resolved, found)
}
