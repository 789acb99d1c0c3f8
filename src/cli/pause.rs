//! `turn-worker pause` and `turn-worker resume`.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use jiff::Timestamp;
use turn_worker::config::{Settings, WorkspaceStorage};
use turn_worker::homes::Order;
use turn_worker::workspace::{MAX_PAUSES, Pause, PauseFile, PauseScope, can_be_paused};

use super::dead::operator;
use super::exit::Usage;
use super::stderr::notice;
use super::turn::tenant;

pub(super) const PAUSE_EXAMPLES: &str = "\
Examples:
  turn-worker pause --reason 'moving the file server'
  turn-worker pause acme
  turn-worker pause acme/website
  turn-worker pause --tenant acme

Turns that run go on; no other one starts until `turn-worker resume`. Turns keep their places in line meanwhile, new \
ones join them, cancels and start_within_s hold. All workers heed it within some 2 s, also those that start later. It \
is kept under TURN_WORKER_WORKSPACE_ROOT, so run it where a worker runs, as a user that may write there; the broker is \
not needed. In a pool with TURN_WORKER_WORKSPACE_STORAGE=local it is kept at the broker instead, for all hosts. `turn-worker status`, /readyz and the metric turn_worker_condition show it.

Exit status: 0 paused, 1 not, 2 wrong arguments or settings.";

pub(super) const RESUME_EXAMPLES: &str = "\
Examples:
  turn-worker resume
  turn-worker resume acme
  turn-worker resume --tenant acme
  turn-worker resume --all

Ends what `turn-worker pause` started, by the same name. A turn may be paused by several: by its workspace, by a \
folder above, by its tenant, with the pool.

Exit status: 0 resumed, 1 not, or it was not paused, 2 wrong arguments or settings.";

#[derive(Debug, Clone, Args)]
pub(super) struct PauseArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    /// Why, for others to read
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    /// End every pause
    #[arg(long, conflicts_with_all = ["workspace", "tenant"])]
    all: bool,
}

/// The whole pool without any.
#[derive(Debug, Clone, Args)]
struct ScopeArgs {
    /// A workspace, and all below it, such as acme/website or acme; the whole pool without
    #[arg(value_parser = workspace)]
    workspace: Option<String>,
    /// The turns of a tenant, as TURN_WORKER_TENANT_FROM of the workers finds it
    #[arg(long, value_name = "NAME", value_parser = tenant, conflicts_with = "workspace")]
    tenant: Option<String>,
}

impl ScopeArgs {
    fn scope(&self) -> PauseScope {
        match (&self.tenant, &self.workspace) {
            (Some(tenant), _) => PauseScope::Tenant(tenant.clone()),
            (None, Some(workspace)) => PauseScope::Workspace(workspace.clone()),
            (None, None) => PauseScope::Pool,
        }
    }
}

fn workspace(text: &str) -> Result<String, String> {
    match can_be_paused(text) {
        true => Ok(text.to_owned()),
        false => {
            Err("expected 1 to 4 segments [A-Za-z0-9][A-Za-z0-9._-]{0,63} joined by /".to_owned())
        }
    }
}

fn reason(text: &str) -> Result<String, String> {
    let is_line = !text.contains(char::is_control) && (1..=200).contains(&text.chars().count());
    is_line
        .then(|| text.to_owned())
        .ok_or_else(|| "expected a line of 1 to 200 characters".to_owned())
}

pub(super) async fn pause(settings: &Settings, args: PauseArgs) -> anyhow::Result<ExitCode> {
    let PauseArgs { scope, reason } = args;
    let scope = scope.scope();
    let what = scope.to_string();
    let pause = Pause {
        scope,
        since: Timestamp::now(),
        by: turn_worker::serve::process_id(),
        reason,
    };
    if is_local(settings) {
        order(settings, Order::Pause { pause }).await?;
    } else if !open(settings)?.pause(pause).context("can't pause")? {
        bail!(
            "there are {MAX_PAUSES} pauses already; end some (`turn-worker resume`), or pause the pool"
        );
    }
    notice(&format!(
        "{what} is paused: turns that run go on, and no other one starts"
    ));
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn resume(settings: &Settings, args: &ResumeArgs) -> anyhow::Result<ExitCode> {
    if is_local(settings) {
        let (order_, what) = match args.all {
            true => (Order::ResumeAll, "everything".to_owned()),
            false => {
                let scope = args.scope.scope();
                let what = scope.to_string();
                (Order::Resume { scope }, what)
            }
        };
        order(settings, order_).await?;
        notice(&format!("{what} is resumed"));
        return Ok(ExitCode::SUCCESS);
    }
    let file = open(settings)?;
    if args.all {
        file.resume_all().context("can't resume")?;
        notice("all pauses have ended");
        return Ok(ExitCode::SUCCESS);
    }
    let scope = args.scope.scope();
    if !file.resume(&scope).context("can't resume")? {
        let left = file.read().context("can't read what is paused")?;
        match left.in_words() {
            Some(paused) => bail!("{scope} is not paused; {paused}"),
            None => bail!("nothing is paused"),
        }
    }
    notice(&format!("{scope} is resumed"));
    Ok(ExitCode::SUCCESS)
}

fn is_local(settings: &Settings) -> bool {
    settings.workspace_storage == WorkspaceStorage::Local
}

/// To the pool's log of homes, where each host has a disk of its own.
async fn order(settings: &Settings, order: Order) -> anyhow::Result<()> {
    Ok(operator(settings).order(order).await?)
}

fn open(settings: &Settings) -> anyhow::Result<PauseFile> {
    let file = PauseFile::open(&settings.workspace_root).map_err(|error| {
        Usage(format!(
            "TURN_WORKER_WORKSPACE_ROOT: {}; expected the root of a pool that has run",
            turn_worker::error::with_sources(&error)
        ))
    })?;
    if file.is_unread()? {
        let wrong = "TURN_WORKER_WORKSPACE_STORAGE: found \"shared\", expected \"local\", which the processes of this root have";
        return Err(Usage(wrong.to_owned()).into());
    }
    Ok(file)
}
