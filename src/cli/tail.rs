//! `turn-worker tail`: a turn from the event log.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use clap::Args;
use turn_worker::client::{Origin, Tail, TailUpdate};
use turn_worker::config::{Settings, parse_duration};

use super::exit;
use super::print::Printer;
use super::stderr::notice;
use super::submit::client;
use super::turn::check_names;

pub(super) const EXAMPLES: &str = "\
Examples:
  turn-worker tail 019a2c3e-7d1b-7000-8000-000000000000
  turn-worker tail --since 2h nightly-42 | jq -r 'select(.type == \"message_end\").text'
  turn-worker tail --wait nightly-43

Reads the event log, which workers keep where TURN_WORKER_EVENT_LOG=on: what there is of the turn, and then what \
comes, to its end. Without a terminal, events are printed as JSON lines. A turn that is not in the log is an \
error, also one that waits for its place: --wait waits for it. Ctrl-C leaves; the turn goes on.

Of the settings, only TURN_WORKER_AMQP_… and TURN_WORKER_PREFIX matter.";

#[derive(Debug, Args)]
pub(super) struct TailArgs {
    /// From where the log is read: `first`, or how long ago, such as 2h; less is faster
    #[arg(long, value_name = "D", default_value = "first", value_parser = since)]
    since: Since,
    /// Wait for a turn that is not in the log yet
    #[arg(long)]
    wait: bool,
    /// The turn's workspace; by default that of the first event found under the turn's id
    #[arg(long, short, value_name = "W")]
    workspace: Option<String>,
    /// JSON lines, one an event, also on a terminal
    #[arg(long)]
    json: bool,
    /// The turn's id
    turn_id: String,
}

/// How long ago; `None`: from the first message that the log still has.
#[derive(Debug, Clone, Copy)]
struct Since(Option<Duration>);

fn since(text: &str) -> Result<Since, String> {
    if text == "first" {
        return Ok(Since(None));
    }
    let ago = parse_duration(text);
    ago.map(|ago| Since(Some(ago)))
        .ok_or_else(|| "expected first, or a duration such as 90s or 1h30m".to_owned())
}

pub(super) async fn tail(settings: Settings, args: TailArgs) -> anyhow::Result<ExitCode> {
    let id = &args.turn_id;
    check_names(id, args.workspace.as_deref())?;
    let since = args.since.0.map(|ago| {
        let now = SystemTime::now();
        now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
    });
    let origin = Origin::new(args.workspace.clone());
    let mut tail = Tail::open(client(&settings), id.clone(), origin, since).await?;
    let status = to_the_end(&mut tail, &args).await?;
    tail.close().await;
    Ok(ExitCode::from(status))
}

async fn to_the_end(tail: &mut Tail, args: &TailArgs) -> anyhow::Result<u8> {
    let id = &args.turn_id;
    let mut printer = Printer::new(args.json);
    let mut found = false;
    loop {
        let said = match tail.next().await {
            TailUpdate::Event(message, arrival) => {
                found = true;
                if arrival.missed > 0 && !printer.is_screen() {
                    let missed = arrival.missed;
                    notice(&format!("{missed} events of turn {id} are not in the log"));
                }
                printer.event(&message, arrival);
                if let Some(broken) = printer.take_broken() {
                    if broken.kind() == std::io::ErrorKind::BrokenPipe {
                        return Ok(exit::CLOSED_PIPE);
                    }
                    return Err(broken).context("can't print");
                }
                match printer.ended() {
                    Some(status) => return Ok(status),
                    None => continue,
                }
            }
            TailUpdate::ReadsAll { server } => format!(
                "{} {} can't leave out what is of other turns (RabbitMQ 3.13 can): reading all of the log",
                server.product, server.version
            ),
            TailUpdate::CaughtUp if found => continue,
            TailUpdate::CaughtUp if args.wait => {
                format!("turn {id} is not in the event log yet, waiting for it")
            }
            TailUpdate::CaughtUp => bail!(
                "the event log has nothing of turn {id}{}: it has not started, is older than the log, or never was; --wait waits for it",
                match args.since.0 {
                    Some(_) => " since then",
                    None => "",
                }
            ),
            TailUpdate::Lost { reason } => {
                format!("lost the broker, trying again: {reason}")
            }
            TailUpdate::Restored => "reading on".to_owned(),
        };
        printer.interrupt();
        notice(&said);
    }
}
