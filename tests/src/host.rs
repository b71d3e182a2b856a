//! A simulated host: a network namespace, a cgroup, and directories for its agent.

use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use crate::agent::AgentBuilder;
use crate::enter::Place;
use crate::http::{self, Response};
use crate::interrupt;
use crate::lab_id::SLICE;
use crate::netns::Netns;
use crate::process::{Finished, Process};

/// How long a command run by [`Host::run`] may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// One simulated host. It lives as long as its lab.
#[derive(Debug, Clone)]
pub struct Host {
    name: String,
    number: u8,
    netns: Netns,
    cgroup: PathBuf,
    agent_cgroup: PathBuf,
    directory: PathBuf,
}

impl Host {
    pub(crate) fn build(
        id: &str,
        cgroup: &Path,
        directory: &Path,
        switch: &Netns,
        name: &str,
        number: u8,
    ) -> Result<Self> {
        let host = Self {
            name: name.to_owned(),
            number,
            netns: Netns::create(&format!("{id}.{name}"))?,
            cgroup: cgroup.join("hosts.slice").join(format!("{name}{SLICE}")),
            agent_cgroup: cgroup.join("agents").join(name),
            directory: directory.join(name),
        };
        for part in [&host.cgroup, &host.agent_cgroup, &host.bpffs(), &host.state_dir(), &host.run_dir()] {
            fs::create_dir_all(part).with_context(|| format!("cannot make {}", part.display()))?;
        }
        mount(Some("bpf"), &host.bpffs(), Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .context("cannot mount a bpf file system")?;
        let port = format!("h{number}");
        host.netns.ip(&format!("link add eth0 type veth peer name {port} netns {}\n", switch.name()))?;
        switch.ip(&format!("link set {port} master br0\nlink set {port} up\n"))?;
        // No prefix length but the host's own: with eth0 as the default route every address is on-link, so hosts
        // may have any address and no two need to agree on a subnet.
        let (v4, v6) = (host.v4(), host.v6());
        host.netns.ip(&format!(
            "addr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad\nlink set eth0 up\n\
             route add default dev eth0 src {v4}\nroute add default dev eth0 src {v6}\n"
        ))?;
        Ok(host)
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address, `10.77.n.10`.
    pub fn v4(&self) -> IpAddr {
        Ipv4Addr::new(10, 77, self.number, 10).into()
    }

    /// Its IPv6 address, `2001:db8:77:n::10`.
    pub fn v6(&self) -> IpAddr {
        Ipv6Addr::new(0x2001, 0xdb8, 0x77, self.number.into(), 0, 0, 0, 0x10).into()
    }

    /// A port on its IPv4 address.
    pub fn v4_port(&self, port: u16) -> SocketAddr {
        (self.v4(), port).into()
    }

    /// A port on its IPv6 address.
    pub fn v6_port(&self, port: u16) -> SocketAddr {
        (self.v6(), port).into()
    }

    /// A port on its IPv4 address as an IPv6 socket names it, `::ffff:10.77.n.10`.
    pub fn mapped_port(&self, port: u16) -> SocketAddr {
        (Ipv4Addr::new(10, 77, self.number, 10).to_ipv6_mapped(), port).into()
    }

    /// The IPv4 prefix that only this host's address is in, `10.77.n.0/24`.
    pub fn v4_prefix(&self) -> String {
        format!("10.77.{}.0/24", self.number)
    }

    /// The IPv6 prefix that only this host's address is in, `2001:db8:77:n::/64`.
    pub fn v6_prefix(&self) -> String {
        format!("2001:db8:77:{:x}::/64", self.number)
    }

    /// Gives it one more address, of any range. Sockets use it when they bind it.
    ///
    /// # Errors
    /// When iproute2 refuses.
    pub fn add_address(&self, address: IpAddr) -> Result<()> {
        match address {
            IpAddr::V4(v4) => self.netns.ip(&format!("addr add {v4}/32 dev eth0\n")),
            IpAddr::V6(v6) => self.netns.ip(&format!("addr add {v6}/128 dev eth0 nodad\n")),
        }
    }

    /// Runs iproute2 commands, one a line, in its network namespace.
    ///
    /// # Errors
    /// When iproute2 refuses one.
    pub fn ip(&self, commands: &str) -> Result<()> {
        self.netns.ip(commands)
    }

    /// Its cgroup. Processes started on the host are in it; the agent is not.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The name of its network namespace, for `ip netns exec`.
    pub fn netns(&self) -> &str {
        self.netns.name()
    }

    /// Its own bpf file system.
    pub fn bpffs(&self) -> PathBuf {
        self.directory.join("bpf")
    }

    /// Its agent's state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// Its agent's run directory.
    pub fn run_dir(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// A directory of its own, removed with the lab.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A command that will run on this host, as root: in its cgroup and network namespace from the first instruction.
    /// Hand it to [`Host::run`] or [`Host::spawn`].
    ///
    /// # Errors
    /// When the lab is gone.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        self.place(self.cgroup.clone()).command(program, None)
    }

    /// As [`Host::command`], as another user.
    ///
    /// # Errors
    /// When there is no such user, or the lab is gone.
    pub fn command_as(&self, user: &str, program: impl AsRef<OsStr>) -> Result<Command> {
        self.place(self.cgroup.clone()).command(program, Some(user))
    }

    /// As [`Host::command`], in the cgroup `path` below the host's own, which is made if it is not there.
    ///
    /// # Errors
    /// When the cgroup cannot be made, or the lab is gone.
    pub fn command_below(&self, path: &str, program: impl AsRef<OsStr>) -> Result<Command> {
        let cgroup = self.cgroup.join(path);
        fs::create_dir_all(&cgroup).with_context(|| format!("cannot make {}", cgroup.display()))?;
        self.place(cgroup).command(program, None)
    }

    /// A command that will run in the host's network namespace but in its agent's cgroup, which no policy covers.
    pub(crate) fn agent_command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        self.place(self.agent_cgroup.clone()).command(program, None)
    }

    /// Starts a command made by one of the methods above.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&self, command: Command) -> Result<Process> {
        let _building = interrupt::building();
        Process::start(command)
    }

    /// Runs such a command to its end.
    ///
    /// # Errors
    /// When the program cannot be started, or does not end within a minute. An exit status is no error.
    pub fn run(&self, command: Command) -> Result<Finished> {
        self.spawn(command)?.finish(COMMAND_TIMEOUT)
    }

    /// Runs `work` on a thread in the host's network namespace. The thread is not in the host's cgroup: sockets made
    /// there are not decided by the host's agent as its own, only by the ends they talk to.
    ///
    /// # Errors
    /// When the lab is gone.
    pub fn observe<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.netns.on_thread(work)
    }

    /// A GET over HTTP to an address as seen from this host, outside of its cgroup.
    ///
    /// # Errors
    /// When nothing answers there, or not in HTTP.
    pub fn get(&self, address: SocketAddr, path: &str) -> Result<Response> {
        self.observe(|| http::get(address, path))?
    }

    /// An agent for this host, to be configured and started.
    pub fn agent(&self) -> AgentBuilder {
        AgentBuilder::new(self.clone())
    }

    /// The same host for what runs on it in the network of another, as a container does: in this one's cgroup, with
    /// the other's network namespace.
    #[must_use]
    pub fn container(&self, network: &Self) -> Self {
        Self { netns: network.netns.clone(), ..self.clone() }
    }

    fn place(&self, cgroup: PathBuf) -> Place {
        Place { cgroup, netns: self.netns.path() }
    }
}
