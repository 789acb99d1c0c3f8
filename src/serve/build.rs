//! What a process is made of, by its settings.

use std::fs::File;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::Duration;

use uuid::Uuid;

use crate::amqp::connect::Connector;
use crate::amqp::topology::Topology;
use crate::capacity::Headroom;
use crate::capacity::memory::Memory;
use crate::codex::app_server::{AppServer, Bounds, IdleServers, ServerCount};
use crate::codex::binary::BinaryError;
use crate::codex::config_file::ConfigFile;
use crate::codex::default_model::DefaultModels;
use crate::codex::engines::AnyEngine;
use crate::codex::exec::Exec;
use crate::codex::home::Homes;
use crate::codex::process::Codex;
use crate::codex::program::{Launch, Program, ProgramError};
use crate::codex::workspace_config::WorkspaceConfig;
use crate::codex::{seal, skill_folders};
use crate::config::{CodexHome, EngineKind, FaultTurns, Settings};
use crate::error::with_sources;
use crate::guard::Guards;
use crate::guard::confine::Limits;
use crate::host::account::AccountPolicy;
use crate::host::{self, Host, Part};
use crate::isolation::{self, Account, AccountError, Agents};
use crate::metrics::Metrics;
use crate::turn::Runner;
use crate::workspace::{Owner, Root};

use super::ServeError;

/// The share of all memory that servers may take while they wait.
const WARM_SHARE: u64 = 4;
/// So many servers wait also where the host has little room: one runs a turn, and another
/// conversation's waits.
pub const WARM_PER_SLOT: usize = 2;
/// Where each program that starts wakes all of them: on two cores 64 of them then made a turn cost half as
/// much again.
const MAX_WOKEN_PER_CORE: usize = 32;
/// As `CODEX_WARM` allows: heartbeats and metrics are made for no more.
const MAX_WARM: usize = 1000;

