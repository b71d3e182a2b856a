//! rsyslog: a syslog server for one host, with sockets and files of its own.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Server, directory, loopback, program};
use crate::host::Host;

/// A syslog server that listens on a Unix socket and, on the host's loopback, by UDP and TCP. Dropping it kills it.
#[derive(Debug)]
pub struct Rsyslog {
    host: Host,
    home: PathBuf,
    port: u16,
    server: Option<Server>,
}

/// A message as rsyslog understood it.
#[derive(Debug, Clone, PartialEq)]
pub struct Logged {
    /// HOSTNAME.
    pub host: String,
    /// APP-NAME.
    pub app: String,
    /// MSGID.
    pub id: String,
    /// Facility and severity in words, such as `daemon.warning`.
    pub priority: String,
    /// MSG, which segd makes of JSON.
    pub record: Value,
}

impl Rsyslog {
    /// Whether it is installed.
    pub fn is_installed() -> bool {
        program("rsyslogd", "rsyslog").is_ok()
    }

    /// Starts one; `port` is that of UDP and TCP.
    ///
    /// # Errors
    /// When rsyslog is not installed, or does not start.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let home = directory(host, &format!("rsyslog{port}"), "root")?;
        fs::write(home.join("rsyslog.conf"), config(&home, port))?;
        let mut rsyslog = Self { host: host.clone(), home, port, server: None };
        rsyslog.go_on()?;
        Ok(rsyslog)
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.home.join("log")
    }

    /// Sends it a signal, such as SIGSTOP.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.server.as_mut().context("rsyslog was stopped")?.process().signal(signal)
    }

    /// Stops it in good order. What arrives then is refused.
    ///
    /// # Errors
    /// When it goes on for 30 seconds.
    pub fn stop(&mut self) -> Result<()> {
        self.server.take().map_or(Ok(()), Server::stop)
    }

    /// Starts it again, with the same sockets and files.
    ///
    /// # Errors
    /// When it does not start.
    pub fn go_on(&mut self) -> Result<()> {
        let mut server = self.host.command(program("rsyslogd", "rsyslog")?)?;
        server.arg("-n").arg("-f").arg(self.home.join("rsyslog.conf")).arg("-i").arg(self.home.join("pid"));
        let (socket, port) = (self.socket(), self.port);
        let ready = || {
            socket.exists()
                && self.host.observe(|| TcpStream::connect(loopback(port))).is_ok_and(|tcp| tcp.is_ok())
        };
        self.server = Some(Server::start(&self.host, server, port, ready)?);
        Ok(())
    }

    /// The messages of segd that came by `input`: `imtcp`, `imudp` or `imuxsock`.
    ///
    /// # Errors
    /// When one is not as segd sends it.
    pub fn logged(&self, input: &str) -> Result<Vec<Logged>> {
        let text = fs::read_to_string(self.home.join(input)).unwrap_or_default();
        let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
        complete.split('\n').filter(|line| !line.is_empty()).map(parse).collect()
    }
}

fn parse(line: &str) -> Result<Logged> {
    let parts: Vec<&str> = line.splitn(5, ' ').collect();
    let [host, app, id, priority, message] = parts[..] else { anyhow::bail!("not as wanted: {line}") };
    let record = serde_json::from_str(message).with_context(|| line.to_owned())?;
    let [host, app, id, priority] = [host, app, id, priority].map(str::to_owned);
    Ok(Logged { host, app, id, priority, record })
}

fn config(home: &Path, port: u16) -> String {
    let home = home.display();
    format!(
        r#"global(workDirectory="{home}")
module(load="imudp")
module(load="imtcp")
module(load="imuxsock" SysSock.Use="off")
input(type="imudp" port="{port}" address="127.0.0.1")
input(type="imtcp" port="{port}" address="127.0.0.1")
# Its own parser of local messages expects the older format, RFC 3164.
input(type="imuxsock" socket="{home}/log" useSpecialParser="off" parseHostname="on")
template(name="line" type="string"
  string="%hostname% %app-name% %msgid% %syslogfacility-text%.%syslogseverity-text% %msg%\n")
template(name="file" type="string" string="{home}/%inputname%")
action(type="omfile" dynaFile="file" template="line" asyncWriting="off" flushOnTXEnd="on")
"#
    )
}
