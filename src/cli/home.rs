//! `turn-worker home`: where workspaces live, in a pool without shared storage.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;
use tokio::time::Instant;
use turn_worker::config::{Settings, is_host_name};
use turn_worker::homes::Order;
use turn_worker::operator::{Operator, PoolStatus};
use turn_worker::serve::process_id;
use turn_worker::workspace::can_be_paused;

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

Exit status: 0 done or, of move, ordered; 1 not, or not within 30 s; 2 wrong arguments or settings.";

/// How long `lost` waits until it is carried out: a sequencer listens for 10 s before.
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
            let name = host.clone();
            operator.order(Order::Lost { host, at, by }).await?;
            lost(&operator, &name).await
        }
        Command::Move { workspace, host } => {
            let order = Order::Move {
                workspace: workspace.clone(),
                host: host.clone(),
                at,
                by,
            };
            operator.order(order).await?;
            notice(&format!(
                "ordered: {workspace} is to live on {host}; `turn-worker home list` shows the order until it is carried out. \
                 Then copy the workspace, and resume it"
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

async fn lost(operator: &Operator, host: &str) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    loop {
        let status = operator.status(REPORTS).await?;
        if is_lost(&status, host) {
            notice(&format!("the disk of {host} is lost: its open turns end"));
            return Ok(ExitCode::SUCCESS);
        }
        if began.elapsed() >= CARRIED_OUT {
            bail!(
                "the order is not carried out within {} s: no sequencer is active, in which case it will be when one is; or no disk is called {host}, or its processes were still heard, as the log of the active sequencer says",
                CARRIED_OUT.as_secs()
            );
        }
    }
}

fn is_lost(status: &PoolStatus, host: &str) -> bool {
    let hosts = status.homes.iter().flat_map(|homes| &homes.hosts);
    let mut lost = hosts.filter(|one| one.lost);
    lost.any(|one| one.host == host || one.disk.to_string() == host)
}
