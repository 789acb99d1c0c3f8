//! Cancels: waiting, offered, running, too early, too late.

use serde_json::json;
use turn_worker::workspace::Root;

use crate::support::engine::is_exec;
use crate::support::pool::{Pool, is_alive, turn};

/// Guards that a cancel is claimed at once, not when the turn's place comes
/// (`Queue::cancel`).
#[tokio::test]
async fn cancelled_while_waiting_a_turn_ends_at_once() {
    let mut pool = Pool::start(2, &[]).await;
    let requests = [
        turn("t1", "a", &["wait go"]),
        turn("t2", "a", &[]),
        turn("t3", "a", &[]),
    ];
    pool.enqueue(&requests).await;
    pool.started("t1", 1).await;
    pool.cancel("t2").await;
    let t2 = pool.events.ended("t2").await;
    assert_eq!((t2.stop_reason(), t2.attempt()), ("cancelled", 0));
    assert_eq!(t2.kinds(0), ["message_start", "message_end"]);
    assert!(
        pool.events.turn("t1").end().is_none(),
        "the head still runs"
    );
    pool.release("go");
    pool.events.all_ended(["t1", "t3"]).await;
    assert_eq!(pool.runs().first_starts()["a"], ["t1", "t3"]);
    assert_eq!(pool.events.duplicates("t2"), 0);
    pool.stop().await;
}

/// Guards the claim that a worker finds in place of its own (`Runner::claim`).
#[tokio::test]
async fn cancelled_while_offered_a_turn_never_starts() {
    // Without preferences turns are offered also while no slot is free.
    let mut pool = Pool::start(1, &[("SLOTS", "1"), ("OVERTAKING", "0s")]).await;
    pool.enqueue(&[turn("t1", "a", &["wait go"])]).await;
    pool.started("t1", 1).await;
    // The only slot is taken, so this offer stays in the work queue.
    pool.enqueue(&[turn("t2", "b", &[])]).await;
    pool.ready_in("codex.turns.work", 1).await;
    pool.cancel("t2").await;
    let t2 = pool.events.ended("t2").await;
    assert_eq!((t2.stop_reason(), t2.attempt()), ("cancelled", 0));
    assert!(pool.events.turn("t1").end().is_none());
    pool.release("go");
    pool.enqueue(&[turn("t3", "b", &[])]).await;
    pool.events.all_ended(["t1", "t3"]).await;
    assert_eq!(pool.runs().of_turn("t2").count(), 0);
    pool.stop().await;
}

/// Guards the interrupt (`Process::stop`).
#[tokio::test]
async fn cancelled_while_running_a_turn_is_interrupted() {
    let mut pool = Pool::start(2, &[]).await;
    let script = ["daemon daemon", "say hi", "until-interrupted heard"];
    pool.enqueue(&[turn("t1", "a", &script), turn("t2", "a", &[])])
        .await;
    pool.events.said("t1", "hi").await;
    pool.cancel("t1").await;
    let t1 = pool.events.ended("t1").await;
    // What codex was asked for, not only made to do.
    match is_exec() {
        true => assert!(pool.stand_in_file("heard").exists()),
        false => assert_eq!(t1.input_tokens(), Some(100)),
    }
    assert!(!is_alive(pool.pid_in("daemon")));
    assert_eq!((t1.stop_reason(), t1.attempt()), ("cancelled", 1));
    assert_eq!(t1.error_code(), None);
    assert_eq!(t1.end().unwrap()["text"], "hi");
    assert_eq!(pool.events.ended("t2").await.stop_reason(), "end_turn");
    pool.stop().await;
}

/// Guards the kill after the grace time (`Process::stop`).
#[tokio::test]
async fn cancelled_while_running_a_turn_that_hears_no_signal_is_killed() {
    let mut pool = Pool::start(1, &[]).await;
    let script = ["ignore-signals", "daemon daemon", "say hi", "hang"];
    pool.enqueue(&[turn("t1", "a", &script)]).await;
    pool.events.said("t1", "hi").await;
    let run = pool.started("t1", 1).await;
    pool.cancel("t1").await;
    let t1 = pool.events.ended("t1").await;
    assert!(!is_alive(run.pid) && !is_alive(pool.pid_in("daemon")));
    assert_eq!((t1.stop_reason(), t1.attempt()), ("cancelled", 1));
    pool.stop().await;
}

