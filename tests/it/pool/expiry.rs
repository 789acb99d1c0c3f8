//! `start_within_s` in a request: a turn that can't start in time is not run.

use jiff::{Timestamp, ToSpan};
use serde_json::Value;
use turn_worker::workspace::{Received, Root};

use crate::support::pool::{Pool, turn};

const EXPIRED: Option<&str> = Some("turn.expired");

/// A turn that must start within that many seconds.
fn urgent(id: &str, workspace: &str, seconds: u64) -> Value {
    let mut request = turn(id, workspace, &[]);
    request["start_within_s"] = seconds.into();
    request
}

/// Guards the timer of turns that are not head, and of heads with an offer that lies
/// in the work queue (`Held::wanted`), and the claim that a worker finds there.
#[tokio::test]
async fn g5_a_turn_that_waits_too_long_ends_without_being_run() {
    let mut pool = Pool::start(1, &[("SLOTS", "1")]).await;
    pool.enqueue(&[turn("t1", "a", &["wait go"])]).await;
    pool.started("t1", 1).await;
    let requests = [urgent("in-line", "a", 1), urgent("offered", "b", 1)];
    pool.enqueue(&requests).await;
    for id in ["in-line", "offered"] {
        let ended = pool.events.ended(id).await;
        assert_eq!((ended.error_code(), ended.attempt()), (EXPIRED, 0), "{id}");
        assert_eq!(ended.kinds(0), ["message_start", "error", "message_end"]);
        let error = &ended.all().nth(1).unwrap()["error"];
        assert_eq!(error["retryable"], true);
        assert_eq!(error["reason"], "unknown");
    }
    assert!(pool.events.turn("t1").end().is_none(), "the head runs on");
    pool.ready_in("codex.turns.work", 1).await;
    pool.release("go");
    pool.enqueue(&[turn("t3", "a", &[]), turn("t4", "b", &[])])
        .await;
    pool.events.all_ended(["t1", "t3", "t4"]).await;
    for id in ["in-line", "offered"] {
        assert_eq!(pool.runs().of_turn(id).count(), 0, "{id}");
    }
    // Published again it ends as it did.
    pool.enqueue(&requests[..1]).await;
    pool.events.ended_again("in-line", 3).await;

    let failures = r#"turn_worker_turn_failures_total{code="turn.expired",reason="unknown"}"#;
    assert_eq!(pool.metric(failures).await, 2.0);
    let errors = r#"turn_worker_turns_total{outcome="error"}"#;
    assert_eq!(pool.metric(errors).await, 2.0);
    pool.ready_in("codex.turns.dead", 0).await;
    pool.stop().await;
}

/// Guards that a turn with a `run` claim is left alone, however long it runs.
#[tokio::test]
async fn g5_a_turn_that_has_started_does_not_expire() {
    let mut pool = Pool::start(1, &[]).await;
    let mut request = turn("t1", "a", &["wait go"]);
    request["start_within_s"] = 1.into();
    pool.enqueue(&[request, urgent("t2", "b", 3600)]).await;
    pool.events.ended("t2").await;
    pool.process(0)
        .logged("the turn is not ended here: a worker has it")
        .await;
    pool.release("go");
    let t1 = pool.events.ended("t1").await;
    assert_eq!((t1.stop_reason(), t1.attempt()), ("end_turn", 1));
    pool.stop().await;
}

/// Guards that the time is counted from the first receipt that is kept
/// (`Queue::was_received`), by any sequencer.
#[tokio::test]
async fn the_time_to_start_goes_on_through_a_takeover() {
    let mut pool = Pool::start(1, &[]).await;
    pool.enqueue(&[turn("t1", "a", &["wait go"])]).await;
    pool.started("t1", 1).await;
    // As a sequencer leaves it that received the turn an hour ago.
    let root = Root::open(&pool.root()).unwrap();
    let claims = root.workspace("a").unwrap().claims().clone();
    let an_hour_ago = Timestamp::now().checked_sub(1.hour()).unwrap();
    let received = Received {
        at: an_hour_ago,
        by: None,
    };
    claims.received("t2", received).unwrap();
    pool.enqueue(&[urgent("t2", "a", 3600)]).await;
    let t2 = pool.events.ended("t2").await;
    assert_eq!((t2.error_code(), t2.attempt()), (EXPIRED, 0));
    assert!(pool.events.turn("t1").end().is_none());
    pool.release("go");
    pool.events.ended("t1").await;
    pool.stop().await;
}
