//! From a flat network to enforcement.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use segd_tests::{Agent, wait_for};
use serde_json::Value;

use crate::clients::{Answer, Attempt, ROLE, Service, psql};
use crate::estate::{Estate, NAMES};
use crate::narrator::Narrator;
use crate::tables::{Reach, counters};

/// What the business does: client, service, and the rule in `zones/demo` that allows it.
const BUSINESS: [(&str, Service, &str); 5] = [
    ("fulfillment", Service::Postgres, "wms-to-orders-db"),
    ("orders", Service::Redis, "orders-to-stock"),
    ("orders", Service::FreightApi, "orders-to-freight"),
    ("fulfillment", Service::FreightApi, "wms-to-freight"),
    ("partner", Service::FreightApi, "partner-to-freight"),
];

/// How long a record may take to show.
const SOON: Duration = Duration::from_secs(10);
/// An errno must come before the client would have given up; most of it is the start of psql.
const AT_ONCE: Duration = Duration::from_secs(2);

pub(crate) fn flat(narrator: &mut Narrator, estate: &mut Estate) -> Result<()> {
    narrator.step("A flat network")?;
    narrator.say("Four hosts of a warehouse, each with its own network stack and cgroup on this machine:")?;
    let jobs =
        ["order management: PostgreSQL", "the warehouse: Redis", "freight: nginx", "a carrier's gateway"];
    for (host, job) in estate.hosts.iter().zip(jobs) {
        narrator.output(&format!("{:<12} {:<11} {job}", host.name(), host.v4()))?;
    }
    narrator.say(
        "The warehouse takes orders (pgbench writes them). Who reaches what, with psql, redis-cli and curl:",
    )?;
    estate.take_orders()?;
    let reach = Reach::measure(estate)?;
    narrator.output(&reach.render())?;
    expect(&reach, |_, _| Answer::Served)?;
    let (before, after) = estate.watch_orders()?;
    narrator.say(&format!(
        "Everything talks to everything, a partner with the orders database too.\nOrders: {before}, a second later {after}."
    ))
}

pub(crate) fn monitor(narrator: &mut Narrator, estate: &mut Estate, zones: &Path) -> Result<()> {
    narrator.step("An agent on each host, in monitor mode")?;
    narrator.say(&format!(
        "The zone files are in {}: five rules, all that the business needs.",
        zones.display()
    ))?;
    estate.start_agents(zones)?;
    modes_are(estate, "monitor")?;
    let reach = Reach::measure(estate)?;
    expect(&reach, |_, _| Answer::Served)?;
    for (from, service, rule) in BUSINESS {
        wait_record(
            estate.agent(from)?,
            &[("verdict", "allowed"), ("direction", "outbound"), ("rule", rule)],
        )?;
        wait_record(
            estate.agent(service.home())?,
            &[("verdict", "allowed"), ("direction", "inbound"), ("rule", rule)],
        )?;
    }
    wait_record(estate.agent("orders")?, &audited_partner("inbound"))?;
    narrator.say(
        "Every client tried every server again, and all were served: nothing breaks. But now it is seen.",
    )?;
    narrator.say("`allowed`: by a rule. `audited`: no rule allows it; enforcement would deny it.")?;
    flows(narrator, estate, "orders", &["--event", "open", "--last", "6"])?;
    narrator.output(&counters(&estate.agents)?)?;
    for agent in &estate.agents {
        let denied = agent.metrics()?.sum("segd_flows_total", &[("verdict", "denied")]);
        ensure!(denied == 0.0, "{} denied {denied} flows in monitor mode", agent.host().name());
    }
    orders_go_on(narrator, estate)
}

pub(crate) fn stolen_credential(narrator: &mut Narrator, estate: &Estate) -> Result<()> {
    narrator.step("A stolen credential")?;
    narrator.say(&format!("An intruder on the partner's host has found the database role {ROLE}."))?;
    let theft = theft(estate)?;
    narrator.command("partner", &theft.command, &theft.printed)?;
    ensure!(
        theft.answer == Answer::Served && theft.printed.contains("pallet"),
        "the intruder could not read the orders in monitor mode: {}",
        theft.printed
    );
    narrator.say("In monitor mode it works. Both ends recorded it as what enforcement would deny:")?;
    for (host, direction) in [("partner", "outbound"), ("orders", "inbound")] {
        wait_record(estate.agent(host)?, &audited_partner(direction))?;
        let filter = ["--verdict", "audited", "--from", "partner", "--event", "open", "--last", "1"];
        flows(narrator, estate, host, &[&filter[..], &["--port", "5432"]].concat())?;
    }
    Ok(())
}

