//! SIGKILL of a worker at each step of a turn.

use std::ops::RangeInclusive;

use super::concurrently;
use crate::support::pool::{Pool, turn};

/// Says one thing, and has spent two answers when it is over.
const WHOLE: &[&str] = &["keep-records", "say one"];
/// Dies before it has said anything.
const HELD: &[&str] = &["keep-records", "wait go", "say one"];
/// Dies when it has said one thing.
const HALF: &[&str] = &["keep-records", "say one", "wait go"];

#[derive(Debug)]
struct Death {
    fault: &'static str,
    /// Of the turn with the worker that dies.
    script: &'static [&'static str],
    /// How often codex is started.
    runs: RangeInclusive<usize>,
    /// The one in which the turn ends.
    attempt: u64,
    /// All attempts together: how often the stand-in has answered.
    answers: u64,
}

const fn death(
    fault: &'static str,
    script: &'static [&'static str],
    runs: RangeInclusive<usize>,
    attempt: u64,
    answers: u64,
) -> Death {
    Death {
        fault,
        script,
        runs,
        attempt,
        answers,
    }
}

/// Unrecorded, it has not happened; a recorded start is a charged attempt; a
/// recorded end is the end.
const DEATHS: &[Death] = &[
    death("turn.taken=return(kill)", WHOLE, 1..=1, 1, 2),
    death("turn.locked=return(kill)", WHOLE, 1..=1, 1, 2),
    death("turn.claimed=return(kill)", WHOLE, 1..=1, 1, 2),
    death("turn.started=return(kill)", WHOLE, 1..=1, 2, 2),
    // With its first event taken, but codex not started.
    death("turn.told=return(kill)", WHOLE, 1..=1, 2, 2),
    // codex is killed before it has recorded that it runs, or just after.
    death("turn.spawned=return(kill)", HELD, 1..=2, 2, 2),
    death("turn.told=1*off->return(kill)", HALF, 2..=2, 2, 3),
    // codex is done with it, but that is not recorded.
    death("turn.exited=return(kill)", WHOLE, 2..=2, 2, 4),
    death("turn.finished=return(kill)", WHOLE, 1..=1, 1, 2),
    death("turn.released=return(kill)", WHOLE, 1..=1, 1, 2),
    death("turn.confirmed=return(kill)", WHOLE, 1..=1, 1, 2),
    death("turn.done=return(kill)", WHOLE, 1..=1, 1, 2),
    death("turn.settled=return(kill)", WHOLE, 1..=1, 1, 2),
];

/// Guards that a run is claimed (`Runner::admit`), its start recorded before
/// codex is there (`Attempt::run`), and its end before it is published
/// (`Attempt::record`).
#[tokio::test]
async fn g4_a_worker_killed_at_any_step_costs_an_attempt_at_most_and_no_recorded_end() {
    concurrently(DEATHS, Death::happens).await;
}

impl Death {
    async fn happens(&self) {
        let mut pool = Pool::start(1, &[("ROLES", "sequencer")]).await;
        let dying = pool.spawn(&[
            ("ROLES", "worker"),
            ("SLOTS", "1"),
            ("FAILPOINTS", self.fault),
        ]);
        pool.enqueue(&[turn("t1", "a", self.script), turn("t2", "a", WHOLE)])
            .await;
        assert_eq!(pool.process(dying).exited().await, None);
        pool.unlocked("a").await;
        pool.release("go");
        pool.spawn(&[("ROLES", "worker")]);

        let t1 = pool.events.ended("t1").await;
        assert_eq!((t1.stop_reason(), t1.attempt()), ("end_turn", self.attempt));
        assert_eq!(t1.input_tokens(), Some(100 * self.answers));
        let t2 = pool.events.ended("t2").await;
        assert_eq!((t2.stop_reason(), t2.attempt()), ("end_turn", 1));
        assert_eq!(t2.input_tokens(), Some(200));
        let runs = pool.runs();
        assert!(self.runs.contains(&runs.of_turn("t1").count()), "{runs:#?}");
        assert_eq!(runs.of_turn("t2").count(), 1);
        assert_eq!(runs.all.last().unwrap().turn, "t2");
        pool.unlocked("a").await;
        pool.stop().await;
    }
}
