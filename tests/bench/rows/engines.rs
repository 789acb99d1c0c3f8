//! The real codex as users run it: with default settings, the default model's
//! tools and a HOME with a profile, on one process and on several; beside the
//! other ways to run it.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{SLOTS, in_ms, ms, progress, sample};
use crate::load::Turn;
use crate::real_codex::{A_COMMAND, Engine, Pool, RealCodex};
use crate::stage::Bench;
use crate::stats::Sample;
use crate::straight::Straight;
use crate::table::{Limit, Row, Target, short};

const AT_ONCE: usize = SLOTS as usize;
/// Two for each slot: while one's turn ends, another's can run.
const CONVERSATIONS: usize = 2 * AT_ONCE;

/// A way to run turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// On so many processes.
    Pool(Engine, usize),
    /// `codex app-server` over its pipes.
    Straight,
    /// `codex exec` from a shell's loop.
    BareLoop,
}

const ONE: Way = Way::Pool(Engine::Default, 1);
/// The pool with default settings, with rates and shares that are the targets.
const POOLS: [Way; 3] = [
    ONE,
    Way::Pool(Engine::Default, 4),
    Way::Pool(Engine::Default, 8),
];
const EXEC: Way = Way::Pool(Engine::Exec, 1);
const COLD: Way = Way::Pool(Engine::Cold, 1);
/// Interleaved, so that each is measured in the same moods of the machine.
const WAYS: [Way; 7] = [
    Way::BareLoop,
    EXEC,
    COLD,
    Way::Straight,
    POOLS[0],
    POOLS[1],
    POOLS[2],
];

impl Way {
    fn name(self) -> String {
        match self {
            Self::Pool(Engine::Default, 1) => "1 process".to_owned(),
            Self::Pool(Engine::Default, processes) => format!("{processes} processes"),
            Self::Pool(engine, _) => engine.name().to_owned(),
            Self::Straight => "codex app-server over its pipes".to_owned(),
            Self::BareLoop => "a bare loop of codex exec".to_owned(),
        }
    }

    /// For programs.
    fn key(self) -> String {
        match self {
            Self::Pool(Engine::Default, processes) => format!("default_{processes}"),
            Self::Pool(engine, _) => format!("{engine:?}").to_lowercase(),
            Self::Straight => "straight".to_owned(),
            Self::BareLoop => "bare_loop".to_owned(),
        }
    }

    /// Whether each turn starts a codex of its own, so that fewer take as long.
    fn starts_each(self) -> bool {
        [Self::BareLoop, EXEC, COLD].contains(&self)
    }
}

/// What one round of one way was.
pub(super) struct Round {
    pub a_second: f64,
    /// For each turn.
    pub cpu: Duration,
    /// The share of turns that found a server of their conversation waiting; of pools.
    pub warm: Option<f64>,
}

/// All rounds, by way in the order of [`WAYS`].
struct Rounds(Vec<(Way, Vec<Round>)>);

pub async fn rows(bench: &mut Bench) -> Result<Vec<Row>> {
    let codex = RealCodex::new(bench, "engines")?;
    let mut rounds = Rounds(WAYS.map(|way| (way, Vec::new())).into());
    let count = bench.many(3, 1);
    for number in 1..=count {
        for (way, done) in &mut rounds.0 {
            let round = round(bench, &codex, *way, number).await?;
            let warm = round.warm.map(|warm| format!(", {} warm", short(warm)));
            progress(&format!(
                "round {number} of {count}, {}: {} turns/s{}",
                way.name(),
                short(round.a_second),
                warm.unwrap_or_default()
            ));
            done.push(round);
        }
    }
    let mut rows = vec![
        rate(&rounds)?,
        of_straight(&rounds)?,
        of_one_process(&rounds)?,
        cpu(&rounds)?,
        warm(&rounds)?,
    ];
    rows.push(latency(bench, &codex).await?);
    Ok(rows)
}

/// On processes of its own: the first turn of each conversation, then those that count.
async fn round(bench: &mut Bench, codex: &RealCodex, way: Way, number: usize) -> Result<Round> {
    let count = match way.starts_each() {
        true => bench.many(48, 16),
        false => bench.many(8 * CONVERSATIONS, 4 * CONVERSATIONS),
    };
    match way {
        Way::Pool(engine, processes) => {
            let pool = codex.pool(bench, engine, processes, AT_ONCE).await?;
            let round = turns_of(&pool, CONVERSATIONS, count).await?;
            pool.stop().await?;
            Ok(round)
        }
        Way::Straight => {
            let dir = bench.dir.join(format!("straight-{number}"));
            let mut straight = Straight::start(codex, &dir, CONVERSATIONS, AT_ONCE).await?;
            straight.run(1).await?;
            let (a_second, cpu) = straight.run(count / CONVERSATIONS).await?;
            straight.stop().await?;
            Ok(Round::of_no_pool(a_second, cpu))
        }
        Way::BareLoop => {
            let (a_second, cpu) = codex.bare_loop(bench, count, SLOTS)?;
            Ok(Round::of_no_pool(a_second, cpu))
        }
    }
}

impl Round {
    fn of_no_pool(a_second: f64, cpu: Duration) -> Self {
        Self {
            a_second,
            cpu,
            warm: None,
        }
    }
}

