//! What others wait for when one workspace has half of all turns.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{SLOTS, in_ms, progress, workspaces};
use crate::load::{Load, Seen, Turn};
use crate::stage::{Bench, warm_up};
use crate::stats::Sample;
use crate::table::{Limit, Row, Target, short};

const TURN_MS: u64 = 40;
/// Of all workspaces but the busy one.
const OTHERS: usize = 50;

struct Run {
    /// From being enqueued to the end, of the turns in other workspaces, in ms.
    others: Sample,
    /// From the first turn's enqueueing to the last one's end, in ms.
    whole: f64,
}

pub async fn rows(bench: &mut Bench) -> Result<Vec<Row>> {
    let count = bench.many(400, 100);
    let measured = async |load: &Load| measured(load, count).await;
    let (our, other) = bench.ours_and_one_hop(SLOTS, measured).await?;

    let ideal = (count as u64 / 2 * TURN_MS) as f64 / 1000.0;
    let text = |run: &Run| {
        let [p50, p99, whole] = [run.others.median(), run.others.percentile(99.0), run.whole]
            .map(|ms| short(ms / 1000.0));
        format!("{p50} / {p99} s of {whole} s")
    };
    let mut row = Row::new(format!(
        "skew: {count} turns of {TURN_MS} ms, half in one workspace; the others' end, p50 / p99 of the run"
    ))
    .figure("turn_worker_others_p50_ms", our.others.median())
    .figure("turn_worker_others_p99_ms", our.others.percentile(99.0))
    .figure("turn_worker_run_ms", our.whole)
    .figure("one_hop_others_p50_ms", other.others.median())
    .figure("one_hop_others_p99_ms", other.others.percentile(99.0))
    .figure("one_hop_run_ms", other.whole);
    row.turn_worker = text(&our);
    row.one_hop = text(&other);
    row.beside = format!("{} s: the busy workspace's turns alone", short(ideal));
    row.target = Some(Target {
        wanted: "p99 < 1/5 of the run",
        found: our.others.percentile(99.0) / our.whole,
        limit: Limit::AtMost(0.2),
    });
    progress(&format!(
        "the others under skew: {}, one-hop {}",
        row.turn_worker, row.one_hop
    ));
    Ok(vec![row])
}

async fn measured(load: &Load, count: usize) -> Result<Run> {
    warm_up(load, workspaces(OTHERS).chain(["busy".to_owned()])).await?;
    let prompt = format!("sleep {TURN_MS}");
    // By turns, as two producers would send them.
    let turns: Vec<Turn> = (0..count)
        .map(|n| {
            let workspace = match n % 2 {
                0 => "busy".to_owned(),
                _ => format!("w{}", n / 2 % OTHERS),
            };
            Turn::new(format!("t{n}"), workspace, &prompt)
        })
        .collect();
    let seen = load.run(&turns).await?;
    let first = seen.iter().filter_map(|seen| seen.sent).min();
    let last = seen.iter().filter_map(|seen| seen.end).max();
    let (first, last) = first.zip(last).context("no turns")?;
    let others: Option<Vec<Duration>> = seen.iter().skip(1).step_by(2).map(Seen::to_end).collect();
    Ok(Run {
        others: in_ms(others.context("a turn has no times")?)?,
        whole: super::ms(last - first),
    })
}
