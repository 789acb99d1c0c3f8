//! What a process is made of, by its settings.

use std::path::PathBuf;

use crate::amqp::connect::Connector;
use crate::codex::binary::BinaryError;
use crate::codex::exec::Exec;
use crate::codex::home::Homes;
use crate::codex::program::{Program, ProgramError};
use crate::config::{CodexHome, Settings};
use crate::host::{self, Host, Part};
use crate::metrics::Metrics;
use crate::turn::Runner;
use crate::workspace::Root;

/// codex by these settings, with the variables that it is to have of ours.
pub fn engine(settings: &Settings) -> Result<Exec, BinaryError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = Program::find(&settings.codex_bin.to_string_lossy(), path)?;
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

/// An operator's mistake is told at once; what goes away later may come back.
pub(super) async fn tried_engine(
    settings: &Settings,
    metrics: &Metrics,
) -> Result<Exec, ProgramError> {
    let engine = engine(settings)?;
    let version = engine.program.version(&engine.env).await?;
    metrics.set_codex_version(&version);
    Ok(engine)
}

/// What is looked at of the host; only who runs turns needs an engine.
pub(super) fn host(root: &Root, engine: Option<&Exec>, metrics: &Metrics) -> Host {
    let codex = engine.map(|engine| {
        let (program, env) = (engine.program.clone(), engine.env.clone());
        let probe = host::codex(program, env, metrics.clone());
        (Part::Codex, probe)
    });
    let disk = (Part::Disk, host::disk(root.clone()));
    Host::new([disk].into_iter().chain(codex), metrics.clone())
}

/// What runs turns by these settings. `worker` names this process.
pub fn runner(
    settings: &Settings,
    root: Root,
    engine: Exec,
    worker: String,
    host: Host,
    metrics: Metrics,
) -> Runner<Exec> {
    Runner {
        homes: homes(settings, &root, &engine.env),
        root,
        engine,
        events: settings.events,
        turn_timeout: settings.turn_timeout,
        idle_timeout: settings.turn_idle_timeout,
        max_attempts: settings.max_attempts,
        default_model: settings.codex_model.clone(),
        worker,
        host,
        metrics,
    }
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
    let (settings, tls) = (settings.clone(), settings.amqp_tls.clone());
    Connector::new(name, move || settings.amqp_url().map_err(Into::into))
        .with_tls(move || tls.connector().map_err(Into::into))
}
