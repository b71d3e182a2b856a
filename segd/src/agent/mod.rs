//! `segd run`: puts the parts together, in an order in which whatever can fail does so before the kernel is
//! touched, and takes them apart again. What is pinned in the kernel stays when the agent ends.

mod background;
mod breaks;
mod changes;
mod core;
mod error;
mod events;
mod guarding;
mod intent;
mod maker;
mod memory;
mod naming;
mod priority;
mod requests;
mod revoke;
mod sinks;
mod standing;
mod starting;
mod tampering;
mod view;

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use segd_common::id::Generation;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use core::{Change, Core, Remembered};
pub use error::{InstallError, StartError};
use intent::Around;
use intent::Stance;
use maker::Maker;
use naming::Naming;
use standing::Recovered;
use starting::Beginning;

use crate::config::{self, Config};
use crate::control::{self, ControlSocket};
use crate::datapath::{Datapath, Place, Preparation, Seeded, host};
use crate::history::Recorder;
use crate::policy::Lists;
use crate::policy::model::Exception;
use crate::rollout::history::History;
use crate::rollout::journal::Action;
use crate::state::StateDir;
use crate::telemetry::Collector;
use crate::telemetry::exporter::{self, Exporter};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::process::ProcFs;

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

/// Runs the agent until SIGTERM or SIGINT. SIGHUP loads the zone files anew.
///
/// # Errors
/// Why it does not start. Then nothing is attached that was not before.
pub async fn run(options: Options) -> Result<(), StartError> {
    memory::set_up();
    let preparation = Preparation::begin();
    let config = config::read(options.config.as_deref())?;
    let addresses = host::addresses().map_err(system("read the addresses of this host"))?;
    let state = StateDir::open(&options.state_dir)?;
    let remembered = Remembered::load(&state, &options.state_dir)?;
    let names = Naming::load(&config.names, &state)?;
    let around = Around { addresses, ..Around::default() };
    let files = match changes::read(&config, &Lists::default(), |policy| {
        names.for_policy(policy, naming::PATIENCE)
    }) {
        // Nothing to go on with, and nothing is touched yet.
        Err(error) if remembered.standings.now.is_none() => return Err(error.into()),
        files => files,
    };
    let socket = ControlSocket::bind(&options.run_dir, &config.control_group)?;
    let listener = exporter::bind(config.metrics_listen).await?;
    let metrics_address = listener.local_addr().map_err(system("read the metrics address"))?;
    let mut signals = Signals::new()?;
    let (core, start) = load(&options, preparation, config, state, remembered, (files, around), names)?;
    let core = Arc::new(core);
    let agent = Arc::new(view::Handle::new(Arc::clone(&core), metrics_address));
    let collector = Arc::clone(&core.collector);
    let metrics = Arc::new(Metrics::new(Arc::clone(&agent) as _, Arc::clone(&collector))?);
    let ring = attach(&core, start)?;
    let events = ring.as_fd().try_clone_to_owned();

    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();
    let follower = events::follow(ring, Arc::clone(&core), shutdown.clone());
    tasks.spawn(async move {
        if let Err(error) = follower.await {
            tracing::error!("no more flow records: cannot wait for the ring buffer: {error}");
        }
    });
    let followed = Arc::clone(&core);
    let followers = move || followed.followers();
    let (pulse, until) = (Arc::clone(&core.pulse), shutdown.clone());
    let watched = async move { background::watch(pulse, events?, followers, until).await };
    tasks.spawn(async move {
        if let Err(error) = watched.await {
            tracing::warn!("flows are followed at normal priority: {error}");
        }
    });
    tasks.spawn(events::sweep(Arc::clone(&core), shutdown.clone()));
    tasks.spawn(events::surroundings(Arc::clone(&core), shutdown.clone()));
    tasks.spawn(events::deadlines(Arc::clone(&core), shutdown.clone()));
    tasks.spawn(naming::follow(Arc::clone(&core), shutdown.clone()));
    tasks.spawn(tampering::watch(Arc::clone(&core), shutdown.clone()));
    tasks.spawn(guarding::watch(Arc::clone(&core), shutdown.clone()));
    tasks.spawn(revoke::destroy(Arc::clone(&core), shutdown.clone()));
    tasks.spawn(revoke::follow(Arc::clone(&core), shutdown.clone()));
    let readiness = Arc::clone(&agent) as _;
    let pages = Exporter { metrics, collector: Arc::clone(&collector), readiness };
    tasks.spawn(exporter::serve(listener, pages, shutdown.clone()));
    tasks.spawn(control::serve(socket, agent, shutdown.clone()));
    memory::give_back();
    notify(&[sd_notify::NotifyState::Ready]);

    signals.until_told(&core).await;
    notify(&[sd_notify::NotifyState::Stopping]);
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
    core.note(&Change::own(Action::Stop));
    tokio::task::block_in_place(|| collector.close_sinks(PATIENCE));
    tracing::info!("stopped; the programs stay attached and go on judging (`segd detach` takes them off)");
    Ok(())
}

fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> StartError {
    move |source| StartError::System { what, source }
}

