//! The name, type, help and labels of every metric, and the samples of one scrape.

use std::collections::HashMap;

use prometheus::core::Desc;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

struct Description {
    name: &'static str,
    kind: MetricType,
    labels: &'static [&'static str],
    help: &'static str,
}

const FLOW_LABELS: &[&str] = &["direction", "src_zone", "dst_zone", "protocol", "service", "verdict"];

macro_rules! descriptions {
    ($($name:literal $kind:ident $labels:expr, $help:literal;)*) => {
        const DESCRIPTIONS: &[Description] =
            &[$(Description { name: $name, kind: MetricType::$kind, labels: $labels, help: $help }),*];
    };
}
descriptions! {
    "segd_flows_total" COUNTER FLOW_LABELS, "Flows that began, and attempts that were denied";
    "segd_packets_total" COUNTER FLOW_LABELS, "IP packets in both directions";
    "segd_bytes_total" COUNTER FLOW_LABELS, "IP bytes in both directions";
    "segd_rule_hits_total" COUNTER &["rule"], "Flows that a rule allowed";
    "segd_rule_last_hit_timestamp_seconds" GAUGE &["rule"], "When a rule last allowed a flow to begin";
    "segd_rule_expiry_timestamp_seconds" GAUGE &["rule", "owner"], "From when on a rule no longer matches";
    "segd_enforcing" GAUGE &["subject", "direction", "service"], "1 where what no rule allows is denied, 0 where it is only recorded";
    "segd_policy_generation" GAUGE &[], "The policy generation in force; 0: none";
    "segd_policy_info" GAUGE &["hash"], "The policy in force; always 1";
    "segd_policy_apply_seconds" GAUGE &[], "How long the last load of a policy took";
    "segd_policy_held" GAUGE &[], "1 if the zone files on disk are not in force because somebody turned them away";
    "segd_confirm_deadline_timestamp_seconds" GAUGE &[], "When the former policy returns unless the change is confirmed; absent: nothing waits";
    "segd_guard_active" GAUGE &[], "1 while a guard watches the last change";
    "segd_guard_rollbacks_total" COUNTER &[], "Changes that a guard undid";
    "segd_exception_expiry_timestamp_seconds" GAUGE &["exception", "owner"], "From when on an exception no longer matches";
    "segd_tamper_events_total" COUNTER &["kind"], "Times that somebody took away or changed what segd has in the kernel";
    "segd_selfcheck_ok" GAUGE &["check"], "1 if the kernel holds what the agent put there (hooks, generation), and can be read (counters, events)";
    "segd_lost_events_total" COUNTER &["stage"], "Flow events that did not reach a stage's end; counters are exact all the same";
    "segd_denials_joined_total" COUNTER &[], "Denials that were kept for a later record of the same flow";
    "segd_denials_told_total" COUNTER &[], "Denials among segd_denials_joined_total that a record has told of since";
    "segd_map_entries" GAUGE &["map"], "Entries in a kernel table";
    "segd_map_capacity" GAUGE &["map"], "Entries that a kernel table can hold";
    "segd_attached_programs" GAUGE &["hook"], "Programs of segd that are attached to a hook";
    "segd_sink_up" GAUGE &["sink"], "1 if a sink's last write succeeded";
    "segd_history_up" GAUGE &[], "1 if the last write of the flow history succeeded";
    "segd_history_bytes" GAUGE &[], "Size of the flow history on disk";
    "segd_history_max_bytes" GAUGE &[], "Size that the flow history may have";
    "segd_history_rows" GAUGE &[], "Summaries in the flow history";
    "segd_history_oldest_timestamp_seconds" GAUGE &[], "When the first hour in the flow history began; absent: it is empty";
    "segd_scrape_errors_total" COUNTER &[], "Scrapes for which the kernel could not be read";
    "segd_build_info" GAUGE &["version"], "The running version; always 1";
}

/// For registering.
pub(super) fn descriptions() -> Result<Vec<Desc>, prometheus::Error> {
    DESCRIPTIONS
        .iter()
        .map(|d| {
            let labels = d.labels.iter().map(|l| (*l).to_owned()).collect();
            Desc::new(d.name.to_owned(), d.help.to_owned(), labels, HashMap::new())
        })
        .collect()
}

/// The samples of one scrape.
pub(super) struct Families(HashMap<&'static str, (&'static Description, Vec<Metric>)>);

impl Families {
    pub(super) fn new() -> Self {
        Self(DESCRIPTIONS.iter().map(|d| (d.name, (d, Vec::new()))).collect())
    }

    /// Adds a sample; `values` in the order of the metric's labels.
    pub(super) fn add(&mut self, name: &str, values: &[&str], sample: f64) {
        let Some((description, metrics)) = self.0.get_mut(name) else {
            debug_assert!(false, "{name} is not described");
            return;
        };
        debug_assert_eq!(description.labels.len(), values.len(), "labels of {name}");
        let labels = description.labels.iter().zip(values).map(|(name, value)| {
            let mut label = LabelPair::default();
            label.set_name((*name).to_owned());
            label.set_value((*value).to_owned());
            label
        });
        let mut metric = Metric::from_label(labels.collect());
        if description.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(sample);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(sample);
            metric.set_gauge(gauge);
        }
        metrics.push(metric);
    }

    pub(super) fn finish(self) -> Vec<MetricFamily> {
        self.0
            .into_values()
            .map(|(description, metrics)| {
                let mut family = MetricFamily::default();
                family.set_name(description.name.to_owned());
                family.set_help(description.help.to_owned());
                family.set_field_type(description.kind);
                family.set_metric(metrics);
                family
            })
            .collect()
    }
}
