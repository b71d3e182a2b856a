//! Rules for what needs them.

use std::collections::{BTreeMap, BTreeSet};

use segd_common::traffic::{Direction, protocol};
use serde::Serialize;

use super::Options;
use super::evidence::{Evidence, Watch};
use super::naming::{Names, of_address};
use super::talks::{Link, Talk};
use super::text::TODO;
use super::wellknown;
use crate::policy::Policy;
use crate::policy::check::TestCase;
use crate::policy::compile::name_of;
use crate::policy::ports::PortSpec;
use crate::policy::workload::Local;

/// What stands in an id for ports without a name.
const OTHER: &str = "other";

/// Ports apart from each other by no more than this become one range where `ports` are widened.
const GAP: u16 = 16;

/// A service that is proposed for what has no name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProposedService {
    /// What its port is commonly called.
    pub name: String,
    /// The one that was seen.
    pub ports: Vec<PortSpec>,
}

/// A rule that is proposed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProposedRule {
    /// Made of its ends and its service.
    pub id: String,
    /// Zone or workload.
    pub from: String,
    /// Zone or workload.
    pub to: String,
    /// As in the file.
    pub services: Vec<String>,
    /// The ports that were seen.
    pub seen: Vec<PortSpec>,
    /// Why a service that is defined is not named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Who answers for the end that is reached, by the zone files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_of_to: Option<String>,
    /// What speaks for it.
    pub evidence: Evidence,
}

/// Zones or workloads: from and to.
pub(super) type Pair = (String, String);

/// For each pair and port, the talks that speak for it, by number.
pub(super) type Wanted = BTreeMap<Pair, BTreeMap<PortSpec, BTreeSet<usize>>>;

/// Finds what the talks in `kept` need. `barred`: what tests of the zone files say must be denied; talks that would
/// need it are added to `refused`.
pub(super) fn wanted(
    policy: &Policy,
    talks: &[Talk<'_>],
    kept: &[usize],
    barred: &[TestCase],
    refused: &mut BTreeSet<usize>,
) -> Wanted {
    let mut links: BTreeMap<Link, Vec<&Talk<'_>>> = BTreeMap::new();
    let of = || kept.iter().filter_map(|n| Some((*n, talks.get(*n)?)));
    for (_, talk) in of() {
        if let Some(link) = talk.link() {
            links.entry(link).or_default().push(talk);
        }
    }
    let mut wanted = Wanted::new();
    for (n, talk) in of().filter(|(_, talk)| talk.is_needed()) {
        let Some(spec) = talk.spec else { continue };
        for pair in pairs(policy, talk, &links) {
            if barred.iter().any(|case| is_barred(policy, case, &pair, spec)) {
                refused.insert(n);
            } else {
                wanted.entry(pair).or_default().entry(spec).or_default();
            }
        }
    }
    // What one end allows speaks for the rule that the other end needs.
    for (n, talk) in of().filter(|(n, _)| !refused.contains(n)) {
        let Some(spec) = talk.spec else { continue };
        for pair in pairs(policy, talk, &links) {
            if let Some(talks) = wanted.get_mut(&pair).and_then(|specs| specs.get_mut(&spec)) {
                talks.insert(n);
            }
        }
    }
    wanted.retain(|_, specs| {
        specs.retain(|_, talks| !talks.is_empty());
        !specs.is_empty()
    });
    wanted
}

/// The rules that would allow a talk at its own end, and at the other end the same traffic if that was recorded: a
/// workload is seen by its own host only, so each end says what it is itself.
fn pairs(policy: &Policy, talk: &Talk<'_>, links: &BTreeMap<Link, Vec<&Talk<'_>>>) -> BTreeSet<Pair> {
    let Some(ends) = talk.ends() else { return BTreeSet::new() };
    let own_zone = policy.zone_of(&ends.subject);
    if talk.is_about_sockets() {
        return [(ends.subject.to_string(), own_zone.to_owned())].into();
    }
    let seen_alike = |other: &&&Talk<'_>| {
        other.of.direction != talk.of.direction
            && other.ends().is_some_and(|others| {
                policy.zone_of(&others.subject) == &*ends.peer && &*others.peer == own_zone
            })
    };
    let same = talk.link().and_then(|link| links.get(&link));
    let mut others: BTreeSet<String> = same
        .into_iter()
        .flatten()
        .filter(seen_alike)
        .filter_map(|other| other.ends().map(|ends| ends.subject.to_string()))
        .collect();
    if others.is_empty() {
        others.insert(ends.peer.to_string());
    }
    let subject = || ends.subject.to_string();
    let pair = |other: String| match talk.of.direction {
        Direction::Outbound => (subject(), other),
        Direction::Inbound => (other, subject()),
    };
    let mut pairs: BTreeSet<Pair> = others.into_iter().map(pair).collect();
    // A server's socket is decided when it is made, too: there must be a rule from it that names the protocol.
    if talk.of.direction == Direction::Inbound
        && talk.spec.is_some_and(|spec| matches!(spec.protocol, protocol::SCTP | protocol::UDPLITE))
    {
        pairs.insert((ends.subject.to_string(), own_zone.to_owned()));
    }
    pairs
}

/// Whether a rule for a pair would help to allow, at either end, what a test says must be denied.
fn is_barred(policy: &Policy, case: &TestCase, (from, to): &Pair, spec: PortSpec) -> bool {
    let TestCase { port, .. } = case;
    if port.protocol != spec.protocol || port.last < spec.first || spec.last < port.first {
        return false;
    }
    let is = |name: &str, end: &str| Local::of(policy, name).is_some_and(|local| local.in_rule(end));
    let zones = |a: &str, b: &str| policy.zone_of(a) == policy.zone_of(b);
    (is(&case.from, from) && zones(to, &case.to)) || (is(&case.to, to) && zones(from, &case.from))
}

