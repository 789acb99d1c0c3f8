//! `turn-worker run`: one turn without a broker.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use turn_worker::config::Settings;
use turn_worker::event::StopReason;
use turn_worker::request::{Properties, TurnRequest};
use turn_worker::turn::{Immediate, Outcome, Stop, StopHandle};
use turn_worker::workspace::Root;

use super::TurnArgs;

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    turn: TurnArgs,
    /// JSON lines, one an event, also on a terminal.
    #[arg(long)]
    json: bool,
}

pub async fn run(settings: Settings, args: RunArgs) -> anyhow::Result<ExitCode> {
    turn_worker::guard::prepare_worker().context("can't look after child processes")?;
    let root = Root::open(&settings.workspace_root)?;
    let limits = settings.request_limits(vec![
        settings.workspace_root.clone(),
        root.path().to_owned(),
    ]);
    let body = args.turn.request(None)?;
    let request = TurnRequest::parse(&body, &limits, &Properties::default())
        .map_err(|rejection| anyhow::anyhow!("{rejection}"))?;
    let runner = turn_worker::serve::runner(&settings, root, turn_worker::serve::process_id())?;

    let stop = StopHandle::new();
    let cancel = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            cancel.stop(Stop::Cancel);
        }
    });
    let sink = Immediate::new(|event: &turn_worker::event::SealedEvent| {
        let mut stdout = std::io::stdout().lock();
        // Whoever closed the pipe wants no more of it; the turn goes on.
        let _ = writeln!(stdout, "{}", event.json).and_then(|()| stdout.flush());
    });
    match runner.take(&request, true, &sink, &stop).await {
        Outcome::Ended(summary) => Ok(exit_code(summary.stop_reason)),
        Outcome::AlreadyEnded(ended) => {
            turn_worker::turn::EventSink::push_final(&sink, &ended.events);
            Ok(ExitCode::FAILURE)
        }
        Outcome::Rejected { events, .. } => {
            turn_worker::turn::EventSink::push_final(&sink, &events);
            Ok(ExitCode::FAILURE)
        }
        Outcome::Busy => bail!("workspace {} is in use by another turn", request.workspace),
        Outcome::Returned => bail!("the turn was cut off"),
        Outcome::NotStarted(error) => Err(error.into()),
    }
}

/// 0 only where the agent came to the end of its turn.
pub fn exit_code(stop_reason: StopReason) -> ExitCode {
    match stop_reason {
        StopReason::EndTurn => ExitCode::SUCCESS,
        StopReason::Error => ExitCode::from(1),
        StopReason::Cancelled => ExitCode::from(130),
        StopReason::Timeout => ExitCode::from(124),
    }
}
