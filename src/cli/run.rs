//! `turn-worker run`: one turn without a broker.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use clap::Args;
use turn_worker::client::{Arrival, TurnMessage};
use turn_worker::codex::program::ProgramError;
use turn_worker::config::Settings;
use turn_worker::event::SealedEvent;
use turn_worker::host::Host;
use turn_worker::metrics::Metrics;
use turn_worker::request::TurnRequest;
use turn_worker::serve::{self, EngineError};
use turn_worker::turn::{EventSink, Hints, Immediate, Outcome, Stop, StopHandle};
use turn_worker::workspace::StateError;

use super::exit::{self, Usage};
use super::interrupt::Interrupts;
use super::print::Printer;
use super::stderr::notice;
use super::turn::{QueueingArgs, TurnArgs};

pub(super) const EXAMPLES: &str = "\
Examples:
  turn-worker run -w acme/website 'Fix the failing test'
  turn-worker run -w acme/website --timeout 10m - < prompt.md
  turn-worker run -w acme/website 'Explain src/' > events.jsonl

Needs no broker. The workspace's lock, its conversation and its records are those of the workers, so it may run \
beside them; it does not wait for a workspace that is in use. Without a terminal, events are printed as JSON lines; a \
reader that is gone does not stop the turn. Ctrl-C cancels the turn, a second one cuts it.";

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    turn: TurnArgs,
}

pub(super) async fn run(settings: Settings, args: RunArgs) -> anyhow::Result<ExitCode> {
    turn_worker::guard::prepare_worker().context("can't look after child processes")?;
    let engine = serve::engine(&settings)?;
    let root = serve::root(&settings, Some(engine.codex()))?;
    let limits = settings.request_limits(vec![
        settings.workspace_root.clone(),
        root.path().to_owned(),
    ]);
    let submission = args.turn.submission(&QueueingArgs::default())?;
    let request = TurnRequest::parse(&submission.body, &limits, &submission.properties())
        .map_err(|rejection| Usage(rejection.to_string()))?;
    let metrics = Metrics::new(None);
    // The turn itself reports what else is wrong.
    if let Err(EngineError::Program(error @ ProgramError::TooOld { .. })) =
        serve::tried(engine.codex(), &metrics).await
    {
        return Err(error.into());
    }
    // There is no other host to run it: any failure ends it.
    let host = Host::new([], metrics.clone());
    let runner = serve::runner(&settings, root, engine, serve::process_id(), host, metrics);

    let interrupts = Interrupts::listen().context("can't listen to Ctrl-C")?;
    let printer = Arc::new(Mutex::new(Printer::new(args.turn.json)));
    let stop = StopHandle::new();
    tokio::spawn({
        let (first, stop, printer) = (interrupts.first, stop.clone(), Arc::clone(&printer));
        async move {
            first.cancelled().await;
            stop.stop(Stop::Cancel);
            printer
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .interrupt();
            notice("cancelling the turn; Ctrl-C again cuts it");
        }
    });
    let printing = Arc::clone(&printer);
    let sink = Immediate::new(move |event: &SealedEvent| {
        if let Some(message) = TurnMessage::parse(event.json.as_bytes()) {
            let mut printer = printing.lock().unwrap_or_else(PoisonError::into_inner);
            printer.event(&message, Arrival::default());
        }
    });
    let hints = Hints {
        patient: true,
        journal: None,
    };
    let take = async {
        loop {
            match runner.take(&request, &hints, &sink, &stop).await {
                Outcome::Takeover(takeover) => {
                    if !takeover.outlive(stop.shutting_down()).await? {
                        return Ok(Outcome::Busy);
                    }
                }
                outcome => return Ok::<_, StateError>(outcome),
            }
        }
    };
    let outcome = tokio::select! {
        outcome = take => outcome?,
        // The guard ends what runs as soon as this process is gone.
        () = interrupts.second.cancelled() => return Ok(ExitCode::from(exit::INTERRUPTED)),
    };
    match outcome {
        Outcome::Ended(_) => {}
        Outcome::AlreadyEnded(ended) => sink.push_final(&ended.events),
        Outcome::Rejected { events, .. } => sink.push_final(&events),
        Outcome::Busy | Outcome::Takeover(_) => bail!(
            "workspace {} is in use by another turn; try again when that has ended",
            request.workspace
        ),
        Outcome::Held(unkillable) => bail!(
            "workspace {} is locked until processes of an earlier turn end, which can't be killed: {unkillable}",
            request.workspace
        ),
        Outcome::Returned => bail!("the turn was cut off"),
        Outcome::LockLost => bail!(
            "the turn was killed: the lock of workspace {} could not be confirmed on its file system",
            request.workspace
        ),
        Outcome::Unfit(finding) => bail!("{finding}"),
        Outcome::NotStarted(error) => return Err(error.into()),
    }
    let printer = printer.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(ExitCode::from(printer.ended().unwrap_or(exit::FAILURE)))
}
