//! A turn id that turns of two workspaces have: any reader of an id can send a
//! request with it for a workspace of its own.

use serde_json::{Value, json};

use crate::cli::submit::producer;
use crate::support::broker::Broker;
use crate::support::pool::{Pool, turn};

const REFUSED: &str = "turn_worker_requests_rejected_total{code=\"request.invalid\"}";

/// Until a request with the id has been refused; it is kept for the operator.
async fn refused(pool: &mut Pool, workspace: &str) {
    let letter = pool.producer.dead_letters(1).await.remove(0);
    assert_eq!(letter.code, "request.invalid");
    assert!(
        letter.message.starts_with("turn_id: found \"t1\""),
        "{letter:?}"
    );
    let body: Value = serde_json::from_slice(&letter.body).unwrap();
    assert_eq!(body["workspace"], workspace);
}

/// Guards `Queue::who_has_its_id`, and that the refusal is not published.
#[tokio::test]
async fn g5_a_turn_is_not_answered_for_by_another_workspaces_turn_of_its_id() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 2, &[]).await;
    let script = "t1\nsay before\nwait go\nsay GENUINE";
    let arguments = ["submit", "-w", "a", "--turn-id", "t1", script];
    let called = producer(&url, &arguments).start();
    pool.events.said("t1", "before").await;
    let forged = turn("t1", "mallorys", &["say FORGED"]);
    for _ in 0..2 {
        pool.enqueue(std::slice::from_ref(&forged)).await;
        refused(&mut pool, "mallorys").await;
    }
    pool.metric_is(REFUSED, 1.0).await;
    pool.release("go");
    let done = called.done().await.ended(0);
    assert_eq!(done.events().last().unwrap()["text"], "GENUINE");
    assert!(!done.out.contains("FORGED"), "{done:#?}");
    pool.idle().await;
    assert_eq!(pool.events.turn_ids(), ["t1"]);

    // Now it hears why.
    pool.enqueue(&[forged]).await;
    let forged = pool.events.ended("t1 in mallorys").await;
    assert_eq!(
        (forged.error_code(), forged.attempt()),
        (Some("request.invalid"), 0)
    );
    assert!(forged.all().all(|event| event["workspace"] == "mallorys"));
    assert_eq!(pool.runs().of_turn("t1").count(), 1);
    pool.stop().await;
}

/// Guards that all that would end the other turn comes after that: a cancel
/// that names its workspace only, a workspace that can't be, a timeout.
#[tokio::test]
async fn g5_a_waiting_turn_is_not_ended_by_another_workspaces_turn_of_its_id() {
    let mut pool = Pool::start(1, &[("SLOTS", "1"), ("MAX_WAITING", "1")]).await;
    pool.enqueue(&[turn("first", "a", &["wait go"])]).await;
    pool.started("first", 1).await;
    // It has an offer that no slot takes.
    pool.enqueue(&[turn("t1", "b", &["say GENUINE"])]).await;
    pool.ready_in("codex.turns.work", 1).await;

    let cancel = json!({"action": "cancel", "turn_id": "t1", "workspace": "cancelled"});
    pool.producer.control(&cancel).await;
    let mut rejecting = turn("t1", "a", &[]);
    rejecting["on_busy"] = json!("reject");
    let mut interrupting = turn("t1", "a/c", &[]);
    interrupting["on_busy"] = json!("interrupt");
    for (workspace, request) in [
        ("cancelled", turn("t1", "cancelled", &[])),
        ("b/inside", turn("t1", "b/inside", &[])),
        ("a", rejecting),
        ("a/c", interrupting),
    ] {
        pool.enqueue(&[request]).await;
        refused(&mut pool, workspace).await;
    }
    // One that breaks a rule is kept, too, as ever.
    pool.enqueue(&[json!({"turn_id": "t1", "workspace": "../x"})])
        .await;
    let letter = pool.producer.dead_letters(1).await.remove(0);
    assert_eq!(letter.code, "request.invalid");
    pool.release("go");
    let genuine = pool.events.ended("t1").await;
    assert_eq!(genuine.stop_reason(), "end_turn");
    assert_eq!(genuine.said(1), ["GENUINE"]);
    assert_eq!(pool.events.turn_ids(), ["first", "t1"]);
    pool.stop().await;
}

/// Guards that a turn id is free again after its turn's end.
#[tokio::test]
async fn the_same_id_may_be_used_in_one_workspace_after_the_other() {
    let mut pool = Pool::start(1, &[]).await;
    pool.enqueue(&[turn("t1", "a", &["say one"])]).await;
    pool.events.ended("t1").await;
    pool.idle().await;
    pool.enqueue(&[turn("t1", "b", &["say two"])]).await;
    let second = pool.events.ended("t1 in b").await;
    assert_eq!(second.said(1), ["two"]);
    pool.stop().await;
}
