//! How it grows: with more conversations than servers can wait for, and with
//! more processes for the same number of slots.

use std::time::Duration;

use anyhow::{Context, Result};

use super::engine_memory::Taken;
use super::engines::turns_of;
use super::{SLOTS, ms, progress, sample, workspaces};
use crate::load::Turn;
use crate::proc::{Cpu, Memory};
use crate::process::Process;
use crate::real_codex::{Engine, RealCodex, warm_turns};
use crate::stage::{Bench, warm_up};
use crate::table::{Row, short};

/// With [`SLOTS`] slots; the last are more than servers can wait for by default.
const CONVERSATIONS: [usize; 4] = [16, 64, 128, 256];
/// With [`ALL_SLOTS`] slots in all.
const PROCESSES: [usize; 5] = [1, 2, 4, 8, 16];
const ALL_SLOTS: usize = 16;
/// Two for each slot.
const WORKSPACES: usize = 2 * ALL_SLOTS;

pub async fn rows(bench: &mut Bench) -> Result<Vec<Row>> {
    let codex = RealCodex::new(bench, "conversations")?;
    let mut rows = Vec::new();
    let most = bench.many(CONVERSATIONS.len(), 2);
    for conversations in &CONVERSATIONS[..most] {
        rows.push(by_conversations(bench, &codex, *conversations).await?);
    }
    let step = bench.many(1, 2);
    for processes in PROCESSES.into_iter().step_by(step) {
        rows.push(by_processes(bench, processes).await?);
    }
    Ok(rows)
}

async fn by_conversations(
    bench: &mut Bench,
    codex: &RealCodex,
    conversations: usize,
) -> Result<Row> {
    let pool = codex
        .pool(bench, Engine::Default, 1, SLOTS as usize)
        .await?;
    let count = conversations.max(bench.many(128, 32));
    let round = turns_of(&pool, conversations, count).await?;
    let taken = Taken::by(&pool.workers)?;
    let worker = pool.workers.first().context("no worker")?;
    let waiting = worker.metric("turn_worker_servers_idle")?;
    pool.stop().await?;
    let warm = round.warm.unwrap_or_default();
    let mut row = Row::new(format!(
        "{conversations} conversations of the real codex, {SLOTS} slots: turns/s, on a warm server, CPU a turn"
    ))
    .figure("per_s", round.a_second)
    .figure("warm", warm)
    .figure("cpu_ms", ms(round.cpu))
    .figure("servers_waiting", waiting)
    .figure("worker_pss_mib", taken.worker)
    .figure("guards_pss_mib", taken.guards)
    .figure("codex_pss_mib", taken.codex);
    row.turn_worker = format!(
        "{}, {}, {} ms",
        short(round.a_second),
        short(warm),
        short(ms(round.cpu))
    );
    row.beside = format!(
        "memory of worker + guards + {waiting:.0} waiting servers: {}",
        taken.text()
    );
    progress(&format!("{}: {}", row.what, row.turn_worker));
    Ok(row)
}

/// A process that only sequences, so that its share of the cost is seen, and workers.
struct Split {
    sequencer: Process,
    workers: Vec<Process>,
}

impl Split {
    /// CPU so far, of the sequencer, of the workers without what is below them, and of that.
    fn cpu(&self) -> Result<[Duration; 3]> {
        let (mut own, mut below) = (Duration::ZERO, Duration::ZERO);
        for worker in &self.workers {
            let cpu = worker.cpu()?;
            own += cpu.own;
            below += cpu.children;
        }
        Ok([self.sequencer.cpu()?.own, own, below])
    }

    fn warm_turns(&self) -> Result<f64> {
        self.workers.iter().map(warm_turns).sum()
    }

    async fn stop(self) -> Result<()> {
        for process in self.workers.into_iter().chain([self.sequencer]) {
            process.stop().await?;
        }
        Ok(())
    }
}

async fn by_processes(bench: &mut Bench, processes: usize) -> Result<Row> {
    let mut stage = bench.stage()?;
    let sequencer = stage.turn_worker(&[("ROLES", "sequencer")]).await?;
    let slots = (ALL_SLOTS / processes).to_string();
    let settings = [
        ("ROLES", "worker"),
        ("CODEX_ENGINE", "app-server"),
        ("SLOTS", &*slots),
    ];
    let workers = stage.turn_workers(processes, &settings).await?;
    let split = Split { sequencer, workers };
    let load = stage.load().await?;
    warm_up(&load, workspaces(WORKSPACES)).await?;

    let count = bench.many(1200, 300);
    let turn = |n| Turn::new(format!("t{n}"), format!("w{}", n % WORKSPACES), "free");
    let turns: Vec<Turn> = (0..count).map(turn).collect();
    let broker = bench.broker.pid()?;
    let before = (split.cpu()?, Cpu::of(broker)?, split.warm_turns()?);
    let seen = load.run(&turns).await?;
    let (cpu, warm) = (split.cpu()?, split.warm_turns()? - before.2);
    let broker = Cpu::of(broker)?.since(before.1).own;
    let first = seen.iter().filter_map(|seen| seen.sent).min();
    let last = seen.iter().filter_map(|seen| seen.end).max();
    let (first, last) = first.zip(last).context("no turns")?;
    let memory = Memory::of(split.sequencer.pid())?.now;
    let each: Result<Vec<f64>> = (split.workers.iter())
        .map(|worker| Ok(Memory::of(worker.pid())?.now))
        .collect();
    let each = sample(each?)?.median();
    split.stop().await?;

    let a_turn = |time: Duration| ms(time) / count as f64;
    let mut cpu = cpu.into_iter().zip(before.0);
    let mut next = || {
        cpu.next()
            .map(|(after, before)| a_turn(after.saturating_sub(before)))
            .unwrap_or_default()
    };
    let [sequencer, own, below] = [next(), next(), next()];
    let a_second = count as f64 / (last - first).as_secs_f64();
    let warm = warm / count as f64;
    let mut row = Row::new(format!(
        "{ALL_SLOTS} slots on {processes} processes, codex without a model: turns/s, on a warm server; \
         CPU a turn, ms: sequencer + workers + their children (broker)"
    ))
    .figure("per_s", a_second)
    .figure("warm", warm)
    .figure("sequencer_ms", sequencer)
    .figure("workers_ms", own)
    .figure("guard_and_codex_ms", below)
    .figure("broker_ms", a_turn(broker))
    .figure("sequencer_mib", memory)
    .figure("worker_mib", each);
    let [sequencer, own, below, broker] = [sequencer, own, below, a_turn(broker)].map(short);
    row.turn_worker = format!(
        "{}, {}; {sequencer} + {own} + {below} ({broker})",
        short(a_second),
        short(warm)
    );
    row.beside = format!(
        "memory of the sequencer {} MiB, of each worker {} MiB",
        short(memory),
        short(each)
    );
    progress(&format!("{}: {}", row.what, row.turn_worker));
    Ok(row)
}
