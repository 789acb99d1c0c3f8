//! G9: SIGTERM and SIGHUP.

use crate::support::pool::{Pool, Run, turn};

/// Two processes; the one that runs `t1` is asked to end. Its number.
async fn ending_one(pool: &mut Pool) -> (usize, Run) {
    let run = pool.started("t1", 1).await;
    let number = pool.process_of(&run);
    pool.process(number).terminate();
    pool.process(number).draining().await;
    (number, run)
}

/// Guards that a drain waits for what runs (`Worker::run`), and that what waits
/// is another's at once.
#[tokio::test]
async fn g9_a_running_turn_ends_within_the_grace_time() {
    let mut pool = Pool::start(2, &[("SLOTS", "1")]).await;
    pool.enqueue(&[
        turn("t1", "a", &["wait go", "say done"]),
        turn("t2", "a", &[]),
    ])
    .await;
    let (number, _) = ending_one(&mut pool).await;
    // What comes now is not for the one that ends.
    pool.enqueue(&[turn("t3", "b", &["say hi"]), turn("t4", "c", &["say hi"])])
        .await;
    pool.events.all_ended(["t3", "t4"]).await;
    assert!(pool.process(number).lives());
    pool.release("go");
    let t1 = pool.events.ended("t1").await;
    assert_eq!((t1.stop_reason(), t1.attempt()), ("end_turn", 1));
    assert_eq!(pool.process(number).exited().await, Some(0));
    assert_eq!(pool.events.ended("t2").await.attempt(), 1);
    assert_eq!(pool.runs().first_starts()["a"], ["t1", "t2"]);
    pool.stop().await;
}

/// Guards that SIGHUP is one of the signals that drain (`cli::serve`): a closed
/// terminal would cost an attempt of each turn.
#[tokio::test]
async fn g9_a_hang_up_drains() {
    let mut pool = Pool::start(2, &[("MAX_ATTEMPTS", "1")]).await;
    let turns = [turn("t1", "a", &["wait go"]), turn("t2", "a", &[])];
    pool.enqueue(&turns).await;
    let run = pool.started("t1", 1).await;
    let number = pool.process_of(&run);
    pool.process(number).hang_up();
    pool.process(number).draining().await;
    pool.release("go");
    assert_eq!(pool.process(number).exited().await, Some(0));
    for id in ["t1", "t2"] {
        let turn = pool.events.ended(id).await;
        assert_eq!((turn.stop_reason(), turn.attempt()), ("end_turn", 1));
    }
    pool.stop().await;
}

/// Guards that a shutdown is recorded as one (`Attempt::give_back`): with one
/// attempt allowed, the turn would be exhausted otherwise.
#[tokio::test]
async fn g9_a_turn_beyond_the_grace_time_is_given_back_uncharged() {
    let settings = [("SHUTDOWN_GRACE", "1s"), ("MAX_ATTEMPTS", "1")];
    let mut pool = Pool::start(2, &settings).await;
    let script = ["alive daemon", "once run", "daemon daemon", "wait never"];
    pool.enqueue(&[turn("t1", "a", &script)]).await;
    let (number, _) = ending_one(&mut pool).await;
    assert_eq!(pool.process(number).exited().await, Some(0));
    let t1 = pool.events.ended("t1").await;
    assert_eq!((t1.stop_reason(), t1.attempt()), ("end_turn", 2));
    assert_eq!(t1.said(1), ["none"]);
    assert_eq!(t1.said(2), ["gone"]);
    pool.stop().await;
}

/// Guards the second signal (`cli::serve`).
#[tokio::test]
async fn g9_a_second_sigterm_waits_no_longer() {
    let mut pool = Pool::start(2, &[("MAX_ATTEMPTS", "1")]).await;
    let script = ["ignore-signals", "say hi", "once run", "hang"];
    pool.enqueue(&[turn("t1", "a", &script)]).await;
    pool.events.said("t1", "hi").await;
    let (number, _) = ending_one(&mut pool).await;
    pool.process(number).terminate();
    assert_eq!(pool.process(number).exited().await, Some(0));
    let t1 = pool.events.ended("t1").await;
    assert_eq!((t1.stop_reason(), t1.attempt()), ("end_turn", 2));
    assert!(t1.kinds(1).iter().all(|kind| kind != "message_end"));
    pool.stop().await;
}

/// Guards that a lone process's turns stay with the broker.
#[tokio::test]
async fn g9_what_waits_when_the_last_process_ends_runs_on_the_next() {
    let mut pool = Pool::start(1, &[("SLOTS", "1")]).await;
    pool.enqueue(&[turn("t1", "a", &["wait go"])]).await;
    // The slot is taken before another workspace's turn is there.
    pool.started("t1", 1).await;
    pool.enqueue(&[turn("t2", "a", &[]), turn("t3", "b", &[])])
        .await;
    ending_one(&mut pool).await;
    pool.release("go");
    pool.events.ended("t1").await;
    assert_eq!(pool.process(0).exited().await, Some(0));
    assert_eq!(pool.runs().all.len(), 1);
    pool.spawn(&[]);
    pool.events.all_ended(["t2", "t3"]).await;
    assert_eq!(pool.runs().of_turn("t1").count(), 1);
    pool.stop().await;
}

/// Guards that counts outlive their process until a monitor has read them
/// (`Metrics::last_counts_scraped` in `serve`), and no longer.
#[tokio::test]
async fn a_drained_process_waits_until_its_last_counts_are_scraped() {
    let mut pool = Pool::start(2, &[("METRICS_LINGER", "10m")]).await;
    pool.enqueue(&[turn("t1", "a", &["wait go"])]).await;
    let run = pool.started("t1", 1).await;
    let number = pool.process_of(&run);
    for _twice in 0..2 {
        pool.process(number).metrics().await;
    }
    pool.process(number).terminate();
    pool.process(number).draining().await;
    pool.release("go");
    pool.process(number)
        .logged("waiting until the last counts are scraped")
        .await;
    let counts = pool.process(number).metrics().await;
    assert_eq!(
        counts.get("turn_worker_turns_total{outcome=\"end_turn\"}"),
        1.0
    );
    assert_eq!(pool.process(number).exited().await, Some(0));
    pool.stop().await;
}
