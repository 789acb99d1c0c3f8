//! What is charged as an attempt, and what becomes of a turn that is poison.

use std::fs::File;

use serde_json::json;

use crate::support::pool::{Pool, turn};

/// Kills its worker, after it has published some work, as soon as
/// the worker knows the thread.
const POISON: &[&str] = &[
    "keep-records",
    "say bad",
    "run until [ -s .plexum-codex-session ]; do sleep 0.01; done",
    "kill-worker",
    "hang",
];
const EXHAUSTED: Option<&str> = Some("turn.attempts_exhausted");

/// Guards the charge of a death (`TurnHistory::charged`) and its limit, which a
/// request can only lower (`Runner::admit`), and that what dead attempts have
/// spent is published and counted (`Worker::count_end`), once.
#[tokio::test]
async fn g4_g7_a_turn_that_kills_its_workers_is_given_up_and_harms_no_other() {
    // One slot each, so that it affects no other turn.
    let mut pool = Pool::start(4, &[("SLOTS", "1"), ("MAX_ATTEMPTS", "3")]).await;
    let mut poison = turn("poison", "p", POISON);
    poison["max_attempts"] = json!(1_000);
    let mut requests = vec![poison, turn("next", "p", &["keep-records"])];
    let others: Vec<_> = (0..24).map(|n| format!("t{n:02}")).collect();
    for (n, id) in others.iter().enumerate() {
        requests.push(turn(id, &format!("w{}", n % 6), &["sleep 50"]));
    }
    pool.enqueue(&requests).await;

    let poison = pool.events.ended("poison").await;
    assert_eq!((poison.error_code(), poison.attempt()), (EXHAUSTED, 4));
    assert_eq!(poison.kinds(4), ["message_start", "error", "message_end"]);
    assert_eq!(poison.input_tokens(), Some(300));
    let next = pool.events.ended("next").await;
    assert_eq!((next.stop_reason(), next.attempt()), ("end_turn", 1));
    assert_eq!(next.input_tokens(), Some(100));
    for id in &others {
        let other = pool.events.ended(id).await;
        assert_eq!(
            (other.stop_reason(), other.attempt()),
            ("end_turn", 1),
            "{id}"
        );
        assert_eq!(pool.runs().of_turn(id).count(), 1, "{id}");
    }
    assert_eq!(pool.runs().of_turn("poison").count(), 3);
    pool.unlocked("p").await;

    let mut died = 0;
    for number in 0..4 {
        if pool.process(number).has_ended() {
            assert_eq!(pool.process(number).exited().await, None);
            died += 1;
        }
    }
    assert_eq!(died, 3);
    // The one that is left has ended it, counted for the others, and run the next.
    pool.idle().await;
    let tokens = r#"turn_worker_input_tokens_total{model="default"}"#;
    let whole = r#"turn_worker_turns_total{outcome="end_turn"}"#;
    let whole = pool.metric(whole).await;
    assert_eq!(pool.metric(tokens).await, 300.0 + 100.0 * whole);
    pool.stop().await;
}

/// Guards that a turn in a busy workspace is dropped, not started
/// (`Runner::admit`): with one attempt allowed, it runs when it is.
#[tokio::test]
async fn g4_a_lock_that_is_not_to_be_had_is_no_attempt() {
    let mut pool = Pool::start(1, &[("MAX_ATTEMPTS", "1")]).await;
    pool.enqueue(&[turn("t0", "a", &[])]).await;
    pool.events.ended("t0").await;
    pool.unlocked("a").await;
    let lock = pool.root().join(".turn-worker/workspaces/a/.state/lock");
    let lock = File::open(lock).unwrap();
    lock.try_lock().unwrap();
    pool.enqueue(&[turn("t1", "a", &["say hi"]), turn("t2", "a", &[])])
        .await;
    pool.process(0)
        .logged("another process has the workspace")
        .await;
    assert_eq!(pool.runs().of_turn("t1").count(), 0);
    drop(lock);
    for id in ["t1", "t2"] {
        let ended = pool.events.ended(id).await;
        assert_eq!((ended.stop_reason(), ended.attempt()), ("end_turn", 1));
    }
    pool.stop().await;
}
