//! What a sequencer does that takes over from one that died.

use crate::support::pool::{Pool, turn};

/// Guards the listening before a redelivered turn is offered
/// (`Queue::delivered`): one that runs is never offered again, so that its end
/// is told once; one of which nobody tells is.
#[tokio::test]
async fn g4_a_successor_offers_what_nobody_runs_and_nothing_else() {
    let mut pool = Pool::start(0, &[("SLOTS", "1")]).await;
    let first = pool.spawn(&[("ROLES", "sequencer")]);
    pool.ready().await;
    pool.spawn(&[("ROLES", "sequencer")]);
    pool.spawn(&[("ROLES", "worker")]);
    pool.ready().await;
    pool.enqueue(&[turn("t1", "a", &["wait go", "say done"])])
        .await;
    pool.started("t1", 1).await;
    pool.enqueue(&[turn("t2", "b", &["say hi"])]).await;
    pool.ready_in("codex.turns.work", 1).await;
    pool.process(first).kill();
    // The successor can't know that the offer lies there.
    pool.ready_in("codex.turns.work", 2).await;
    pool.release("go");
    pool.events.all_ended(["t1", "t2"]).await;
    pool.idle().await;
    assert_eq!(pool.events.duplicates("t1"), 0);
    assert_eq!(pool.runs().all.len(), 2);
    pool.stop().await;
}
