//! A process that stands still (SIGSTOP) until the broker gives it up, and
//! then goes on where it was.

use crate::support::broker::Broker;
use crate::support::pool::{Pool, turn};

const IS_ACTIVE: &str = "turn_worker_sequencer_active";
/// Of a worker that may not run what it was offered.
const LOCKED: &str = "another process has the workspace";

/// Processes that the broker gives up after two seconds.
async fn pool(roles: &[&str]) -> Pool {
    let url = Broker::vhost();
    let brisk = format!("{url}?heartbeat=1");
    let mut pool = Pool::on(&url, 0, &[("AMQP_URL", &brisk), ("SLOTS", "1")]).await;
    for roles in roles {
        pool.spawn(&[("ROLES", roles)]);
    }
    pool.ready().await;
    pool
}

/// Guards that no turn runs without the lock (`workspace::lock::take`): no process
/// can take a frozen worker's turn.
#[tokio::test]
async fn g3_a_frozen_workers_turn_stays_its_own() {
    let mut pool = pool(&["sequencer", "worker", "worker"]).await;
    let talk = ["say before", "wait go", "flood 100"];
    pool.enqueue(&[turn("t1", "a", &talk), turn("t2", "a", &["say hi"])])
        .await;
    pool.events.said("t1", "before").await;
    let run = pool.started("t1", 1).await;
    let frozen = pool.process_of(&run);
    let other = 3 - frozen;
    pool.process(frozen).freeze();
    // The broker has given the frozen one up, and its offer to the other.
    pool.process(other).logged(LOCKED).await;
    pool.enqueue(&[turn("t3", "b", &["say hi"])]).await;
    pool.events.ended("t3").await;
    // codex ends unnoticed.
    pool.release("go");
    assert_eq!(pool.runs().first_starts()["a"], ["t1"]);
    pool.process(frozen).thaw();
    pool.events.all_ended(["t1", "t2"]).await;
    assert_eq!(pool.events.turn("t1").said(1).len(), 101);
    for id in ["t1", "t2", "t3"] {
        assert_eq!(pool.runs().of_turn(id).count(), 1, "{id}");
    }
    pool.all_slots_take().await;
    pool.stop().await;
}

/// Guards the loop of `Sequencer::run`: a sequencer that learns late that it was deposed
/// stands by.
#[tokio::test]
async fn g1_a_frozen_sequencer_is_followed_by_another_and_comes_back_as_standby() {
    let mut pool = pool(&["sequencer", "sequencer", "worker"]).await;
    pool.enqueue(&[turn("t1", "a", &["wait go"]), turn("t2", "a", &["say hi"])])
        .await;
    pool.started("t1", 1).await;
    let frozen = pool.active_sequencer().await;
    let other = 1 - frozen;
    pool.process(frozen).freeze();
    pool.process(other).metric_is(IS_ACTIVE, 1.0).await;
    pool.release("go");
    pool.enqueue(&[turn("t3", "a", &["say hi"])]).await;
    pool.events.all_ended(["t1", "t2", "t3"]).await;
    pool.process(frozen).thaw();
    pool.process(frozen).metric_is(IS_ACTIVE, 0.0).await;
    pool.all_slots_take().await;
    assert_eq!(pool.metric(IS_ACTIVE).await, 1.0);
    let turns: Vec<_> = pool.runs().all.into_iter().map(|run| run.turn).collect();
    assert_eq!(turns[..3], ["t1", "t2", "t3"], "each once, in order");
    pool.stop().await;
}

/// Guards both at once: who takes over finds the turn that its predecessor
/// runs, and can't take it.
#[tokio::test]
async fn g1_g3_a_process_frozen_in_both_roles_keeps_its_turn_and_loses_its_office() {
    let mut pool = pool(&["sequencer,worker"]).await;
    pool.enqueue(&[turn("t1", "a", &["wait go", "say done"])])
        .await;
    pool.started("t1", 1).await;
    let successor = pool.spawn(&[]);
    pool.ready().await;
    pool.enqueue(&[turn("t2", "a", &["say hi"])]).await;
    pool.process(0)
        .metric_is("turn_worker_backlog_turns", 2.0)
        .await;
    pool.process(0).freeze();
    pool.process(successor).metric_is(IS_ACTIVE, 1.0).await;
    // No worker reports the turn, so it is offered, in vain.
    pool.process(successor).logged(LOCKED).await;
    pool.enqueue(&[turn("t3", "b", &["say hi"])]).await;
    pool.events.ended("t3").await;
    pool.release("go");
    pool.process(0).thaw();
    pool.events.all_ended(["t1", "t2"]).await;
    assert_eq!(pool.events.turn("t1").said(1), ["done"]);
    assert_eq!(pool.runs().first_starts()["a"], ["t1", "t2"]);
    pool.all_slots_take().await;
    for id in ["t1", "t2", "t3"] {
        assert_eq!(pool.runs().of_turn(id).count(), 1, "{id}");
    }
    pool.stop().await;
}