/// Turns with a command, in so many conversations, each of which has had one before.
pub(super) async fn turns_of(pool: &Pool, conversations: usize, count: usize) -> Result<Round> {
    let turns = |tag: &str, count: usize| -> Vec<Turn> {
        let turn = |n| {
            let prompt = format!("{tag} {n}\n{A_COMMAND}");
            Turn::new(
                format!("{tag}-{n}"),
                format!("w{}", n % conversations),
                &prompt,
            )
        };
        (0..count).map(turn).collect()
    };
    pool.load.run(&turns("first", conversations)).await?;
    let (cpu, warm) = (pool.cpu()?, pool.warm_turns()?);
    let seen = pool.load.run(&turns("then", count)).await?;
    let (cpu, warm) = (pool.cpu()?.saturating_sub(cpu), pool.warm_turns()? - warm);
    let first = seen.iter().filter_map(|seen| seen.sent).min();
    let last = seen.iter().filter_map(|seen| seen.end).max();
    let (first, last) = first.zip(last).context("no turns")?;
    Ok(Round {
        a_second: count as f64 / (last - first).as_secs_f64(),
        cpu: cpu.div_f64(count as f64),
        warm: Some(warm / count as f64),
    })
}

impl Rounds {
    fn median(&self, way: Way, value: impl Fn(&Round) -> f64) -> Result<f64> {
        let (_, rounds) = self.0.iter().find(|(of, _)| *of == way).context("no way")?;
        Ok(sample(rounds.iter().map(value))?.median())
    }

    fn a_second(&self, way: Way) -> Result<f64> {
        self.median(way, |round| round.a_second)
    }

    fn cpu_ms(&self, way: Way) -> Result<f64> {
        self.median(way, |round| ms(round.cpu))
    }
}

/// In words and as figures; with the values.
fn of_each(
    row: &mut Row,
    unit: &str,
    ways: &[Way],
    value: impl Fn(Way) -> Result<f64>,
) -> Result<(String, Vec<f64>)> {
    let (mut texts, mut values) = (Vec::new(), Vec::new());
    for way in ways {
        let value = value(*way)?;
        row.figures.insert(format!("{}_{unit}", way.key()), value);
        texts.push(format!("{} {}", way.name(), short(value)));
        values.push(value);
    }
    Ok((texts.join("; "), values))
}

const OURS: [Way; 5] = [POOLS[0], POOLS[1], POOLS[2], EXEC, COLD];
const OTHERS: [Way; 2] = [Way::Straight, Way::BareLoop];

fn rate(rounds: &Rounds) -> Result<Row> {
    let mut row = Row::new(format!(
        "turns/s of a command each, the real codex with default settings, {SLOTS} slots in all"
    ));
    let of = |way| rounds.a_second(way);
    row.turn_worker = of_each(&mut row, "per_s", &OURS, of)?.0;
    row.beside = of_each(&mut row, "per_s", &OTHERS, of)?.0;
    row.target = Some(Target {
        wanted: "1 process ≥ 3 × the bare loop",
        found: of(ONE)? / of(Way::BareLoop)?,
        limit: Limit::AtLeast(3.0),
    });
    Ok(row)
}

fn of_straight(rounds: &Rounds) -> Result<Row> {
    let mut row = Row::new("these as a share of codex app-server over its pipes");
    let straight = rounds.a_second(Way::Straight)?;
    let share = |way| Ok(rounds.a_second(way)? / straight);
    row.turn_worker = of_each(&mut row, "share_of_straight", &POOLS, share)?.0;
    row.target = Some(Target {
        wanted: "1 process ≥ 0.85",
        found: share(ONE)?,
        limit: Limit::AtLeast(0.85),
    });
    Ok(row)
}

fn of_one_process(rounds: &Rounds) -> Result<Row> {
    let mut row = Row::new("these as a share of one process with as many slots");
    let one = rounds.a_second(ONE)?;
    let share = |way| Ok(rounds.a_second(way)? / one);
    let (text, shares) = of_each(&mut row, "share_of_one", &POOLS[1..], share)?;
    row.turn_worker = text;
    row.target = Some(Target {
        wanted: "each ≥ 0.9",
        found: least(&shares),
        limit: Limit::AtLeast(0.9),
    });
    Ok(row)
}

fn cpu(rounds: &Rounds) -> Result<Row> {
    let mut row = Row::new("CPU a turn of these, ms: worker, guards and codex");
    let of = |way| rounds.cpu_ms(way);
    row.turn_worker = of_each(&mut row, "cpu_ms", &OURS, of)?.0;
    row.beside = of_each(&mut row, "cpu_ms", &OTHERS, of)?.0;
    row.target = Some(Target {
        wanted: "1 process ≤ 1.15 × codex app-server over its pipes",
        found: of(ONE)? / of(Way::Straight)?,
        limit: Limit::AtMost(1.15),
    });
    Ok(row)
}

fn warm(rounds: &Rounds) -> Result<Row> {
    let mut row = Row::new("share of these turns on a warm server");
    let share = |way| rounds.median(way, |round| round.warm.unwrap_or_default());
    let (text, shares) = of_each(&mut row, "warm", &POOLS, share)?;
    row.turn_worker = text;
    row.target = Some(Target {
        wanted: "each ≥ 0.95",
        found: least(&shares),
        limit: Limit::AtLeast(0.95),
    });
    Ok(row)
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// One turn after the other, each of words that come one by one.
async fn latency(bench: &mut Bench, codex: &RealCodex) -> Result<Row> {
    let count = bench.many(40, 10);
    let mut row = Row::new("the model's first word → the first text_delta, median / p99");
    let mut texts = Vec::new();
    for engine in [Engine::Default, Engine::Exec] {
        let pool = codex.pool(bench, engine, 1, AT_ONCE).await?;
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
        pool.stop().await?;
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
        wanted: "default ≤ 40 ms",
        found: row.figures["default_median_ms"],
        limit: Limit::AtMost(40.0),
    });
    progress(&format!("{}: {}", row.what, row.turn_worker));
    Ok(row)
}
