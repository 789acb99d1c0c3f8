//! `turn-worker cancel`.

use std::process::ExitCode;

use clap::Args;
use turn_worker::config::Settings;
use turn_worker::request::TurnId;

use super::exit::Usage;
use super::submit::client;

pub const EXAMPLES: &str = "\
Examples:
  turn-worker cancel 019a2c3e-7d1b-7000-8000-000000000000
  turn-worker cancel nightly-42 -w acme/website

Waiting or running, the turn ends as cancelled, and whoever follows it is told. A turn that has ended, or that nobody \
knows, is left alone; so this succeeds when the cancel was sent, whatever becomes of the turn.

Exit status: 0 sent, 1 not sent, 2 wrong arguments or settings.";

#[derive(Debug, Args)]
pub struct CancelArgs {
    /// The turn's id
    turn_id: String,
    /// The workspace, where the id alone may name turns of several
    #[arg(long, short, value_name = "W")]
    workspace: Option<String>,
}

pub async fn cancel(settings: Settings, args: CancelArgs) -> anyhow::Result<ExitCode> {
    let CancelArgs { turn_id, workspace } = args;
    let wrong = |what: &str, found: &str, rule: String| {
        Usage(format!("{what} is {found:?}, allowed is {rule}"))
    };
    if let Err(rule) = turn_id.parse::<TurnId>() {
        return Err(wrong("the turn's id", &turn_id, rule.to_string()).into());
    }
    if let Some(workspace) = &workspace
        && !workspace.starts_with('/')
        && let Err(rule) = workspace.parse::<turn_worker::request::WorkspaceId>()
    {
        return Err(wrong("the workspace", workspace, rule.to_string()).into());
    }
    client(&settings)
        .cancel(&turn_id, workspace.as_deref())
        .await?;
    Ok(ExitCode::SUCCESS)
}
