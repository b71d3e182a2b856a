//! What tests do most on a host: connect, send, ping, serve. Each is a `lab-actor` of its own.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::actor::{Actor, program};
use crate::host::Host;
use crate::report::Report;

impl Host {
    /// Starts `lab-actor` with the arguments given; `lab-actor --help` explains them.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn actor(&self, arguments: &[&str]) -> Result<Actor> {
        Actor::start(self, self.command(program()?)?, arguments)
    }

    /// As [`Host::actor`], in the cgroup `path` below the host's own, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn actor_below(&self, path: &str, arguments: &[&str]) -> Result<Actor> {
        Actor::start(self, self.command_below(path, program()?)?, arguments)
    }

    /// As [`Host::actor`], as another user.
    ///
    /// # Errors
    /// When there is no such user, or it cannot be started.
    pub fn actor_as(&self, user: &str, arguments: &[&str]) -> Result<Actor> {
        Actor::start(self, self.command_as(user, program()?)?, arguments)
    }

    /// Runs `lab-actor` to its end and gives all its reports.
    ///
    /// # Errors
    /// When it cannot be started or does not end within two minutes. A socket's failure is a report, not an error.
    pub fn act(&self, arguments: &[&str]) -> Result<Vec<Report>> {
        self.actor(arguments)?.finish(Duration::from_secs(120))
    }

    /// Connects over TCP: `Connected`, or `Failed` with what connect gave.
    ///
    /// # Errors
    /// See [`Host::act`].
    pub fn tcp_connect(&self, to: SocketAddr) -> Result<Report> {
        self.last_of(&["tcp-connect", &to.to_string()])
    }

    /// Sends a datagram from an unconnected socket to an echo server: `Received`, or `Failed`. If the kernel took the
    /// datagram and no answer came, the failed step is `recv` and the errno [`crate::TIMEOUT`].
    ///
    /// # Errors
    /// See [`Host::act`].
    pub fn udp_send(&self, to: SocketAddr) -> Result<Report> {
        self.last_of(&["udp-send", &to.to_string()])
    }

    /// As [`Host::udp_send`] from a connected socket.
    ///
    /// # Errors
    /// See [`Host::act`].
    pub fn udp_connected(&self, to: SocketAddr) -> Result<Report> {
        self.last_of(&["udp-connected", &to.to_string()])
    }

    /// Sends an echo request from a ping socket: `Received`, or `Failed`.
    ///
    /// # Errors
    /// See [`Host::act`].
    pub fn ping(&self, to: IpAddr) -> Result<Report> {
        self.last_of(&["icmp-ping", &to.to_string()])
    }

    /// Starts a TCP echo server on `port` of all addresses, and waits until it listens.
    ///
    /// # Errors
    /// When the port is taken or the policy forbids it.
    pub fn tcp_server(&self, port: u16) -> Result<Actor> {
        self.server(&["tcp-serve", &format!("[::]:{port}")])
    }

    /// Starts a UDP echo server on `port` of all addresses, and waits until it is bound.
    ///
    /// # Errors
    /// When the port is taken or the policy forbids it.
    pub fn udp_server(&self, port: u16) -> Result<Actor> {
        self.server(&["udp-serve", &format!("[::]:{port}")])
    }

    /// Opens a TCP connection to an echo server and keeps it; [`Actor::exchange`] then sends over it.
    ///
    /// # Errors
    /// When it cannot be connected.
    pub fn hold(&self, to: SocketAddr) -> Result<Actor> {
        let actor = self.actor(&["hold", &to.to_string()])?;
        match actor.next()? {
            Report::Connected { .. } => Ok(actor),
            other => bail!("{} cannot hold a connection to {to}: {other:?}", self.name()),
        }
    }

    /// Exchanges a text with an echo server, over TCP or by a connected UDP socket (`--udp`), and leaves the connection
    /// idle; the actor's next report says what happens to it.
    ///
    /// # Errors
    /// When there is no echo.
    pub fn watch(&self, to: SocketAddr, options: &[&str]) -> Result<Actor> {
        let actor = self.actor(&[&["watch", &to.to_string()], options].concat())?;
        loop {
            match actor.next()? {
                Report::Connected { .. } | Report::Sent => {}
                Report::Received { .. } => return Ok(actor),
                other => bail!("{} cannot watch a connection to {to}: {other:?}", self.name()),
            }
        }
    }

    fn server(&self, arguments: &[&str]) -> Result<Actor> {
        let actor = self.actor(arguments)?;
        match actor.next()? {
            Report::Listening { .. } => Ok(actor),
            other => bail!("{} cannot serve: {other:?}", self.name()),
        }
    }

    fn last_of(&self, arguments: &[&str]) -> Result<Report> {
        self.act(arguments)?.pop().context("lab-actor reported nothing")
    }
}
