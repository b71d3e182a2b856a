use std::borrow::Cow;
use std::sync::Arc;

use segd_common::traffic::{Direction, Reason, Verdict};

use super::*;
use crate::history::{Conversation, Peer};
use crate::policy::{Sources, load};
use crate::telemetry::record::InOut;

const ZONES: &str = r#"
[zone.orders]
cidrs = ["10.10.0.0/16"]
owner = "orders-team"
[zone.database]
cidrs = ["10.10.5.0/24"]
owner = "dba"
[zone.fulfillment]
cidrs = ["10.20.0.0/16", "2001:db8:20::/48"]
[service.postgres]
ports = ["tcp/5432"]
[service.edi]
ports = ["udp/4000-4010"]
[workload.bot]
zone = "fulfillment"
unit = "bot.service"
inherit = false
purpose = "moves stock"
owner = "robots"
expires = 2026-12-01
[[allow]]
id = "used"
from = "fulfillment"
to = "orders"
services = ["postgres", "tcp/9000", "edi"]
owner = "orders-team"
reason = "releases"
[[allow]]
id = "idle"
from = "fulfillment"
to = "database"
services = ["postgres"]
owner = "dba"
reason = "reports"
[[allow]]
id = "same"
from = "fulfillment"
to = "database"
services = ["postgres"]
expires = 2026-12-20
[[allow]]
id = "new"
from = "bot"
to = "database"
services = ["tcp/*"]
owner = "dba"
reason = "robots"
[[rollout]]
subject = "fulfillment"
direction = "outbound"
mode = "enforce"
"#;

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn summary(rule: Option<&str>, peer: Peer, port: (&'static str, u16), flows: u64) -> Summary {
    let none = InOut::NONE;
    Summary {
        of: Conversation {
            host: Arc::from("wms-1"),
            subject: Arc::from("fulfillment"),
            workload: None,
            process: None,
            unit: None,
            uid: None,
            direction: Direction::Outbound,
            local: Some([10, 20, 0, 7].into()),
            peer,
            peer_zone: Arc::from("orders"),
            protocol: Cow::Borrowed(port.0),
            port: port.1,
            icmp: None,
            service: Arc::from("other"),
            verdict: if rule.is_some() { Verdict::Allowed } else { Verdict::Denied },
            reason: if rule.is_some() { Reason::Rule } else { Reason::NoRule },
            rule: rule.map(Arc::from),
        },
        hour: time("2026-11-20T10:00:00Z"),
        flows,
        packets: none,
        bytes: none,
        first: time("2026-10-01T10:00:00Z"),
        last: time("2026-11-20T10:30:00Z"),
    }
}

fn observed() -> Vec<Summary> {
    let server = |n| Peer::Address([10, 10, 0, n].into());
    vec![
        summary(Some("used"), server(1), ("tcp", 5432), 10),
        summary(Some("used"), server(2), ("tcp", 5432), 5),
        summary(Some("used"), server(2), ("udp", 4001), 1),
        summary(None, Peer::Others(3000), ("tcp", 22), 4000),
    ]
}

fn reviewed(observed: &[Summary], known: &[(&str, &str, Option<&str>)]) -> Review {
    let now = time("2026-11-22T00:00:00Z");
    let policy =
        load(Sources::from_texts([("z.toml", ZONES)]), now).unwrap_or_else(|f| panic!("{}", f.render(false)));
    let known = known
        .iter()
        .map(|(id, since, last)| {
            ((*id).to_owned(), Known { since: time(since), last_hit: last.map(time), hits: 7 })
        })
        .collect();
    let material = Material {
        policy: &policy,
        policy_name: "f00d",
        observed,
        known: &known,
        overrides: &[],
        exceptions: &[],
        now,
    };
    let day = 86_400;
    let limits = Limits { unused: Duration::from_secs(30 * day), expiring: Duration::from_secs(30 * day) };
    review(&material, limits)
}

fn texts(review: &Review, id: &str) -> Vec<String> {
    let rule = review.rules.iter().find(|r| r.id == id).unwrap();
    rule.findings.iter().map(|f| format!("{f:?}")).collect()
}

#[test]
fn rules_next_to_what_they_allowed() {
    let old = "2026-09-01T00:00:00Z";
    let observed = observed();
    let review = reviewed(
        &observed,
        &[
            ("used", old, Some("2026-11-20T00:00:00Z")),
            ("idle", old, Some("2026-10-01T00:00:00Z")),
            ("new", "2026-11-18T00:00:00Z", None),
        ],
    );
    assert_eq!(
        texts(&review, "used"),
        [
            r#"Wide("2 of 3 services were used; not tcp/9000")"#,
            r#"Wide("1 of 11 ports of udp/4000-4010 were used: 4001")"#
        ]
    );
    let used = &review.rules[0];
    assert_eq!((used.hits, used.clients, used.servers, used.services["postgres"]), (16, 1, 2, 15));
    assert_eq!(used.place, "z.toml:22");
    assert_eq!(texts(&review, "idle"), [r#"Unused("no flow used it since 2026-10-01")"#]);
    assert_eq!(
        texts(&review, "same"),
        [
            r#"Unused("no flow used it since 2026-10-01")"#,
            r#"Expiring("ends on 2026-12-20, in 28 days")"#,
            r#"NoOwner("nobody answers for it")"#,
            r#"NoReason("nobody wrote down why it is there")"#,
            r#"Shadowed("never decides: idle allows the same")"#,
        ]
    );
}

#[test]
fn a_new_rule_is_not_called_unused() {
    let observed = observed();
    let late: Vec<_> =
        observed.iter().map(|s| Summary { first: time("2026-11-19T00:00:00Z"), ..s.clone() }).collect();
    let review = reviewed(&late, &[("new", "2026-11-18T00:00:00Z", None)]);
    assert_eq!(texts(&review, "new"), [""; 0]);
    assert_eq!(texts(&review, "idle"), [""; 0], "nobody looked for longer than three days");
    assert_eq!(review.too_early(), 3);
    let review = reviewed(&late, &[("new", "2026-10-18T00:00:00Z", None)]);
    assert_eq!(texts(&review, "new"), [r#"Unused("no flow used it since 2026-10-18")"#]);
    assert_eq!(texts(&reviewed(&[], &[]), "new"), [""; 0], "nobody looked at all");
}

#[test]
fn reach_is_what_rules_let_begin_and_what_was_seen() {
    let observed = observed();
    let review = reviewed(&observed, &[]);
    let of = |name: &str| review.reach.iter().find(|r| r.subject == name).unwrap();
    let zones = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    let own = of("fulfillment");
    // orders without the hole that is database's, and that.
    let can = Extent { zones: zones(&["database", "orders"]), hosts: 65_536, v6: 0, ports: 13 };
    assert_eq!((own.enforced, &own.can), (Enforced::Everywhere, &can));
    assert_eq!(own.used, Extent { zones: zones(&["orders"]), hosts: 2, v6: 0, ports: 2 });
    let bot = of("bot");
    assert_eq!((bot.workload, bot.can.hosts, bot.can.ports, bot.used.ports), (true, 256, 65_536, 0));
    assert_eq!(of("orders").enforced, Enforced::Nowhere);
}

#[test]
fn coverage_counts_flows_where_the_policy_enforces() {
    let mut observed = observed();
    observed[0].of.direction = Direction::Inbound;
    let review = reviewed(&observed, &[]);
    let wanted = Share { flows: 4016, enforced: 4006, allowed: 16, audited: 0, denied: 4000 };
    assert_eq!((review.coverage.all, review.coverage.subjects["fulfillment"]), (wanted, wanted));
    assert_eq!(review.coverage.all.percent_enforced().unwrap().round(), 100.0);
}

#[test]
fn what_learn_leaves_to_be_written_is_no_owner() {
    for (text, missing) in [
        (None, true),
        (Some(" "), true),
        (Some("TODO: who answers for it, perhaps dba"), true),
        (Some("dba"), false),
    ] {
        assert_eq!(rules::is_missing(text.map(str::to_owned).as_ref()), missing, "{text:?}");
    }
}

#[test]
fn others_without_owner_and_the_page() {
    let mut observed = observed();
    observed[1].of.host = Arc::from("<script>alert(1)</script>");
    let review = reviewed(&observed, &[]);
    let others: Vec<_> = review.others.iter().map(|p| format!("{}: {}", p.what, p.finding.text())).collect();
    assert_eq!(
        others,
        ["zone fulfillment: nobody answers for it", "workload bot: ends on 2026-12-01, in 9 days"]
    );
    let page = review.html();
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;"), "{page}");
    for part in ["never decides", "postgres", "f00d", "2026-11-20", "everywhere"] {
        assert!(page.contains(part), "{part}");
    }
    let json = serde_json::to_value(&review).unwrap();
    assert_eq!(json["others"][0]["kind"], "no-owner");
    assert_eq!(json["rules"][2]["findings"][0]["kind"], "unused");
}
