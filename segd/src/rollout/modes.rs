//! Overrides of the mode, as `segd mode` sets them: the newest first, kept in the state directory. Pure.

use std::collections::BTreeSet;
use std::iter;

use jiff::Timestamp;
use segd_common::traffic::{Direction, Mode};

use crate::control::api::{ModeEntry, ModeOverride};
use crate::control::changes::ModeRequest;
use crate::policy::Policy;
use crate::policy::model::{Override, ServiceRef};

/// Why a mode is not set.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModeError {
    /// The policy has no such zone or workload.
    #[error("there is no zone or workload `{name}`{help}")]
    Subject {
        /// What was asked for.
        name: String,
        /// The nearest name.
        help: String,
    },
    /// The policy has no such service, and it is no port either.
    #[error("`{name}` is neither a service nor ports such as `tcp/5432`{help}")]
    Service {
        /// What was asked for.
        name: String,
        /// The nearest name.
        help: String,
    },
}

/// The overrides after a request: the new one, if one is asked for, comes first, and those that the request covers
/// are dropped.
///
/// # Errors
/// The request names something that the policy does not have.
pub fn set(
    policy: &Policy,
    overrides: &[ModeOverride],
    request: &ModeRequest,
    by: u32,
    now: Timestamp,
) -> Result<Vec<ModeOverride>, ModeError> {
    let is_known = |name: &str| policy.zones.contains_key(name) || policy.workloads.contains_key(name);
    if let Some(name) = request.subject.as_deref().filter(|name| !is_known(name)) {
        let help = nearest(name, policy.zones.keys().chain(policy.workloads.keys()));
        return Err(ModeError::Subject { name: name.to_owned(), help });
    }
    if let Some(name) = &request.service
        && policy.ports(&ServiceRef::from(name.clone())).is_empty()
    {
        return Err(ModeError::Service { name: name.clone(), help: nearest(name, policy.services.keys()) });
    }
    let new = request.mode.map(|mode| ModeOverride {
        mode,
        subject: request.subject.clone(),
        service: request.service.clone(),
        direction: request.direction,
        set_by: by,
        set_at: now,
    });
    let kept = overrides.iter().filter(|old| !covers(request, old)).cloned();
    Ok(new.into_iter().chain(kept).collect())
}

fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a String>) -> String {
    crate::policy::diagnostics::nearest(name, names.map(String::as_str))
        .map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}

/// Whether everything that `old` holds for is asked for.
fn covers(new: &ModeRequest, old: &ModeOverride) -> bool {
    fn part<T: PartialEq>(new: Option<&T>, old: Option<&T>) -> bool {
        new.is_none() || new == old
    }
    part(new.subject.as_ref(), old.subject.as_ref())
        && part(new.service.as_ref(), old.service.as_ref())
        && part(new.direction.as_ref(), old.direction.as_ref())
}

/// The overrides as the compiler takes them.
#[must_use]
pub fn for_compiler(overrides: &[ModeOverride]) -> Vec<Override> {
    overrides
        .iter()
        .map(|o| Override {
            subject: o.subject.clone(),
            direction: o.direction.map(Into::into),
            peers: None,
            services: o.service.as_ref().map(|name| vec![ServiceRef::from(name.clone())]),
            enforce: o.mode == Mode::Enforce,
        })
        .collect()
}

/// Where which mode holds on a host of this zone and name, in the order in which it counts: the first match wins. After
/// the host's zone come the workloads that anything names.
#[must_use]
pub fn entries(policy: &Policy, zone: &str, host: &str, overrides: &[ModeOverride]) -> Vec<ModeEntry> {
    let by_override = overrides.iter().filter_map(|o| o.subject.as_deref());
    let by_rollout = policy.rollouts.iter().filter_map(|r| r.subject.as_ref().map(|s| s.value.as_str()));
    let named: BTreeSet<&str> = by_override.chain(by_rollout).collect();
    let workloads = named.into_iter().filter_map(|name| policy.workloads.get_key_value(name));
    let workloads = workloads.map(|(name, workload)| [name.as_str(), workload.zone.value.as_str()]);
    let subjects = iter::once([zone, zone]).chain(workloads);
    subjects.flat_map(|[subject, zone]| of_subject(policy, subject, zone, host, overrides)).collect()
}

