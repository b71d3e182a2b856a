//! `segd run` for one host of a lab.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::actor::beside_this_binary;
use crate::host::Host;
use crate::http;
use crate::metrics::Metrics;
use crate::process::{Finished, Process};
use crate::wait::{patience, wait_for};

/// How long an agent may take to get ready or to stop.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where the configuration made here lets it listen. Each host has a loopback of its own.
const METRICS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9464);

/// An agent that ended instead of getting ready.
#[derive(Debug)]
pub struct Refusal {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// What an agent is to run with.
#[derive(Debug, Clone)]
pub struct AgentBuilder {
    host: Host,
    instance: Option<(String, u16)>,
    zone: Option<String>,
    zones: String,
    extra: String,
    config: Option<String>,
    cgroup: Option<PathBuf>,
    environment: Vec<(String, String)>,
    patience: Duration,
}

impl AgentBuilder {
    pub(crate) fn new(host: Host) -> Self {
        Self {
            host,
            instance: None,
            zone: None,
            zones: String::new(),
            extra: String::new(),
            config: None,
            cgroup: None,
            environment: Vec::new(),
            patience: PATIENCE,
        }
    }

    /// Lets it be one of several agents of the host, with directories of its own below the host's and this port for
    /// its metrics.
    #[must_use]
    pub fn instance(mut self, name: &str, metrics_port: u16) -> Self {
        self.instance = Some((name.to_owned(), metrics_port));
        self
    }

    /// The host zone; without it the agent finds it by the host's addresses.
    #[must_use]
    pub fn zone(mut self, name: &str) -> Self {
        self.zone = Some(name.to_owned());
        self
    }

    /// The text of the zone file.
    #[must_use]
    pub fn zones(mut self, text: &str) -> Self {
        text.clone_into(&mut self.zones);
        self
    }

    /// Further text for the end of `segd.toml`, such as `[[failsafe]]` or `[enforcement]`.
    #[must_use]
    pub fn extra(mut self, text: &str) -> Self {
        text.clone_into(&mut self.extra);
        self
    }

    /// The whole text of `segd.toml`, in place of the one made here. [`Agent::metrics`] and [`Agent::flows`] then
    /// work only if it has the same listen address and a file sink with [`AgentBuilder::flow_log`].
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// The cgroup to attach to, in place of the host's own.
    #[must_use]
    pub fn cgroup(mut self, path: impl Into<PathBuf>) -> Self {
        self.cgroup = Some(path.into());
        self
    }

    /// An environment variable for it.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// How long it and the commands that talk to it may take, in place of 30 seconds.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Where the flow log goes.
    pub fn flow_log(&self) -> PathBuf {
        self.own(self.host.directory().to_owned()).join("flows.jsonl")
    }

    /// The directory of its zone files.
    pub fn zone_dir(&self) -> PathBuf {
        self.own(self.host.directory().to_owned()).join("zones")
    }

    /// Where it pins what is in the kernel.
    pub fn bpffs(&self) -> PathBuf {
        self.own(self.host.bpffs())
    }

    /// `directory`, or the part of it that is this instance's.
    fn own(&self, directory: PathBuf) -> PathBuf {
        match &self.instance {
            Some((name, _)) => directory.join(name),
            None => directory,
        }
    }

    fn run_dir(&self) -> PathBuf {
        self.own(self.host.run_dir())
    }

