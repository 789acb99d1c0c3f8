//! G4: every turn runs, and one that has ended does not run again.

use serde_json::json;

use crate::support::pool::{Pool, turn};

const DUPLICATES: &str = "turn_worker_duplicate_turns_total";

/// Guards the look-up in `Queue::delivered`.
#[tokio::test]
async fn g4_a_turn_published_again_while_it_waits_or_runs_runs_once() {
    let mut pool = Pool::start(2, &[]).await;
    let (running, waiting) = (turn("t1", "a", &["wait go"]), turn("t2", "a", &[]));
    pool.enqueue(&[running.clone(), waiting.clone()]).await;
    pool.started("t1", 1).await;
    pool.enqueue(&[running, waiting, turn("t3", "a", &[])])
        .await;
    pool.metric_is(DUPLICATES, 2.0).await;
    pool.release("go");
    pool.events.all_ended(["t1", "t2", "t3"]).await;
    let turns: Vec<_> = pool.runs().all.into_iter().map(|run| run.turn).collect();
    assert_eq!(turns, ["t1", "t2", "t3"]);
    for id in ["t1", "t2", "t3"] {
        assert_eq!(pool.events.duplicates(id), 0, "{id}");
    }
    pool.stop().await;
}

/// Guards that the records are looked at before a turn runs (`look_up`).
#[tokio::test]
async fn g4_a_turn_published_again_after_its_end_gets_its_end_again() {
    let mut pool = Pool::start(2, &[]).await;
    let request = turn("t1", "a", &["say hi"]);
    pool.enqueue(std::slice::from_ref(&request)).await;
    pool.events.ended("t1").await;
    pool.idle().await;
    pool.enqueue(&[request]).await;
    // That it is identical is checked on every event.
    pool.events.ended_again("t1", 1).await;
    pool.idle().await;
    let other_body = turn("t1", "a", &["say something else"]);
    pool.enqueue(&[other_body, turn("t2", "a", &[])]).await;
    pool.events.ended_again("t1", 2).await;
    pool.events.ended("t2").await;
    assert_eq!(pool.runs().of_turn("t1").count(), 1);
    assert_eq!(pool.metric(DUPLICATES).await, 1.0);
    pool.stop().await;
}

/// Guards that a turn's end is on disk before it is published, and is acked only
/// after: all that a kill right after a turn's end takes along is recovered.
#[tokio::test]
async fn g4_a_worker_killed_between_turns_neither_costs_nor_repeats_a_turn() {
    let ids: Vec<String> = (0..4).map(|n| format!("t{n}")).collect();
    let requests: Vec<_> = ids.iter().map(|id| turn(id, "a", &["say hi"])).collect();
    let mut pool = Pool::start(1, &[]).await;
    pool.enqueue(&requests).await;
    for (number, id) in ids.iter().enumerate() {
        pool.events.ended(id).await;
        pool.process(number).kill();
        let runs = pool.runs().of_turn(id).count();
        pool.spawn(&[]);
        pool.process(number + 1).ready().await;
        assert_eq!(pool.runs().of_turn(id).count(), runs, "{id} ran again");
    }
    let before: Vec<usize> = ids
        .iter()
        .map(|id| pool.runs().of_turn(id).count())
        .collect();
    pool.enqueue(&[turn("last", "a", &[])]).await;
    pool.events.ended("last").await;
    let after: Vec<usize> = ids
        .iter()
        .map(|id| pool.runs().of_turn(id).count())
        .collect();
    assert_eq!(before, after, "a finished turn ran again");
    assert_eq!(pool.runs().first_starts()["a"].len(), 5);
    pool.stop().await;
}

/// Guards that a turn is known by its workspace, however that is spelt (`WorkspaceId::parse`).
#[tokio::test]
async fn g4_both_spellings_of_a_workspace_are_one() {
    let mut pool = Pool::start(1, &[]).await;
    pool.enqueue(&[turn("t1", "a", &["wait go"])]).await;
    pool.started("t1", 1).await;
    let mut absolute = turn("t1", "a", &["wait go"]);
    // Another spelling of the same workspace: the same turn.
    absolute["workspace"] = json!(pool.root().join("a").to_str().unwrap());
    pool.enqueue(&[absolute, turn("t2", "a", &[])]).await;
    pool.metric_is(DUPLICATES, 1.0).await;
    pool.release("go");
    pool.events.all_ended(["t1", "t2"]).await;
    assert_eq!(pool.runs().of_turn("t1").count(), 1);
    pool.stop().await;
}
