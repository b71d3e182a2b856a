//! What the people who run it do: look, ask, lose an agent, and go back.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use crate::clients::Answer;
use crate::estate::{Estate, NAMES};
use crate::narrator::Narrator;
use crate::story::{command, denied, modes_are, orders_go_on, stopped_theft, theft};

/// In this time a host must be back in monitor mode.
const A_SECOND: Duration = Duration::from_secs(1);

pub(crate) fn on_call(narrator: &mut Narrator, estate: &Estate, zones: &Path) -> Result<()> {
    narrator.step("The operator on call")?;
    narrator.say("\"The partner says that something is blocked.\" What does the host say?")?;
    let status = command(narrator, estate, "partner", &["status"])?;
    ensure!(status.contains("enforce"), "segd status does not show that it enforces");
    let found = command(narrator, estate, "partner", &["flows", "--verdict", "denied", "--last", "3"])?;
    ensure!(found.contains("5432"), "segd flows does not show the denied attempt on the database");
    narrator.say("Why? The zone files answer, by the code that decides in the kernel:")?;
    let zones = zones.to_string_lossy();
    let arguments = ["explain", "partner", "orders", "5432", "--zones", &zones];
    let answer = estate.agent("partner")?.segd(&arguments)?;
    narrator.command("partner", &format!("segd {}", arguments.join(" ")), &answer.stdout)?;
    ensure!(
        answer.stdout.contains("no-rule"),
        "segd explain should say that no rule allows it: {}{}",
        answer.stdout,
        answer.stderr
    );
    narrator.say("No rule allows it. These files would only audit it; the override that `segd status` shows denies it.")?;
    narrator.say("A rule is a matter for the owner of the zone, who is named in the files.")
}

pub(crate) fn killed(narrator: &mut Narrator, estate: &mut Estate) -> Result<()> {
    narrator.step("All agents die")?;
    let before = denied(estate, "partner", "outbound")?;
    for agent in &mut estate.agents {
        agent.kill(Signal::SIGKILL)?;
    }
    narrator
        .say("kill -9 on all four. The programs in the kernel are not theirs to lose. The intruder again:")?;
    let theft = stopped_theft(estate)?;
    narrator.command("partner", &theft.command, &theft.printed)?;
    orders_go_on(narrator, estate)?;
    let agents = std::mem::take(&mut estate.agents);
    estate.agents = agents.into_iter().map(segd_tests::Agent::restart).collect::<Result<_>>()?;
    modes_are(estate, "enforce")?;
    let after = denied(estate, "partner", "outbound")?;
    ensure!(after > before, "after the restart {after} denied flows are counted, {before} before");
    narrator.say(&format!(
        "Started again, they take over, still enforcing. The attempt without them was counted: {before} denied\n\
         flows from the partner to the database before, {after} now."
    ))
}

pub(crate) fn back_to_monitor(narrator: &mut Narrator, estate: &mut Estate) -> Result<()> {
    narrator.step("The way back")?;
    narrator.say("Something is wrong and nobody knows what? One command on each host:")?;
    let mut slowest = Duration::ZERO;
    for name in NAMES {
        let begun = Instant::now();
        let set = estate.agent(name)?.segd(&["mode", "monitor"])?;
        slowest = slowest.max(begun.elapsed());
        ensure!(set.status.success(), "segd mode monitor on {name}: {}", set.stderr.trim());
    }
    modes_are(estate, "monitor")?;
    let theft = theft(estate)?;
    narrator.command("partner", &theft.command, &theft.printed)?;
    ensure!(theft.answer == Answer::Served, "monitor mode does not let everything pass: {}", theft.printed);
    ensure!(slowest < A_SECOND, "back to monitor mode took {slowest:?} on one host");
    narrator.say(&format!(
        "`segd mode monitor` took {} ms on the slowest of them. Everything passes again, and is recorded.",
        slowest.as_millis()
    ))?;
    orders_go_on(narrator, estate)
}
