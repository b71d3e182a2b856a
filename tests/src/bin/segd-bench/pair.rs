//! The two hosts, and a load between them.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use segd_tests::{Host, Lab, Load, LoadReport, Process};

use crate::Options;

/// What both hosts are set to before the first measurement, so that none leaves anything behind for the next one: no
/// connections in TIME_WAIT, which would be timed out a minute later; conntrack forgets closed connections at once.
const SETTINGS: [(&str, &str); 4] = [
    ("ipv4/tcp_max_tw_buckets", "0"),
    ("ipv4/ip_local_port_range", "10000 65000"),
    ("netfilter/nf_conntrack_tcp_timeout_time_wait", "1"),
    ("netfilter/nf_conntrack_tcp_timeout_close", "1"),
];

/// A client and a server.
pub(crate) struct Pair {
    pub(crate) client: Host,
    pub(crate) server: Host,
    _lab: Lab,
}

/// How a load is to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Make {
    pub(crate) load: Load,
    pub(crate) seconds: f64,
    pub(crate) warm_up: f64,
    pub(crate) parallel: usize,
    pub(crate) rate: Option<f64>,
}

/// A load that runs.
pub(crate) struct Running {
    client: Process,
    _server: Process,
    limit: Duration,
}

impl Pair {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (client, server) = (lab.host("client")?, lab.host("server")?);
        for host in [&client, &server] {
            for (path, value) in SETTINGS {
                let path = format!("/proc/sys/net/{path}");
                let written = host.observe(|| fs::write(&path, value))?;
                // Without nf_conntrack there is nothing of it to set.
                if written.is_err() && !path.contains("conntrack") {
                    written.with_context(|| format!("cannot write {path}"))?;
                }
            }
        }
        Ok(Self { client, server, _lab: lab })
    }

    pub(crate) fn hosts(&self) -> [&Host; 2] {
        [&self.client, &self.server]
    }

    /// Makes a load and waits for its report.
    pub(crate) fn make(&self, options: &Options, make: Make) -> Result<LoadReport> {
        self.start(options, make)?.report()
    }

    /// Starts a load.
    pub(crate) fn start(&self, options: &Options, make: Make) -> Result<Running> {
        let Make { load, seconds, warm_up, parallel, rate } = make;
        let address = self.server.v4_port(load.port()).to_string();
        let parallel = parallel.to_string();
        let mut command = self.server.command(program()?)?;
        command.args(["serve", load.name(), &address, "--parallel", &parallel]);
        command.args(["--cpu", &options.server_cpu.to_string()]);
        let server = self.server.spawn(command)?;
        let line = server.next_line(Duration::from_secs(10))?;
        ensure!(line == "ready", "lab-load says {line:?}");
        let mut command = self.client.command(program()?)?;
        command.args(["run", load.name(), &address, "--parallel", &parallel]);
        command.args(["--cpu", &options.client_cpu.to_string()]);
        command.args(["--seconds", &seconds.to_string(), "--warm-up", &warm_up.to_string()]);
        if let Some(rate) = rate {
            command.args(["--rate", &rate.to_string()]);
        }
        let client = self.client.spawn(command)?;
        let limit = Duration::from_secs_f64(seconds + warm_up) + Duration::from_secs(30);
        Ok(Running { client, _server: server, limit })
    }
}

impl Running {
    pub(crate) fn report(self) -> Result<LoadReport> {
        let finished = self.client.finish(self.limit)?;
        if !finished.status.success() {
            bail!("lab-load: {}", finished.stderr.trim());
        }
        let report: LoadReport = serde_json::from_str(finished.stdout.trim())
            .with_context(|| format!("lab-load wrote {:?}", finished.stdout))?;
        ensure!(report.operations > 0, "not one operation was done");
        Ok(report)
    }
}

fn program() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("lab-load");
    ensure!(path.is_file(), "there is no {}: cargo build -p segd-tests", path.display());
    Ok(path)
}