    fn metrics(&self) -> SocketAddr {
        let port = self.instance.as_ref().map_or(METRICS.1, |(_, port)| *port);
        (METRICS.0, port).into()
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it ends or does not get ready within 30 seconds; with what it wrote to standard error.
    pub fn start(self) -> Result<Agent> {
        self.try_start()?
            .map_err(|refusal| anyhow!("segd run: {}: {}", refusal.status, refusal.stderr.trim()))
    }

    /// Starts it and waits until it answers or ends.
    ///
    /// # Errors
    /// When it does neither within 30 seconds, or cannot be started.
    pub fn try_start(self) -> Result<Result<Agent, Refusal>> {
        for directory in [self.zone_dir(), self.run_dir(), self.bpffs()] {
            fs::create_dir_all(directory)?;
        }
        fs::write(self.zone_dir().join("zones.toml"), &self.zones)?;
        fs::write(self.config_file(), self.config.clone().unwrap_or_else(|| self.made_config()))?;
        let process = self.launch()?;
        Agent { process, builder: self }.ready()
    }

    fn config_file(&self) -> PathBuf {
        self.own(self.host.directory().to_owned()).join("segd.toml")
    }

    fn made_config(&self) -> String {
        let zone = self.zone.iter().map(|zone| format!("zone = \"{zone}\"\n")).collect::<String>();
        format!(
            "[host]\nname = \"{name}\"\n{zone}\n[policy]\ndir = \"{zones}\"\n\n[metrics]\nlisten = \"{listen}\"\n\n\
             [[sink]]\ntype = \"file\"\npath = \"{log}\"\n\n{extra}",
            name = self.host.name(),
            zones = self.zone_dir().display(),
            listen = self.metrics(),
            log = self.flow_log().display(),
            extra = self.extra,
        )
    }

    fn launch(&self) -> Result<Process> {
        let mut command = self.host.agent_command(segd()?)?;
        command.arg("run").arg("--config").arg(self.config_file());
        command.arg("--cgroup").arg(self.cgroup.as_deref().unwrap_or_else(|| self.host.cgroup()));
        command.arg("--bpffs").arg(self.bpffs());
        command.arg("--state-dir").arg(self.own(self.host.state_dir()));
        command.arg("--run-dir").arg(self.run_dir());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.host.spawn(command)
    }
}

/// A running agent. Dropping it kills it; its programs stay attached until it is detached or the lab ends.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    builder: AgentBuilder,
}

impl Agent {
    /// The host it runs for.
    pub fn host(&self) -> &Host {
        &self.builder.host
    }

    /// What it was started with.
    pub fn builder(&self) -> &AgentBuilder {
        &self.builder
    }

    /// Its process, for signals and its standard error.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Sends it `signal` and waits until it ended.
    ///
    /// # Errors
    /// When it goes on for 30 seconds.
    pub fn kill(&mut self, signal: Signal) -> Result<ExitStatus> {
        self.process.signal(signal)?;
        self.process.wait(PATIENCE)
    }

    /// Starts it again with the same files and directories, after it ended or was killed. If it still runs it is
    /// told to end by SIGTERM first.
    ///
    /// # Errors
    /// As [`AgentBuilder::start`].
    pub fn restart(mut self) -> Result<Self> {
        if self.process.ended()?.is_none() {
            self.kill(Signal::SIGTERM)?;
        }
        // The flow log is kept: it is appended to.
        let process = self.builder.launch()?;
        let agent = Self { process, builder: self.builder };
        agent.ready()?.map_err(|refusal| anyhow!("segd run: {}: {}", refusal.status, refusal.stderr.trim()))
    }

    /// Replaces the text of its zone file on disk. The agent is not told.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_zones(&self, text: &str) -> Result<()> {
        fs::write(self.builder.zone_dir().join("zones.toml"), text).context("cannot write the zone file")
    }

    /// A `segd` command that talks to this agent, run on the machine itself.
    ///
    /// # Errors
    /// When it cannot be started or does not end within 30 seconds. An exit status is no error.
    pub fn segd(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = Command::new(segd()?);
        command.args(arguments).env("SEGD_RUN_DIR", self.builder.run_dir());
        Process::start(command)?.finish(self.builder.patience)
    }

