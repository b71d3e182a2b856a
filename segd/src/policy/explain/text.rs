//! An explanation for people.

use std::fmt::Write as _;

use super::{End, Explanation, RuleShown, WorkloadShown};
use crate::policy::builtin::is_built_in;

impl Explanation {
    /// For people.
    #[must_use]
    pub fn render(&self) -> String {
        let Self { from, to, port, verdict, .. } = self;
        let mut out = format!("{} -> {}  {port}: {verdict}\n\n", from.name(), to.name());
        for (name, party) in [("from", from), ("to", to)] {
            let by = match (party.prefix.as_ref().or(party.name.as_ref()), &party.place) {
                (Some(name), Some(place)) if !party.resolved => {
                    format!("by {name} at {place}, for which no address is known here")
                }
                (Some(by), Some(place)) => format!("by {by} at {place}"),
                (Some(by), None) => format!("by {by}, built in"),
                (None, _) => "no zone claims it".to_owned(),
            };
            let _ = writeln!(out, "{name:<5} {}  zone {}, {by}", party.address, party.zone);
            if let Some(workload) = &party.workload {
                let _ = writeln!(out, "      {}", workload.head());
            }
        }
        for (direction, end, party) in [("outbound", &self.outbound, from), ("inbound", &self.inbound, to)] {
            out.push('\n');
            match end {
                Some(end) => end.render(&mut out),
                None if is_built_in(&party.zone) => {
                    let _ = writeln!(out, "{direction}: no host of segd is in `{}`", party.zone);
                }
                None => {
                    let _ = writeln!(out, "{direction}: a raw socket is decided where it is made");
                }
            }
        }
        out
    }
}

impl End {
    fn render(&self, out: &mut String) {
        let Self { direction, zone, workload, verdict, reason, service, .. } = self;
        let _ = match workload {
            Some(name) => writeln!(out, "{direction}, at workload {name} of {zone}: {verdict} ({reason})"),
            None => writeln!(out, "{direction}, at a host of {zone}: {verdict} ({reason})"),
        };
        let mut line = |key: &str, value: &str| {
            let _ = writeln!(out, "  {key:<8} {value}");
        };
        line("service", service);
        if let Some(rule) = &self.rule {
            line("rule", &rule.head());
            line("owner", rule.owner.as_deref().unwrap_or("none"));
            line("reason", rule.reason.as_deref().unwrap_or("none"));
            if let Some(expires) = rule.expires {
                line("expires", &expires.to_string());
            }
        }
        match &self.mode_from {
            Some(from) => line("mode", &format!("{}, by {from}", self.mode)),
            None => line("mode", &format!("{}, by default", self.mode)),
        }
        for rollout in &self.passed_over {
            line("canary", rollout);
        }
        if let Some(zone) = &self.seen_as {
            let note = "the other side is seen as its zone here: what is allowed it, all of";
            line("note", &format!("{note} {zone} is allowed"));
        }
    }
}

impl WorkloadShown {
    fn head(&self) -> String {
        let Self { name, selector, inherit, expires, place } = self;
        let rules = if *inherit {
            "has the rules of its zone too"
        } else {
            "has only the rules that name it (inherit = false)"
        };
        let until = expires.map_or(String::new(), |end| format!("; until {end}"));
        format!("workload {name} at {place}: {selector}; {rules}{until}")
    }
}

impl RuleShown {
    fn head(&self) -> String {
        match (&self.place, self.created, self.created_by) {
            (Some(place), ..) => format!("{} at {place}", self.id),
            (None, Some(created), Some(uid)) => format!("{}, made at {created} by uid {uid}", self.id),
            _ => self.id.clone(),
        }
    }
}
