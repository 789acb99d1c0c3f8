//! The real codex, by each of the ways to run it.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{SLOTS, in_ms, ms, progress, sample};
use crate::load::Turn;
use crate::real_codex::{Engine, RealCodex, Running};
use crate::stage::Bench;
use crate::stats::Sample;
use crate::table::{Limit, Row, Target, short};

/// Two for each slot: while one's turn ends, another's can run.
const CONVERSATIONS: usize = 2 * SLOTS as usize;
const ROUNDS: usize = 3;

/// What is measured of one engine, or of the bare loop.
#[derive(Default)]
struct Rounds {
    a_second: Vec<f64>,
    cpu: Vec<f64>,
}

pub async fn rows(bench: &mut Bench) -> Result<Vec<Row>> {
    let count = bench.many(48, 16);
    let codex = RealCodex::new(bench, "engines")?;
    let mut pools = Vec::new();
    for engine in Engine::ALL {
        let pool = codex.run(bench, engine, SLOTS as usize).await?;
        let firsts = conversations(&format!("first-{engine:?}"), CONVERSATIONS);
        pool.load.run(&firsts).await?;
        pools.push((engine, pool, Rounds::default()));
    }
    let mut bare = Rounds::default();
    for round in 1..=ROUNDS {
        let (a_second, cpu) = codex.bare_loop(bench, count, SLOTS)?;
        bare.add(a_second, cpu);
        for (engine, pool, rounds) in &mut pools {
            // What is quicker is measured for as long.
            let count = if *engine == Engine::Warm {
                4 * count
            } else {
                count
            };
            let turns = conversations(&format!("r{round}-{engine:?}"), count);
            let (a_second, cpu) = turns_of(pool, &turns).await?;
            rounds.add(a_second, cpu);
        }
        let texts = pools.iter().map(|(engine, _, rounds)| {
            let last = rounds.a_second.last().copied().unwrap_or_default();
            format!("{} {}", engine.name(), short(last))
        });
        let texts: Vec<String> = texts.collect();
        progress(&format!(
            "round {round} of {ROUNDS}, turns/s: {}, a bare loop {}",
            texts.join(", "),
            short(a_second)
        ));
    }
    let mut rows = vec![rate(&pools, &bare)?, cpu(&pools, &bare)?];
    rows.push(latency(bench, &codex, &pools).await?);
    for (_, pool, _) in pools {
        pool.worker.stop().await?;
    }
    Ok(rows)
}

fn conversations(tag: &str, count: usize) -> Vec<Turn> {
    let turn = |n| {
        let id = format!("{tag}-{n}");
        Turn::new(&id, format!("w{}", n % CONVERSATIONS), &id)
    };
    (0..count).map(turn).collect()
}

async fn turns_of(pool: &Running, turns: &[Turn]) -> Result<(f64, Duration)> {
    let before = pool.worker.cpu()?;
    let seen = pool.load.run(turns).await?;
    let cpu = pool.worker.cpu()?.since(before);
    let first = seen.iter().filter_map(|seen| seen.sent).min();
    let last = seen.iter().filter_map(|seen| seen.end).max();
    let (first, last) = first.zip(last).context("no turns")?;
    let count = turns.len() as f64;
    Ok((
        count / (last - first).as_secs_f64(),
        (cpu.own + cpu.children).div_f64(count),
    ))
}

type Pools = [(Engine, Running, Rounds)];

/// Of each engine, in words and as figures.
fn of_each(
    mut row: Row,
    unit: &str,
    pools: &Pools,
    value: impl Fn(&Rounds) -> Result<f64>,
) -> Result<Row> {
    let mut texts = Vec::new();
    for (engine, _, rounds) in pools {
        let value = value(rounds)?;
        row = row.figure(&format!("{engine:?}_{unit}").to_lowercase(), value);
        texts.push(format!("{} {}", engine.name(), short(value)));
    }
    row.turn_worker = texts.join("; ");
    Ok(row)
}

fn rate(pools: &Pools, bare: &Rounds) -> Result<Row> {
    let row = Row::new(format!(
        "turns/s, {SLOTS} slots, the real codex and a model that answers at once"
    ));
    let mut row = of_each(row, "per_s", pools, Rounds::a_second)?;
    let bare = bare.a_second()?;
    row = row.figure("bare_loop_per_s", bare);
    row.beside = format!("{} a bare loop of codex exec", short(bare));
    row.target = Some(Target {
        wanted: "warm ≥ 3 × the bare loop",
        found: row.figures["warm_per_s"] / bare,
        limit: Limit::AtLeast(3.0),
    });
    Ok(row)
}

fn cpu(pools: &Pools, bare: &Rounds) -> Result<Row> {
    let row = Row::new("CPU a turn of these, ms: worker, guards and codex");
    let mut row = of_each(row, "cpu_ms", pools, Rounds::cpu)?;
    let bare = bare.cpu()?;
    row = row.figure("bare_loop_cpu_ms", bare);
    row.beside = format!("{} a bare loop", short(bare));
    Ok(row)
}

/// One turn after the other, each of words that come one by one.
async fn latency(bench: &Bench, codex: &RealCodex, pools: &Pools) -> Result<Row> {
    let count = bench.many(40, 10);
    let mut row = Row::new("the model's first word → the first text_delta, median / p99");
    let mut texts = Vec::new();
    for (engine, pool, _) in pools {
        let mut times = Vec::new();
        for n in 0..count {
            let id = format!("words-{engine:?}-{n}");
            let turn = Turn::new(&id, "w0", &format!("{id}\nslow: 10"));
            let seen = pool.load.run(std::slice::from_ref(&turn)).await?;
            let asked = codex.model.arrived(&id, 1).await;
            let told = asked.last().and_then(|request| request.first_delta);
            let came = seen.first().and_then(|seen| seen.first_text);
            let (told, came) = told.zip(came).context("a turn without text")?;
            times.push(came.saturating_duration_since(told));
        }
        let times: Sample = in_ms(times)?;
        let [median, p99] = [times.median(), times.percentile(99.0)];
        row = row.figure(&format!("{engine:?}_median_ms").to_lowercase(), median);
        texts.push(format!(
            "{} {} / {} ms",
            engine.name(),
            short(median),
            short(p99)
        ));
    }
    row.turn_worker = texts.join("; ");
    row.beside = "exec tells a message when it is whole: here of 10 words, 50 ms apart".to_owned();
    row.target = Some(Target {
        wanted: "warm ≤ 40 ms",
        found: row.figures["warm_median_ms"],
        limit: Limit::AtMost(40.0),
    });
    progress(&format!("{}: {}", row.what, row.turn_worker));
    Ok(row)
}

impl Rounds {
    fn add(&mut self, a_second: f64, cpu: Duration) {
        self.a_second.push(a_second);
        self.cpu.push(ms(cpu));
    }

    fn a_second(&self) -> Result<f64> {
        Ok(sample(self.a_second.iter().copied())?.median())
    }

    fn cpu(&self) -> Result<f64> {
        Ok(sample(self.cpu.iter().copied())?.median())
    }
}
