use std::sync::atomic::AtomicBool;

use segd_common::id::{RuleId, ServiceId, SubjectId, ZoneId};
use segd_common::traffic::Verdict;

use super::*;
use crate::telemetry::process::NoProcesses;
use crate::telemetry::record::tests::context;
use crate::telemetry::sink::{Options, Output, Pending, Sink, Written};

/// A kernel with a few counters that can be made unreadable.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) broken: AtomicBool,
}

impl Source for Fake {
    fn snapshot(&self) -> Result<Snapshot, SourceError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(SourceError("no such map".into()));
        }
        Ok(snapshot())
    }
}

fn key(rule: u32, direction: Direction, verdict: Verdict) -> CounterKey {
    CounterKey {
        rule: RuleId(rule),
        subject: SubjectId(16),
        zone: ZoneId(17),
        service: ServiceId(1),
        protocol: 6,
        direction: direction as u8,
        verdict: verdict as u8,
        pad: [0; 3],
    }
}

fn snapshot() -> Snapshot {
    use Direction::{Inbound, Outbound};
    use Verdict::{Allowed, Denied};
    let counter = |flows, last| Counter { flows, packets: flows * 10, bytes: flows * 1000, last };
    Snapshot {
        counters: vec![
            (key(1, Outbound, Allowed), counter(3, 0)),
            (key(2, Outbound, Allowed), counter(4, 1)),
            (key(0, Outbound, Denied), counter(2, 5)),
            (
                CounterKey { protocol: 47, service: ServiceId::OTHER, ..key(0, Inbound, Denied) },
                counter(1, 5),
            ),
        ],
        overflow: Counter { flows: 1, packets: 1, bytes: 40, last: 9 },
        losses: [1, 2, 3, 40, 20, 10, 4],
        maps: vec![
            MapUse { name: "FLOWS".into(), entries: Some(12), capacity: 32_768 },
            MapUse { name: "DENIALS".into(), entries: None, capacity: 8192 },
        ],
        hooks: vec![("cgroup_skb/egress".into(), 1)],
        generation: 3,
        policy_hash: Some("b0a7".into()),
        apply_seconds: Some(0.0125),
        enforcing: vec![
            ("fulfillment".into(), Outbound, "postgres".into(), true),
            ("fulfillment".into(), Inbound, "other".into(), false),
        ],
        rules: vec![
            RuleInfo {
                id: "wms-to-orders-db".into(),
                owner: "o\"x".into(),
                expires: Some("2027-06-30T00:00:00Z".parse().unwrap()),
            },
            RuleInfo { id: "never-used".into(), owner: String::new(), expires: None },
        ],
        rollout: RolloutInfo {
            confirm_deadline: Some("2027-06-30T00:00:00Z".parse().unwrap()),
            guarded: true,
            guard_rollbacks: 2,
            held: false,
            exceptions: vec![RuleInfo {
                id: "20270629-120000".into(),
                owner: "on-call".into(),
                expires: Some("2027-06-30T00:00:00Z".parse().unwrap()),
            }],
            tampers: vec![("hooks", 1)],
        },
        selfchecks: vec![("hooks", true), ("generation", false)],
    }
}

/// Takes everything.
struct Nowhere;

impl Output for Nowhere {
    fn write(&mut self, pending: &Pending) -> Written {
        Written::all(pending)
    }
}

/// Its metrics, and the switch that breaks the kernel.
pub(crate) fn metrics() -> (Metrics, Arc<Fake>, Arc<Collector>) {
    let fake = Arc::new(Fake::default());
    let sinks = vec![Sink::start(Options::named("nowhere"), Nowhere).unwrap()];
    let collector = Arc::new(Collector::new(context(), Box::new(NoProcesses), sinks));
    (Metrics::new(Arc::clone(&fake) as _, Arc::clone(&collector)).unwrap(), fake, collector)
}

fn samples(page: &[u8]) -> String {
    let page = String::from_utf8(page.to_vec()).unwrap();
    let lines = page.lines().filter(|line| !line.starts_with("# "));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn page() {
    let (metrics, ..) = metrics();
    let page = samples(&metrics.render().unwrap());
    // The wall time of a boot-time instant changes from run to run.
    let (last_hit, fixed): (Vec<_>, Vec<_>) = page.lines().partition(|line| line.contains("last_hit"));
    assert_eq!(last_hit.len(), 1, "{last_hit:?}");
    assert!(last_hit[0].starts_with("segd_rule_last_hit_timestamp_seconds{rule=\"?2\"} "));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        fixed.join("\n"),
        include_str!("page.txt").trim_end().replace("VERSION", version),
        "labels and sums as in page.txt"
    );
}

#[test]
fn every_metric_has_type_and_help() {
    let page = String::from_utf8(metrics().0.render().unwrap()).unwrap();
    assert!(page.contains("# TYPE segd_flows_total counter\n"));
    assert!(page.contains("# TYPE segd_enforcing gauge\n"));
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        assert!(page.contains(&format!("# HELP {name} ")), "{name}");
        assert_eq!(
            name.ends_with("_total"),
            page.contains(&format!("# TYPE {name} counter\n")),
            "only counters end with _total: {name}"
        );
    }
}

#[test]
fn an_unreadable_kernel_leaves_what_user_space_knows() {
    let (metrics, fake, _) = metrics();
    fake.broken.store(true, Ordering::Relaxed);
    let page = samples(&metrics.render().unwrap());
    assert!(!page.contains("segd_flows_total") && !page.contains("segd_policy_generation"), "{page}");
    assert!(page.contains("segd_scrape_errors_total 1\n"), "{page}");
    assert!(page.contains("segd_selfcheck_ok{check=\"counters\"} 0\n"), "{page}");
    assert!(page.contains("segd_lost_events_total{stage=\"stream\"} 0\n"), "{page}");
    fake.broken.store(false, Ordering::Relaxed);
    assert!(samples(&metrics.render().unwrap()).contains("segd_policy_generation 3\n"));
}
