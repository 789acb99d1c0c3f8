//! One process: builds its parts from the settings, runs them, and brings
//! them to an end in the right order.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::amqp::connect::{Connector, State, backoff};
use crate::amqp::declare_error::DeclareError;
use crate::amqp::outbox::{OutboxMetrics, OutboxSettings};
use crate::amqp::pool::PublisherLink;
use crate::amqp::topology::Topology;
use crate::codex::binary::{self, BinaryError};
use crate::codex::exec::Exec;
use crate::codex::home::Homes;
use crate::config::{CodexHome, Settings};
use crate::error::with_sources;
use crate::http::{self, BindError, Health};
use crate::metrics::Metrics;
use crate::sequencer::{self, Actor, Sequencer};
use crate::turn::Runner;
use crate::worker::{RunningTurns, Shutdown, Worker};
use crate::workspace::{Root, RootError};

/// Channels besides one for each slot: offers, endings of turns that don't
/// run, and a few for heartbeats and what is told of ended turns.
const EXTRA_CHANNELS: usize = 2 * sequencer::AT_ONCE + 8;
/// How often in a row the broker may refuse an event before it is given up.
/// It refuses when one reader's full queue refuses, and must not stop all turns.
const NACK_LIMIT: u32 = 10;
/// How long the connections may take to close at the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error("TURN_WORKER_CODEX_BIN")]
    Codex(#[from] BinaryError),
    #[error(transparent)]
    Http(#[from] BindError),
    #[error("the broker's objects can't be set up")]
    Topology(#[from] DeclareError),
    #[error("a part of the process failed, so it has ended; the log tells more")]
    Part,
}

/// codex by these settings, with the variables that it is to have of ours.
pub fn engine(settings: &Settings) -> Result<Exec, BinaryError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = binary::resolve(&settings.codex_bin.to_string_lossy(), &path)?;
    let env = settings
        .codex_env
        .iter()
        .filter_map(|name| Some((name.clone(), std::env::var(name).ok()?)))
        .collect();
    Ok(Exec {
        // Also after the file was replaced by a newer version: the guard
        // must be the one that this worker knows how to talk to.
        guard_program: PathBuf::from("/proc/self/exe"),
        program,
        sandbox: settings.codex_sandbox,
        extra_args: settings.codex_args.clone(),
        env,
        max_line_bytes: settings.max_line_bytes,
    })
}

/// What runs turns by these settings. `worker` names this process.
pub fn runner(
    settings: &Settings,
    root: Root,
    worker: String,
) -> Result<Runner<Exec>, BinaryError> {
    let engine = engine(settings)?;
    Ok(Runner {
        homes: homes(settings, &root, &engine.env),
        root,
        engine,
        events: settings.events,
        turn_timeout: settings.turn_timeout,
        idle_timeout: settings.turn_idle_timeout,
        max_attempts: settings.max_attempts,
        default_model: settings.codex_model.clone(),
        worker,
    })
}

/// Where codex keeps its state, given what it gets of our environment.
pub fn homes(settings: &Settings, root: &Root, env: &[(String, String)]) -> Homes {
    let of = |name: &str| {
        let (_, value) = env.iter().find(|(set, _)| set == name)?;
        Some(PathBuf::from(value))
    };
    match &settings.codex_home {
        CodexHome::Default => Homes::Shared {
            set: None,
            known: of("CODEX_HOME").or_else(|| Some(of("HOME")?.join(".codex"))),
        },
        CodexHome::Shared(home) => Homes::Shared {
            set: Some(home.clone()),
            known: Some(home.clone()),
        },
        CodexHome::PerWorkspace => Homes::PerWorkspace {
            template: Some(root.codex_home_template()).filter(|folder| folder.is_dir()),
        },
    }
}

/// `host-pid-random`: an operator finds the process by it, and no two are alike.
pub fn process_id() -> String {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("{host}-{}-{}", std::process::id(), &random[..8])
}

/// Connects to the broker that the settings name.
pub fn connector(settings: &Settings, name: &str) -> Connector {
    let settings = settings.clone();
    Connector::new(name, move || settings.amqp_url().map_err(Into::into))
}

/// Serves until `shutdown.drain`, and then until everything is settled or
/// `shutdown.cut`.
pub async fn serve(settings: Settings, shutdown: Shutdown) -> Result<(), ServeError> {
    let id = process_id();
    let root = Root::open(&settings.workspace_root)?;
    // A process that only sequences needs no codex.
    let runner = match settings.roles.worker {
        true => Some(runner(&settings, root.clone(), id.clone())?),
        false => None,
    };
    let metrics = Metrics::new(settings.codex_models.as_ref());
    let health = Health::new(settings.roles);
    let listener = http::bind(settings.http_addr).await?;
    tracing::info!(
        id,
        version = env!("CARGO_PKG_VERSION"),
        root = %root.path().display(),
        codex = runner.as_ref().map(|runner| runner.engine.program.display().to_string()),
        slots = settings.slots,
        broker = settings.broker.shown(),
        http = listener.local_addr().map(|addr| addr.to_string()).unwrap_or_default(),
        "starting"
    );
    if let Some(runner) = &runner {
        let codex_version = runner.engine.version().await;
        metrics.set_codex_version(codex_version.as_deref().unwrap_or("unknown"));
        metrics.set_slots(settings.slots);
    }

    let http = tokio::spawn(http::serve(listener, metrics.clone(), health.clone(), {
        // To the very end: an operator wants to see how a drain goes.
        let end = shutdown.end.clone();
        async move { end.cancelled().await }
    }));
    let outcome = run(settings, &id, root, runner, metrics, health, &shutdown).await;
    shutdown.end.cancel();
    let _ = http.await;
    outcome
}

async fn run(
    settings: Settings,
    id: &str,
    root: Root,
    runner: Option<Runner<Exec>>,
    metrics: Metrics,
    health: Health,
    shutdown: &Shutdown,
) -> Result<(), ServeError> {
    let topology = Topology::new(&settings.prefix, settings.dead_letter_limit);
    let connector = connector(&settings, id);
    if !declare(&connector, &topology, &shutdown.drain).await? {
        return Ok(());
    }

    let publisher_connector = connector
        .named(format!("{id} publisher"))
        .on_state(connection_state(metrics.clone(), health.clone()));
    let publisher = PublisherLink::start(
        publisher_connector,
        settings.slots + EXTRA_CHANNELS,
        shutdown.end.clone(),
    );
    let outbox = OutboxSettings {
        exchange: topology.events.clone(),
        metrics: Arc::new(EventMetrics(metrics.clone())),
        nack_limit: Some(NACK_LIMIT),
    };
    let limits = settings.request_limits(vec![
        settings.workspace_root.clone(),
        root.path().to_owned(),
    ]);

    let mut tasks = tokio::task::JoinSet::new();
    if settings.roles.sequencer {
        let sequencer = Sequencer {
            connector: connector.clone(),
            topology: topology.clone(),
            backlog: u16::try_from(settings.backlog).unwrap_or(u16::MAX),
            max_waiting: settings.max_waiting,
            limits: limits.clone(),
            actor: Actor::new(
                publisher.clone(),
                topology.clone(),
                outbox.clone(),
                root.clone(),
                metrics.clone(),
                id.to_owned(),
                shutdown.cut.clone(),
            ),
            metrics: metrics.clone(),
            health: health.clone(),
        };
        let (id, drain) = (id.to_owned(), shutdown.drain.clone());
        tasks.spawn(async move { sequencer.run(&id, drain).await });
    }
    if let Some(runner) = runner {
        let worker = Arc::new(Worker {
            runner,
            id: id.to_owned(),
            slots: settings.slots,
            connector,
            publisher: publisher.clone(),
            topology,
            outbox,
            limits,
            metrics,
            health: health.clone(),
            running: RunningTurns::default(),
        });
        let shutdown = shutdown.clone();
        tasks.spawn(worker.run(shutdown));
    }
    let draining = {
        let (drain, health) = (shutdown.drain.clone(), health);
        tokio::spawn(async move {
            drain.cancelled().await;
            health.set_draining();
        })
    };
    let mut outcome = Ok(());
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            outcome = Err(ServeError::Part);
            tracing::error!(error = with_sources(&error), "a part of the process failed");
            // What is left can't do the whole work; a new process can.
            shutdown.drain.cancel();
        }
    }
    draining.abort();
    shutdown.end.cancel();
    let _ = tokio::time::timeout(CLOSE_LIMIT, publisher.closed()).await;
    tracing::info!("ended");
    outcome
}