/// Makes rules of what is wanted, and the services that they name.
pub(super) fn propose(
    policy: &Policy,
    talks: &[Talk<'_>],
    wanted: &Wanted,
    watch: &Watch<'_>,
    options: &Options,
) -> (Vec<ProposedService>, Vec<ProposedRule>) {
    let mut services = Services::of(policy, options);
    let mut drafts = Vec::new();
    for (pair, specs) in wanted {
        for (key, draft) in services.group(specs) {
            drafts.push((pair, key, draft));
        }
    }
    // A rule of a workload before that of its zone: where both match, the first one decides, and so both do.
    let is_zone = |name: &String| !policy.workloads.contains_key(name);
    drafts.sort_by_key(|((from, to), key, _)| {
        (u8::from(is_zone(from)) + u8::from(is_zone(to)), from.clone(), to.clone(), key.clone())
    });
    let mut ids = Names::default();
    ids.take(policy.rules.iter().map(|rule| &rule.id));
    let mut rules = Vec::new();
    for ((from, to), key, draft) in drafts {
        let of: Vec<&Talk<'_>> = draft.talks.iter().filter_map(|n| talks.get(*n)).collect();
        let Some(evidence) = Evidence::of(&of, watch) else { continue };
        let owner = policy.workloads.get(to).and_then(|w| w.owner.as_ref());
        let owner = owner.or_else(|| policy.zones.get(policy.zone_of(to)).and_then(|z| z.owner.as_ref()));
        rules.push(ProposedRule {
            id: ids.free(&format!("{from}-to-{to}-{key}")),
            from: from.clone(),
            to: to.clone(),
            services: draft.services,
            seen: draft.seen.into_iter().collect(),
            note: draft.note,
            owner_of_to: owner.filter(|owner| !owner.starts_with(TODO)).cloned(),
            evidence,
        });
    }
    (services.proposed.into_values().collect(), rules)
}

/// One rule in the making.
#[derive(Default)]
struct Draft {
    services: Vec<String>,
    seen: BTreeSet<PortSpec>,
    talks: BTreeSet<usize>,
    note: Option<String>,
}

/// What ports are called.
struct Services<'a> {
    policy: &'a Policy,
    options: &'a Options,
    names: Names,
    proposed: BTreeMap<PortSpec, ProposedService>,
}

impl<'a> Services<'a> {
    fn of(policy: &'a Policy, options: &'a Options) -> Self {
        let mut names = Names::default();
        names.take(policy.services.keys());
        Self { policy, options, names, proposed: BTreeMap::new() }
    }

    /// The ports of one pair by service.
    fn group(&mut self, specs: &BTreeMap<PortSpec, BTreeSet<usize>>) -> BTreeMap<String, Draft> {
        let mut drafts: BTreeMap<String, Draft> = BTreeMap::new();
        for (spec, talks) in specs {
            let defined = name_of(self.policy, spec.protocol, spec.first);
            let key = defined.map_or_else(|| self.proposed(spec), str::to_owned);
            let draft = drafts.entry(key).or_default();
            draft.seen.insert(*spec);
            draft.talks.extend(talks);
        }
        for (key, draft) in &mut drafts {
            let defined = self.policy.services.get(key);
            let whole = defined.is_some_and(|service| service.ports.iter().all(|p| is_seen(specs, p)));
            draft.services = match defined {
                Some(_) if whole || self.options.widen_ports => vec![key.clone()],
                None if key != OTHER => vec![key.clone()],
                _ => joined(&draft.seen, if self.options.widen_ports { GAP } else { 0 }),
            };
            if let Some(service) = defined.filter(|_| !whole) {
                let all: Vec<String> = service.ports.iter().map(ToString::to_string).collect();
                let what = if self.options.widen_ports { "widened to" } else { "part of" };
                draft.note = Some(format!("{what} `{key}`, which is {}", all.join(", ")));
            }
        }
        drafts
    }

    /// The service for ports that have no name yet, or [`OTHER`].
    fn proposed(&mut self, spec: &PortSpec) -> String {
        if let Some(service) = self.proposed.get(spec) {
            return service.name.clone();
        }
        let Some(name) = wellknown::name(spec) else { return OTHER.to_owned() };
        let taken = self.policy.services.contains_key(name);
        let wanted = if taken { format!("{name}-{}", of_address(spec)) } else { name.to_owned() };
        let name = self.names.free(&wanted);
        self.proposed.insert(*spec, ProposedService { name: name.clone(), ports: vec![*spec] });
        name
    }
}

/// Whether every port of a range was seen.
fn is_seen(specs: &BTreeMap<PortSpec, BTreeSet<usize>>, range: &PortSpec) -> bool {
    specs.contains_key(range)
        || (range.len() <= specs.len()
            && (range.first..=range.last).all(|p| specs.keys().any(|s| s.contains(range.protocol, p))))
}

/// Ports as a file writes them. Those next to each other, or with gaps of up to `gap` ports, are one range.
fn joined(specs: &BTreeSet<PortSpec>, gap: u16) -> Vec<String> {
    let mut ranges: Vec<PortSpec> = Vec::new();
    for spec in specs {
        let ports = matches!(spec.protocol, protocol::TCP | protocol::UDP);
        match ranges.last_mut().filter(|last| ports && last.protocol == spec.protocol) {
            Some(last) if spec.first - last.last <= gap.saturating_add(1) => last.last = spec.last,
            _ => ranges.push(*spec),
        }
    }
    ranges.iter().map(ToString::to_string).collect()
}
