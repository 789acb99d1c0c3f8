//! Workspaces that can't be used: before a turn, between its attempts, and
//! when the worker dies that finds it out.

use std::fs;
use std::os::unix::fs::symlink;

use super::concurrently;
use crate::support::pool::{Pool, turn};

const REJECTED: &str = "workspace.rejected";

/// Guards that records are looked at before the directory (`Runner::admit`):
/// a reader who saw attempt 1 would drop an end with attempt 0, and what has
/// ended must not end again.
#[tokio::test]
async fn g5_a_workspace_that_is_lost_between_two_attempts_ends_the_turn_in_the_next() {
    let mut pool = Pool::start(1, &[]).await;
    let ended = turn("t0", "a", &[]);
    let cut_off = turn("t1", "a", &["say hi", "wait never"]);
    pool.enqueue(&[ended.clone(), cut_off, turn("t2", "a", &[])])
        .await;
    pool.events.said("t1", "hi").await;
    pool.process(0).kill();
    pool.unlocked("a").await;
    let (dir, aside) = (pool.root().join("a"), pool.root().join("aside"));
    fs::rename(&dir, &aside).unwrap();
    symlink("/tmp", &dir).unwrap();
    pool.spawn(&[]);

    let t1 = pool.events.ended("t1").await;
    assert_eq!((t1.stop_reason(), t1.attempt()), ("error", 2));
    assert_eq!(t1.error_code(), Some(REJECTED));
    assert_eq!(t1.kinds(2), ["message_start", "error", "message_end"]);
    // One that never ran was never accepted.
    let t2 = pool.events.ended("t2").await;
    assert_eq!((t2.error_code(), t2.attempt()), (Some(REJECTED), 0));
    let letter = pool.producer.dead_letters(1).await.remove(0);
    assert!(String::from_utf8(letter.body).unwrap().contains("\"t2\""));

    // Their ends are for ever: that each is published as before is checked on every event.
    pool.idle().await;
    pool.enqueue(&[ended, turn("t2", "a", &[])]).await;
    pool.events.ended_again("t0", 1).await;
    pool.events.ended_again("t2", 3).await;
    pool.idle().await;
    fs::remove_file(&dir).unwrap();
    fs::rename(&aside, &dir).unwrap();
    pool.enqueue(&[turn("t3", "a", &[]), turn("t2", "a", &[])])
        .await;
    assert_eq!(pool.events.ended("t3").await.stop_reason(), "end_turn");
    pool.events.ended_again("t2", 6).await;
    let turns: Vec<_> = pool.runs().all.into_iter().map(|run| run.turn).collect();
    assert_eq!(turns, ["t0", "t1", "t3"]);
    pool.stop().await;
}

#[derive(Debug)]
struct Death {
    fault: &'static str,
    letters: u32,
}

/// What is recorded as refused lies in the dead queue.
const DEATHS: &[Death] = &[
    Death {
        fault: "turn.refused=return(kill)",
        letters: 2,
    },
    Death {
        fault: "turn.rejected=return(kill)",
        letters: 1,
    },
    Death {
        fault: "turn.done=return(kill)",
        letters: 1,
    },
];

/// Guards that the request is kept before its claim (`Runner::refuse`): it is
/// never missing in the dead queue, and twice only if the worker died between.
#[tokio::test]
async fn g5_a_worker_killed_at_any_step_of_a_refusal_loses_no_event_of_it() {
    concurrently(DEATHS, Death::happens).await;
}

impl Death {
    async fn happens(&self) {
        let mut pool = Pool::start(1, &[("ROLES", "sequencer")]).await;
        let first = pool.spawn(&[("ROLES", "worker")]);
        pool.enqueue(&[turn("t0", "a", &[])]).await;
        pool.events.ended("t0").await;
        pool.process(first).terminate();
        assert_eq!(pool.process(first).exited().await, Some(0));

        let dying = pool.spawn(&[("ROLES", "worker"), ("FAILPOINTS", self.fault)]);
        pool.enqueue(&[turn("t1", "a/inside", &[])]).await;
        assert_eq!(pool.process(dying).exited().await, None);
        pool.spawn(&[("ROLES", "worker")]);
        let t1 = pool.events.ended("t1").await;
        assert_eq!((t1.error_code(), t1.attempt()), (Some(REJECTED), 0));
        pool.enqueue(&[turn("t2", "a", &[])]).await;
        pool.events.ended("t2").await;
        pool.idle().await;
        pool.ready_in("codex.turns.dead", self.letters).await;
        pool.stop().await;
    }
}