/// codex can't be run by these settings.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("TURN_WORKER_CODEX_BIN")]
    Missing(#[from] BinaryError),
    #[error("TURN_WORKER_CODEX_BIN")]
    Program(#[from] ProgramError),
    #[error("TURN_WORKER_CODEX_RUN_AS")]
    Account(#[from] AccountError),
}

/// codex by these settings, with the variables that it is to have of ours.
pub fn engine(settings: &Settings) -> Result<AnyEngine, EngineError> {
    let account = settings.codex_run_as.as_ref().map(Account::find);
    let account = account.transpose()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = Program::find(&settings.codex_bin.to_string_lossy(), path)?;
    let variable = |name: &String| {
        let value = match account.as_ref().and_then(|account| account.variable(name)) {
            Some(of_account) => of_account,
            None => std::env::var(name).ok(),
        };
        Some((name.clone(), value?))
    };
    let launch = Launch {
        // Also after the file was replaced by a newer version: the guard
        // must be the one that this worker knows how to talk to.
        guards: Guards::new(PathBuf::from("/proc/self/exe")),
        engine: settings.codex_engine,
        env: settings.codex_env.iter().filter_map(variable).collect(),
        user: account.map(|account| account.user),
        limits: Limits {
            processes: settings.codex_max_processes,
            open_files: settings.codex_max_open_files,
        },
        kill_timeout: settings.kill_timeout,
    };
    let codex = Codex {
        program,
        launch,
        sandbox: settings.codex_sandbox,
        extra_args: settings.codex_args.clone(),
        workspace_config: match settings.codex_trust_workspaces {
            true => WorkspaceConfig::Trusted,
            false => WorkspaceConfig::Ignored,
        },
        hidden_env: settings.codex_hidden_env.clone(),
        max_line_bytes: settings.max_line_bytes,
        default_models: DefaultModels::default(),
    };
    Ok(match settings.codex_engine {
        EngineKind::Exec => AnyEngine::Exec(Exec(codex)),
        EngineKind::AppServer => AnyEngine::AppServer(AppServer {
            codex,
            delta_window: settings.delta_window,
            idle: None,
        }),
    })
}

/// Where servers wait between turns; `None` if each serves one turn.
pub(super) fn idle_servers(
    settings: &Settings,
    launch: Option<&Launch>,
    metrics: &Metrics,
) -> Option<IdleServers> {
    let ttl = settings.codex_idle_ttl;
    let count = match settings.codex_warm {
        Some(most) => ServerCount::AtMost(most),
        None => {
            let expected = settings.slots * WARM_PER_SLOT;
            let most = match skill_folders::missing_system_folder() {
                None => MAX_WARM,
                Some(_) => available_parallelism().map_or(1, NonZero::get) * MAX_WOKEN_PER_CORE,
            };
            ServerCount::Range {
                expected,
                most: most.clamp(expected, MAX_WARM.max(expected)),
            }
        }
    };
    if ttl.is_zero() || matches!(count, ServerCount::AtMost(0)) {
        return None;
    }
    let share = || Memory::now().map(|memory| memory.limit / WARM_SHARE);
    let memory = settings
        .codex_warm_memory
        .or_else(share)
        .unwrap_or(u64::MAX);
    tracing::debug!(?count, memory, ?ttl, "servers may wait between turns");
    let bounds = Bounds { count, memory, ttl };
    let user = launch.and_then(|launch| launch.user.clone());
    let look = Box::new(move || Headroom::now(user.as_ref()));
    Some(IdleServers::new(bounds, look, metrics.clone()))
}

/// Keeps servers that wait from being woken by what others do: by each login shell, and each program that
/// starts. A failure costs CPU time only.
pub(super) fn quiet_skill_folders(launch: &Launch) {
    if let Some(home) = variable(&launch.env, "HOME")
        && let Err(error) = skill_folders::make_user_folder(Path::new(home), launch.user.as_ref())
    {
        tracing::warn!(
            path = home,
            error = with_sources(&error),
            "can't make .agents/skills there: each file opened in that folder wakes each warm server"
        );
    }
    if skill_folders::missing_system_folder().is_some() {
        tracing::info!(
            "/etc/codex/skills is missing, so codex watches all of /etc: each program that starts wakes each warm server"
        );
    }
}

/// Runs `codex --version`: an operator's mistake is reported at once, while
/// what goes away later may come back.
pub async fn tried(codex: &Codex, metrics: &Metrics) -> Result<(), EngineError> {
    let version = codex.program.version(&codex.launch).await?;
    host::report_codex_version(&version, codex.launch.engine, metrics);
    Ok(())
}

/// The workspace root, in which agents of this codex run; only if they are
/// kept apart from the worker as the settings want it.
pub fn root(settings: &Settings, codex: Option<&Codex>) -> Result<Root, ServeError> {
    let root = Root::open(&settings.workspace_root)?;
    // Without codex no agent is run.
    let Some(codex) = codex else {
        return Ok(root);
    };
    let agents = agents(settings, &codex.launch);
    let owner = agents.user.map(|user| Owner {
        uid: user.uid,
        gid: user.gid,
    });
    if let (CodexHome::Shared(home), Some(owner)) = (&settings.codex_home, owner) {
        seal_home(home, owner);
    }
    isolation::enforce(settings, &agents, &root)?;
    let root = root.with_agents_of(owner);
    Ok(match settings.codex_home {
        CodexHome::PerWorkspace => root.with_own_homes(),
        CodexHome::Default | CodexHome::Shared(_) => root,
    })
}

/// Only a home that was named for these agents: the default one is that of an
/// account, which a person may use, too.
fn seal_home(home: &Path, agents: Owner) {
    let sealed = File::open(home).and_then(|home| seal::seal(&home, agents));
    let home = home.display();
    match sealed {
        Ok(false) => {}
        Ok(true) => tracing::info!(
            path = %home,
            "took what configures codex there out of the agents' reach: it belongs to the worker's user now"
        ),
        Err(error) => tracing::warn!(
            path = %home,
            error = with_sources(&error),
            "can't take what configures codex there out of the agents' reach: \
             an agent could change where all turns' prompts and keys go"
        ),
    }
}

/// Of entries that only another codex obeys, see [`ConfigFile::advice`].
pub(super) fn warn_of_trust(settings: &Settings, root: &Root, codex: &Codex) {
    let home = shared_home(settings, &codex.launch.env);
    let read = home.as_deref().map(ConfigFile::read);
    // Without a file that can be read, codex itself says what is wrong.
    if let Some(Ok(Some(file))) = read
        && let Some(advice) = file.advice(root.path())
    {
        tracing::warn!("{advice}");
    }
}

/// What is looked at of the host; only who runs turns needs codex.
pub(super) fn host(
    settings: &Settings,
    root: &Root,
    codex: Option<&Codex>,
    metrics: &Metrics,
) -> Host {
    let codex = codex.map(|codex| {
        let (program, launch) = (codex.program.clone(), codex.launch.clone());
        let probe = host::codex(program, launch, metrics.clone());
        (Part::Codex, probe)
    });
    let disk = (Part::Disk, host::disk(root.clone()));
    let policy = AccountPolicy {
        faults: settings.account_faults.clone(),
        waits: settings.account_fault_turns == FaultTurns::Wait,
    };
    Host::judging_ends([disk].into_iter().chain(codex), policy, metrics.clone())
}

/// Shorter than the time after which the common shared file systems drop the locks of a client
/// that they don't hear (from 42 s on), with time to kill a turn.
const LOCK_LOST_AFTER: Duration = Duration::from_secs(25);

/// For how long a lock may go unconfirmed; `None` where locks are not confirmed.
pub fn lock_lost_after(settings: &Settings, root: &Root) -> Option<Duration> {
    let by_file_system = || match root.shared_file_system() {
        Some(_) => LOCK_LOST_AFTER,
        None => Duration::ZERO,
    };
    let after = settings.lock_lost_after.unwrap_or_else(by_file_system);
    (!after.is_zero()).then_some(after)
}

/// What runs turns by these settings. `worker` names this process.
pub fn runner(
    settings: &Settings,
    root: Root,
    engine: AnyEngine,
    worker: String,
    host: Host,
    metrics: Metrics,
) -> Runner<AnyEngine> {
    let lock_lost_after = lock_lost_after(settings, &root);
    if let Some(after) = lock_lost_after {
        let file_system = root.shared_file_system().unwrap_or("local");
        let after_s = after.as_secs_f64();
        tracing::info!(
            file_system,
            after_s,
            "turns are killed when their lock can't be confirmed"
        );
    }
    Runner {
        lock_lost_after,
        held: engine.codex().launch.guards.held_workspaces().clone(),
        homes: homes(settings, &root, &engine.codex().launch.env),
        root,
        engine,
        events: settings.events,
        turn_timeout: settings.turn_timeout,
        idle_timeout: settings.turn_idle_timeout,
        max_attempts: settings.max_attempts,
        default_model: settings.codex_model.clone(),
        models: settings.codex_models.clone(),
        worker,
        host,
        metrics,
    }
}

/// As what and where agents run.
pub fn agents<'a>(settings: &Settings, launch: &'a Launch) -> Agents<'a> {
    Agents {
        user: launch.user.as_ref(),
        home: shared_home(settings, &launch.env),
        tmpdir: variable(&launch.env, "TMPDIR"),
    }
}

