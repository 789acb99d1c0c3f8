//! A workspace whose records hang: a lookup in the folder of its claims waits
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
    // Looks for marks, and does nothing else with the records meanwhile.
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
