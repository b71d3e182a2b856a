//! The policy as a whole: files in, verdicts and messages out.

pub(crate) mod agreement;
mod canaries;
mod compiling;
mod examples;
mod exceptions;
mod messages;
pub(crate) mod naive;
mod names;
mod workloads;

use jiff::Timestamp;

use super::{Diagnostics, Policy, Sources, load};

/// 2026-11-01T00:00:00Z.
fn now() -> Timestamp {
    "2026-11-01T00:00:00Z".parse().unwrap()
}

pub(crate) fn loaded(text: &str) -> Policy {
    match load(Sources::from_texts([("zones.toml", text)]), now()) {
        Ok(policy) => policy,
        Err(found) => panic!("{}", found.render(false)),
    }
}

/// `file:line:column: severity: message`, and what to do.
fn lines(found: &Diagnostics) -> Vec<String> {
    let line = |d: &super::diagnostics::Diagnostic| {
        let severity = format!("{:?}", d.severity).to_lowercase();
        let help = d.help.as_ref().map_or(String::new(), |h| format!(" [{h}]"));
        format!("{}:{}:{}: {severity}: {}{help}", d.file, d.line, d.column, d.message)
    };
    found.items().iter().map(line).collect()
}
