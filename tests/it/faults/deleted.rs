//! Queues and exchanges that an operator deletes or purges under a pool.

use crate::support::broker::Broker;
use crate::support::operator::Operator;
use crate::support::pool::{Pool, persistent, turn};

const RESTARTS: &str = "the sequencer restarts";
const TAKES_NONE: &str = "taking no offers until the broker is back";

/// `t1` runs and `t2` waits behind it, on two processes with two slots each.
async fn started(url: &str) -> (Pool, Operator) {
    let mut pool = Pool::on(url, 2, &[("SLOTS", "2")]).await;
    let talk = ["say before", "wait go", "say after"];
    pool.enqueue(&[turn("t1", "a", &talk), turn("t2", "a", &["say hi"])])
        .await;
    pool.events.said("t1", "before").await;
    (pool, Operator::of(url).await)
}

/// `t1` goes on and ends once, `t2` follows, and everything else does too.
async fn goes_on(mut pool: Pool) {
    pool.release("go");
    pool.events.all_ended(["t1", "t2"]).await;
    assert_eq!(pool.events.turn("t1").said(1), ["before", "after"]);
    assert_eq!(pool.runs().first_starts()["a"][..2], ["t1", "t2"]);
    pool.all_slots_take().await;
    for id in ["t1", "t2"] {
        assert_eq!(pool.runs().of_turn(id).count(), 1, "{id}");
    }
    pool.stop().await;
}

/// Guards that a sequencer without its status queue starts over, rather than
/// hear no more of its turns (`Sequencer::session`).
#[tokio::test]
async fn g4_the_status_queues_may_be_deleted() {
    let url = Broker::vhost();
    let (pool, operator) = started(&url).await;
    // More while a process listens to the others of its pool.
    assert!(operator.delete_queues(r"^codex\\.status\\.").await >= 2);
    for process in pool.processes() {
        process.logged(RESTARTS).await;
    }
    goes_on(pool).await;
}

/// Guards that a worker without its control queue starts over
/// (`Worker::consume`): it would hear of no cancel any more.
#[tokio::test]
async fn g5_the_control_queues_may_be_deleted() {
    let url = Broker::vhost();
    let (mut pool, operator) = started(&url).await;
    pool.enqueue(&[turn("t3", "b", &["wait for-ever"])]).await;
    pool.started("t3", 1).await;
    assert_eq!(operator.delete_queues(r"^codex\\.control\\.").await, 4);
    for process in pool.processes() {
        process.logged(RESTARTS).await;
        process.logged(TAKES_NONE).await;
    }
    pool.ready().await;
    pool.cancel("t3").await;
    assert_eq!(pool.events.ended("t3").await.stop_reason(), "cancelled");
    goes_on(pool).await;
}

/// Guards `Topology::keep`: of an exchange's deletion there is no notification, nor of that of
/// the queue that only takes rejections.
#[tokio::test]
async fn g4_what_is_only_published_to_is_declared_and_bound_again() {
    let url = Broker::vhost();
    let (mut pool, operator) = started(&url).await;
    pool.enqueue(&[turn("t3", "b", &["wait for-ever"])]).await;
    pool.started("t3", 1).await;
    for exchange in ["events", "requests", "control", "status"] {
        operator.delete_exchange(&format!("codex.{exchange}")).await;
    }
    operator.delete_queue("codex.turns.dead").await;
    // Of each process, its sequencer's two queues and its worker's.
    let bound = ["codex.requests", "codex.control", "codex.status"];
    let probe = async || (operator.bindings(&bound).await == 1 + 2 * 3).then_some(());
    pool.deadline.until("all is bound again", probe).await;
    pool.events.bind_again(&url).await;

    pool.cancel("t3").await;
    assert_eq!(pool.events.ended("t3").await.stop_reason(), "cancelled");
    let broken = (b"{}".to_vec(), persistent());
    pool.producer.enqueue_raw(&[broken]).await;
    let letters = pool.producer.dead_letters(1).await;
    assert_eq!(letters[0].code, "request.invalid");
    goes_on(pool).await;
}

/// Guards that a slot with a consumer that was cancelled while it ran a turn brings
/// the worker to start over (`Worker::serve_slot`).
#[tokio::test]
async fn g4_the_work_queue_may_be_deleted() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 2, &[("SLOTS", "1")]).await;
    let talk = ["say before", "wait go", "say after"];
    pool.enqueue(&[
        turn("t1", "a", &talk),
        turn("t0", "z", &["wait go"]),
        turn("t2", "a", &["say hi"]),
    ])
    .await;
    pool.events.said("t1", "before").await;
    pool.started("t0", 1).await;
    let operator = Operator::of(&url).await;
    operator.delete_queue("codex.turns.work").await;
    goes_on(pool).await;
}

/// Guards that offers are made again (`Queue::attend`), and that what the
/// sequencer holds is held, also beyond `BACKLOG` (`intake::PREFETCH`).
#[tokio::test]
async fn g4_a_purge_takes_no_turn_that_a_sequencer_holds() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 1, &[("SLOTS", "1"), ("BACKLOG", "3")]).await;
    let operator = Operator::of(&url).await;
    let talk = ["say before", "wait go", "say after"];
    pool.enqueue(&[turn("t1", "a", &talk)]).await;
    pool.events.said("t1", "before").await;
    let beyond = ["t4", "t5"].map(|id| turn(id, "a", &["say hi"]));
    pool.enqueue(&[turn("t2", "a", &["say hi"]), turn("t3", "b", &["say hi"])])
        .await;
    pool.enqueue(&beyond).await;
    pool.ready_in("codex.turns", 0).await;
    pool.ready_in("codex.turns.work", 1).await;
    assert_eq!(operator.purge("codex.turns").await, 0);
    assert_eq!(operator.purge("codex.turns.work").await, 1);
    // Without a slot for it, and without a lost connection.
    pool.ready_in("codex.turns.work", 1).await;
    pool.release("go");
    pool.events.all_ended(["t1", "t2", "t3", "t4", "t5"]).await;
    pool.idle().await;
    goes_on(pool).await;
}

/// Guards that a sequencer without its queue declares it and starts over
/// (`Sequencer::session`). What waited in it is nobody's any more.
#[tokio::test]
async fn g4_deleted_turns_are_lost_but_for_those_that_run() {
    let url = Broker::vhost();
    let (mut pool, operator) = started(&url).await;
    operator.delete_queue("codex.turns").await;
    for process in pool.processes() {
        process.logged(RESTARTS).await;
    }
    pool.ready().await;
    pool.enqueue(&[turn("t3", "a", &["say hi"])]).await;
    pool.release("go");
    pool.events.all_ended(["t1", "t3"]).await;
    assert_eq!(pool.runs().first_starts()["a"], ["t1", "t3"]);
    pool.enqueue(&[turn("t2", "a", &["say hi"])]).await;
    pool.events.ended("t2").await;
    pool.all_slots_take().await;
    assert_eq!(pool.runs().first_starts()["a"], ["t1", "t3", "t2"]);
    pool.stop().await;
}
