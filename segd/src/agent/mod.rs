//! `segd run`: puts the parts together, in an order in which whatever can fail does so before the kernel is
//! touched, and takes them apart again. What is pinned in the kernel stays when the agent ends.

mod core;
mod events;
mod view;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use core::InstallError;
use core::{Core, Draft, Remembered};
use state::StateDir;
pub use state::StateError;

use crate::config::{self, Config, ConfigError, SinkTarget};
use crate::control::{self, ControlSocket};
use crate::datapath::{self, Datapath, Place, host};
use crate::state;
use crate::telemetry::exporter::{self, Exporter};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::process::ProcFs;
use crate::telemetry::sink::{self, Sink};
use crate::telemetry::{Collector, Filter};

/// How long sinks may take to write what is queued when the agent ends.
const PATIENCE: Duration = Duration::from_secs(2);

/// The arguments of `segd run`.
#[derive(Clone, Debug)]
pub struct Options {
    /// `None`: the default file, if it is there.
    pub config: Option<PathBuf>,
    /// `None`: the root of the cgroup2 mount.
    pub cgroup: Option<PathBuf>,
    /// As [`Place::bpffs`].
    pub bpffs: PathBuf,
    /// What must outlive the agent.
    pub state_dir: PathBuf,
    /// Of the control socket.
    pub run_dir: PathBuf,
    /// As [`Place::log_level`].
    pub program_log: u8,
}

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// `segd.toml`.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The policy, or bringing it into force.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] control::BindError),
    /// The metrics address.
    #[error(transparent)]
    Metrics(#[from] exporter::BindError),
    /// A sink.
    #[error("the sink {name} cannot start: {source}")]
    Sink {
        /// Its name.
        name: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
    /// The metrics' names: a build error.
    #[error("cannot make the metrics: {0}")]
    Names(#[from] prometheus::Error),
    /// The system.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's word.
        source: std::io::Error,
    },
}

impl StartError {
    /// Exit code of `segd run`: 4 where more privilege would help, else 2.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let permission = match self {
            Self::Datapath(e) | Self::Install(InstallError::Datapath(e)) => e.is_permission(),
            Self::State(e) | Self::Install(InstallError::State(e)) => e.is_permission(),
            Self::Control(control::BindError::Io { source, .. }) => {
                source.kind() == std::io::ErrorKind::PermissionDenied
            }
            _ => false,
        };
        if permission { 4 } else { 2 }
    }
}

/// Runs the agent until SIGTERM or SIGINT. SIGHUP loads the zone files anew.
///
/// # Errors
/// Why it does not start. Then nothing is attached that was not before.
pub async fn run(options: Options) -> Result<(), StartError> {
    let config = config::read(options.config.as_deref())?;
    let addresses = host::addresses().map_err(system("read the addresses of this host"))?;
    let draft = core::draft(&config, addresses)?;
    for warning in &draft.warnings {
        tracing::warn!("{warning}");
    }
    let state = StateDir::open(&options.state_dir)?;
    let socket = ControlSocket::bind(&options.run_dir, &config.control_group)?;
    let listener = exporter::bind(config.metrics_listen).await?;
    let metrics_address = listener.local_addr().map_err(system("read the metrics address"))?;
    let mut signals = Signals::new()?;
    let core = Arc::new(load(&options, config, state, draft)?);
    let agent = Arc::new(view::Handle::new(Arc::clone(&core), metrics_address));
    let collector = Arc::clone(&core.collector);
    let metrics = Arc::new(Metrics::new(Arc::clone(&agent) as _, Arc::clone(&collector))?);
    let ring = attach(&core)?;

    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();
    let follower = events::follow(ring, Arc::clone(&collector), shutdown.clone());
    tasks.spawn(async move {
        if let Err(error) = follower.await {
            tracing::error!("no more flow records: cannot wait for the ring buffer: {error}");
        }
    });
    tasks.spawn(events::sweep(Arc::clone(&core), shutdown.clone()));
    tasks.spawn(events::surroundings(Arc::clone(&core), shutdown.clone()));
    let readiness = Arc::clone(&agent) as _;
    let pages = Exporter { metrics, collector: Arc::clone(&collector), readiness };
    tasks.spawn(exporter::serve(listener, pages, shutdown.clone()));
    tasks.spawn(control::serve(socket, agent, shutdown.clone()));
    notify(&[sd_notify::NotifyState::Ready]);

    signals.until_told(&core).await;
    notify(&[sd_notify::NotifyState::Stopping]);
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
    tokio::task::block_in_place(|| collector.close_sinks(PATIENCE));
    tracing::info!("stopped; the programs stay attached and go on judging (`segd detach` takes them off)");
    Ok(())
}

fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> StartError {
    move |source| StartError::System { what, source }
}

/// Loads the programs and brings the policy into force in tables that nothing reads yet, or that the programs
/// of a former agent read. Undone on an error, unless a former agent's programs are in place.
fn load(options: &Options, config: Config, state: StateDir, draft: Draft) -> Result<Core, StartError> {
    let root = host::cgroup2_root();
    let (cgroup, cgroups) = match (&options.cgroup, root) {
        (Some(cgroup), root) => (cgroup.clone(), root.unwrap_or_else(|_| cgroup.clone())),
        (None, root) => root.map(|root| (root.clone(), root))?,
    };
    let place = Place { cgroup, bpffs: options.bpffs.clone(), log_level: options.program_log };
    let remembered = Remembered::load(&state)?;
    let name = match &config.host.name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname()
            .map_err(|e| system("read the host name")(e.into()))?
            .to_string_lossy()
            .into_owned(),
    };
    let sinks = start_sinks(&config)?;
    let fresh_counters = remembered.registry.is_none();
    let mut datapath = Datapath::open(&place, fresh_counters)?;
    if options.program_log > 0 {
        follow_program_log(&mut datapath);
    }
    let processes = Box::new(ProcFs::new(cgroups));
    let collector = |context| Collector::new(context, processes, sinks);
    Ok(Core::new(config, name.into(), state, remembered, draft, datapath, collector)?)
}

fn start_sinks(config: &Config) -> Result<Vec<Sink>, StartError> {
    let mut started = Vec::new();
    for sink in &config.sinks {
        let filter = Filter { verdict: sink.verdicts.clone(), ..Filter::default() };
        let (name, result) = match &sink.target {
            SinkTarget::Stdout => {
                ("stdout".to_owned(), sink::stdout::start("stdout", filter).map_err(Into::into))
            }
            SinkTarget::File { path, rotate } => {
                let name = path.display().to_string();
                let options = sink::file::FileOptions {
                    path: path.clone(),
                    size: rotate.size,
                    age: rotate.age,
                    keep: rotate.keep,
                };
                let result = sink::file::start(&name, filter, options).map_err(Into::into);
                (name, result)
            }
        };
        started.push(result.map_err(|source| StartError::Sink { name, source })?);
    }
    Ok(started)
}

/// Hands what the programs log to this agent's own log.
fn follow_program_log(datapath: &mut Datapath) {
    match aya_log::EbpfLogger::init(datapath.programs()) {
        Ok(mut logger) => {
            tokio::spawn(async move {
                let mut every = tokio::time::interval(Duration::from_millis(100));
                loop {
                    every.tick().await;
                    logger.flush();
                }
            });
        }
        Err(error) => tracing::warn!("the programs' log cannot be followed: {error}"),
    }
}

/// Puts the programs in place. From here on nothing fails.
fn attach(core: &Core) -> Result<RingBuf<MapData>, StartError> {
    let mut datapath = core.datapath();
    let ring = datapath.take_events()?;
    let took_over = datapath.attach()?;
    let foreign = datapath.foreign();
    drop(datapath);
    if core.fresh_counters && took_over {
        // Flows that the former programs decided since have places in counters that are gone.
        core.load_again();
    }
    let now = core.in_force();
    let how = if took_over { "took over from a former agent" } else { "attached" };
    tracing::info!(zone = now.zone, rules = now.policy.rules.len(), "{how}");
    for (hook, program) in foreign {
        tracing::info!(hook, program, "another program is attached beside segd's; it is left alone");
    }
    Ok(ring)
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot tell systemd: {error}");
    }
}

/// The signals that the agent knows, caught before it touches the kernel.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> Result<Self, StartError> {
        let catch = |kind| signal(kind).map_err(system("catch signals"));
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            reload: catch(SignalKind::hangup())?,
        })
    }

    async fn until_told(&mut self, core: &Core) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.reload.recv() => match tokio::task::block_in_place(|| core.load()) {
                    Ok(generation) => tracing::info!(generation = generation.0, "loaded the zone files anew"),
                    Err(error) => tracing::error!("the former policy stays in force: {error}"),
                },
            }
        }
    }
}