/// Loads the programs and brings the policy into force in tables that nothing reads yet, or that the programs
/// of a former agent read. Undone on an error, unless a former agent's programs are in place.
fn load(
    options: &Options,
    preparation: Preparation,
    config: Config,
    state: StateDir,
    remembered: Remembered,
    (files, around): (Result<Stance, InstallError>, Around),
    names: Naming,
) -> Result<(Core, Start), StartError> {
    let root = host::cgroup2_root();
    let (cgroup, cgroups) = match (&options.cgroup, root) {
        (Some(cgroup), root) => (cgroup.clone(), root.unwrap_or_else(|_| cgroup.clone())),
        (None, root) => root.map(|root| (root.clone(), root))?,
    };
    let place = Place { cgroup, bpffs: options.bpffs.clone(), log_level: options.program_log };
    let name = match &config.host.name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname()
            .map_err(|e| system("read the host name")(e.into()))?
            .to_string_lossy()
            .into_owned(),
    };
    let history = History::open(&options.state_dir)?;
    let sinks = sinks::start(&config)?;
    let recorder = start_recorder(&config, &options.state_dir)?;
    let mut datapath = Datapath::open_prepared(preparation, &place, remembered.registry.is_none())?;
    let kernel = datapath.in_force()?;
    for record in remembered.standings.unfulfilled(kernel.generation) {
        history.remove(record)?;
    }
    let kept = history.generations()?.into_iter().chain(remembered.standings.last());
    datapath.go_on_from(kept.map(Generation).max().unwrap_or_default());
    let begun = starting::begin(&remembered.standings, &history, kernel, files, around);
    let Beginning { mut intent, why, notes, lapsed, ended } = match begun {
        Ok(beginning) => beginning,
        Err(error) => {
            datapath.abandon()?;
            return Err(error.into());
        }
    };
    intent.around.names = names.hold(&intent);
    for warning in intent.stance.warnings.iter().chain(&notes) {
        tracing::warn!("{warning}");
    }
    if options.program_log > 0 {
        follow_program_log(&mut datapath)?;
    }
    let recovered = remembered.recovered(&options.state_dir, kernel.generation);
    let processes = Box::new(ProcFs::new(cgroups));
    let collector = |context| Collector::new(context, processes, sinks).with_recorder(recorder);
    let maker = Maker { config, host: name.into(), state, history };
    // What other zone files than those that stood take the place of, which is watched too.
    let loads = intent.stance.record == 0;
    let stood = remembered.standings.now.as_ref().filter(|s| loads && s.pending.is_none());
    let replaced = stood.map(|s| (s.record, host::boottime_ns()));
    let core = Core::new(maker, remembered, (intent, why), names, datapath, collector)?;
    Ok((core, Start { recovered, notes, replaced, ended, lapsed }))
}

/// How an agent began, for the journal and the guard.
struct Start {
    recovered: Option<Recovered>,
    notes: Vec<String>,
    /// What stood before, and when the zone files took its place.
    replaced: Option<(u32, u64)>,
    ended: Vec<Exception>,
    lapsed: bool,
}

impl Start {
    fn tell(self, core: &Core) {
        core.note_start(self.recovered.as_ref(), &self.notes);
        core.resume_guard(self.replaced);
        core.tell_ended(&self.ended, "its time was over before the start");
        if self.lapsed {
            core.note(&Change::own(Action::Expire).because("nobody confirmed the change in time"));
        }
    }
}

fn start_recorder(config: &Config, state_dir: &Path) -> Result<Option<Arc<Recorder>>, StartError> {
    if !config.history.enabled {
        return Ok(None);
    }
    let started = Recorder::start(state_dir, &config.history);
    started.map(|recorder| Some(Arc::new(recorder))).map_err(system("start a thread for the flow history"))
}

/// Hands what the programs log to this agent's own log.
fn follow_program_log(datapath: &mut Datapath) -> Result<(), crate::datapath::Error> {
    match aya_log::EbpfLogger::init(datapath.programs()?) {
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
    Ok(())
}

/// Puts the programs in place. From here on nothing fails. What need not be on disk before they judge is written after.
fn attach(core: &Core, start: Start) -> Result<RingBuf<MapData>, StartError> {
    let mut datapath = core.datapath();
    let ring = datapath.take_events()?;
    let first = !datapath.is_attached();
    if first {
        seed(&mut datapath);
    }
    let took_over = datapath.attach()?;
    if first {
        // Those that were made meanwhile.
        seed(&mut datapath);
    }
    start.tell(core);
    datapath.settle_in()?;
    if let Some(recorder) = core.collector.recorder() {
        recorder.open();
    }
    let foreign = datapath.foreign();
    drop(datapath);
    core.revoker.policy_changed();
    if core.fresh_counters && took_over {
        // Flows that the former programs decided since have places in counters that are gone.
        core.load_again();
    }
    let now = core.in_force();
    let how = if took_over { "took over from a former agent" } else { "attached" };
    tracing::info!(zone = now.zone, rules = now.intent.stance.policy.rules.len(), "{how}");
    for (hook, program) in foreign {
        tracing::info!(hook, program, "another program is attached beside segd's; it is left alone");
    }
    Ok(ring)
}

/// Tells the programs of the sockets that are older than they.
fn seed(datapath: &mut Datapath) {
    match datapath.seed() {
        Ok(Seeded { flows: 0, servers: 0, left_out: 0 }) => {}
        Ok(Seeded { flows, servers, left_out: 0 }) => {
            tracing::info!(flows, servers, "found sockets that are older than the programs");
        }
        Ok(Seeded { flows, servers, left_out }) => tracing::warn!(
            flows,
            servers,
            left_out,
            "too many sockets are older than the programs; connections of those left out pass until they end"
        ),
        Err(error) => {
            tracing::warn!("connections that are older than the programs pass until they end: {error}");
        }
    }
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
                _ = self.reload.recv() => {
                    // Its guard's probe may take long.
                    let told = tokio::select! {
                        told = requests::reload(core) => told,
                        _ = self.terminate.recv() => return,
                        _ = self.interrupt.recv() => return,
                    };
                    match told {
                        Ok(done) => tracing::info!(generation = done.generation.0, "loaded the zone files anew"),
                        Err(error) => tracing::error!("the former policy stays in force: {error}"),
                    }
                }
            }
        }
    }
}