pub(crate) fn enforce_orders(narrator: &mut Narrator, estate: &mut Estate) -> Result<()> {
    narrator.step("Enforcement on the database's host alone")?;
    let count = |estate: &Estate| denied(estate, "orders", "inbound");
    let before = count(estate)?;
    let refused = estate.agent("orders")?.segd(&["mode", "enforce"])?;
    ensure!(
        refused.status.code() == Some(1) && refused.stdout.contains("partner"),
        "segd mode enforce on orders did not ask for --force because of the partner: {}{}",
        refused.stdout,
        refused.stderr
    );
    narrator.command(
        "orders",
        "segd mode enforce",
        &format!("{}\n{}", refused.stdout.trim(), refused.stderr),
    )?;
    narrator.say("segd shows first what it would cut. That is the intruder; but what if we are wrong? So with a deadline:")?;
    let why = ["--force", "--confirm", "10m", "--reason", "stolen role orders_app"];
    command(narrator, estate, "orders", &[&["mode", "enforce"], &why[..]].concat())?;
    narrator
        .say("The partner's host may be lost to us: its own agent still only monitors. The same attempt:")?;
    let theft = theft(estate)?;
    narrator.command("partner", &theft.command, &theft.printed)?;
    ensure!(
        theft.answer == Answer::Silence,
        "the intruder got {:?} in place of silence from the orders host: {}",
        theft.answer,
        theft.printed
    );
    narrator.say(&format!(
        "Silence: no answer in {:.1} s, no hint what is there. The server's host knows:",
        theft.took.as_secs_f32()
    ))?;
    wait_record(estate.agent("orders")?, &denied_partner("inbound"))?;
    flows(narrator, estate, "orders", &["--verdict", "denied", "--last", "1"])?;
    let after = count(estate)?;
    ensure!(after > before, "the orders host counted {after} denied flows of the partner, {before} before");
    orders_go_on(narrator, estate)?;
    narrator.say("Nothing else was cut, so it may stay:")?;
    command(narrator, estate, "orders", &["confirm"]).map(drop)
}

pub(crate) fn enforce_everywhere(narrator: &mut Narrator, estate: &mut Estate) -> Result<()> {
    narrator.step("Enforcement everywhere")?;
    for name in NAMES {
        let set = estate.agent(name)?.segd(&["mode", "enforce", "--force"])?;
        ensure!(set.status.success(), "segd mode enforce on {name}: {}", set.stderr.trim());
    }
    modes_are(estate, "enforce")?;
    narrator.say("`segd mode enforce` ran on all four hosts. The same attempt:")?;
    let before = denied(estate, "partner", "outbound")?;
    let arrived = denied(estate, "orders", "inbound")?;
    let theft = stopped_theft(estate)?;
    narrator.command("partner", &theft.command, &theft.printed)?;
    let after = denied(estate, "partner", "outbound")?;
    ensure!(after > before, "the partner's agent counted {after} denied flows, {before} before");
    wait_record(estate.agent("partner")?, &denied_partner("outbound"))?;
    ensure!(
        denied(estate, "orders", "inbound")? == arrived,
        "the attempt reached the orders host all the same"
    );
    narrator.say(&format!(
        "EPERM: its own kernel refused at once ({} ms with psql's start). Nothing went on the wire. Who reaches what now:",
        theft.took.as_millis()
    ))?;
    let reach = Reach::measure(estate)?;
    narrator.output(&reach.render())?;
    expect(&reach, |from, service| {
        let allowed = BUSINESS.iter().any(|(f, s, _)| *f == from && *s == service);
        if allowed { Answer::Served } else { Answer::NotPermitted }
    })?;
    narrator.say("What the business needs works; the rest is shut. The counters of the agents:")?;
    narrator.output(&counters(&estate.agents)?)?;
    orders_go_on(narrator, estate)
}

