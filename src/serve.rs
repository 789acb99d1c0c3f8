//! One process: builds its parts from the settings, runs them, and brings
//! them to an end in the right order.

mod build;
mod monitor;
mod remount;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::amqp::connect::{Connector, backoff};
use crate::amqp::declare_error::DeclareError;
use crate::amqp::event_log::{LogAlarm, LogKeeper, LogNews};
use crate::amqp::frames::{RepairLog, RepairedFrame};
use crate::amqp::outbox::{OutboxSettings, REFUSAL_LIMIT};
use crate::amqp::pool::PublisherLink;
use crate::amqp::topology::{REQUEST_KEY, Topology};
use crate::codex::app_server::IdleServers;
use crate::codex::engine::Engine;
use crate::codex::engines::AnyEngine;
use crate::conditions::Conditions;
use crate::config::{EventLog, Settings};
use crate::error::with_sources;
use crate::guard::HeldWorkspaces;
use crate::host::Host;
use crate::http::{self, BindError, Health};
use crate::isolation::IsolationError;
use crate::metrics::Metrics;
use crate::pauses::PauseWatch;
use crate::pool::Pool;
use crate::request::Limits;
use crate::sequencer::{self, Actor, Records, Sequencer};
use crate::supervisor::{PartName, Shutdown, Supervisor};
use crate::telemetry::{self, Telemetry};
use crate::turn::Runner;
use crate::worker::{BlockedTurns, PrivateOffers, RunningTurns, Takeovers, Worker};
use crate::workspace::{DiskError, Root, RootError};
pub use build::{
    EngineError, WARM_PER_SLOT, agents, connector, engine, homes, lock_lost_after, process_id,
    root, runner, topology, tried,
};
use build::{host, idle_servers, quiet_skill_folders, warn_of_trust};
use monitor::{EventWatch, Watched};
pub use monitor::{channels_needed, too_few_channels};

