//! What would let a flow pass that no rule allowed.

use std::fmt;

use segd_common::traffic::{Direction, Reason, Verdict};
use serde::Serialize;

use super::filter::Facts;
use super::named;
use super::record::FlowRecord;
use super::text::printable;
use crate::history::Summary;
use crate::policy::ids::OTHER_SERVICE;
use crate::policy::ports::PortSpec;

/// What has to change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Remedy {
    /// A rule.
    #[serde(rename = "needed")]
    Rule(Needed),
    /// Something that no new rule can help with, or not alone: what to do, as a sentence without its full stop; safe to print.
    #[serde(rename = "help")]
    Help(String),
}

/// The longest id that zone files accept.
const LONGEST_ID: usize = 63;

/// The narrowest rule that would allow a flow.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Needed {
    /// The zone or workload that begins it.
    pub from: String,
    /// The zone or workload that it goes to.
    pub to: String,
    /// The service that the policy has for its port, else the port itself.
    pub services: Vec<String>,
    /// Whose decision it was: `outbound`, the client's host, or `inbound`, the server's. Where both hosts enforce, both
    /// need the rule.
    #[serde(with = "named")]
    pub side: Direction,
}

impl Remedy {
    /// For a record; `None` if the flow was allowed.
    #[must_use]
    pub fn of_record(record: &FlowRecord) -> Option<Self> {
        Self::of(&Facts::of_record(record))
    }

    /// For the flows of a summary; `None` if they were allowed.
    #[must_use]
    pub fn of_summary(summary: &Summary) -> Option<Self> {
        Self::of(&Facts::of_summary(summary))
    }

    fn of(flow: &Facts<'_>) -> Option<Self> {
        if flow.verdict == Verdict::Allowed {
            return None;
        }
        let help = match flow.reason {
            Reason::Expired => {
                let rule = flow.rule.map_or("the rule that allowed it".to_owned(), |id| format!("rule `{id}`"));
                format!("{rule} has expired: give it a later `expires`")
            }
            Reason::WorkloadExpired => {
                let workload = flow.workload.unwrap_or("the workload");
                format!("workload `{workload}` has expired, and no rule counts until it has a later `expires`")
            }
            Reason::SocketType => {
                let from = flow.local().zone;
                let service = flow.protocol.map_or("raw".to_owned(), |number| PortSpec::whole(number).to_string());
                format!("a rule from `{from}` to whom it talks to, for services = [\"{service}\"]")
            }
            Reason::Fragment => {
                "no rule can match a fragment, which has no port: make the sender's packets fit the path's MTU".to_owned()
            }
            Reason::Malformed => {
                "no rule can match a packet that cannot be parsed: look at what its sender does".to_owned()
            }
            Reason::NoMemory => "the kernel had no memory for it: give the host more".to_owned(),
            _ => match flow.service_or_port() {
                Some(service) => {
                    return Some(Self::Rule(Needed {
                        from: flow.src.zone.to_owned(),
                        to: flow.dst.zone.to_owned(),
                        services: vec![service],
                        side: flow.direction,
                    }));
                }
                None => "these are flows to several ports: look for them one by one in a log of each flow".to_owned(),
            },
        };
        Some(Self::Help(printable(&help)))
    }
}

impl Facts<'_> {
    fn service_or_port(&self) -> Option<String> {
        if self.service != OTHER_SERVICE {
            return Some(self.service.to_owned());
        }
        let protocol = self.protocol?;
        let has_ports = PortSpec::whole(protocol).to_string().ends_with("/*");
        let spec = match self.icmp {
            Some((kind, _)) => {
                let first = u16::from(kind) << 8;
                PortSpec { protocol, first, last: first | 0xff }
            }
            None if !has_ports => PortSpec::whole(protocol),
            None if self.port == 0 => return None,
            None => PortSpec { protocol, first: self.port, last: self.port },
        };
        Some(spec.to_string())
    }
}

impl Needed {
    fn lines(&self) -> [String; 3] {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let services: Vec<_> = self.services.iter().map(|service| quoted(service)).collect();
        [
            format!("from = {}", quoted(&self.from)),
            format!("to = {}", quoted(&self.to)),
            format!("services = [{}]", services.join(", ")),
        ]
    }

    /// As in a zone file, with an id made of what it allows.
    #[must_use]
    pub fn to_toml(&self) -> String {
        format!("[[allow]]\nid = \"{}\"\n{}", self.id(), self.lines().join("\n"))
    }

