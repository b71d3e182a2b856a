//! The verdicts of the real programs, by `BPF_PROG_TEST_RUN`: they run on one packet and nothing is sent.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use aya::TestRunOptions;
use aya::maps::{HashMap, MapData, RingBuf};
use aya::programs::{CgroupSkb, TestRun as _};
use nix::net::if_::if_nametoindex;
use segd::datapath::{Counters, Datapath, Place, event};
use segd::policy::Compiled;
use segd::policy::ids::Registry;
use segd_common::counter::{CounterKey, Loss};
use segd_common::event::{Event, Kind};
use segd_common::flow::{Denial, DenialKey};
use segd_common::schema;
use segd_common::traffic::{Direction, Reason, Verdict};
use segd_tests::Host;

use crate::naive::{Answer, Flow};
use crate::wire::{self, Shown};

/// Offset of `ifindex` in `struct __sk_buff` of include/uapi/linux/bpf.h.
const IFINDEX: usize = 40;

/// How often each label set was counted. The key names all of them.
pub(crate) type Counts = BTreeMap<String, u64>;

/// The programs and tables of a lab host, attached nowhere.
pub(crate) struct Kernel {
    datapath: Datapath,
    events: RingBuf<MapData>,
    counters: Counters,
    /// `struct __sk_buff` up to `ifindex`: the packet came or goes by eth0. By `lo` everything passes.
    context: Vec<u8>,
    client_port: u16,
}

impl Kernel {
    /// To be called, as everything else, in the host's network namespace.
    pub(crate) fn open(host: &Host) -> Result<Self> {
        let place = Place { cgroup: host.cgroup().to_owned(), bpffs: host.bpffs(), log_level: 0 };
        let mut datapath = Datapath::open(&place, true)?;
        let events = datapath.take_events()?;
        let counters = datapath.counters()?;
        let mut context = vec![0; IFINDEX];
        context.extend(if_nametoindex("eth0")?.to_ne_bytes());
        Ok(Self { datapath, events, counters, context, client_port: 20_000 })
    }

    pub(crate) fn apply(&mut self, compiled: &Compiled) -> Result<()> {
        self.datapath.apply(compiled, None)?;
        Ok(())
    }

    /// What the kernel says of a packet: whether it passes, and what it tells of it, if anything.
    pub(crate) fn ask(
        &mut self,
        flow: &Flow,
        shown: Shown,
        own: [std::net::IpAddr; 2],
    ) -> Result<(bool, Option<Event>)> {
        self.client_port = self.client_port.checked_add(1).unwrap_or(20_000);
        let frame = wire::packet(flow, shown, own, self.client_port);
        let name = if wire::leaves(flow, shown) { "egress" } else { "ingress" };
        let program = self.datapath.programs()?.program_mut(name).context(name)?;
        let program: &mut CgroupSkb = program.try_into()?;
        let options =
            TestRunOptions { data_in: Some(&frame), ctx_in: Some(&self.context), ..TestRunOptions::new() };
        let passes = match program.test_run(options)?.return_value {
            0 => false,
            1 => true,
            other => bail!("{name} returned {other}"),
        };
        let told = self.events.next().map(|item| event(&item).context("a short event")).transpose()?;
        ensure!(self.events.next().is_none(), "one packet made two events");
        self.forget(told.as_ref())?;
        Ok((passes, told))
    }

    /// Makes the next packet the first of its flow, and the next denial one that is told.
    fn forget(&mut self, told: Option<&Event>) -> Result<()> {
        self.counters.take_idle(u64::MAX);
        let Some(Event { flow, kind, .. }) = told else { return Ok(()) };
        if *kind == Kind::Deny as u8 {
            let inbound = flow.direction == Direction::Inbound as u8;
            let port = if inbound { flow.local_port } else { flow.peer_port };
            let (subject, protocol, direction) = (flow.subject, flow.protocol, flow.direction);
            let key = DenialKey { peer: flow.peer, port, subject, protocol, direction, pad: [0; 2] };
            let map = self.datapath.programs()?.map_mut(schema::DENIALS).context(schema::DENIALS)?;
            let mut denials: HashMap<&mut MapData, DenialKey, Denial> = HashMap::try_from(map)?;
            denials.remove(&key)?;
        }
        Ok(())
    }

    /// Flows that began or were denied since the start, by their labels in names.
    pub(crate) fn counts(&self, registry: &Registry) -> Result<Counts> {
        let losses = self.counters.losses()?;
        for loss in [Loss::Ring, Loss::Counters, Loss::Flows] {
            ensure!(losses[loss as usize] == 0, "{loss:?}: {}", losses[loss as usize]);
        }
        let all = self.counters.read()?;
        let named = |(key, counter): (Option<CounterKey>, segd_common::counter::Counter)| {
            Some((labels(&key?, registry), counter.flows)).filter(|(_, flows)| *flows > 0)
        };
        Ok(all.into_iter().filter_map(named).collect())
    }
}

fn labels(key: &CounterKey, registry: &Registry) -> String {
    let CounterKey { rule, subject, zone, service, protocol, direction, verdict, pad: _ } = *key;
    label(
        &registry.subject_name(subject),
        Direction::from_byte(direction).map_or("?", Direction::name),
        protocol,
        Verdict::from_byte(verdict).map_or("?", Verdict::name),
        &registry.zone_name(zone),
        registry.rule_name(rule).as_deref(),
        &registry.service_name(service),
    )
}

/// The counter of a flow that `host` answers so.
pub(crate) fn counter_of(host: &str, flow: &Flow, answer: &Answer) -> String {
    let Answer { verdict, zone, rule, service, reason: _ } = answer;
    label(host, flow.direction.name(), flow.protocol, verdict, zone, rule.as_deref(), service)
}

fn label(
    host: &str,
    direction: &str,
    protocol: u8,
    verdict: &str,
    zone: &str,
    rule: Option<&str>,
    service: &str,
) -> String {
    format!("{host} {direction} {protocol} {verdict} {zone} {} {service}", rule.unwrap_or("-"))
}

/// An event in names.
pub(crate) fn answer(event: &Event, registry: &Registry) -> Answer {
    let flow = &event.flow;
    Answer {
        verdict: Verdict::from_byte(flow.verdict).map_or("?", Verdict::name).to_owned(),
        reason: Reason::from_byte(flow.reason).map_or("?", Reason::name).to_owned(),
        zone: registry.zone_name(flow.zone).to_string(),
        rule: registry.rule_name(flow.rule).map(|name| name.to_string()),
        service: registry.service_name(flow.service).to_string(),
    }
}
