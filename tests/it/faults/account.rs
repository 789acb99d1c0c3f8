//! A login that every turn would fail for.

use serde_json::Value;

use crate::support::pool::{Pool, turn};

const UNFIT: &str = "turn_worker_host_unfit{reason=\"auth\"}";
const FAILED: &str = "turn_worker_turn_failures_total{code=\"turn.failed\",reason=\"auth\"}";

/// Turns of workspaces of their own, which fail as long as there is no file `login`.
fn turns(ids: &[String]) -> Vec<Value> {
    let script = ["needs login unexpected status 401 Unauthorized"];
    ids.iter().map(|id| turn(id, id, &script)).collect()
}

fn ids(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("t{n}")).collect()
}

/// Guards `Host::turn_ended`, `Host::admission`, and that a trial is one turn
/// (`Worker::serve_slot`).
#[tokio::test]
async fn a_login_that_expires_fails_three_turns_and_no_queue() {
    let mut pool = Pool::start(1, &[("SLOTS", "1")]).await;
    let ids = ids(20);
    pool.enqueue(&turns(&ids)).await;
    let process = &pool.processes()[0];
    process.unready("this host can't run turns (auth): ").await;
    process.metric_is(UNFIT, 1.0).await;
    process.metric_is(FAILED, 3.0).await;
    pool.release("login");
    pool.events.all_ended(&ids).await;
    pool.ready().await;
    let good = ids
        .iter()
        .filter(|id| pool.events.turn(id).stop_reason() == "end_turn");
    // A slow machine may have tried one before the login was there.
    assert!(good.count() >= 16);
    assert_eq!(pool.metric(UNFIT).await, 0.0);
    pool.stop().await;
}

/// Guards `ACCOUNT_FAULT_TURNS` (`Attempt::run`): such a turn is requeued,
/// uncharged, and one that the model has answered ends.
#[tokio::test]
async fn turns_that_meet_an_expired_login_wait_where_they_are_to() {
    let settings = [
        ("SLOTS", "1"),
        ("ACCOUNT_FAULT_TURNS", "wait"),
        ("MAX_ATTEMPTS", "1"),
    ];
    let mut pool = Pool::start(1, &settings).await;
    let ids = ids(3);
    let (end, waits) = ids.split_at(2);
    pool.enqueue(&turns(end)).await;
    pool.events.all_ended(end).await;
    pool.enqueue(&turns(waits)).await;
    let process = &pool.processes()[0];
    process.unready("this host can't run turns (auth): ").await;
    process.logged("gave the turn back").await;
    process.metric_is(FAILED, 2.0).await;
    assert!(pool.events.turn("t2").end().is_none());
    let answered = ["say half", "fail unexpected status 401 Unauthorized"];
    pool.enqueue(&[turn("answered", "answered", &answered)])
        .await;
    // The next trial.
    let ended = pool.events.ended("answered").await;
    assert_eq!(ended.error_code(), Some("turn.failed"));
    assert!(pool.events.turn("t2").end().is_none());
    // It would be re-offered 10 s after it was.
    drop(pool);
}
