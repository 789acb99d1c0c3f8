//! `turn-worker home`: where workspaces live, in a pool without shared storage.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;
use tokio::time::Instant;
use turn_worker::amqp::messages::OrderState;
use turn_worker::config::{Settings, is_host_name};
use turn_worker::homes::Order;
use turn_worker::operator::Operator;
use turn_worker::serve::process_id;
use turn_worker::workspace::can_be_paused;
use uuid::Uuid;

use super::dead::operator;
use super::output::{self, Output};
use super::status::homes;
use super::stderr::notice;

pub(super) const EXAMPLES: &str = "\
Examples:
  turn-worker home list
  turn-worker home lost turn-worker-2
  turn-worker home move acme/website turn-worker-0

For pools with TURN_WORKER_WORKSPACE_STORAGE=local, in which each workspace lives on the disk of one host. HOST is what \
TURN_WORKER_WORKSPACE_HOST of its processes says, by default the host's name, or the id of its disk, which `home list` \
shows. Of the settings, only TURN_WORKER_AMQP_… and TURN_WORKER_PREFIX matter. `lost` and `move` take a worker's rights \
at the broker, and the order is kept there until the active sequencer has carried it out.

Exit status: 0 done or, of move, ordered and not rejected within 30 s; 1 rejected, or not done within 30 s; 2 wrong arguments or settings.";

/// How long an order is waited for: a sequencer listens for 10 s before it carries one out.
const CARRIED_OUT: Duration = Duration::from_secs(30);
const REPORTS: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct HomeArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the disks that workspaces live on, and whether their hosts are there
    List {
        /// JSON, also on a terminal
        #[arg(long)]
        json: bool,
    },
    /// The host's disk is gone for good: every open turn of its workspaces ends with workspace.lost, and their next
    /// turns go to other hosts, into empty workspaces. All its processes must have ended
    Lost {
        #[arg(value_parser = host)]
        host: String,
    },
    /// Have a paused workspace live on another host's disk, to which you copy it before you resume it
    Move {
        #[arg(value_parser = workspace)]
        workspace: String,
        #[arg(value_parser = host)]
        host: String,
    },
}

fn host(text: &str) -> Result<String, String> {
    match is_host_name(text) {
        true => Ok(text.to_owned()),
        false => Err("expected 1 to 64 characters [A-Za-z0-9._-], not beginning with -".to_owned()),
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

pub(super) async fn home(settings: Settings, args: HomeArgs) -> anyhow::Result<ExitCode> {
    let operator = operator(&settings);
    let (at, by) = (Timestamp::now(), process_id());
    match args.command {
        Command::List { json } => list(&operator, json).await,
        Command::Lost { host } => {
            let id = Uuid::new_v4();
            let order = Order::Lost { id, host, at, by };
            operator.order(order).await?;
            outcome(&operator, id, false).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Move { workspace, host } => {
            let id = Uuid::new_v4();
            let order = Order::Move {
                id,
                workspace: workspace.clone(),
                host,
                at,
                by,
            };
            operator.order(order).await?;
            outcome(&operator, id, true).await?;
            notice(&format!(
                "once it is carried out, copy the files and records there, then `turn-worker resume {workspace}`"
            ));
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn list(operator: &Operator, json: bool) -> anyhow::Result<ExitCode> {
    let status = operator.status(REPORTS).await?;
    if status.homes.is_none() {
        bail!(
            "no active sequencer reports where workspaces live: the pool shares its root, or has had no turn since it started"
        );
    }
    let output = Output::new(json);
    output::status(match output.screen() {
        Some((style, width)) => output::print(&homes(&status, style, width)),
        None => output.json(&json!(status.homes)),
    })
}

/// Waits until the active sequencer reports what has become of the order. `may_wait`: one
/// that is not carried out yet is not a failure.
async fn outcome(operator: &Operator, order: Uuid, may_wait: bool) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let status = operator.status(REPORTS).await?;
        let mut progress = status.homes.iter().flat_map(|homes| &homes.progress);
        let progress = progress.find(|progress| progress.order == order);
        match progress.map(|progress| (progress.state, &progress.detail)) {
            Some((OrderState::Done, what)) => {
                notice(what);
                return Ok(());
            }
            Some((OrderState::Rejected, why)) => bail!("rejected: {why}"),
            Some((OrderState::Pending, why)) if began.elapsed() >= CARRIED_OUT => {
                let waits = format!(
                    "ordered, and not carried out within {} s: {why}; `turn-worker home list` shows the order until it is",
                    CARRIED_OUT.as_secs()
                );
                if !may_wait {
                    bail!(waits);
                }
                notice(&waits);
                return Ok(());
            }
            None if began.elapsed() >= CARRIED_OUT => bail!(
                "no active sequencer has reported the order within {} s, expected one: it is kept, and carried out once a sequencer has \
                 a turn; see `turn-worker home list`",
                CARRIED_OUT.as_secs()
            ),
            Some((OrderState::Pending, _)) | None => {}
        }
    }
}