/// The same for one subject, whose zone this is.
fn of_subject(
    policy: &Policy,
    subject: &str,
    zone: &str,
    host: &str,
    overrides: &[ModeOverride],
) -> Vec<ModeEntry> {
    let is_for = |name: &str| name == subject || name == zone;
    let mut rows = Vec::new();
    let mut add =
        |direction: Option<Direction>, peer: Option<&str>, service: Option<String>, mode, source: &str| {
            for &way in Direction::ALL.iter().filter(|way| direction.is_none_or(|d| d == **way)) {
                rows.push(ModeEntry {
                    subject: subject.to_owned(),
                    direction: way,
                    peer: peer.map(str::to_owned),
                    service: service.clone(),
                    mode,
                    source: source.to_owned(),
                });
            }
        };
    for o in overrides.iter().filter(|o| o.subject.as_deref().is_none_or(is_for)) {
        add(o.direction, None, o.service.clone(), o.mode, "override");
    }
    for r in policy.rollouts.iter().filter(|r| r.subject.as_ref().is_none_or(|s| is_for(&s.value))) {
        let source = match &r.canary {
            Some(canary) if !canary.membership(r, host).is_in() => continue,
            Some(canary) if !canary.peers.is_empty() => {
                let peers: Vec<String> = canary.peers.iter().map(ToString::to_string).collect();
                format!("rollout, canary peers {}", peers.join(" "))
            }
            Some(_) => "rollout, canary".to_owned(),
            None => "rollout".to_owned(),
        };
        let any = vec![None];
        let peers = r.peers.as_ref().map_or(any, |p| p.iter().map(|p| Some(p.value.as_str())).collect());
        for peer in peers {
            match &r.services {
                None => add(r.direction, peer, None, r.mode, &source),
                Some(services) => services
                    .iter()
                    .for_each(|s| add(r.direction, peer, Some(s.value.clone().into()), r.mode, &source)),
            }
        }
    }
    add(None, None, None, Mode::Monitor, "default");
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::changes::Safety;
    use crate::policy::{Sources, load};

    fn policy() -> Policy {
        let text = r#"
            [zone.orders]
            cidrs = ["10.1.0.0/16"]
            [zone.transport]
            cidrs = ["10.2.0.0/16"]
            [service.postgres]
            ports = ["tcp/5432"]
            [[rollout]]
            subject = "orders"
            direction = "inbound"
            peers = ["transport"]
            services = ["postgres"]
            mode = "enforce"
        "#;
        load(Sources::from_texts([("z.toml", text)]), Timestamp::UNIX_EPOCH).unwrap()
    }

    fn request(mode: Mode, subject: Option<&str>, service: Option<&str>) -> ModeRequest {
        let own = |text: Option<&str>| text.map(str::to_owned);
        ModeRequest {
            mode: Some(mode),
            subject: own(subject),
            service: own(service),
            direction: None,
            safety: Safety::default(),
        }
    }

    fn set_now(old: &[ModeOverride], request: &ModeRequest) -> Result<Vec<ModeOverride>, ModeError> {
        set(&policy(), old, request, 0, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn the_newest_comes_first_and_drops_what_it_covers() {
        let narrow = set_now(&[], &request(Mode::Enforce, Some("orders"), Some("postgres"))).unwrap();
        let two = set_now(&narrow, &request(Mode::Enforce, Some("transport"), None)).unwrap();
        assert_eq!(two.len(), 2);
        assert_eq!(two[0].subject.as_deref(), Some("transport"));
        let wide = set_now(&two, &request(Mode::Monitor, None, None)).unwrap();
        assert_eq!(wide.len(), 1, "monitor everywhere makes both moot");
        let none = ModeRequest { mode: None, ..request(Mode::Monitor, Some("orders"), None) };
        let left = set_now(&two, &none).unwrap();
        assert_eq!(left.len(), 1, "what was set for orders is taken back");
        assert_eq!(left[0].subject.as_deref(), Some("transport"));
    }

    #[test]
    fn names_that_do_not_exist_are_refused_with_the_nearest() {
        let error = set_now(&[], &request(Mode::Enforce, Some("order"), None)).unwrap_err();
        assert_eq!(error.to_string(), "there is no zone or workload `order`; did you mean `orders`?");
        let error = set_now(&[], &request(Mode::Enforce, None, Some("postgre"))).unwrap_err();
        assert!(error.to_string().contains("did you mean `postgres`?"), "{error}");
        assert!(set_now(&[], &request(Mode::Enforce, None, Some("tcp/5432"))).is_ok());
    }

    #[test]
    fn entries_are_in_the_order_in_which_they_count() {
        let overrides = set_now(&[], &request(Mode::Monitor, Some("orders"), None)).unwrap();
        let rows: Vec<String> = entries(&policy(), "orders", "", &overrides)
            .iter()
            .map(|e| {
                let peer = e.peer.as_deref().unwrap_or("*");
                format!(
                    "{} {} {peer} {} {}",
                    e.source,
                    e.direction,
                    e.service.as_deref().unwrap_or("*"),
                    e.mode
                )
            })
            .collect();
        assert_eq!(
            rows,
            [
                "override outbound * * monitor",
                "override inbound * * monitor",
                "rollout inbound transport postgres enforce",
                "default outbound * * monitor",
                "default inbound * * monitor",
            ]
        );
    }
}
