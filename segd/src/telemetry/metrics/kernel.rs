//! From the kernel's numbers to metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use segd_common::counter::{Counter, CounterKey, Loss};
use segd_common::traffic::{Direction, Verdict};

use super::family::Families;
use super::{LOSS_COUNT, RolloutInfo, Snapshot, flag};
use crate::policy::ids::Registry;
use crate::telemetry::clock::BootClock;
use crate::telemetry::protocol;

/// The value of every label of what found no counter of its own.
const OVERFLOW: &str = "overflow";

/// The labels of a flow's metrics, in their order.
type FlowLabels = [String; 6];

/// Adds every metric that comes from the kernel.
pub(super) fn fill(families: &mut Families, snapshot: &Snapshot, registry: &Registry, clock: BootClock) {
    flows(families, snapshot, registry);
    rules(families, snapshot, registry, clock);
    losses(families, &snapshot.losses);
    state(families, snapshot);
    rollout(families, &snapshot.rollout);
    for (check, ok) in &snapshot.selfchecks {
        families.add("segd_selfcheck_ok", &[check], flag(*ok));
    }
}

fn flows(families: &mut Families, snapshot: &Snapshot, registry: &Registry) {
    let mut sums: BTreeMap<FlowLabels, Counter> = BTreeMap::new();
    for (key, counter) in &snapshot.counters {
        add(sums.entry(flow_labels(key, registry)).or_default(), counter);
    }
    if snapshot.overflow != Counter::default() {
        add(sums.entry(std::array::from_fn(|_| OVERFLOW.to_owned())).or_default(), &snapshot.overflow);
    }
    for (labels, sum) in &sums {
        let labels = labels.each_ref().map(String::as_str);
        families.add("segd_flows_total", &labels, number(sum.flows));
        families.add("segd_packets_total", &labels, number(sum.packets));
        families.add("segd_bytes_total", &labels, number(sum.bytes));
    }
}

fn flow_labels(key: &CounterKey, registry: &Registry) -> FlowLabels {
    let local = registry.subject_name(key.subject);
    let peer = registry.zone_name(key.zone);
    let direction = Direction::from_byte(key.direction);
    let (src, dst) = if direction == Some(Direction::Inbound) { (peer, local) } else { (local, peer) };
    [
        word(direction.map(Direction::name), key.direction),
        src.to_string(),
        dst.to_string(),
        protocol::name(key.protocol).into_owned(),
        registry.service_name(key.service).to_string(),
        word(Verdict::from_byte(key.verdict).map(Verdict::name), key.verdict),
    ]
}

fn word(known: Option<&'static str>, byte: u8) -> String {
    known.map_or_else(|| format!("?{byte}"), str::to_owned)
}

fn add(sum: &mut Counter, counter: &Counter) {
    let Counter { flows, packets, bytes, last } = *counter;
    sum.flows += flows;
    sum.packets += packets;
    sum.bytes += bytes;
    sum.last = sum.last.max(last);
}

/// What each rule allowed.
pub(crate) fn rule_hits<'a>(
    counters: impl Iterator<Item = (&'a CounterKey, &'a Counter)>,
    registry: &Registry,
) -> BTreeMap<Arc<str>, Counter> {
    let mut hits: BTreeMap<Arc<str>, Counter> = BTreeMap::new();
    for (key, counter) in counters.filter(|(key, _)| key.verdict == Verdict::Allowed as u8) {
        if let Some(id) = registry.rule_name(key.rule) {
            add(hits.entry(id).or_default(), counter);
        }
    }
    hits
}

/// A rule of the policy without a hit is shown with 0; a rule of an older one stays as long as its counters.
fn rules(families: &mut Families, snapshot: &Snapshot, registry: &Registry, clock: BootClock) {
    let mut hits = rule_hits(snapshot.counters.iter().map(|(key, counter)| (key, counter)), registry);
    for rule in &snapshot.rules {
        hits.entry(rule.id.as_str().into()).or_default();
    }
    for (rule, counter) in &hits {
        families.add("segd_rule_hits_total", &[rule], number(counter.flows));
        if counter.last != 0 {
            let last = seconds(clock.wall(counter.last));
            families.add("segd_rule_last_hit_timestamp_seconds", &[rule], last);
        }
    }
    for rule in &snapshot.rules {
        if let Some(expires) = rule.expires {
            families.add("segd_rule_expiry_timestamp_seconds", &[&rule.id, &rule.owner], seconds(expires));
        }
    }
}

fn losses(families: &mut Families, losses: &[u64; LOSS_COUNT]) {
    let of = |loss: Loss| number(losses[loss as usize]);
    for (stage, loss) in Loss::STAGES {
        families.add("segd_lost_events_total", &[stage], of(loss));
    }
    families.add("segd_denials_joined_total", &[], of(Loss::Joined));
    families.add("segd_denials_told_total", &[], of(Loss::Told) + of(Loss::ToldByAgent));
}

fn state(families: &mut Families, snapshot: &Snapshot) {
    for (subject, direction, service, enforcing) in &snapshot.enforcing {
        let labels = [subject, direction.name(), service];
        families.add("segd_enforcing", &labels, flag(*enforcing));
    }
    families.add("segd_policy_generation", &[], f64::from(snapshot.generation));
    if let Some(hash) = &snapshot.policy_hash {
        families.add("segd_policy_info", &[hash], 1.0);
    }
    if let Some(seconds) = snapshot.apply_seconds {
        families.add("segd_policy_apply_seconds", &[], seconds);
    }
    for map in &snapshot.maps {
        families.add("segd_map_capacity", &[&map.name], number(map.capacity));
        if let Some(entries) = map.entries {
            families.add("segd_map_entries", &[&map.name], number(entries));
        }
    }
    for (hook, attached) in &snapshot.hooks {
        families.add("segd_attached_programs", &[hook], number(*attached));
    }
}

fn rollout(families: &mut Families, rollout: &RolloutInfo) {
    if let Some(deadline) = rollout.confirm_deadline {
        families.add("segd_confirm_deadline_timestamp_seconds", &[], seconds(deadline));
    }
    families.add("segd_policy_held", &[], flag(rollout.held));
    families.add("segd_guard_active", &[], flag(rollout.guarded));
    families.add("segd_guard_rollbacks_total", &[], number(rollout.guard_rollbacks));
    for exception in &rollout.exceptions {
        let end = exception.expires.map_or(0.0, seconds);
        families.add("segd_exception_expiry_timestamp_seconds", &[&exception.id, &exception.owner], end);
    }
    for (kind, times) in &rollout.tampers {
        families.add("segd_tamper_events_total", &[kind], number(*times));
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53, which is all that Prometheus can hold")]
fn number(n: u64) -> f64 {
    n as f64
}

fn seconds(time: Timestamp) -> f64 {
    time.as_duration().as_secs_f64()
}
