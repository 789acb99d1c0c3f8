//! What workers, guards and the real codex take together.

use anyhow::{Context, Result};

use super::{SLOTS, progress, workspaces};
use crate::load::Turn;
use crate::proc::{Memory, below, children, proportional};
use crate::process::Process;
use crate::real_codex::{Engine, RealCodex};
use crate::stage::Bench;
use crate::table::{Limit, Row, Target, short};

const AT_ONCE: [usize; 2] = [8, 32];
/// lapin's buffers, of 4 MiB each, take memory as bytes pass through them: so
/// many turns with so long a prompt go once round each.
const FILLING: usize = 100;
const FILLING_BYTES: usize = 64 << 10;
/// Apart from those that are measured, as their threads would be as long.
const FILLED: usize = SLOTS as usize;
const CONVERSATIONS: usize = 2 * SLOTS as usize;

pub async fn rows(bench: &mut Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for turns in AT_ONCE {
        rows.push(at_once(bench, turns).await?);
    }
    rows.push(growth(bench).await?);
    Ok(rows)
}

/// Proportional set sizes, in MiB.
#[derive(Default)]
pub(super) struct Taken {
    pub worker: f64,
    pub guards: f64,
    pub codex: f64,
}

impl Taken {
    /// By all of these together.
    pub fn by(workers: &[Process]) -> Result<Self> {
        let mut taken = Self::default();
        for worker in workers {
            let guards = children(worker.pid())?;
            let mut all = below(worker.pid())?;
            all.retain(|process| !guards.contains(process));
            taken.worker +=
                proportional(worker.pid()).context("this user may not look into smaps_rollup")?;
            // Of those that have not ended meanwhile.
            let of = |all: Vec<u32>| all.into_iter().filter_map(proportional).sum::<f64>();
            taken.guards += of(guards);
            taken.codex += of(all);
        }
        Ok(taken)
    }

    pub fn text(&self) -> String {
        let [worker, guards, codex] = [self.worker, self.guards, self.codex].map(short);
        format!("{worker} + {guards} + {codex} MiB")
    }
}

/// While each waits in the middle of an answer.
async fn at_once(bench: &mut Bench, count: usize) -> Result<Row> {
    let mut texts = Vec::new();
    let mut row = Row::new(format!(
        "memory of worker + guards + codex, {count} turns running"
    ));
    for engine in [Engine::Cold, Engine::Exec] {
        let codex = RealCodex::new(bench, &format!("{engine:?}-{count}"))?;
        let pool = codex.pool(bench, engine, 1, count).await?;
        let turns: Vec<Turn> = workspaces(count)
            .map(|workspace| Turn::new(format!("t-{workspace}"), workspace, "hold: go"))
            .collect();
        let ended = pool.load.log().ended;
        pool.load.send_all(&turns).await?;
        codex.model.arrived("hold", count).await;
        let taken = Taken::by(&pool.workers)?;
        codex.model.release("go");
        pool.load.all_ended(ended, &turns).await?;
        pool.stop().await?;
        let name = format!("{engine:?}").to_lowercase();
        row = row
            .figure(&format!("{name}_worker_pss_mib"), taken.worker)
            .figure(&format!("{name}_guards_pss_mib"), taken.guards)
            .figure(&format!("{name}_codex_pss_mib"), taken.codex);
        texts.push(format!("{} {}", engine.name(), taken.text()));
    }
    row.turn_worker = texts.join("; ");
    progress(&format!("{}: {}", row.what, row.turn_worker));
    Ok(row)
}

/// Of the worker, which serves all of it; codex keeps its conversations.
async fn growth(bench: &mut Bench) -> Result<Row> {
    let count = bench.many(1000, 200);
    let codex = RealCodex::new(bench, "growth")?;
    let pool = codex.pool(bench, Engine::Kept, 1, SLOTS as usize).await?;
    let worker = pool.workers.first().context("no worker")?.pid();
    let long = "x".repeat(FILLING_BYTES);
    let filling: Vec<Turn> = (0..FILLING)
        .map(|n| Turn::new(format!("f{n}"), format!("filling-{}", n % FILLED), &long))
        .collect();
    let turn = |n| Turn::new(format!("t{n}"), format!("w{}", n % CONVERSATIONS), "hi");
    let turns: Vec<Turn> = (0..CONVERSATIONS + count).map(turn).collect();
    let (first, then) = turns.split_at(CONVERSATIONS);
    pool.load.run(&filling).await?;
    pool.load.run(first).await?;
    let (before, taken) = (Memory::of(worker)?, Taken::by(&pool.workers)?);
    pool.load.run(then).await?;
    let (after, taken_after) = (Memory::of(worker)?, Taken::by(&pool.workers)?);
    pool.stop().await?;
    let mut row = Row::new(format!(
        "memory of a worker with warm servers, before → after {count} turns"
    ))
    .figure("before_mib", before.now)
    .figure("after_mib", after.now);
    let [now, later] = [before.now, after.now].map(short);
    row.turn_worker = format!("{now} → {later} MiB");
    let [codex, codex_after] = [taken.codex, taken_after.codex].map(short);
    let servers = CONVERSATIONS + FILLED;
    row.beside = format!("its {servers} servers of codex together: {codex} → {codex_after} MiB");
    row.target = Some(Target {
        wanted: "≤ 1.1 × before",
        found: after.now / before.now,
        limit: Limit::AtMost(1.1),
    });
    progress(&format!(
        "{}: {}; {}",
        row.what, row.turn_worker, row.beside
    ));
    Ok(row)
}