/// Once before anything runs: what does not fit is the operator's to mend, and
/// trying again would not help; a connection that is lost meanwhile is made
/// anew. False if drained before.
async fn declare(
    connector: &Connector,
    topology: &Topology,
    drain: &CancellationToken,
) -> Result<bool, DeclareError> {
    let mut delays = backoff();
    while let Some(link) = connector.connect_with_backoff(drain).await {
        let declared = topology.declare(&link).await;
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

/// The publishing connection stands for the process's: without it no turn
/// gets anywhere.
fn connection_state(metrics: Metrics, health: Health) -> impl Fn(State) + Send + Sync + 'static {
    let first = std::sync::atomic::AtomicBool::new(true);
    move |state| {
        let connected = state == State::Connected;
        metrics.set_connected(connected);
        health.set_connected(connected);
        if connected && !first.swap(false, std::sync::atomic::Ordering::Relaxed) {
            metrics.reconnected();
        }
    }
}

struct EventMetrics(Metrics);

impl OutboxMetrics for EventMetrics {
    fn confirmed(&self, kind: &str, after: Duration) {
        self.0.event_confirmed(kind, after);
    }

    fn nacked(&self) {
        self.0.event_nacked();
    }

    fn abandoned(&self, kind: &str) {
        tracing::error!(
            kind,
            "gave an event up: the broker refuses it over and over"
        );
    }
}
