//! Zone files into a [`Policy`], or every error in them.

mod canary;
mod cidr;
mod dns;
mod guard;
mod items;
mod names;
mod workloads;

use std::sync::Arc;

use jiff::Timestamp;
use toml::de::DeTable;

use super::diagnostics::{Diagnostics, suggest};
use super::model::Policy;
use super::source::Sources;
use super::walk::{Walk, in_order};

pub(crate) use cidr::parse_cidr;
pub(crate) use items::parse_ports;

const TABLES: [&str; 6] = ["zone", "workload", "service", "allow", "rollout", "test"];

/// Merges the files into one policy. A rule that has expired at `now` is an error.
///
/// # Errors
/// All errors of all files at once; then there is no policy.
pub fn load(sources: Sources, now: Timestamp) -> Result<Policy, Diagnostics> {
    merge(sources, Some(now))
}

/// Merges files that were loaded before. Rules that have expired since are as good as any: they match no longer.
///
/// # Errors
/// As [`load`].
pub fn load_stored(sources: Sources) -> Result<Policy, Diagnostics> {
    merge(sources, None)
}

/// `now`: where what has expired by then is an error.
fn merge(sources: Sources, now: Option<Timestamp>) -> Result<Policy, Diagnostics> {
    let sources = Arc::new(sources);
    let mut walk = Walk::new(&sources);
    let mut policy = Policy { sources: Arc::clone(&sources), ..Policy::default() };
    for (file, source) in sources.files().iter().enumerate() {
        walk.document(file, &source.text, |walk, document| read(walk, document, &mut policy, now));
    }
    names::check(&mut walk, &policy);
    cidr::check(&mut walk, &policy);
    dns::check(&mut walk, &policy);
    walk.found.sort();
    if walk.found.errors() == 0 { Ok(policy) } else { Err(walk.found) }
}

fn read(walk: &mut Walk, document: &DeTable<'_>, policy: &mut Policy, now: Option<Timestamp>) {
    for (key, span, value) in in_order(document) {
        let place = walk.place(span);
        match key {
            "zone" => items::zones(walk, value, policy),
            "service" => items::services(walk, value, policy),
            "allow" => items::rules(walk, value, policy, now),
            "rollout" => items::rollouts(walk, value, policy),
            "test" => items::tests(walk, value, policy),
            "workload" => workloads::read(walk, value, policy),
            _ => {
                let help = suggest(key, "valid tables", TABLES);
                walk.found.error(place, format!("unknown table or key `{key}`")).help = help;
            }
        }
    }
}
