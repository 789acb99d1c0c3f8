//! `turn-worker status`: what a pool is doing.

mod text;

pub(super) use text::homes;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;
use tokio::time::sleep;
use turn_worker::amqp::messages::MAX_LINES;
use turn_worker::config::{Settings, parse_duration};
use turn_worker::error::with_sources;
use turn_worker::operator::{Operator, OperatorError, PoolStatus, why};

use super::dead::operator;
use super::exit::Usage;
use super::output::{self, Output};
use super::render::clean::clean;

pub(super) const EXAMPLES: &str = "\
Examples:
  turn-worker status
  turn-worker status --watch
  turn-worker status | jq '.backlog.oldest'
  turn-worker status | jq -r '.workers[] | select(.draining or .lacks) | .name'

Workers and sequencers report every two seconds; this listens until all have. It sends no questions, \
and no management plugin is needed. Of the settings, only TURN_WORKER_AMQP_… and TURN_WORKER_PREFIX matter. The \
broker's user needs to listen to the status exchange: ops/deploy/rabbitmq/users set operator NAME.

Without a terminal, one JSON object: workers with the turns they run, sequencers, backlog (of the active sequencer, or \
null; each of its `top` lines has why its turns wait), turns_not_held (beyond the active sequencer's BACKLOG, or without one), turns_consumers, offers_untaken, dead_letters (null where the broker does not show them to this user, as RabbitMQ 4.3 does not show them to operators).

Exit status: 0 at least one report, 1 no report, or the broker can't be reached, 2 wrong arguments or settings, \
141 the reader of the output is gone.";

/// What empties a terminal, and puts the cursor at its top.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";
/// Between two looks that failed.
const PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// How many workspaces and running turns to show at most
    #[arg(long, short = 'n', value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=MAX_LINES as u64))]
    top: u64,
    /// How long to listen while no worker or no sequencer reports
    #[arg(long, value_name = "D", default_value = "5s", value_parser = limit)]
    timeout: Duration,
    /// Look again and again, on a terminal
    #[arg(long)]
    watch: bool,
    /// JSON, also on a terminal
    #[arg(long)]
    json: bool,
}

fn limit(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|limit| (Duration::from_secs(3)..=Duration::from_secs(600)).contains(limit))
        .ok_or_else(|| {
            "expected a duration such as 5s or 1m, 3s (a heartbeat and a bit) to 10m".to_owned()
        })
}

pub(super) async fn status(settings: Settings, args: StatusArgs) -> anyhow::Result<ExitCode> {
    let operator = operator(&settings);
    let output = Output::new(args.json);
    if args.watch {
        if output.screen().is_none() {
            return Err(Usage("--watch is for a terminal, and without --json".to_owned()).into());
        }
        let watched = watch(&operator, &args, output).await;
        return output::status(watched);
    }
    let status = operator.status(args.timeout).await?;
    output::status(told(status, &args, output))
}

fn told(mut status: PoolStatus, args: &StatusArgs, output: Output) -> io::Result<()> {
    let top = usize::try_from(args.top).unwrap_or(MAX_LINES);
    let now = Timestamp::now();
    if let Some((style, width)) = output.screen() {
        return output::print(&text::overview(&status, top, now, style, width));
    }
    if let Some(backlog) = &mut status.backlog {
        backlog.top.truncate(top);
    }
    let mut value = json!(status);
    let lines = value.pointer_mut("/backlog/top");
    if let Some(lines) = lines.and_then(serde_json::Value::as_array_mut) {
        for line in lines {
            let workspace = line["workspace"].as_str().unwrap_or_default().to_owned();
            line["why"] = json!(why(&status, &workspace));
        }
    }
    value["time"] = json!(now);
    output.json(&value)
}

/// Until Ctrl-C, or the terminal is gone.
async fn watch(operator: &Operator, args: &StatusArgs, output: Output) -> io::Result<()> {
    loop {
        match operator.status(args.timeout).await {
            Ok(status) => {
                output::print(CLEAR)?;
                told(status, args, output)?;
            }
            // It may come back: that is what one watches for.
            Err(error) => {
                let line = clean(&with_sources(&error));
                output::print(&format!("{CLEAR}{line}\n"))?;
                if !matches!(error, OperatorError::Silent { .. }) {
                    sleep(PAUSE).await;
                }
            }
        }
    }
}
