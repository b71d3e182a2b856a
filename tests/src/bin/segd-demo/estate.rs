//! The four hosts with their servers and agents, and the flow of orders that must not stop.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use segd_tests::{Agent, Host, Lab, Process, Server};

use crate::clients::{self, Answer, Attempt, ROLE, Service};

/// The hosts, in the order in which the lab numbers them: `zones/demo` has their addresses.
pub(crate) const NAMES: [&str; 4] = ["orders", "fulfillment", "transport", "partner"];

/// How many orders a second the warehouse takes.
const RATE: &str = "20";

/// The lab with everything in it. The lab itself is dropped last.
pub(crate) struct Estate {
    /// Running agents, in the order of the hosts; none before they are started.
    pub(crate) agents: Vec<Agent>,
    order_flow: Option<Process>,
    servers: Vec<Server>,
    pub(crate) hosts: Vec<Host>,
    _lab: Lab,
}

impl Estate {
    /// Four hosts and three servers; no agent yet.
    pub(crate) fn new() -> Result<Self> {
        let lab = Lab::new("demo")?;
        let hosts = NAMES.iter().map(|name| lab.host(name)).collect::<Result<Vec<_>>>()?;
        let mut estate = Self { agents: Vec::new(), order_flow: None, servers: Vec::new(), hosts, _lab: lab };
        for service in Service::ALL {
            let (host, port) = (estate.host(service.home())?, service.port());
            let server = match service {
                Service::Postgres => Server::postgres(host, port),
                Service::Redis => Server::redis(host, port),
                Service::FreightApi => Server::nginx(host, port, "freight: 3 trailers at the dock\n"),
            };
            let server =
                server.with_context(|| format!("cannot start {} on {}", service.name(), host.name()))?;
            estate.servers.push(server);
        }
        Ok(estate)
    }

    /// What there is of it on this machine: cgroups, network namespaces, directories.
    pub(crate) fn traces(&self) -> Vec<PathBuf> {
        let of = |host: &Host| {
            let netns = Path::new("/run/netns").join(host.netns());
            [host.cgroup().to_owned(), netns, host.directory().to_owned()]
        };
        self.hosts.iter().flat_map(of).collect()
    }

    pub(crate) fn host(&self, name: &str) -> Result<&Host> {
        self.hosts.iter().find(|host| host.name() == name).with_context(|| format!("there is no host {name}"))
    }

    pub(crate) fn agent(&self, name: &str) -> Result<&Agent> {
        let found = self.agents.iter().find(|agent| agent.host().name() == name);
        found.with_context(|| format!("there is no agent on {name}"))
    }

    /// Starts an agent on each host, with the zone files in `zones`.
    pub(crate) fn start_agents(&mut self, zones: &Path) -> Result<()> {
        let text = zone_text(zones)?;
        for host in &self.hosts {
            let agent = host.agent().zones(&text).start();
            self.agents.push(agent.with_context(|| format!("the agent of {}", host.name()))?);
        }
        Ok(())
    }

    /// Runs the client of `service` on the host `from`.
    pub(crate) fn attempt(&self, from: &str, service: Service) -> Result<Attempt> {
        clients::attempt(self.host(from)?, self.host(service.home())?, service)
    }

    /// The warehouse begins to write orders into the database, over connections that it keeps.
    pub(crate) fn take_orders(&mut self) -> Result<()> {
        let (orders, warehouse) = (self.host("orders")?, self.host("fulfillment")?);
        let address = orders.v4().to_string();
        let schema = format!(
            "create role {ROLE} login; create table orders (number serial primary key, item text, pieces int); \
             grant all on orders, orders_number_seq to {ROLE}"
        );
        let mut psql = orders.command("psql")?;
        psql.args(["-X", "-q", "-h", "127.0.0.1", "-U", "postgres", "-c", &schema]);
        let made = orders.run(psql)?;
        ensure!(made.status.success(), "cannot make the orders table: {}", made.stderr.trim());
        let script = warehouse.directory().join("order.sql");
        fs::write(
            &script,
            "\\set n random(1, 99)\ninsert into orders (item, pieces) values ('pallet', :n);\n",
        )?;
        let mut pgbench = warehouse.command("pgbench")?;
        pgbench.args(["-n", "-c", "2", "-R", RATE, "-T", "3600", "-h", &address, "-U", ROLE, "-f"]);
        pgbench.arg(&script).arg("postgres");
        self.order_flow = Some(warehouse.spawn(pgbench)?);
        Ok(())
    }

    /// How many orders are in the database: asked by the warehouse, over a new connection.
    pub(crate) fn orders_taken(&self) -> Result<u64> {
        let attempt = self.attempt("fulfillment", Service::Postgres)?;
        if attempt.answer != Answer::Served {
            bail!("the warehouse cannot ask the orders database: {}", attempt.printed);
        }
        attempt
            .printed
            .trim()
            .parse()
            .with_context(|| format!("{:?} is no number of orders", attempt.printed))
    }

    /// Watches the order flow for a second or a little more; gives the number of orders before and after.
    pub(crate) fn watch_orders(&mut self) -> Result<(u64, u64)> {
        let before = self.orders_taken()?;
        for _ in 0..5 {
            sleep(Duration::from_secs(1));
            if let Some(flow) = &mut self.order_flow
                && let Some(status) = flow.ended()?
            {
                bail!("pgbench ended ({status}): {}", flow.stderr().trim());
            }
            let after = self.orders_taken()?;
            if after > before {
                return Ok((before, after));
            }
        }
        bail!("no order came in for 5 seconds: there are still {before}");
    }
}

/// All zone files of a directory, by name.
fn zone_text(directory: &Path) -> Result<String> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    ensure!(!files.is_empty(), "{} holds no zone files", directory.display());
    let texts =
        files.iter().map(|f| fs::read_to_string(f).with_context(|| format!("cannot read {}", f.display())));
    Ok(texts.collect::<Result<Vec<_>>>()?.join("\n"))
}
