//! The review as one HTML page.

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::rules::date;
use super::{Enforced, Extent, Reach, Review, RuleReview, Share};

const STYLE: &str = include_str!("report.css");

/// Nothing may be loaded from anywhere, and no script runs.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

pub(super) fn page(review: &Review) -> String {
    let problems = review.problems().count();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "segd review, " (date(review.at)) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Segmentation review" }
                (head(review))
                h2 { "Findings (" (problems) ")" }
                (findings(review))
                h2 { "Who may reach what" }
                (matrix(review))
                h2 { "Rules" }
                (rules(&review.rules))
                h2 { "Exceptions in force" }
                (exceptions(review))
                h2 { "How far each zone and workload can reach" }
                (reach(&review.reach))
                h2 { "Flows under enforcement" }
                (coverage(review))
            }
        }
    }
    .into_string()
}

fn head(review: &Review) -> Markup {
    html! {
        dl {
            dt { "Made" } dd { (time(review.at)) }
            dt { "Policy" } dd { code { (review.policy) } }
            dt { "Hosts" } dd { @if review.hosts.is_empty() { "none" } @else { (review.hosts.join(", ")) } }
            dt { "Observed" }
            dd {
                @match review.observed {
                    Some((first, last)) => { (time(first)) " to " (time(last)) }
                    None => { "nothing" }
                }
            }
            dt { "Under enforcement" } dd { (percent(&review.coverage.all)) " of " (review.coverage.all.flows) " flows" }
        }
    }
}

fn findings(review: &Review) -> Markup {
    html! {
        @if review.problems().next().is_none() { p class="good" { "Nothing to look at." } }
        @if review.too_early() > 0 { p class="note" { (review.too_early()) " rules without a hit are too new to be called unused." } }
        ul {
            @for (what, finding) in review.problems() {
                li { b { (what) } ": " (finding.text()) }
            }
        }
    }
}

fn matrix(review: &Review) -> Markup {
    html! {
        p class="note" { "What no line allows is denied where it is enforced, inside a zone as between zones." }
        table {
            thead { tr { th { "from" } th { "to" } th { "services" } th { "rules" } } }
            tbody {
                @for pair in &review.matrix {
                    @for (service, rules) in &pair.services {
                        tr {
                            td { (pair.from) } td { (pair.to) } td { code { (service) } }
                            td { (rules.join(", ")) }
                        }
                    }
                }
            }
        }
    }
}

fn rules(rules: &[RuleReview]) -> Markup {
    html! {
        table {
            thead {
                tr {
                    th { "rule" } th { "from, to" } th { "services (flows)" } th { "owner, reason" } th { "ends" }
                    th class="n" { "hits" } th { "last hit" } th class="n" { "clients" } th class="n" { "servers" }
                    th { "findings" }
                }
            }
            tbody { @for rule in rules { (rule_row(rule)) } }
        }
    }
}

fn rule_row(rule: &RuleReview) -> Markup {
    html! {
        tr {
            td { code { (rule.id) } br; span class="note" { (rule.place) } }
            td { (rule.from) br; (rule.to) }
            td { @for (service, flows) in &rule.services { code { (service) } " (" (flows) ")" br; } }
            td { (rule.owner.as_deref().unwrap_or("-")) br; span class="note" { (rule.reason.as_deref().unwrap_or("-")) } }
            td { (maybe(rule.expires, "never")) }
            td class="n" { (rule.hits) }
            td { (maybe(rule.last_hit, "never")) }
            td class="n" { (rule.clients) }
            td class="n" { (rule.servers) }
            td {
                ul class="findings" {
                    @for finding in &rule.findings { li class="bad" { (finding.text()) } }
                }
            }
        }
    }
}

fn exceptions(review: &Review) -> Markup {
    html! {
        @if review.exceptions.is_empty() { p { "None." } }
        @else {
            table {
                thead { tr { th { "id" } th { "from" } th { "to" } th { "services" } th { "owner" } th { "reason" } th { "ends" } } }
                tbody {
                    @for e in &review.exceptions {
                        tr {
                            td { code { (e.id) } } td { (e.from) } td { (e.to) }
                            td { @for service in &e.services { code { (service) } " " } }
                            td { (e.owner) } td { (e.reason) } td { (time(e.expires)) }
                        }
                    }
                }
            }
        }
    }
}

fn reach(all: &[Reach]) -> Markup {
    html! {
        p class="note" {
            "What a stolen credential there could begin: by the rules, and what was seen. Where outbound traffic is not \
             enforced everywhere, it can reach more than the rules say."
        }
        table {
            thead {
                tr {
                    th { "subject" } th { "outbound enforced" } th class="n" { "zones" } th class="n" { "hosts" }
                    th class="n" { "ports" } th class="n" { "used zones" } th class="n" { "used hosts" }
                    th class="n" { "used ports" } th { "zones not used" }
                }
            }
            tbody {
                @for reach in all {
                    tr {
                        td { (reach.subject) @if reach.workload { span class="note" { " (workload)" } } }
                        td class=(if reach.enforced == Enforced::Everywhere { "good" } else { "bad" }) {
                            (reach.enforced.word())
                        }
                        (extent(&reach.can)) (extent(&reach.used))
                        td { (reach.can.zones.difference(&reach.used.zones).cloned().collect::<Vec<_>>().join(", ")) }
                    }
                }
            }
        }
    }
}

fn extent(extent: &Extent) -> Markup {
    html! {
        td class="n" { (extent.zones.len()) }
        td class="n" { (extent.hosts) @if extent.v6 > 0 { br; "+ " (extent.v6) " v6" } }
        td class="n" { (extent.ports) }
    }
}

fn coverage(review: &Review) -> Markup {
    let row = |name: &str, share: &Share| {
        html! {
            tr {
                td { (name) } td class="n" { (share.flows) } td class="n" { (percent(share)) }
                td class="n" { (share.allowed) } td class="n" { (share.audited) } td class="n" { (share.denied) }
            }
        }
    };
    html! {
        p class="note" { "As the hosts counted them: a flow between two hosts with segd counts at both." }
        table {
            thead {
                tr {
                    th { "local side" } th class="n" { "flows" } th class="n" { "enforced" } th class="n" { "allowed" }
                    th class="n" { "audited" } th class="n" { "denied" }
                }
            }
            tbody {
                (row("all", &review.coverage.all))
                @for (name, share) in &review.coverage.subjects { (row(name, share)) }
            }
        }
    }
}

fn percent(share: &Share) -> String {
    share.percent_enforced().map_or("-".to_owned(), |percent| format!("{percent:.1} %"))
}

fn maybe(at: Option<Timestamp>, none: &str) -> String {
    at.map_or_else(|| none.to_owned(), date)
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}
