//! `turn-worker check`: tries all that a worker rests on.

mod broker;
mod codex;
mod isolation;
mod pool;
mod report;
mod root;

use std::process::ExitCode;

use clap::Args;
use turn_worker::config::{ConfigError, SETTINGS, Settings, Warning};
use turn_worker::error::with_sources;

use super::exit;
use report::Report;

pub(super) use root::try_lock;

pub(super) const EXAMPLES: &str = "\
Examples:
  turn-worker check
  turn-worker check --peer
  turn-worker check --json | jq 'select(.status != \"ok\")'

One line for each thing that a worker rests on: ok, warn or FAIL. The broker's exchanges and queues are declared if \
they are missing, and the workspace root is made; no turn is run.

Exit status: 0 no failures, 1 at least one, 2 wrong arguments.";

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// JSON lines: check, status (ok, warn, fail), detail
    #[arg(long)]
    json: bool,

    /// Also read what each process of the pool that runs writes in the workspace root, five times: run it
    /// on each host, while a worker runs on another
    #[arg(long)]
    peer: bool,
}

pub(super) async fn check(
    settings: Result<(Settings, Vec<Warning>), ConfigError>,
    args: CheckArgs,
) -> ExitCode {
    let mut report = Report::new(args.json);
    match settings {
        Ok((settings, warnings)) => all(&settings, &warnings, args.peer, &mut report).await,
        Err(error) => {
            for problem in &error.problems {
                report.fail("settings", &problem.to_string());
            }
        }
    }
    ExitCode::from(if report.finish() { 0 } else { exit::FAILURE })
}

async fn all(settings: &Settings, warnings: &[Warning], peer: bool, report: &mut Report) {
    let set = |name: String| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let count = SETTINGS.iter().filter(|s| set(s.variable())).count();
    report.ok(
        "settings",
        &format!("{count} of {} set, the others are defaults", SETTINGS.len()),
    );
    for warning in warnings {
        report.warn("settings", &warning.to_string());
    }
    for exposed in settings.exposed_files() {
        report.warn("secrets", &exposed.to_string());
    }
    broker::check(settings, report).await;
    let root = root::check(settings, report);
    if let Some(root) = &root {
        pool::check(settings, root, peer, report).await;
    }
    codex::check(settings, root.as_ref(), report).await;
    http(settings, report).await;
}

async fn http(settings: &Settings, report: &mut Report) {
    match turn_worker::http::bind(settings.http_addr).await {
        Ok(_) => report.ok("http", &format!("{} is free", settings.http_addr)),
        Err(error) if error.source.kind() == std::io::ErrorKind::AddrInUse => report.fail(
            "http",
            &format!(
                "{} is in use (by a worker that runs?); give this one another TURN_WORKER_HTTP_ADDR",
                error.addr
            ),
        ),
        Err(error) => report.fail("http", &with_sources(&error)),
    }
}
