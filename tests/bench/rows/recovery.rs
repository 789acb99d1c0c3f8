//! How long turns stand still when the process dies that they depend on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{in_ms, progress};
use crate::load::{Load, Turn};
use crate::process::Process;
use crate::stage::{Bench, Stage};
use crate::stats::Sample;
use crate::table::{Limit, Row, Target, short};

/// Turns that are affected each time.
const TURNS: usize = 4;
/// Two of the connection's heartbeat intervals, after which the broker gives a
/// silent client up.
const TAKEOVER_LIMIT_S: f64 = 2.0 * turn_worker::amqp::connect::HEARTBEAT_S as f64;

pub async fn rows(bench: &mut Bench) -> Result<Vec<Row>> {
    let times = bench.many(5, 2);
    let mut workers = Vec::new();
    let mut sequencers = Vec::new();
    for time in 1..=times {
        workers.extend(worker_killed(bench.stage()?).await?);
        sequencers.push(sequencer_lost(bench.stage()?, Process::kill).await?);
        progress(&format!(
            "killed a worker and a sequencer, {time} of {times}"
        ));
    }
    let mut rows = vec![
        row(
            format!(
                "SIGKILL of a worker → next event of its turns, median / max of {}",
                workers.len()
            ),
            &in_ms(workers)?,
            false,
        ),
        row(
            format!("SIGKILL of the sequencer → next turn starts, median / max of {times}"),
            &in_ms(sequencers)?,
            true,
        ),
    ];
    if !bench.quick {
        progress("freezing a sequencer, which takes the broker some time to notice");
        let frozen = sequencer_lost(bench.stage()?, |process| process.freeze()).await?;
        rows.push(row(
            "SIGSTOP of the sequencer (as if its host were gone) → next turn starts, once"
                .to_owned(),
            &in_ms([frozen])?,
            false,
        ));
    }
    Ok(rows)
}

fn row(what: String, sample: &Sample, takeover: bool) -> Row {
    let mut row = Row::new(what)
        .figure("median_ms", sample.median())
        .figure("max_ms", sample.max());
    let [median, max] = [sample.median(), sample.max()].map(|ms| short(ms / 1000.0));
    row.turn_worker = format!("{median} / {max} s");
    if takeover {
        row.target = Some(Target {
            wanted: "≤ two heartbeat intervals, 20 s",
            found: sample.max() / 1000.0,
            limit: Limit::AtMost(TAKEOVER_LIMIT_S),
        });
    }
    row
}

/// The times until the next attempt of each of its turns is reported, elsewhere.
async fn worker_killed(mut stage: Stage) -> Result<Vec<Duration>> {
    let sequencer = stage.turn_worker(&[("ROLES", "sequencer")]).await?;
    let slots = TURNS.to_string();
    let worker = [("ROLES", "worker"), ("SLOTS", &*slots)];
    let mut first = stage.turn_worker(&worker).await?;
    let load = stage.load().await?;
    let turns = turns(0, "sleep 600000");
    load.send_all(&turns).await?;
    began(&load, &turns, 1).await?;

    let second = stage.turn_worker(&worker).await?;
    let killed = Instant::now();
    first.kill()?;
    began(&load, &turns, 2).await?;
    let log = load.log();
    let next = turns
        .iter()
        .map(|turn| log.of(turn).starts.get(1).map(|at| *at - killed));
    let next: Option<Vec<Duration>> = next.collect();
    drop((second, sequencer));
    next.context("a turn was not started again")
}

/// The time until the first of the turns starts that wait in line, of which
/// only the lost sequencer knew.
async fn sequencer_lost(
    mut stage: Stage,
    lose: impl FnOnce(&mut Process) -> Result<()>,
) -> Result<Duration> {
    let sequencer = [("ROLES", "sequencer")];
    let mut first = stage.turn_worker(&sequencer).await?;
    let second = stage.turn_worker(&sequencer).await?;
    let slots = TURNS.to_string();
    let worker = stage
        .turn_worker(&[("ROLES", "worker"), ("SLOTS", &slots)])
        .await?;
    let load = stage.load().await?;
    let heads = turns(0, "sleep 500");
    let waiting = turns(1, "free");
    load.send_all(&heads).await?;
    load.send_all(&waiting).await?;
    began(&load, &heads, 1).await?;

    let lost = Instant::now();
    lose(&mut first)?;
    began(&load, &waiting, 1).await?;
    let log = load.log();
    let starts = waiting
        .iter()
        .filter_map(|turn| log.of(turn).starts.first().copied());
    let next = starts.min().context("no turn began")?;
    drop((second, worker));
    Ok(next - lost)
}

fn turns(number: usize, prompt: &str) -> Vec<Turn> {
    (0..TURNS)
        .map(|n| Turn::new(format!("t{number}-{n}"), format!("w{n}"), prompt))
        .collect()
}

/// Until each has started so many attempts.
async fn began(load: &Load, turns: &[Turn], attempts: usize) -> Result<()> {
    load.until("turns begin", |log| {
        turns
            .iter()
            .all(|turn| log.of(turn).starts.len() >= attempts)
    })
    .await
}
