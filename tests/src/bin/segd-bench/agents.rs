//! Agents on both hosts that hold a policy, and are in the way of traffic only while they are measured.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use segd_tests::{Agent, Host};

use crate::hooks::{Attached, Programs};
use crate::pair::Pair;
use crate::usage;

/// How long an agent may take to start with a million prefixes, in a build without optimisation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(900);

/// How much of the flow log an agent keeps, unless a part counts its lines.
pub(crate) const LITTLE: &str = "16MiB";

/// An agent on each host, with the same policy.
pub(crate) struct Agents {
    /// The client's, then the server's.
    agents: [(Agent, Programs); 2],
}

/// How agents are to be made.
pub(crate) struct Plan<'a> {
    /// Tells the agents of one host apart.
    pub(crate) name: &'a str,
    /// Each pair of agents has its own.
    pub(crate) port: u16,
    /// The text of the zone file.
    pub(crate) zones: &'a str,
    /// The zones of the two hosts.
    pub(crate) zone: [&'a str; 2],
    /// At which size the flow log is begun anew.
    pub(crate) log_size: &'a str,
}

/// Agents in the way of traffic. Dropping it takes their programs off.
pub(crate) struct Active {
    _attached: Vec<Attached>,
}

impl Agents {
    /// Starts both agents on cgroups that nobody is in, and takes their programs off those. They keep running.
    pub(crate) fn start(pair: &Pair, plan: &Plan<'_>) -> Result<Self> {
        let hosts = pair.hosts();
        let (client, server) = thread::scope(|scope| {
            let server = scope.spawn(|| one(hosts[1], plan, plan.zone[1]));
            (one(hosts[0], plan, plan.zone[0]), server.join())
        });
        let server = server.map_err(|_| anyhow::anyhow!("the thread of the server's agent panicked"))?;
        let client = client.context("the client's agent")?;
        Ok(Self { agents: [client, server.context("the server's agent")?] })
    }

    /// Puts their programs onto the hosts' cgroups.
    pub(crate) fn attach(&self) -> Result<Active> {
        let attach = |(agent, programs): &(Agent, Programs)| programs.attach(agent.host());
        Ok(Active { _attached: self.agents.iter().map(attach).collect::<Result<_>>()? })
    }

    /// Stops their processes, so that they take no CPU time while others are measured.
    pub(crate) fn pause(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets them go on.
    pub(crate) fn resume(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        self.agents.iter_mut().try_for_each(|(agent, _)| agent.process().signal(signal))
    }

    pub(crate) fn client(&mut self) -> &mut Agent {
        &mut self.agents[0].0
    }

    pub(crate) fn both(&mut self) -> [&mut Agent; 2] {
        let [client, server] = &mut self.agents;
        [&mut client.0, &mut server.0]
    }

    pub(crate) fn programs(&self) -> [&Programs; 2] {
        let [client, server] = &self.agents;
        [&client.1, &server.1]
    }

    pub(crate) fn pids(&mut self) -> [u32; 2] {
        self.both().map(|agent| agent.process().pid())
    }

    /// CPU time of both so far, in nanoseconds.
    pub(crate) fn cpu_ns(&mut self) -> Result<u64> {
        self.pids().into_iter().map(usage::cpu_ns).sum()
    }

    /// Waits until they have worked off what a load left them.
    pub(crate) fn settle(&mut self) -> Result<()> {
        usage::settle(&self.pids())
    }
}

fn one(host: &Host, plan: &Plan<'_>, zone: &str) -> Result<(Agent, Programs)> {
    let aside = host.cgroup().join("aside").join(plan.name);
    std::fs::create_dir_all(&aside)?;
    let builder = host.agent().instance(plan.name, plan.port).patience(PATIENCE).zone(zone).zones(plan.zones);
    // The sink is the last table of the made configuration.
    let rotate = format!("rotate = {{ size = \"{}\", keep = 1 }}\n", plan.log_size);
    let agent = builder.cgroup(aside).extra(&rotate).start()?;
    let programs = Programs::of_agent(&agent.builder().bpffs())?;
    Ok((agent, programs))
}
