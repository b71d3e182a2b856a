//! dnsmasq: a DNS server for one host's agent, on that host's loopback.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;

use anyhow::Result;
use nix::sys::signal::Signal;

use super::{Server, directory, loopback, program};
use crate::host::Host;

/// A DNS server for names in `.test`. It asks nobody else. Dropping it kills it.
#[derive(Debug)]
pub struct Dnsmasq {
    server: Server,
    hosts: PathBuf,
}

impl Dnsmasq {
    /// Starts one on `port` of the host's loopback that answers with these hosts (hosts(5)), for one second each.
    ///
    /// # Errors
    /// When dnsmasq is not installed, or does not start.
    pub fn start(host: &Host, port: u16, hosts: &str) -> Result<Self> {
        let home = directory(host, &format!("dnsmasq{port}"), "root")?;
        let path = home.join("hosts");
        fs::write(&path, hosts)?;
        let mut server = host.command(program("dnsmasq", "dnsmasq-base")?)?;
        server.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--pid-file=",
        ]);
        server.args(["--bind-interfaces", "--listen-address=127.0.0.1", "--local=/test/", "--local-ttl=1"]);
        server.args(["--cache-size=0", "--user=root", "--log-facility=-"]);
        server.arg(format!("--port={port}")).arg(format!("--addn-hosts={}", path.display()));
        // It binds both before it answers either.
        let ready = || host.observe(|| TcpStream::connect(loopback(port))).is_ok_and(|tcp| tcp.is_ok());
        Ok(Self { server: Server::start(host, server, port, ready)?, hosts: path })
    }

    /// Replaces the hosts. They are in force as soon as the signal was handled.
    ///
    /// # Errors
    /// When the file cannot be written, or the server is gone.
    pub fn set_hosts(&mut self, hosts: &str) -> Result<()> {
        fs::write(&self.hosts, hosts)?;
        self.server.process().signal(Signal::SIGHUP)
    }
}
