//! `turn-worker dead retry`.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use turn_worker::client::{Client, retried, retry_id};
use turn_worker::operator::Operator;

use super::{Patience, Which, find};
use crate::cli::output;

pub(super) const HELP: &str = "\
Examples:
  turn-worker dead retry 12
  turn-worker dead retry nightly-42 --as nightly-42b

Sends the request once more, as it is but for its id, after the cause of its rejection was fixed: a setting of the \
workers, a workspace's folder, a line that was full. The new id names the old one (nightly-42.retry-1), since the old \
one has its end. Prints it. The dead letter stays where it is. The broker's user needs a producer's rights besides an \
operator's.";

#[derive(Debug, Args)]
pub(super) struct DeadRetryArgs {
    /// Its place in the queue, as `dead list` shows it, or its turn's id
    #[arg(value_name = "N|TURN_ID")]
    which: String,
    /// Take it for a turn's id, though it is a number
    #[arg(long)]
    turn_id: bool,
    /// The new turn's id
    #[arg(long = "as", value_name = "T")]
    new_id: Option<String>,
    #[command(flatten)]
    patience: Patience,
}

pub(super) async fn retry(
    operator: &Operator,
    client: &Client,
    args: DeadRetryArgs,
) -> anyhow::Result<ExitCode> {
    let which = Which::of(&args.which, args.turn_id)?;
    let found = find(operator, &which, args.patience.timeout).await?;
    let letter = found.letter;
    let Some(id) = args
        .new_id
        .or_else(|| letter.turn_id.as_deref().map(|id| retry_id(id, 1)))
    else {
        bail!("the request names no turn id: give it one with --as");
    };
    crate::cli::turn::check_names(&id, None)?;
    let submission = retried(&letter.body, &id)?;
    client.submit(&submission).await?;
    output::status(output::print(&format!("{id}\n")))
}
