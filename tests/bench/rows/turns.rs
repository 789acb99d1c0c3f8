//! How many turns a second, and what each costs in CPU time.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::memory::memory_row;
use super::{SLOTS, ms, progress, sample, workspaces};
use crate::load::{Load, Turn};
use crate::proc::{Cpu, Memory};
use crate::process::Process;
use crate::stage::{Bench, warm_up};
use crate::table::{Limit, Row, Target, short};

/// Four for each slot: they don't have to wait for another's turn to end.
const WORKSPACES: usize = 4 * SLOTS as usize;
/// The machine's mood changes; so all take turns, and the median counts.
const ROUNDS: usize = 3;

/// What one round of so many turns took.
struct Round {
    a_second: f64,
    /// Of the worker, for each turn.
    cpu: Cpu,
    /// Of the broker, for each turn.
    broker: Duration,
}

struct Rounds(Vec<Round>);

pub async fn rows(bench: &mut Bench) -> Result<Vec<Row>> {
    let count = bench.many(600, 150);
    let slots = SLOTS.to_string();
    let mut stage = bench.stage()?;
    let worker = stage.turn_worker(&[("SLOTS", &slots)]).await?;
    let worker_load = stage.load().await?;
    let mut stage = bench.stage()?;
    let one_hop = stage.one_hop(SLOTS)?;
    let one_hop_load = stage.load().await?;
    warm_up(&worker_load, workspaces(WORKSPACES)).await?;
    warm_up(&one_hop_load, workspaces(WORKSPACES)).await?;

    let (mut ours, mut others, mut bare) = (Rounds(vec![]), Rounds(vec![]), Rounds(vec![]));
    for round in 0..ROUNDS {
        bare.0.push(spawns(bench, 2 * count)?);
        let other = turns(bench, &one_hop, &one_hop_load, round, count).await?;
        let our = turns(bench, &worker, &worker_load, round, count).await?;
        progress(&format!(
            "round {} of {ROUNDS}: {} turns/s, one-hop {}, bare spawns {}",
            round + 1,
            short(our.a_second),
            short(other.a_second),
            short(bare.0[round].a_second)
        ));
        ours.0.push(our);
        others.0.push(other);
    }
    let memory = (Memory::of(worker.pid())?, Memory::of(one_hop.pid())?);
    worker.stop().await?;
    one_hop.stop().await?;
    let mut after = memory_row(
        format!("memory of the worker after these {} turns", ROUNDS * count),
        memory.0,
    );
    after.one_hop = memory.1.text();
    Ok(vec![
        rate(&ours, &others, &bare)?,
        cpu(&ours, &others, &bare)?,
        after,
    ])
}

fn rate(ours: &Rounds, others: &Rounds, bare: &Rounds) -> Result<Row> {
    let of = |rounds: &Rounds| rounds.median(|round| round.a_second);
    let (our, other, bare) = (of(ours)?, of(others)?, of(bare)?);
    let mut row = Row::new(format!("turns/s, {SLOTS} slots, codex without a model"))
        .figure("turn_worker_per_s", our)
        .figure("one_hop_per_s", other)
        .figure("bare_spawns_per_s", bare);
    row.turn_worker = short(our);
    row.one_hop = short(other);
    row.beside = format!("{} bare spawns", short(bare));
    row.target = Some(Target {
        wanted: "≥ 0.3 of bare spawns",
        found: our / bare,
        limit: Limit::AtLeast(0.3),
    });
    Ok(row)
}

fn cpu(ours: &Rounds, others: &Rounds, bare: &Rounds) -> Result<Row> {
    let own = |rounds: &Rounds| rounds.median(|round| ms(round.cpu.own));
    let children = |rounds: &Rounds| rounds.median(|round| ms(round.cpu.children));
    let broker = |rounds: &Rounds| rounds.median(|round| ms(round.broker));
    let mut row = Row::new("CPU a turn, ms: worker + its children (broker)")
        .figure("turn_worker_own_ms", own(ours)?)
        .figure("turn_worker_guard_and_codex_ms", children(ours)?)
        .figure("turn_worker_broker_ms", broker(ours)?)
        .figure("one_hop_own_ms", own(others)?)
        .figure("one_hop_codex_ms", children(others)?)
        .figure("one_hop_broker_ms", broker(others)?)
        .figure("bare_spawn_ms", children(bare)?);
    let text = |rounds: &Rounds| -> Result<String> {
        let [own, children, broker] = [own(rounds)?, children(rounds)?, broker(rounds)?].map(short);
        Ok(format!("{own} + {children} ({broker})"))
    };
    row.turn_worker = text(ours)?;
    row.one_hop = text(others)?;
    row.beside = format!("{} a bare spawn", short(children(bare)?));
    Ok(row)
}

impl Rounds {
    fn median(&self, value: impl Fn(&Round) -> f64) -> Result<f64> {
        Ok(sample(self.0.iter().map(value))?.median())
    }
}

async fn turns(
    bench: &Bench,
    process: &Process,
    load: &Load,
    round: usize,
    count: usize,
) -> Result<Round> {
    let turns: Vec<Turn> = (0..count)
        .map(|n| {
            Turn::new(
                format!("r{round}-{n}"),
                format!("w{}", n % WORKSPACES),
                "free",
            )
        })
        .collect();
    let broker = bench.broker.pid()?;
    let before = (process.cpu()?, Cpu::of(broker)?);
    let seen = load.run(&turns).await?;
    let (cpu, broker) = (
        process.cpu()?.since(before.0),
        Cpu::of(broker)?.since(before.1),
    );
    let first = seen.iter().filter_map(|seen| seen.sent).min();
    let last = seen.iter().filter_map(|seen| seen.end).max();
    let (first, last) = first.zip(last).context("no turns")?;
    let each = |time: Duration| time.div_f64(count as f64);
    Ok(Round {
        a_second: count as f64 / (last - first).as_secs_f64(),
        cpu: Cpu {
            own: each(cpu.own),
            children: each(cpu.children),
        },
        broker: each(broker.own),
    })
}

/// The same program as often, started in the simplest way.
fn spawns(bench: &Bench, count: usize) -> Result<Round> {
    let own = Cpu::of(std::process::id())?;
    let began = Instant::now();
    let status = Command::new("sh")
        .args([
            "-c",
            "seq $1 | xargs -P $2 -n 1 $3 exec --json >/dev/null",
            "-",
        ])
        .args([&count.to_string(), &SLOTS.to_string()])
        .arg(&bench.programs.codex)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .status()?;
    let took = began.elapsed();
    ensure!(status.success(), "xargs: {status}");
    let cpu = Cpu::of(std::process::id())?.since(own);
    Ok(Round {
        a_second: count as f64 / took.as_secs_f64(),
        cpu: Cpu {
            own: Duration::ZERO,
            children: cpu.children.div_f64(count as f64),
        },
        broker: Duration::ZERO,
    })
}
