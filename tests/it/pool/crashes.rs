//! G3, and what a worker's death costs: SIGKILL, while turns run.

use serde_json::json;

use crate::support::pool::{Pool, is_alive, turn};

/// Leaves its own pid for us, and hears no signal but the last one.
const HANGING: &str =
    "run trap '' INT TERM HUP; echo $$ > $STAND_IN_DIR/command; exec sleep 100000";

/// Guards that the guard ends the tree before it lets go of the lock.
#[tokio::test]
async fn g3_no_process_of_a_killed_workers_turn_is_left_when_it_runs_again() {
    let mut pool = Pool::start(2, &[]).await;
    let script = ["alive daemon command", "once run", "daemon daemon", HANGING];
    pool.enqueue(&[turn("t1", "a", &script), turn("t2", "a", &["say next"])])
        .await;
    let run = pool.started("t1", 1).await;
    pool.events
        .event("t1", |event| event["type"] == "tool_use")
        .await;
    pool.written("command").await;
    let killed = pool.process_of(&run);
    pool.process(killed).kill();

    let t1 = pool.events.ended("t1").await;
    assert_eq!((t1.stop_reason(), t1.attempt()), ("end_turn", 2));
    assert_eq!(t1.said(1), ["none none"]);
    assert_eq!(t1.said(2), ["gone gone"]);
    assert_eq!(t1.attempts[&2][0]["seq"], 0);
    assert_eq!(pool.events.ended("t2").await.attempt(), 1);
    assert_eq!(pool.runs().first_starts()["a"], ["t1", "t2"]);
    pool.stop().await;
}

/// Guards that the guard ends what a turn leaves, also where codex is done.
#[tokio::test]
async fn g3_what_a_turn_leaves_is_gone_when_its_end_is_published() {
    let mut pool = Pool::start(1, &[]).await;
    pool.enqueue(&[turn("t1", "a", &["daemon daemon", "say done"])])
        .await;
    let t1 = pool.events.ended("t1").await;
    assert!(!is_alive(pool.pid_in("daemon")));
    assert_eq!(t1.stop_reason(), "end_turn");
    pool.idle().await;
    let killed = pool.metric("turn_worker_leftover_processes_killed_total");
    assert!(killed.await >= 1.0);
    pool.stop().await;
}

/// Guards the charge in `Runner::admit`.
#[tokio::test]
async fn attempts_of_a_turn_that_kills_its_workers_are_bounded() {
    let mut pool = Pool::start(1, &[("MAX_ATTEMPTS", "2")]).await;
    pool.enqueue(&[turn("t1", "a", &["wait never"]), turn("t2", "a", &[])])
        .await;
    for attempt in 1..=2 {
        let run = pool.started("t1", attempt).await;
        let process = pool.process_of(&run);
        pool.process(process).kill();
        pool.spawn(&[]);
    }
    let t1 = pool.events.ended("t1").await;
    assert_eq!(t1.stop_reason(), "error");
    assert_eq!(t1.error_code(), Some("turn.attempts_exhausted"));
    assert_eq!(t1.kinds(3), ["message_start", "error", "message_end"]);
    assert_eq!(pool.runs().of_turn("t1").count(), 2);
    // The workspace goes on.
    assert_eq!(pool.events.ended("t2").await.stop_reason(), "end_turn");
    pool.stop().await;
}

/// Guards that a request can only ask for fewer attempts than the worker allows.
#[tokio::test]
async fn attempts_may_be_limited_by_the_request() {
    let mut pool = Pool::start(2, &[]).await;
    let mut request = turn("t1", "a", &["wait never"]);
    request["max_attempts"] = json!(1);
    pool.enqueue(&[request]).await;
    let run = pool.started("t1", 1).await;
    let process = pool.process_of(&run);
    pool.process(process).kill();
    let t1 = pool.events.ended("t1").await;
    assert_eq!(t1.error_code(), Some("turn.attempts_exhausted"));
    assert_eq!(t1.attempt(), 2);
    pool.stop().await;
}
