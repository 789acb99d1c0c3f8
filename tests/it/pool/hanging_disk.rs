//! A workspace with records that hang: a lookup in the folder of its claims waits
//! in the system until the test is over.

use crate::support::hung::HungFolder;
use crate::support::pool::{Pool, turn};

fn hang(pool: &Pool, workspace: &str) -> Option<HungFolder> {
    let records = pool.root().join(".turn-worker/workspaces").join(workspace);
    HungFolder::at(&records.join(".state/claims"))
}

/// Guards `CancelMarks`: the look for the marks of what runs, and the writing of
/// one, wait for no heartbeat's and no cancel's task.
#[tokio::test]
async fn g2_heartbeats_and_cancels_wait_for_no_disk_that_hangs() {
    // Looks for marks, and leaves the records alone meanwhile.
    let mut pool = Pool::start(0, &[]).await;
    pool.spawn(&[("ROLES", "sequencer")]);
    let worker = pool.spawn(&[("ROLES", "worker")]);
    pool.ready().await;
    let script = ["say hi", "wait never"];
    pool.enqueue(&[
        turn("hangs", "a", &script),
        turn("cancelled", "b", &script),
        turn("also", "a", &[]),
    ])
    .await;
    for id in ["hangs", "cancelled"] {
        pool.events.said(id, "hi").await;
    }
    let Some(hung) = hang(&pool, "a") else {
        pool.cancel("hangs").await;
        pool.cancel("cancelled").await;
        return pool.stop().await;
    };
    // Each asks for the mark of `a`, and every tenth second looks for it, too.
    pool.cancel("hangs").await;
    let ended = pool.events.ended("hangs").await;
    assert_eq!(ended.stop_reason(), "cancelled");
    pool.heartbeats(12).await;
    pool.cancel("cancelled").await;
    let ended = pool.events.ended("cancelled").await;
    assert_eq!(ended.stop_reason(), "cancelled");
    pool.enqueue(&[turn("other", "c", &["say hi"])]).await;
    assert_eq!(pool.events.ended("other").await.stop_reason(), "end_turn");
    assert!(pool.process(worker).lives());
    drop(hung);
    assert_eq!(pool.events.ended("also").await.stop_reason(), "end_turn");
    pool.stop().await;
}

/// Guards `Lanes`: with more cancels for one workspace than there are permits,
/// the other workspaces would have no slot.
#[tokio::test]
async fn g2_the_endings_of_other_workspaces_wait_for_no_disk_that_hangs() {
    let mut pool = Pool::start(1, &[]).await;
    let waiting: Vec<String> = (0..20).map(|number| format!("a{number}")).collect();
    let mut requests = vec![
        turn("a", "a", &["wait go"]),
        turn("b", "b", &["wait go"]),
        turn("b1", "b", &[]),
    ];
    requests.extend(waiting.iter().map(|id| turn(id, "a", &[])));
    pool.enqueue(&requests).await;
    for id in ["a", "b"] {
        pool.started(id, 1).await;
    }
    pool.metric_is("turn_worker_backlog_turns", 23.0).await;
    let Some(hung) = hang(&pool, "a") else {
        pool.release("go");
        pool.events.all_ended(&waiting).await;
        return pool.stop().await;
    };
    for id in &waiting {
        pool.cancel(id).await;
    }
    pool.cancel("b1").await;
    assert_eq!(pool.events.ended("b1").await.stop_reason(), "cancelled");
    assert_eq!(pool.events.turn_ids(), ["a", "b", "b1"]);
    drop(hung);
    for id in &waiting {
        assert_eq!(pool.events.ended(id).await.stop_reason(), "cancelled");
    }
    pool.release("go");
    pool.events.all_ended(["a", "b"]).await;
    pool.stop().await;
}