/// Runs a `segd` command for the agent on `host`, shows it, and gives what it printed.
///
/// # Errors
/// When the command fails or prints nothing.
pub(crate) fn command(
    narrator: &Narrator,
    estate: &Estate,
    host: &str,
    arguments: &[&str],
) -> Result<String> {
    let finished = estate.agent(host)?.segd(arguments)?;
    let line = format!("segd {}", arguments.join(" "));
    ensure!(finished.status.success(), "{line} on {host}: {}: {}", finished.status, finished.stderr.trim());
    ensure!(!finished.stdout.trim().is_empty(), "{line} on {host} printed nothing");
    narrator.command(host, &line, &finished.stdout)?;
    Ok(finished.stdout)
}

fn flows(narrator: &Narrator, estate: &Estate, host: &str, filter: &[&str]) -> Result<()> {
    command(narrator, estate, host, &[&["flows"], filter].concat()).map(drop)
}

/// The intruder's attempt on the orders.
pub(crate) fn theft(estate: &Estate) -> Result<Attempt> {
    psql(estate.host("partner")?, estate.host("orders")?, "select * from orders order by number limit 2")
}

/// The same, when the intruder's own kernel must refuse it.
pub(crate) fn stopped_theft(estate: &Estate) -> Result<Attempt> {
    let theft = theft(estate)?;
    ensure!(
        theft.answer == Answer::NotPermitted,
        "the intruder got {:?} in place of EPERM: {}",
        theft.answer,
        theft.printed
    );
    ensure!(theft.took < AT_ONCE, "EPERM took {:?}", theft.took);
    Ok(theft)
}

/// Shows that orders come in.
pub(crate) fn orders_go_on(narrator: &Narrator, estate: &mut Estate) -> Result<()> {
    let (before, after) = estate.watch_orders()?;
    narrator.say(&format!("Orders go on: {before}, a second later {after}."))
}

/// How many flows from the partner to the database an agent has denied.
pub(crate) fn denied(estate: &Estate, host: &str, direction: &str) -> Result<f64> {
    let labels =
        [("direction", direction), ("src_zone", "partner"), ("service", "postgres"), ("verdict", "denied")];
    Ok(estate.agent(host)?.metrics()?.sum("segd_flows_total", &labels))
}

/// # Errors
/// When an agent has another mode for anything that a host may do.
pub(crate) fn modes_are(estate: &Estate, wanted: &str) -> Result<()> {
    for agent in &estate.agents {
        let status = agent.status()?;
        let modes = status["modes"].as_array().context("segd status has no modes")?;
        for direction in ["outbound", "inbound"] {
            // The first match decides.
            let first = modes.iter().find(|entry| entry["direction"] == direction);
            let is =
                first.is_some_and(|e| e["mode"] == wanted && e["peer"].is_null() && e["service"].is_null());
            ensure!(is, "{} should be in mode {wanted} altogether: {}", agent.host().name(), status["modes"]);
        }
    }
    Ok(())
}

fn expect(reach: &Reach, wanted: impl Fn(&str, Service) -> Answer) -> Result<()> {
    let unexpected = reach.unexpected(wanted);
    ensure!(unexpected.is_empty(), "{}", unexpected.join("; "));
    Ok(())
}

fn audited_partner(direction: &str) -> [(&str, &str); 4] {
    [("verdict", "audited"), ("direction", direction), ("src.zone", "partner"), ("service", "postgres")]
}

fn denied_partner(direction: &str) -> [(&str, &str); 4] {
    [("verdict", "denied"), ("direction", direction), ("src.zone", "partner"), ("service", "postgres")]
}

/// Waits until a flow with these fields is in the agent's log; a dot separates the keys of a path.
fn wait_record(agent: &Agent, fields: &[(&str, &str)]) -> Result<()> {
    let has = |record: &Value| {
        let at = |path: &str| path.split('.').fold(record, |value, key| &value[key]).clone();
        fields.iter().all(|(path, wanted)| at(path) == *wanted)
    };
    let what = format!("a flow on {} with {fields:?}", agent.host().name());
    let begun = Instant::now();
    wait_for(&what, SOON, || agent.flows().ok().filter(|flows| flows.iter().any(has)))
        .with_context(|| format!("the flow log has none after {:?}", begun.elapsed()))
        .map(drop)
}