/// Guards that cancels are remembered (`Cancels`).
#[tokio::test]
async fn cancelled_before_it_comes_a_turn_never_starts() {
    let mut pool = Pool::start(2, &[]).await;
    pool.enqueue(&[turn("t1", "a", &[])]).await;
    pool.cancel("t2").await;
    pool.events.ended("t1").await;
    pool.enqueue(&[turn("t2", "a", &["wait never"])]).await;
    let t2 = pool.events.ended("t2").await;
    assert_eq!((t2.stop_reason(), t2.attempt()), ("cancelled", 0));
    assert_eq!(pool.runs().of_turn("t2").count(), 0);
    pool.stop().await;
}

/// Guards that a cancel affects only its turn.
#[tokio::test]
async fn cancels_that_mean_no_turn_have_no_effect() {
    let mut pool = Pool::start(2, &[]).await;
    pool.enqueue(&[turn("t1", "a", &[])]).await;
    pool.events.ended("t1").await;
    pool.cancel("t1").await;
    pool.cancel("nobody").await;
    for message in [
        json!({"action": "cancel", "turn_id": "t2", "workspace": "b"}),
        json!({"action": "cancel", "turn_id": "no id!"}),
        json!({"action": "dance"}),
        json!("cancel"),
    ] {
        pool.producer.control(&message).await;
    }
    pool.enqueue(&[turn("t2", "a", &["wait go"])]).await;
    pool.started("t2", 1).await;
    let elsewhere = json!({"action": "cancel", "turn_id": "t2", "workspace": "b"});
    pool.producer.control(&elsewhere).await;
    // Sent in order to every process: when this has happened, that is through.
    pool.enqueue(&[turn("t3", "c", &["wait never"])]).await;
    pool.started("t3", 1).await;
    pool.cancel("t3").await;
    assert_eq!(pool.events.ended("t3").await.stop_reason(), "cancelled");
    pool.release("go");
    assert_eq!(pool.events.ended("t2").await.stop_reason(), "end_turn");
    assert_eq!(pool.events.turn_ids(), ["t1", "t2", "t3"]);
    assert_eq!(pool.events.duplicates("t1"), 0);
    // Each process hears and counts each of them once.
    for why in ["unreadable", "unknown_action", "unusable_field"] {
        let series = format!("turn_worker_controls_ignored_total{{why=\"{why}\"}}");
        pool.metric_is(&series, 2.0).await;
    }
    pool.stop().await;
}

/// Guards the durable mark (`Claims::mark_cancelled`): the turn is cancelled,
/// though the worker that heard it dies before it ends.
#[tokio::test]
async fn cancelled_a_turn_stays_cancelled_when_its_worker_dies() {
    let mut pool = Pool::start(2, &[]).await;
    let script = ["ignore-signals", "say hi", "hang"];
    pool.enqueue(&[turn("t1", "a", &script)]).await;
    pool.events.said("t1", "hi").await;
    let run = pool.started("t1", 1).await;
    let number = pool.process_of(&run);
    pool.cancel("t1").await;
    let claims = Root::open(&pool.root()).unwrap();
    let claims = claims.workspace("a").unwrap();
    let marked = async || claims.claims().cancel_mark("t1").unwrap().map(drop);
    pool.deadline.until("the cancel is marked", marked).await;
    pool.process(number).kill();
    let t1 = pool.events.ended("t1").await;
    assert_eq!((t1.stop_reason(), t1.attempt()), ("cancelled", 2));
    assert_eq!(t1.kinds(2), ["message_start", "message_end"]);
    assert_eq!(pool.runs().of_turn("t1").count(), 1);
    pool.stop().await;
}

/// Guards that a worker hears cancels until its last turn has ended.
#[tokio::test]
async fn cancelled_while_its_worker_drains_a_turn_ends() {
    let mut pool = Pool::start(1, &[]).await;
    pool.enqueue(&[turn("t1", "a", &["say hi", "wait never"])])
        .await;
    pool.events.said("t1", "hi").await;
    pool.process(0).terminate();
    pool.process(0).draining().await;
    pool.cancel("t1").await;
    let t1 = pool.events.ended("t1").await;
    assert_eq!((t1.stop_reason(), t1.attempt()), ("cancelled", 1));
    assert_eq!(pool.process(0).exited().await, Some(0));
    // No sequencer was left to receive that it is done.
    pool.spawn(&[]);
    pool.events.ended_again("t1", 1).await;
    pool.stop().await;
}
