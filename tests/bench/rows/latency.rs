//! What the pool adds to a turn that need not wait: from enqueueing it to its
//! first event, and to its end.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::interval;

use super::{SLOTS, in_ms, progress, workspaces};
use crate::load::{Load, Seen, Turn, accepted};
use crate::stage::{Bench, warm_up};
use crate::stats::Sample;
use crate::table::{Limit, Row, Target, short};

const A_SECOND: u32 = 20;
const WORKSPACES: usize = 40;

pub async fn rows(bench: &mut Bench) -> Result<Vec<Row>> {
    let count = bench.many(300, 60);
    let measured = async |load: &Load| measured(load, count).await;
    let (our, other) = bench.ours_and_one_hop(SLOTS, measured).await?;

    let mut first = row("first event", &our, &other, Seen::to_first_event)?;
    let ratio = first.figures["turn_worker_median_ms"] / first.figures["one_hop_median_ms"];
    first.target = Some(Target {
        wanted: "median ≤ 2 × one-hop's",
        found: ratio,
        limit: Limit::AtMost(2.0),
    });
    let end = row("end", &our, &other, Seen::to_end)?;
    for row in [&first, &end] {
        progress(&format!(
            "{}: {}, one-hop {}",
            row.what, row.turn_worker, row.one_hop
        ));
    }
    Ok(vec![first, end])
}

async fn measured(load: &Load, count: usize) -> Result<Vec<Seen>> {
    warm_up(load, workspaces(WORKSPACES)).await?;
    let turns: Vec<Turn> = (0..count)
        .map(|n| Turn::new(format!("t{n}"), format!("w{}", n % WORKSPACES), "free"))
        .collect();
    let ended = load.log().ended;
    let mut pace = interval(Duration::from_secs(1) / A_SECOND);
    for turn in &turns {
        pace.tick().await;
        accepted(load.send(turn).await?).await?;
    }
    load.all_ended(ended, &turns).await
}

fn row(
    what: &str,
    our: &[Seen],
    other: &[Seen],
    time: fn(&Seen) -> Option<Duration>,
) -> Result<Row> {
    let sample = |seen: &[Seen]| -> Result<Sample> {
        let times: Option<Vec<Duration>> = seen.iter().map(time).collect();
        in_ms(times.context("a turn has no times")?)
    };
    let (our, other) = (sample(our)?, sample(other)?);
    let text = |sample: &Sample| {
        let [median, p99] = [sample.median(), sample.percentile(99.0)].map(short);
        format!("{median} / {p99} ms")
    };
    let mut row = Row::new(format!(
        "enqueue → {what} at {A_SECOND} turns/s, median / p99"
    ))
    .figure("turn_worker_median_ms", our.median())
    .figure("turn_worker_p99_ms", our.percentile(99.0))
    .figure("one_hop_median_ms", other.median())
    .figure("one_hop_p99_ms", other.percentile(99.0));
    row.turn_worker = text(&our);
    row.one_hop = text(&other);
    Ok(row)
}