/// Channels besides one for each slot: offers, endings of turns that don't
/// run, and a few for heartbeats, publications of ended turns, and answers to producers.
const EXTRA_CHANNELS: usize = 2 * sequencer::AT_ONCE + 11;
/// How often it is looked whether a workspace is free again that could not be cleared.
const HELD_LOOK: Duration = Duration::from_secs(1);
/// How long the connections may take to close at the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("TURN_WORKER_WORKSPACE_ROOT can't be marked as one host's disk")]
    Disk(#[source] DiskError),
    #[error(transparent)]
    Isolation(#[from] IsolationError),
    #[error(transparent)]
    Http(#[from] BindError),
    #[error("the broker's objects can't be set up")]
    Topology(#[from] DeclareError),
    #[error("the part `{0}` of the process failed, so the process has ended; see the log")]
    Part(PartName),
}

/// Serves until `shutdown.drain`, and then until everything is settled or
/// `shutdown.cut`. `signals` is what cancels both.
pub async fn serve(
    settings: Settings,
    shutdown: Shutdown,
    signals: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let supervisor = Supervisor::new(shutdown.clone());
    supervisor.spawn(PartName::Signals, &shutdown.cut, signals);
    for exposed in settings.exposed_files() {
        tracing::warn!("{exposed}");
    }
    let id = process_id();
    let (models, tenants) = (settings.named_models(), settings.tenants.clone());
    let metrics = Metrics::of_process(&id, Some(&models), tenants);
    // A process that only sequences needs no codex.
    let mut engine = match settings.roles.worker {
        true => Some(engine(&settings)?),
        false => None,
    };
    let launch = engine.as_ref().map(|engine| &engine.codex().launch);
    let idle = idle_servers(&settings, launch, &metrics);
    if let (Some(engine), Some(idle)) = (&mut engine, &idle) {
        engine.keep_servers(idle.clone());
    }
    let codex = engine.as_ref().map(AnyEngine::codex);
    let root = root(&settings, codex)?;
    if let Some(codex) = codex {
        warn_of_trust(&settings, &root, codex);
        tried(codex, &metrics).await?;
        if idle.is_some() {
            quiet_skill_folders(&codex.launch);
        }
    }
    let telemetry = match settings.roles.worker {
        true => telemetry(&settings, &id, &metrics),
        false => Telemetry::default(),
    };
    let host = host(&settings, &root, codex, &metrics);
    let conditions = Conditions::new(metrics.clone());
    let pool = Pool::join(&id, &root, &settings, host.clone(), conditions.clone());
    let pauses = match pool.disk() {
        None => PauseWatch::begin(root.pauses(), conditions.clone()),
        Some(_) => {
            root.mark_local().map_err(ServeError::Disk)?;
            PauseWatch::of_homes(conditions.clone())
        }
    };
    let health = Health::new(settings.roles, host.clone(), conditions.clone());
    let listener = http::bind(settings.http_addr).await?;
    tracing::info!(
        id,
        version = crate::VERSION,
        prefix = settings.prefix,
        root = %root.path().display(),
        codex = codex.map(|codex| codex.program.path().display().to_string()),
        engine = codex.map(|_| settings.codex_engine.as_str()),
        slots = settings.slots,
        broker = settings.broker.shown(),
        http = listener.local_addr().map(|addr| addr.to_string()).unwrap_or_default(),
        "starting"
    );
    let runner = engine.map(|engine| {
        metrics.set_slots(settings.slots);
        metrics.set_turn_timeout(settings.turn_timeout);
        let (root, id) = (root.clone(), id.clone());
        runner(&settings, root, engine, id, host.clone(), metrics.clone())
    });
    if settings.roles.sequencer {
        metrics.set_backlog_limit(settings.backlog);
    }
    let end = &shutdown.end;
    supervisor.spawn(PartName::Pauses, end, pauses.clone().run(end.clone()));
    let watching = supervisor.spawn(PartName::Host, end, host.clone().watch(end.clone()));
    let watch_root = remount::watch(root.clone(), end.clone());
    supervisor.spawn(PartName::Root, end, watch_root);
    if let Some(runner) = &runner {
        let watch = watch_held(runner.held.clone(), metrics.clone(), end.clone());
        supervisor.spawn(PartName::HeldWorkspaces, end, watch);
    }
    // To the very end: an operator wants to see how a drain goes, and a monitor what
    // was counted last.
    let closing = CancellationToken::new();
    let until = closing.clone().cancelled_owned();
    let http = http::serve(listener, metrics.clone(), health.clone(), until);
    let http = supervisor.spawn(PartName::Http, &closing, http);
    let (linger, counts) = (settings.metrics_linger, metrics.clone());
    let local = Local {
        root,
        host,
        metrics,
        health,
        conditions,
        pool,
        pauses,
        telemetry: telemetry.clone(),
    };
    let outcome = run(settings, &id, local, runner, &supervisor, &shutdown).await;
    shutdown.end.cancel();
    if outcome.is_ok() && supervisor.failed().is_none() {
        tokio::select! {
            () = counts.last_counts_scraped(linger) => {}
            () = shutdown.cut.cancelled() => {}
        }
    }
    telemetry.flush(telemetry::FLUSH_LIMIT).await;
    closing.cancel();
    for part in [watching, http] {
        let _ = timeout(CLOSE_LIMIT, part).await;
    }
    match supervisor.failed() {
        Some(part) => Err(ServeError::Part(part)),
        None => outcome,
    }
}

/// What producers send to, and what is consumed, as the conventions name it.
fn telemetry(settings: &Settings, id: &str, metrics: &Metrics) -> Telemetry {
    let topology = Topology::new(&settings.prefix, settings.dead_letter_limit);
    let destination = format!("{}:{REQUEST_KEY}:{}", topology.requests, topology.turns);
    Telemetry::from_env(id, destination, metrics)
}

/// Keeps the metrics of the workspaces that are locked by what can't be killed.
async fn watch_held(held: HeldWorkspaces, metrics: Metrics, end: CancellationToken) {
    let mut ticks = interval(HELD_LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = end.cancelled() => return,
        }
        let mut now = held.snapshot();
        if !now.is_empty() {
            let looked = held.clone();
            let _ = tokio::task::spawn_blocking(move || looked.refresh()).await;
            now = held.snapshot();
        }
        if told + now.len() > 0 {
            metrics.set_held_workspaces(&now);
        }
        told = now.len();
    }
}

/// What a process has without a broker.
struct Local {
    root: Root,
    host: Host,
    metrics: Metrics,
    health: Health,
    conditions: Conditions,
    pool: Pool,
    pauses: PauseWatch,
    telemetry: Telemetry,
}

/// Runs the parts that need the broker until all of them have ended, in this order: what takes
/// and runs turns, what watches for the drain, and last the publishing connection.
async fn run(
    settings: Settings,
    id: &str,
    local: Local,
    runner: Option<Runner<AnyEngine>>,
    supervisor: &Supervisor,
    shutdown: &Shutdown,
) -> Result<(), ServeError> {
    let topology = topology(&settings, local.root.id());
    let connector = connector(&settings, id).on_repair(repairs(local.metrics.clone()));
    let mut news = LogNews::default();
    let log = settings.event_log.map(|log| (log, &mut news));
    if !declare(&connector, &topology, log, &shutdown.drain).await? {
        return Ok(());
    }

    let idle = runner
        .as_ref()
        .and_then(|runner| runner.engine.idle().cloned());
    let remote = Remote::start(
        &settings, id, &local, connector, topology, supervisor, shutdown,
    );
    remote.keep_log(settings.event_log, news);
    let mut tasks = vec![remote.compare_pool()];
    if settings.roles.sequencer {
        tasks.push(remote.start_sequencer());
    }
    let worker = runner.map(|runner| remote.worker(runner));
    if let Some(worker) = &worker {
        let working = Arc::clone(worker).run(shutdown.clone());
        tasks.push(supervisor.spawn(PartName::Worker, &shutdown.drain, working));
    }
    let draining = drain(shutdown.drain.clone(), local.health.clone(), idle);
    let draining = supervisor.spawn(PartName::Drain, &shutdown.drain, draining);

    for task in tasks {
        // What went wrong in it, `supervisor` knows.
        let _ = task.await;
    }
    if let (Some(worker), Some(PartName::Worker)) = (worker, supervisor.failed()) {
        worker.cut().await;
    }
    draining.abort();
    shutdown.end.cancel();
    let publisher = remote.publisher;
    // With the process's lock: its pool need not wait for the connections to close.
    drop(local);
    let _ = timeout(CLOSE_LIMIT, publisher.closed()).await;
    tracing::info!("ended");
    Ok(())
}

/// Once the process drains, its readiness says so.
async fn drain(drain: CancellationToken, health: Health, idle: Option<IdleServers>) {
    drain.cancelled().await;
    health.set_draining();
    // No turn will ask for them any more.
    if let Some(idle) = idle {
        idle.close();
    }
}

/// What a process has with the broker: its connections, and what the parts that use them share.
struct Remote<'a> {
    settings: &'a Settings,
    id: &'a str,
    local: &'a Local,
    supervisor: &'a Supervisor,
    shutdown: &'a Shutdown,
    connector: Connector,
    topology: Topology,
    watched: Watched,
    publisher: PublisherLink,
    outbox: OutboxSettings,
    limits: Limits,
}

impl<'a> Remote<'a> {
    /// Starts the publishing connection, and what keeps all connections on one broker.
    fn start(
        settings: &'a Settings,
        id: &'a str,
        local: &'a Local,
        connector: Connector,
        topology: Topology,
        supervisor: &'a Supervisor,
        shutdown: &'a Shutdown,
    ) -> Self {
        let (metrics, conditions) = (&local.metrics, &local.conditions);
        let watched = Watched::new(
            metrics.clone(),
            local.health.clone(),
            conditions.clone(),
            settings.slots,
        );
        let end = &shutdown.end;
        let keeping = watched.keep_together(topology.clone(), end.clone());
        supervisor.spawn(PartName::Connections, end, keeping);
        let publisher_connector = watched
            .connector(&connector, monitor::PUBLISHER)
            .named(format!("{id} publisher"))
            .publishing();
        let channels = settings.slots + EXTRA_CHANNELS;
        let (publisher, keep_connected) =
            PublisherLink::new(publisher_connector, channels, end.clone());
        supervisor.spawn(PartName::Publisher, end, keep_connected);
        let outbox = OutboxSettings {
            exchange: topology.events.clone(),
            metrics: Arc::new(EventWatch::new(metrics.clone(), conditions.clone())),
            refusal_limit: REFUSAL_LIMIT,
            alarm: LogAlarm::default(),
        };
        let roots = vec![
            settings.workspace_root.clone(),
            local.root.path().to_owned(),
        ];
        Self {
            settings,
            id,
            local,
            supervisor,
            shutdown,
            connector,
            topology,
            watched,
            publisher,
            outbox,
            limits: settings.request_limits(roots),
        }
    }

    fn keep_log(&self, log: Option<EventLog>, news: LogNews) {
        let Some(log) = log else { return };
        let keeper = LogKeeper {
            topology: self.topology.clone(),
            log,
            publisher: self.publisher.clone(),
            alarm: self.outbox.alarm.clone(),
            told: news,
        };
        let end = &self.shutdown.end;
        (self.supervisor).spawn(PartName::EventLog, end, keeper.run(end.clone()));
    }

    fn compare_pool(&self) -> JoinHandle<()> {
        let drain = &self.shutdown.drain;
        let comparing = self.local.pool.clone().watch(
            self.connector.clone(),
            self.topology.clone(),
            self.publisher.clone(),
            drain.clone(),
        );
        self.supervisor.spawn(PartName::Pool, drain, comparing)
    }

    fn start_sequencer(&self) -> JoinHandle<()> {
        let (id, drain) = (self.id.to_owned(), self.shutdown.drain.clone());
        let sequencer = self.sequencer();
        let sequencing = async move { sequencer.run(&id, drain).await };
        (self.supervisor).spawn(PartName::Sequencer, &self.shutdown.drain, sequencing)
    }

    fn sequencer(&self) -> Sequencer {
        let (settings, local) = (self.settings, self.local);
        let records = Records {
            root: local.root.clone(),
            host: local.host.clone(),
            by: self.id.to_owned(),
            pool: local.pool.clone(),
        };
        Sequencer {
            connector: (self.watched).connector(&self.connector, monitor::SEQUENCER),
            topology: self.topology.clone(),
            backlog: settings.backlog,
            max_waiting: settings.max_waiting,
            overtaking: settings.overtaking,
            limits: self.limits.clone(),
            actor: Actor::new(
                self.publisher.clone(),
                self.topology.clone(),
                self.outbox.clone(),
                records,
                local.metrics.clone(),
                self.shutdown.cut.clone(),
            ),
            metrics: local.metrics.clone(),
            health: local.health.clone(),
            conditions: local.conditions.clone(),
            pool: local.pool.clone(),
            pauses: local.pauses.clone(),
            tenants: settings.tenants.clone(),
            supervisor: self.supervisor.clone(),
        }
    }

    fn worker(&self, runner: Runner<AnyEngine>) -> Arc<Worker<AnyEngine>> {
        let (settings, local) = (self.settings, self.local);
        let private = PrivateOffers::new(&self.topology, runner.engine.idle().is_some());
        Arc::new(Worker {
            runner,
            id: self.id.to_owned(),
            slots: settings.slots,
            connector: (self.watched).connector(&self.connector, monitor::WORKER),
            publisher: self.publisher.clone(),
            topology: self.topology.clone(),
            outbox: self.outbox.clone(),
            limits: self.limits.clone(),
            metrics: local.metrics.clone(),
            health: local.health.clone(),
            conditions: local.conditions.clone(),
            pool: local.pool.clone(),
            pauses: local.pauses.clone(),
            tenants: settings.tenants.clone(),
            telemetry: local.telemetry.clone(),
            running: RunningTurns::default(),
            blocked: BlockedTurns::default(),
            log_errors: settings.log_errors,
            failed_requests: settings.failed_requests,
            private,
            takeovers: Takeovers::default(),
            turns: TaskTracker::new(),
            supervisor: self.supervisor.clone(),
        })
    }
}

/// Once before anything runs: what does not fit is the operator's to fix, and
/// retrying would not help; a connection that is lost meanwhile is made
/// again. False if drained before.
async fn declare(
    connector: &Connector,
    topology: &Topology,
    mut log: Option<(EventLog, &mut LogNews)>,
    drain: &CancellationToken,
) -> Result<bool, DeclareError> {
    let mut delays = backoff();
    while let Some(link) = connector.connect_with_backoff(drain).await {
        let declared = topology.declare(&link).await;
        // In time for the first event. Without it, turns run all the same.
        if declared.is_ok()
            && let Some((log, news)) = &mut log
        {
            news.tell(&topology.keep_log(&link, log).await);
        }
        link.close().await;
        match declared {
            Ok(()) => return Ok(true),
            Err(DeclareError::Link(error)) => {
                let error = with_sources(&error);
                tracing::warn!(error, "lost the broker while setting its objects up");
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = sleep(delays.next().unwrap_or_default()) => {}
            () = drain.cancelled() => break,
        }
    }
    Ok(false)
}

/// All connections count into the same series and have one log line a minute.
fn repairs(metrics: Metrics) -> impl Fn(&RepairedFrame<'_>) + Send + Sync + 'static {
    let log = RepairLog::default();
    move |frame| {
        metrics.amqp_repaired(&frame.repairs);
        log.add(frame);
    }
}
