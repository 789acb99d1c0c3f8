//! What a sequencer does that takes over from one that died.

use serde_json::Value;

use crate::support::broker::Broker;
use crate::support::operator::Operator;
use crate::support::pool::{Pool, turn};

/// Guards the listening before a redelivered turn is offered
/// (`Queue::delivered`): one that runs is never re-offered, so that its end
/// is reported once; one that no worker reports is.
#[tokio::test]
async fn g4_a_successor_offers_only_what_no_worker_runs() {
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

const ONE_TO_EIGHT: [&str; 8] = ["t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8"];

fn eight_turns() -> Vec<Value> {
    let turn = |id: &&str| turn(id, "a", &["say hi"]);
    ONE_TO_EIGHT.iter().map(turn).collect()
}

/// Guards that a sequencer holds all that its predecessor held, regardless of their
/// `BACKLOG` (`intake::PREFETCH`).
#[tokio::test]
async fn g1_the_order_outlives_sequencers_of_different_backlogs() {
    let mut pool = Pool::start(0, &[("SLOTS", "1")]).await;
    for (backlog, held) in [("10", 8.0), ("3", 3.0)] {
        let sequencer = pool.spawn(&[("ROLES", "sequencer"), ("BACKLOG", backlog)]);
        pool.ready().await;
        if backlog == "10" {
            pool.enqueue(&eight_turns()).await;
        }
        pool.metric_is("turn_worker_backlog_turns", held).await;
        pool.process(sequencer).kill();
    }
    pool.spawn(&[("BACKLOG", "10")]);
    pool.ready().await;
    pool.events.all_ended(ONE_TO_EIGHT).await;
    assert_eq!(pool.runs().first_starts()["a"], ONE_TO_EIGHT);
    pool.stop().await;
}

/// Guards that the order is restored (`Intake::arrived`) where a consumer held
/// a part of what had been returned, as sequencers of older versions do.
#[tokio::test]
async fn g1_the_order_is_restored_after_an_older_sequencer_that_held_a_part() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 0, &[("SLOTS", "1")]).await;
    let first = pool.spawn(&[("ROLES", "sequencer")]);
    pool.ready().await;
    pool.enqueue(&eight_turns()).await;
    pool.metric_is("turn_worker_backlog_turns", 8.0).await;
    pool.process(first).kill();
    let operator = Operator::of(&url).await;
    for held in [3, 7, 1] {
        operator.hold_and_return("codex.turns", held).await;
    }
    pool.spawn(&[]);
    pool.ready().await;
    pool.events.all_ended(ONE_TO_EIGHT).await;
    assert_eq!(pool.runs().first_starts()["a"], ONE_TO_EIGHT);
    pool.stop().await;
}

/// Guards that what lies beyond `BACKLOG` moves up in order
/// (`Session::admit`), and that `status` counts it as waiting for a place.
#[tokio::test]
async fn g1_turns_beyond_the_backlog_move_up_in_order() {
    let mut pool = Pool::start(1, &[("SLOTS", "1"), ("BACKLOG", "2")]).await;
    pool.enqueue(&eight_turns()).await;
    pool.events.all_ended(ONE_TO_EIGHT).await;
    assert_eq!(pool.runs().first_starts()["a"], ONE_TO_EIGHT);
    pool.stop().await;
}

/// Guards that requests beyond what is kept in memory are taken again
/// (`Ended::TakeAgain`), and that this costs neither order nor turns.
#[tokio::test]
async fn g1_g10_requests_that_were_not_kept_are_taken_again_in_order() {
    let settings = [
        ("SLOTS", "1"),
        ("BACKLOG", "4"),
        ("MAX_REQUEST_BYTES", "8MiB"),
    ];
    let mut pool = Pool::start(1, &settings).await;
    let ids: Vec<String> = (0..16).map(|number| format!("t{number:02}")).collect();
    let long = "x".repeat(7 << 20);
    for id in &ids {
        let mut request = turn(id, "a", &["wait go"]);
        // A field that is not known is ignored, and kept until it is read.
        request["padding"] = Value::from(long.as_str());
        pool.enqueue(&[request]).await;
    }
    let process = pool.process(0);
    process
        .logged("requests beyond BACKLOG are left with the broker")
        .await;
    pool.release("go");
    pool.events.all_ended(&ids).await;
    assert_eq!(pool.runs().first_starts()["a"], ids);
    pool.process(0)
        .logged("the sequencer takes all turns again")
        .await;
    pool.stop().await;
}