/// Where codex keeps its state, given what it gets of our environment.
pub fn homes(settings: &Settings, root: &Root, env: &[(String, String)]) -> Homes {
    match &settings.codex_home {
        CodexHome::Default => Homes::Shared {
            set: None,
            known: shared_home(settings, env),
        },
        CodexHome::Shared(home) => Homes::Shared {
            set: Some(home.clone()),
            known: Some(home.clone()),
        },
        CodexHome::PerWorkspace => Homes::PerWorkspace {
            template: Some(root.codex_home_template()).filter(|folder| folder.is_dir()),
            owner: root.owner(),
        },
    }
}

/// `None` if it is not known, or each workspace has its own.
fn shared_home(settings: &Settings, env: &[(String, String)]) -> Option<PathBuf> {
    let of = |name: &str| variable(env, name).map(PathBuf::from);
    match &settings.codex_home {
        CodexHome::Default => of("CODEX_HOME").or_else(|| Some(of("HOME")?.join(".codex"))),
        CodexHome::Shared(home) => Some(home.clone()),
        CodexHome::PerWorkspace => None,
    }
}

fn variable<'a>(env: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let (_, value) = env.iter().find(|(set, _)| set == name)?;
    Some(value)
}

/// The broker's objects as a process with that root needs them.
pub fn topology(settings: &Settings, root: Uuid) -> Topology {
    let topology = Topology::new(&settings.prefix, settings.dead_letter_limit);
    match settings.disk(root) {
        None => topology,
        Some(disk) => topology.with_disk(disk.id),
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
    let (settings, tls) = (settings.clone(), settings.amqp_tls.clone());
    Connector::new(name, move || settings.amqp_url().map_err(Into::into))
        .with_tls(move || tls.connector().map_err(Into::into))
}
