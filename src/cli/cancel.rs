//! `turn-worker cancel`.

use std::process::ExitCode;

use clap::Args;
use turn_worker::config::Settings;

use super::submit::client;
use super::turn::check_names;

pub(super) const EXAMPLES: &str = "\
Examples:
  turn-worker cancel 019a2c3e-7d1b-7000-8000-000000000000
  turn-worker cancel nightly-42 -w acme/website

Waiting or running, the turn ends as cancelled, and its readers get the end. A turn that has ended, or is not \
known, is left alone; so this succeeds when the cancel was sent, with any outcome of the turn.

Exit status: 0 sent, 1 not sent, 2 wrong arguments or settings.";

#[derive(Debug, Args)]
pub(super) struct CancelArgs {
    /// The turn's id
    turn_id: String,
    /// The workspace, where the id alone may name turns of several
    #[arg(long, short, value_name = "W")]
    workspace: Option<String>,
}

pub(super) async fn cancel(settings: Settings, args: CancelArgs) -> anyhow::Result<ExitCode> {
    let CancelArgs { turn_id, workspace } = args;
    check_names(&turn_id, workspace.as_deref())?;
    client(&settings)
        .cancel(&turn_id, workspace.as_deref())
        .await?;
    Ok(ExitCode::SUCCESS)
}
