//! What the worker's process takes, with as much to do as many have.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{progress, workspaces};
use crate::load::Turn;
use crate::proc::{self, Memory};
use crate::stage::Bench;
use crate::table::{Limit, Row, Target, short};

const RUNNING: usize = 64;
const WAITING: usize = 10_000;
/// Of those that wait: within what one workspace may have waiting.
const WORKSPACES: usize = 100;
/// Neither ends before it is killed.
const LONG: &str = "sleep 3600000";
const LIMIT: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(50);

pub async fn rows(bench: &mut Bench) -> Result<Vec<Row>> {
    Ok(vec![running(bench).await?, waiting(bench).await?])
}

async fn running(bench: &mut Bench) -> Result<Row> {
    let mut stage = bench.stage()?;
    let worker = stage
        .turn_worker(&[("SLOTS", &RUNNING.to_string())])
        .await?;
    let load = stage.load().await?;
    let turns: Vec<Turn> = workspaces(RUNNING)
        .map(|workspace| Turn::new(format!("t-{workspace}"), workspace, LONG))
        .collect();
    load.send_all(&turns).await?;
    load.until("turns run", |log| {
        turns.iter().all(|turn| !log.of(turn).starts.is_empty())
    })
    .await?;
    let began = Instant::now();
    let guards = loop {
        let guards = proc::children(worker.pid())?;
        if guards.len() == RUNNING {
            break guards;
        }
        ensure!(began.elapsed() < LIMIT, "{} guards run", guards.len());
        tokio::time::sleep(LOOK).await;
    };
    let guards: Option<f64> = guards.into_iter().map(proc::proportional).sum();
    let memory = Memory::of(worker.pid())?;
    let mut row = memory_row(
        format!("memory of the worker, {RUNNING} turns running"),
        memory,
    );
    if let Some(guards) = guards {
        row.beside = format!("{} MiB: their {RUNNING} guards together", short(guards));
        row = row.figure("guards_pss_mib", guards);
    }
    Ok(row)
}

async fn waiting(bench: &mut Bench) -> Result<Row> {
    let mut stage = bench.stage()?;
    let worker = stage.turn_worker(&[("SLOTS", "8")]).await?;
    let load = stage.load().await?;
    let turns: Vec<Turn> = (0..WAITING)
        .map(|n| Turn::new(format!("t{n}"), format!("w{}", n % WORKSPACES), LONG))
        .collect();
    load.send_all(&turns).await?;
    let began = Instant::now();
    while worker.metric("turn_worker_backlog_turns")? < WAITING as f64 {
        ensure!(
            began.elapsed() < LIMIT,
            "the sequencer does not take all turns"
        );
        tokio::time::sleep(LOOK).await;
    }
    let memory = Memory::of(worker.pid())?;
    Ok(memory_row(
        format!("memory of the worker, {WAITING} small requests waiting"),
        memory,
    ))
}

pub(super) fn memory_row(what: String, memory: Memory) -> Row {
    let mut row = Row::new(format!("{what}, now / peak"))
        .figure("now_mib", memory.now)
        .figure("peak_mib", memory.peak);
    row.turn_worker = memory.text();
    row.target = Some(Target {
        wanted: "peak ≤ 40 MiB",
        found: memory.peak,
        limit: Limit::AtMost(40.0),
    });
    progress(&format!("{}: {}", row.what, row.turn_worker));
    row
}