    /// As [`Agent::segd`], with `--output json`, parsed.
    ///
    /// # Errors
    /// When the command fails or what it prints is not JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let arguments = [arguments, &["--output", "json"]].concat();
        let printed = self.succeed(&arguments)?;
        serde_json::from_str(&printed).with_context(|| format!("segd {}: {printed}", arguments.join(" ")))
    }

    /// `segd status`, parsed.
    ///
    /// # Errors
    /// When the command fails.
    pub fn status(&self) -> Result<Value> {
        self.json(&["status"])
    }

    /// `segd mode`, with the mode and what else is given, whatever it breaks.
    ///
    /// # Errors
    /// When the command fails.
    pub fn mode(&self, arguments: &[&str]) -> Result<()> {
        self.succeed(&[&["mode"], arguments, &["--force"]].concat()).map(drop)
    }

    /// Takes every program and pin of this host off, by `segd detach`.
    ///
    /// # Errors
    /// When the command fails.
    pub fn detach(&self) -> Result<()> {
        let (bpffs, state) = (self.builder.bpffs(), self.host().state_dir());
        let places = ["--bpffs", &bpffs.to_string_lossy(), "--state-dir", &state.to_string_lossy()];
        self.succeed(&[&["detach"], &places[..]].concat()).map(drop)
    }

    /// A scrape of its metrics.
    ///
    /// # Errors
    /// When it does not answer, or not in the Prometheus text format.
    pub fn metrics(&self) -> Result<Metrics> {
        let response = self.host().get(self.builder.metrics(), "/metrics")?;
        if response.status != 200 {
            bail!("GET /metrics: status {}: {}", response.status, response.body.trim());
        }
        Metrics::parse(&response.body)
    }

    /// The flow records that its file sink wrote so far, oldest first.
    ///
    /// # Errors
    /// When a complete line is not JSON.
    pub fn flows(&self) -> Result<Vec<Value>> {
        let log = fs::read_to_string(self.builder.flow_log()).unwrap_or_default();
        // What follows the last line end is a record being written.
        let complete = log.rsplit_once('\n').map_or("", |(complete, _)| complete);
        let records =
            complete.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned()));
        records.collect::<Result<_>>().context("a line of the flow log is not JSON")
    }

    /// Waits for a flow record for which `wanted` holds, and gives it.
    ///
    /// # Errors
    /// When none is there after `timeout`; with all that are.
    pub fn wait_flow(&self, what: &str, timeout: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        wait_for(what, timeout, || self.flows().ok()?.into_iter().find(|record| wanted(record)))
            .with_context(|| format!("the flow log of {}: {:#?}", self.host().name(), self.flows()))
    }

    /// Waits until `wanted` holds for its metrics.
    ///
    /// # Errors
    /// When it does not within `timeout`.
    pub fn wait_metrics(
        &self,
        what: &str,
        timeout: Duration,
        wanted: impl Fn(&Metrics) -> bool,
    ) -> Result<Metrics> {
        wait_for(what, timeout, || self.metrics().ok().filter(|metrics| wanted(metrics)))
            .with_context(|| format!("the metrics of {}: {:#?}", self.host().name(), self.metrics()))
    }

    fn ready(mut self) -> Result<Result<Self, Refusal>> {
        let socket = self.builder.run_dir().join("segd.sock");
        let patience = patience(self.builder.patience);
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if self.process.ended()?.is_some() {
                let Finished { status, stderr, .. } = self.process.finish(PATIENCE)?;
                return Ok(Err(Refusal { status, stderr }));
            }
            // Another agent of this host may answer meanwhile.
            if let Ok((response, listener)) = http::get_unix(&socket, "/v1/status")
                && response.status == 200
                && u32::try_from(listener) == Ok(self.process.pid())
            {
                return Ok(Ok(self));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("segd run is not ready after {patience:?}; its standard error: {}", self.process.stderr())
    }

    fn succeed(&self, arguments: &[&str]) -> Result<String> {
        let finished = self.segd(arguments)?;
        if !finished.status.success() {
            bail!("segd {}: {}: {}", arguments.join(" "), finished.status, finished.stderr.trim());
        }
        Ok(finished.stdout)
    }
}

/// The `segd` under test.
///
/// # Errors
/// When there is none.
pub fn segd() -> Result<PathBuf> {
    match std::env::var_os("SEGD_BIN") {
        Some(path) => Ok(path.into()),
        None => beside_this_binary("segd").context("there is no segd: cargo build -p segd, or set SEGD_BIN"),
    }
}