    fn id(&self) -> String {
        let text = format!("{}-to-{}-{}", self.from, self.to, self.services.join("-")).to_lowercase();
        let plain = |c: char| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '-' };
        text.chars().map(plain).take(LONGEST_ID).collect()
    }
}

/// As in a zone file, but on one line.
impl fmt::Display for Needed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[[allow]] {}", self.lines().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use segd_common::event::Kind;

    use super::*;
    use crate::history::Peer;
    use crate::telemetry::record::tests::{denied, event, record};

    fn refused(change: impl FnOnce(&mut FlowRecord)) -> FlowRecord {
        let mut record = record(&denied());
        change(&mut record);
        record
    }

    fn text(remedy: Option<Remedy>) -> String {
        match remedy {
            None => "nothing".to_owned(),
            Some(Remedy::Rule(needed)) => format!("{needed} ({})", needed.side),
            Some(Remedy::Help(help)) => help,
        }
    }

    #[test]
    fn the_narrowest_rule_or_what_else_helps() {
        let other = |record: &mut FlowRecord| record.service = "other".into();
        for (record, want) in [
            (record(&event(Kind::Open)), "nothing"),
            (
                refused(|_| ()),
                r#"[[allow]] from = "fulfillment", to = "orders", services = ["postgres"] (outbound)"#,
            ),
            (
                refused(|r| {
                    other(r);
                    r.verdict = Verdict::Audited;
                    r.direction = Direction::Inbound;
                    (r.src.zone, r.subject) = ("unknown".into(), "orders".into());
                }),
                r#"[[allow]] from = "unknown", to = "orders", services = ["tcp/5432"] (inbound)"#,
            ),
            (
                refused(|r| {
                    other(r);
                    r.protocol = "icmp".into();
                    (r.dst.port, r.icmp_type, r.icmp_code) = (0, Some(8), Some(0));
                }),
                r#"[[allow]] from = "fulfillment", to = "orders", services = ["icmp/echo"] (outbound)"#,
            ),
            (
                refused(|r| {
                    other(r);
                    r.protocol = "47".into();
                    r.dst.port = 0;
                }),
                r#"[[allow]] from = "fulfillment", to = "orders", services = ["proto/47"] (outbound)"#,
            ),
            (
                refused(|r| (r.reason, r.rule) = (Reason::Expired, Some("wms-to-orders-db".into()))),
                "rule `wms-to-orders-db` has expired: give it a later `expires`",
            ),
            (
                refused(|r| (r.reason, r.workload) = (Reason::WorkloadExpired, Some("bot".into()))),
                "workload `bot` has expired, and no rule counts until it has a later `expires`",
            ),
            (
                refused(|r| (r.reason, r.protocol) = (Reason::SocketType, "sctp".into())),
                "a rule from `fulfillment` to whom it talks to, for services = [\"sctp\"]",
            ),
            (
                refused(|r| r.reason = Reason::Fragment),
                "no rule can match a fragment, which has no port: make the sender's packets fit the path's MTU",
            ),
        ] {
            assert_eq!(text(Remedy::of_record(&record)), want);
            assert_eq!(text(Remedy::of_summary(&Summary::of(&record))), want);
        }
    }

    #[test]
    fn flows_to_several_ports_need_no_single_rule() {
        let mut several = Summary::of(&record(&denied()));
        (several.of.peer, several.of.port, several.of.service) = (Peer::Others(9), 0, "other".into());
        let want = "these are flows to several ports: look for them one by one in a log of each flow";
        assert_eq!(text(Remedy::of_summary(&several)), want);
    }

    #[test]
    fn a_rule_is_a_zone_files() {
        let record = refused(|r| r.dst.zone = "or\"ders\u{1b}".into());
        let Some(Remedy::Rule(needed)) = Remedy::of_record(&record) else { panic!() };
        assert_eq!(
            needed.to_toml(),
            "[[allow]]\nid = \"fulfillment-to-or-ders--postgres\"\nfrom = \"fulfillment\"\nto = \"or\\\"ders\\u001B\"\nservices = [\"postgres\"]"
        );
        let json = serde_json::to_string(&Remedy::Rule(needed)).unwrap();
        assert_eq!(
            json,
            r#"{"needed":{"from":"fulfillment","to":"or\"ders\u001b","services":["postgres"],"side":"outbound"}}"#
        );
    }
}
