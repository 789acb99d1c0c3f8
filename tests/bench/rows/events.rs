//! How many events a second, for turns that say much.

use anyhow::{Context, Result, ensure};

use super::{SLOTS, progress, sample};
use crate::load::{Seen, Turn};
use crate::one_channel::OneChannel;
use crate::proc::Cpu;
use crate::stage::{Bench, warm_up};
use crate::table::{Limit, Row, Target, short};

/// Messages of each turn; a start and an end come to them.
const MESSAGES: usize = 2_000;
const ROUNDS: usize = 3;

pub async fn rows(bench: &mut Bench) -> Result<Vec<Row>> {
    Ok(vec![
        compared(bench, 1).await?,
        compared(bench, SLOTS).await?,
    ])
}

/// With so many turns at once.
async fn compared(bench: &mut Bench, slots: u32) -> Result<Row> {
    let count = bench.many(8, 3) * if slots > 1 { 4 } else { 1 };
    let mut stage = bench.stage()?;
    let worker = stage.turn_worker(&[("SLOTS", &slots.to_string())]).await?;
    let worker_load = stage.load().await?;
    let mut channel = OneChannel::open(stage.url()).await?;
    let mut stage = bench.stage()?;
    let one_hop = stage.one_hop(slots)?;
    let one_hop_load = stage.load().await?;

    let turns = |round: usize| -> Vec<Turn> {
        let prompt = format!("events {MESSAGES}");
        (0..count)
            .map(|n| Turn::new(format!("r{round}-{n}"), format!("w{n}"), &prompt))
            .collect()
    };
    for load in [&worker_load, &one_hop_load] {
        warm_up(load, turns(0).into_iter().map(|turn| turn.workspace)).await?;
    }
    worker_load.keep(&turns(0)[0]);
    let (mut our, mut other, mut bare) = (vec![], vec![], vec![]);
    let cpu = (worker.cpu()?, one_hop.cpu()?);
    for round in 0..ROUNDS {
        our.push(a_second(&worker_load.run(&turns(round)).await?)?);
        other.push(a_second(&one_hop_load.run(&turns(round)).await?)?);
        if round == 0 {
            channel.messages = worker_load.take_kept();
        }
        let again: Vec<Turn> = (0..count)
            .map(|n| Turn::new(format!("channel-{round}-{n}"), "none", ""))
            .collect();
        bare.push(a_second(&channel.publish(&worker_load, &again).await?)?);
        progress(&format!(
            "{slots} at once, round {} of {ROUNDS}: {} events/s, one-hop {}, one channel {}",
            round + 1,
            short(our[round]),
            short(other[round]),
            short(bare[round])
        ));
    }
    let events = ROUNDS * count * (MESSAGES + 2);
    let cpu = (worker.cpu()?.since(cpu.0), one_hop.cpu()?.since(cpu.1));
    let each = |cpu: Cpu| cpu.own.as_secs_f64() * 1e6 / events as f64;
    let (our_cpu, other_cpu) = (each(cpu.0), each(cpu.1));
    worker.stop().await?;
    one_hop.stop().await?;

    let median = |values: Vec<f64>| Ok::<_, anyhow::Error>(sample(values)?.median());
    let (our, other, bare) = (median(our)?, median(other)?, median(bare)?);
    let mut row = Row::new(match slots {
        1 => format!("events/s, turns of {MESSAGES} events one after the other"),
        _ => format!("events/s, {slots} such turns at once"),
    })
    .figure("turn_worker_per_s", our)
    .figure("one_hop_per_s", other)
    .figure("one_channel_per_s", bare)
    .figure("turn_worker_cpu_us", our_cpu)
    .figure("one_hop_cpu_us", other_cpu);
    row.turn_worker = format!("{} ({our_cpu:.0} µs CPU each)", short(our));
    row.one_hop = format!("{} ({other_cpu:.0} µs)", short(other));
    row.beside = format!("{} by one channel alone", short(bare));
    row.target = Some(Target {
        wanted: "≥ 0.7 of one channel",
        found: our / bare,
        limit: Limit::AtLeast(0.7),
    });
    Ok(row)
}

/// From the first event to the last, with all that lies between two turns.
fn a_second(seen: &[Seen]) -> Result<f64> {
    let events: usize = seen.iter().map(|seen| seen.events).sum();
    ensure!(
        events == seen.len() * (MESSAGES + 2),
        "{events} events came"
    );
    let first = seen.iter().filter_map(|seen| seen.starts.first()).min();
    let last = seen.iter().filter_map(|seen| seen.end).max();
    let (first, last) = first.zip(last).context("no events")?;
    Ok(events as f64 / (last - *first).as_secs_f64())
}
