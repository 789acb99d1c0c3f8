//! Where the log goes, and how it reads.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use turn_worker::config::{LogFormat, Settings};

/// Logs to stderr. `quiet`: only warnings, unless the operator set a level,
/// for commands whose output a person reads.
pub fn init(settings: &Settings, quiet: bool) -> anyhow::Result<()> {
    let terminal = std::io::stderr().is_terminal();
    let level_set = std::env::var_os("TURN_WORKER_LOG").is_some_and(|level| !level.is_empty());
    let directives = if quiet && !level_set {
        "warn"
    } else {
        &settings.log
    };
    // lapin logs messages that come back with their whole body: prompts. And
    // it takes every connection that is closed for an error; which are, we tell.
    let directives = format!("lapin=off,{directives}");
    let directives = directives.as_str();
    let filter = EnvFilter::try_new(directives)
        .with_context(|| format!("TURN_WORKER_LOG: {directives:?} is no log filter"))?;
    let format = settings.log_format.unwrap_or(if terminal || quiet {
        LogFormat::Text
    } else {
        LogFormat::Json
    });
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal && std::env::var_os("NO_COLOR").is_none());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}
