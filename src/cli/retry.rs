//! `turn-worker retry`: a failed turn once more.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use turn_worker::client::{retried, retry_id};
use turn_worker::config::Settings;
use turn_worker::workspace::RecordReader;

use super::output;
use super::submit::client;
use super::turn::check_names;

pub(super) const EXAMPLES: &str = "\
Examples:
  turn-worker retry nightly-42
  turn-worker retry nightly-42 -w acme/website

Sends the request of a turn that failed or timed out once more, as it was, under a new id that names the old one: \
nightly-42.retry-1, then nightly-42.retry-2. It joins its workspace's line like any new turn, and its conversation goes \
on from where it is now. Prints the new id; `turn-worker show` follows it. Workers keep the last \
TURN_WORKER_FAILED_REQUESTS of each workspace under TURN_WORKER_WORKSPACE_ROOT, so run it where a worker runs. The \
broker's user needs a producer's rights. A request that was not accepted is in the dead queue: `turn-worker dead retry`.

Exit status: 0 sent, 1 not sent, 2 wrong arguments or settings.";

/// Retries of one turn that are looked for.
const MOST: u32 = 10_000;

#[derive(Debug, Args)]
pub(super) struct RetryArgs {
    /// The id of the turn that failed
    turn_id: String,
    /// Its workspace; all are searched without
    #[arg(long, short, value_name = "W")]
    workspace: Option<String>,
}

pub(super) async fn retry(settings: Settings, args: RetryArgs) -> anyhow::Result<ExitCode> {
    let RetryArgs { turn_id, workspace } = args;
    check_names(&turn_id, workspace.as_deref())?;
    let reader = RecordReader::open(&settings.workspace_root)
        .context("no records (TURN_WORKER_WORKSPACE_ROOT names the workspace root)")?;
    let workspace = match workspace {
        Some(workspace) => workspace,
        None => {
            let (found, _) = reader.find(&turn_id).context("can't read the records")?;
            let mut found = found.into_iter().filter_map(|record| record.workspace);
            match (found.next(), found.next()) {
                (Some(workspace), None) => workspace,
                (None, _) => bail!("no workspace has a record of turn {turn_id}"),
                (Some(_), Some(_)) => {
                    bail!("several workspaces have a turn {turn_id}: name one with --workspace")
                }
            }
        }
    };
    let request = reader.failed_request(&workspace, &turn_id);
    let Some(body) = request.context("can't read the request")? else {
        bail!(
            "the request of turn {turn_id} is not kept: the turn has not failed, or TURN_WORKER_FAILED_REQUESTS later ones have"
        );
    };
    // Of two that ask at the same time, both get the same id, and it runs once.
    let known = |id: &str| reader.turn(&workspace, id).map(|record| record.is_some());
    let mut id = None;
    for number in 1..=MOST {
        let next = retry_id(&turn_id, number);
        if !known(&next).context("can't read the records")? {
            id = Some(next);
            break;
        }
    }
    let Some(id) = id else {
        bail!("turn {turn_id} was retried {MOST} times");
    };
    let submission = retried(&body, &id)?;
    client(&settings).submit(&submission).await?;
    output::status(output::print(&format!("{id}\n")))
}
