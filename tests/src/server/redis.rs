//! Redis.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Result;

use super::{Server, directory, loopback, program};
use crate::host::Host;

impl Server {
    /// An empty Redis on `port`, without a password and without persistence.
    ///
    /// # Errors
    /// When Redis is not installed, or does not start.
    pub fn redis(host: &Host, port: u16) -> Result<Self> {
        let home = directory(host, &format!("redis{port}"), "root")?;
        let mut server = host.command(program("redis-server", "redis-server")?)?;
        server.arg("--port").arg(port.to_string()).arg("--dir").arg(&home);
        server.args(["--bind", "*", "-::*", "--protected-mode", "no", "--save", "", "--appendonly", "no"]);
        Self::start(host, server, port, || host.observe(|| pong(port)).is_ok_and(|answer| answer.is_some()))
    }
}

fn pong(port: u16) -> Option<()> {
    let mut stream = TcpStream::connect(loopback(port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.write_all(b"PING\r\n").ok()?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).ok()?;
    (answer == *b"+PONG\r\n").then_some(())
}
