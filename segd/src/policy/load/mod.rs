//! Zone files into a [`Policy`], or every error in them.

mod cidr;
mod items;
mod names;

use std::sync::Arc;

use jiff::Timestamp;
use toml::de::DeTable;

use super::diagnostics::{Diagnostics, suggest};
use super::model::Policy;
use super::source::Sources;
use super::walk::{Walk, in_order, not_supported};

pub(crate) use cidr::parse_cidr;
pub(crate) use items::parse_ports;

const TABLES: [&str; 5] = ["zone", "service", "allow", "rollout", "test"];

/// Merges the files into one policy. A rule that has expired at `now` is an error.
///
/// # Errors
/// All errors of all files at once; then there is no policy.
pub fn load(sources: Sources, now: Timestamp) -> Result<Policy, Diagnostics> {
    let sources = Arc::new(sources);
    let mut walk = Walk::new(&sources);
    let mut policy = Policy { sources: Arc::clone(&sources), ..Policy::default() };
    for (file, source) in sources.files().iter().enumerate() {
        walk.document(file, &source.text, |walk, document| read(walk, document, &mut policy, now));
    }
    names::check(&mut walk, &policy);
    cidr::check(&mut walk, &policy);
    walk.found.sort();
    if walk.found.errors() == 0 { Ok(policy) } else { Err(walk.found) }
}

fn read(walk: &mut Walk, document: &DeTable<'_>, policy: &mut Policy, now: Timestamp) {
    for (key, span, value) in in_order(document) {
        let place = walk.place(span);
        match key {
            "zone" => items::zones(walk, value, policy),
            "service" => items::services(walk, value, policy),
            "allow" => items::rules(walk, value, policy, now),
            "rollout" => items::rollouts(walk, value, policy),
            "test" => items::tests(walk, value, policy),
            "workload" => match value.get_ref().as_table() {
                Some(workloads) => {
                    for (name, span, _) in in_order(workloads) {
                        let place = walk.place(span);
                        not_supported(walk, place, &format!("[workload.{name}]"), "remove the table");
                    }
                }
                None => not_supported(walk, place, "`workload`", "remove it"),
            },
            _ => {
                let help = suggest(key, "valid tables", TABLES);
                walk.found.error(place, format!("unknown table or key `{key}`")).help = help;
            }
        }
    }
}
