//! `turn-worker submit`: sends a turn to the workers and follows it.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use turn_worker::client::{Client, Follow, Update};
use turn_worker::config::Settings;

use super::exit;
use super::interrupt::Interrupts;
use super::print::Printer;
use super::stderr::notice;
use super::turn::{QueueingArgs, TurnArgs};

pub(super) const EXAMPLES: &str = "\
Examples:
  turn-worker submit -w acme/website 'Fix the failing test'
  turn-worker submit -w acme/website - < prompt.md
  turn-worker submit -w acme/website 'Explain src/' | jq -r '.text // empty'
  turn-worker submit -w acme/website --image now.png --output-schema answer.json 'What is wrong?' | jq '.structured // empty'
  id=$(turn-worker submit -w acme/website --no-wait 'Update the dependencies')

Without a terminal, events are printed as JSON lines. Ctrl-C cancels the turn and waits for its end; a second one \
leaves at once. A turn goes on without readers; to follow it again, send the same turn under the \
same --turn-id: it runs once, and its end is published again.

Of the settings, only TURN_WORKER_AMQP_… and TURN_WORKER_PREFIX matter.";

#[derive(Debug, Args)]
pub(super) struct SubmitArgs {
    #[command(flatten)]
    turn: TurnArgs,
    #[command(flatten)]
    queueing: QueueingArgs,
    /// Print the turn's id once the broker has it, and do not follow it
    #[arg(long)]
    no_wait: bool,
}

/// The producer that the settings make.
pub(super) fn client(settings: &Settings) -> Client {
    let name = format!("turn-worker producer {}", turn_worker::serve::process_id());
    let connector = turn_worker::serve::connector(settings, &name);
    Client::new(connector, &settings.prefix)
}

pub(super) async fn submit(settings: Settings, args: SubmitArgs) -> anyhow::Result<ExitCode> {
    let submission = args.turn.submission(&args.queueing)?;
    let client = client(&settings);
    let id = submission.turn_id.clone();
    if args.no_wait {
        client.submit(&submission).await?;
        // It is sent, even if its id can't be printed.
        let _ = writeln!(std::io::stdout(), "{id}");
        return Ok(ExitCode::SUCCESS);
    }
    let interrupts = Interrupts::listen().context("can't listen to Ctrl-C")?;
    let listening = Follow::listen(client, submission, interrupts.first.clone());
    let mut follow = tokio::select! {
        follow = listening => follow?,
        // The turn was not sent yet, so it need not be cancelled.
        () = interrupts.first.cancelled() => return Ok(ExitCode::from(exit::INTERRUPTED)),
    };
    let mut printer = Printer::new(args.turn.json);
    let status = tokio::select! {
        status = to_the_end(&mut follow, &mut printer, &id) => status?,
        () = interrupts.second.cancelled() => {
            notice(&format!("left turn {id}, which may go on; `turn-worker cancel {id}` ends it"));
            return Ok(ExitCode::from(exit::INTERRUPTED));
        }
    };
    follow.close().await;
    Ok(ExitCode::from(status))
}

async fn to_the_end(follow: &mut Follow, printer: &mut Printer, id: &str) -> anyhow::Result<u8> {
    follow.send().await.with_context(|| format!("turn {id}"))?;
    // The reader of this line knows that the turn is accepted, and under which id.
    notice(&format!(
        "sent turn {id}, waiting for a worker (Ctrl-C cancels it)"
    ));
    loop {
        let said = match follow.next().await {
            Update::Event(message, arrival) => {
                if arrival.missed > 0 && !printer.is_screen() {
                    notice(&format!("{} events of turn {id} were missed", arrival.missed));
                }
                printer.event(&message, arrival);
                if let Some(broken) = printer.take_broken() {
                    if broken.kind() == std::io::ErrorKind::BrokenPipe {
                        return Ok(exit::CLOSED_PIPE);
                    }
                    return Err(broken).with_context(|| format!("can't print; turn {id} goes on"));
                }
                match printer.ended() {
                    Some(status) => return Ok(status),
                    None => continue,
                }
            }
            Update::Lost { reason } => {
                format!("lost the broker, trying again (turn {id} goes on without us): {reason}")
            }
            Update::Restored => format!("following turn {id} again; events may have been missed"),
            Update::CancelSent => {
                format!("cancelling turn {id}; Ctrl-C again leaves without waiting for its end")
            }
            Update::CancelUnheard => {
                "no worker listens now, so the cancel is repeated until one does; Ctrl-C again leaves".to_owned()
            }
        };
        printer.interrupt();
        notice(&said);
    }
}
