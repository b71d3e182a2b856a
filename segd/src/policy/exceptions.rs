//! Exceptions: whether one makes sense under a policy when it is made, and whether it still does under the next.

use jiff::Timestamp;

use super::builtin::{PEER_ZONES, is_built_in};
use super::diagnostics::suggest;
use super::model::{Exception, Policy, ServiceRef};
use super::ports::PortSpec;
use super::walk::unprintable;
use super::workload::Local;

/// Why an exception is refused: all of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct InvalidException(
    /// A line for each thing that is wrong, each with what to do.
    pub Vec<String>,
);

/// Says whether an exception is right in itself and names what the policy defines.
///
/// # Errors
/// Everything that is wrong with it.
pub fn validate(policy: &Policy, exception: &Exception, now: Timestamp) -> Result<(), InvalidException> {
    let Exception { from, to, services, owner, reason, expires, .. } = exception;
    let mut wrong = Vec::new();
    for (name, key) in [(from, "from"), (to, "to")] {
        wrong.extend(unknown_end(policy, name));
        if name == "loopback" {
            wrong.push(format!("`{key}` is `loopback`: what a host says to itself is always allowed"));
        }
        if let Some(end) = policy.workloads.get(name).and_then(|w| w.expires).filter(|end| *end <= now) {
            wrong.push(format!(
                "workload `{name}` expired at {end}: an exception allows it nothing; give the workload a later date"
            ));
        }
    }
    if is_built_in(from) && is_built_in(to) {
        wrong
            .push("both ends are in built-in zones, where segd does not run; name a zone of your own".into());
    }
    if services.is_empty() {
        wrong.push("it is for no service; name ports as `tcp/5432`, or a service".into());
    }
    wrong.extend(services.iter().filter_map(|service| unknown_service(policy, service)));
    for (text, key, what) in [(owner, "owner", "who answers for it"), (reason, "reason", "why it is needed")]
    {
        if text.trim().is_empty() {
            wrong.push(format!("it has no {key}; say {what}"));
        } else if let Some(message) = unprintable(key, text) {
            wrong.push(message);
        }
    }
    if *expires <= now {
        wrong.push(format!("it expires at {expires}, which is past; give it some time to live"));
    }
    if wrong.is_empty() { Ok(()) } else { Err(InvalidException(wrong)) }
}

/// A line for each exception that allows nothing because the policy does not define what it names.
#[must_use]
pub fn stale(policy: &Policy, exceptions: &[Exception]) -> Vec<String> {
    let without = exceptions.iter().filter_map(|exception| {
        let missing = missing(policy, exception)?;
        Some(format!("exception `{}` allows nothing: the zone files define no {missing}", exception.id))
    });
    without.collect()
}

/// The first name of an exception that the policy does not define, with what it should be.
pub(crate) fn missing(policy: &Policy, exception: &Exception) -> Option<String> {
    let ends = [&exception.from, &exception.to];
    let end = ends.into_iter().find(|name| !is_end(policy, name));
    let service = exception.services.iter().find(|service| policy.ports(service).is_empty());
    end.map(|name| format!("zone or workload `{name}`"))
        .or_else(|| service.map(|service| format!("service `{service}`")))
}

fn is_end(policy: &Policy, name: &str) -> bool {
    Local::of(policy, name).is_some() || is_built_in(name)
}

fn unknown_end(policy: &Policy, name: &str) -> Option<String> {
    if is_end(policy, name) {
        return None;
    }
    let names = policy.zones.keys().chain(policy.workloads.keys()).map(String::as_str).chain(PEER_ZONES);
    let help = suggest(name, "zones and workloads", names);
    Some(with_help(format!("unknown zone or workload `{name}`"), help))
}

fn unknown_service(policy: &Policy, service: &ServiceRef) -> Option<String> {
    let ServiceRef::Named(name) = service else { return None };
    if policy.services.contains_key(name) {
        return None;
    }
    // What has the form of ports and is not one was taken for a name.
    if let Some(bad) = name.parse::<PortSpec>().err().filter(|_| PortSpec::looks_like(name)) {
        return Some(with_help(bad.message, Some(bad.help)));
    }
    let help = suggest(name, "services", policy.services.keys().map(String::as_str));
    Some(with_help(format!("unknown service `{name}`"), help))
}

fn with_help(message: String, help: Option<String>) -> String {
    match help {
        Some(help) => format!("{message}; {help}"),
        None => message,
    }
}
