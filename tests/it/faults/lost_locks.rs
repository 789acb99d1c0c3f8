//! Locks that a shared file system has dropped, or may have.

use std::fs;

use crate::support::pool::{Pool, is_alive, turn};

/// Guards `LockConfirmer`, and that a lost attempt is not charged: with one attempt the turn
/// would end with `turn.attempts_exhausted`.
#[tokio::test]
async fn g3_g4_a_turn_that_loses_its_lock_is_killed_and_starts_again_uncharged() {
    for how in ["hang", "lost"] {
        let mut pool = Pool::start(0, &[]).await;
        let disconnected = pool.stand_in_file("disconnected");
        let fault = format!(
            "guard.confirm=return({how}-while:{})",
            disconnected.display()
        );
        let worker = pool.spawn(&[
            ("LOCK_LOST_AFTER", "1s"),
            ("MAX_ATTEMPTS", "1"),
            ("FAILPOINTS", &fault),
        ]);
        pool.ready().await;
        pool.enqueue(&[turn("t", "a", &["say hi", "wait go"])])
            .await;
        pool.events.said("t", "hi").await;
        let first = pool.started("t", 1).await;
        assert!(is_alive(first.pid));
        fs::write(&disconnected, "").unwrap();
        pool.process(worker)
            .logged("killed the turn's processes, as its lock was lost; it starts again, uncharged")
            .await;
        assert!(!is_alive(first.pid), "{how}");
        pool.process(worker)
            .metric_is("turn_worker_locks_lost_total", 1.0)
            .await;
        fs::remove_file(&disconnected).unwrap();
        pool.release("go");
        let ended = pool.events.ended("t").await;
        assert_eq!((ended.stop_reason(), ended.attempt()), ("end_turn", 2));
        pool.stop().await;
    }
}

/// Locks that are confirmed, and those on a local file system, end no turn.
#[tokio::test]
async fn g4_a_turn_that_keeps_its_lock_runs_on() {
    let mut pool = Pool::start(0, &[("ROLES", "worker")]).await;
    pool.spawn(&[("ROLES", "sequencer")]);
    let fault = "guard.confirm=return(hang-while:/)";
    for settings in [("LOCK_LOST_AFTER", "1s"), ("FAILPOINTS", fault)] {
        let worker = pool.spawn(&[settings]);
        pool.process(worker).ready().await;
        let id = settings.0;
        pool.enqueue(&[turn(id, id, &["say hi", &format!("wait {id}")])])
            .await;
        pool.events.said(id, "hi").await;
        pool.heartbeats(2).await;
        pool.release(id);
        assert_eq!(pool.events.ended(id).await.attempt(), 1);
        pool.process(worker).terminate();
        assert_eq!(pool.process(worker).exited().await, Some(0));
    }
}

/// Guards `Takeovers`: with each slot waiting for the dead host, the living one would run nothing.
#[tokio::test]
async fn g2_waiting_for_another_hosts_attempt_takes_no_slot() {
    let one_slot = [("ROLES", "worker"), ("SLOTS", "1")];
    let mut pool = Pool::start(0, &[("LOCK_LOST_AFTER", "10m")]).await;
    pool.spawn(&[("ROLES", "sequencer")]);
    let first = pool.spawn(&one_slot);
    pool.ready().await;
    pool.enqueue(&[turn("t", "a", &["wait go"])]).await;
    pool.started("t", 1).await;
    let elsewhere = pool.spawn(&[&one_slot[..], &[("FAILPOINTS", "guard.place=return")]].concat());
    pool.process(elsewhere).ready().await;
    pool.process(first).kill();
    let waits =
        "an attempt of another host has no end: waiting until its guard must have killed it";
    pool.process(elsewhere).logged(waits).await;
    pool.enqueue(&[turn("u", "b", &["say hi"])]).await;
    assert_eq!(pool.events.ended("u").await.attempt(), 1);
    assert_eq!(pool.runs().of_turn("t").count(), 1);
    // It does not keep its process from draining, either.
    pool.process(elsewhere).terminate();
    assert_eq!(pool.process(elsewhere).exited().await, Some(0));
}

/// Guards `guard::disk`: the thread that looks at the bell hangs, and the guard does not.
#[tokio::test]
async fn g3_a_server_that_waits_on_a_disk_that_hangs_is_ended() {
    let mut pool = Pool::start(0, &[]).await;
    let disconnected = pool.stand_in_file("disconnected");
    let hangs = format!("return(hang-while:{})", disconnected.display());
    let faults = format!("guard.confirm={hangs};guard.bell={hangs}");
    let worker = pool.spawn(&[
        ("LOCK_LOST_AFTER", "1s"),
        ("CODEX_ENGINE", "app-server"),
        ("FAILPOINTS", &faults),
    ]);
    pool.ready().await;
    pool.enqueue(&[turn("t", "a", &["say hi"])]).await;
    pool.events.ended("t").await;
    pool.process(worker)
        .metric_is("turn_worker_servers_idle", 1.0)
        .await;
    fs::write(&disconnected, "").unwrap();
    pool.process(worker)
        .logged("lost the workspace's lock; killing the turn's processes")
        .await;
    pool.process(worker)
        .metric_is("turn_worker_servers_idle", 0.0)
        .await;
    fs::remove_file(&disconnected).unwrap();
    pool.enqueue(&[turn("u", "a", &["say hi"])]).await;
    assert_eq!(pool.events.ended("u").await.attempt(), 1);
    pool.stop().await;
}

/// Guards `Predecessor`: the first host's processes may still run, and can't be seen from the second.
#[tokio::test]
async fn g3_another_hosts_attempt_is_outlived_before_the_next_starts() {
    let mut pool = Pool::start(0, &[("LOCK_LOST_AFTER", "1s")]).await;
    pool.spawn(&[("ROLES", "sequencer")]);
    let first = pool.spawn(&[("ROLES", "worker")]);
    pool.ready().await;
    pool.enqueue(&[turn("t", "a", &["wait go"])]).await;
    pool.started("t", 1).await;
    let elsewhere = pool.spawn(&[("ROLES", "worker"), ("FAILPOINTS", "guard.place=return")]);
    pool.process(elsewhere).ready().await;
    pool.process(first).kill();
    let waits =
        "an attempt of another host has no end: waiting until its guard must have killed it";
    pool.process(elsewhere).logged(waits).await;
    assert_eq!(pool.runs().of_turn("t").count(), 1);
    pool.release("go");
    let ended = pool.events.ended("t").await;
    assert_eq!((ended.stop_reason(), ended.attempt()), ("end_turn", 2));
    pool.stop().await;
}

/// Guards `Session::should_hand_over`: without storage the active sequencer can offer no turn.
#[tokio::test]
async fn g2_a_sequencer_without_storage_hands_over_to_one_with_storage() {
    const ACTIVE: &str = "turn_worker_sequencer_active";
    let mut pool = Pool::start(0, &[]).await;
    let disconnected = pool.stand_in_file("disconnected");
    let fault = format!("pool.lock=return(lost-while:{})", disconnected.display());
    let first = pool.spawn(&[("FAILPOINTS", &fault)]);
    pool.ready().await;
    pool.enqueue(&[turn("s", "a", &["say hi"])]).await;
    pool.events.ended("s").await;
    assert_eq!(pool.process(first).metrics().await.get(ACTIVE), 1.0);
    // With no other sequencer it stays.
    fs::write(&disconnected, "").unwrap();
    pool.heartbeats(4).await;
    assert_eq!(pool.process(first).metrics().await.get(ACTIVE), 1.0);

    let second = pool.spawn(&[]);
    pool.process(second).ready().await;
    pool.process(first).metric_is(ACTIVE, 0.0).await;
    pool.enqueue(&[turn("t", "a", &["say hi"])]).await;
    assert_eq!(pool.events.ended("t").await.attempt(), 1);
    assert_eq!(pool.process(second).metrics().await.get(ACTIVE), 1.0);

    // It is there again once its storage is.
    fs::remove_file(&disconnected).unwrap();
    pool.process(second).kill();
    pool.enqueue(&[turn("u", "a", &["say hi"])]).await;
    assert_eq!(pool.events.ended("u").await.attempt(), 1);
    pool.stop().await;
}

/// Guards `Peers::any_with_storage`: when all have lost their storage, the first that has it again takes over.
#[tokio::test]
async fn g2_of_sequencers_without_storage_the_first_that_has_it_again_takes_over() {
    const ACTIVE: &str = "turn_worker_sequencer_active";
    let mut pool = Pool::start(0, &[]).await;
    let files = ["first", "second"].map(|name| pool.stand_in_file(name));
    let faults = files
        .clone()
        .map(|file| format!("pool.lock=return(lost-while:{})", file.display()));
    let first = pool.spawn(&[("FAILPOINTS", &faults[0])]);
    pool.ready().await;
    pool.enqueue(&[turn("s", "a", &["say hi"])]).await;
    pool.events.ended("s").await;
    pool.process(first).metric_is(ACTIVE, 1.0).await;
    let second = pool.spawn(&[("FAILPOINTS", &faults[1])]);
    pool.process(second).ready().await;
    for file in files.iter().rev() {
        fs::write(file, "").unwrap();
    }
    pool.heartbeats(4).await;
    fs::remove_file(&files[1]).unwrap();
    pool.process(first).metric_is(ACTIVE, 0.0).await;
    pool.enqueue(&[turn("t", "a", &["say hi"])]).await;
    assert_eq!(pool.events.ended("t").await.attempt(), 1);
    pool.process(second).metric_is(ACTIVE, 1.0).await;

    // And back: the first waits for its storage, without consuming.
    fs::write(&files[1], "").unwrap();
    fs::remove_file(&files[0]).unwrap();
    pool.process(second).metric_is(ACTIVE, 0.0).await;
    pool.enqueue(&[turn("u", "a", &["say hi"])]).await;
    assert_eq!(pool.events.ended("u").await.attempt(), 1);
    pool.process(first).metric_is(ACTIVE, 1.0).await;
    pool.stop().await;
}

/// Guards `serve::remount`: what the process has opened below the root stays dead.
#[tokio::test]
async fn g2_a_process_ends_when_its_root_was_mounted_again() {
    let mut pool = Pool::start(0, &[]).await;
    let remounted = pool.stand_in_file("remounted");
    let fault = format!("root.held=return(lost-while:{})", remounted.display());
    let first = pool.spawn(&[("FAILPOINTS", &fault)]);
    pool.ready().await;
    pool.enqueue(&[turn("t", "a", &["say hi", "wait go"])])
        .await;
    pool.started("t", 1).await;
    fs::write(&remounted, "").unwrap();
    // Its turn is not waited for.
    assert_eq!(pool.process(first).exited().await, Some(1));
    let text = pool.process(first).log_text();
    assert!(text.contains("was mounted again"), "{text}");
    pool.spawn(&[]);
    pool.release("go");
    assert_eq!(pool.events.ended("t").await.attempt(), 2);
    pool.stop().await;
}

/// Guards `Attempt::is_lock_lost`: the turn would be reported as running until its worker ends, and
/// no other host would take it.
#[tokio::test]
async fn g2_a_turn_with_an_end_that_a_lost_lock_keeps_from_being_recorded_runs_elsewhere() {
    let mut pool = Pool::start(0, &[("LOCK_LOST_AFTER", "1s"), ("MAX_ATTEMPTS", "1")]).await;
    let dead = pool.stand_in_file("dead");
    let dead = dead.display();
    let faults =
        format!("disk.write=return(full-while:{dead});workspace.lock=return(lost-while:{dead})");
    let first = pool.spawn(&[("FAILPOINTS", &faults)]);
    pool.ready().await;
    pool.enqueue(&[turn("t", "a", &["say hi", "wait go"])])
        .await;
    pool.started("t", 1).await;
    pool.release("dead");
    pool.release("go");
    pool.process(first)
        .logged("can't record the turn's end yet; trying every second")
        .await;
    pool.spawn(&[]);
    pool.process(first)
        .metric_is("turn_worker_locks_lost_total", 1.0)
        .await;
    // That the attempt is not charged can be noted now.
    fs::remove_file(pool.stand_in_file("dead")).unwrap();
    let ended = pool.events.ended("t").await;
    assert_eq!((ended.stop_reason(), ended.attempt()), ("end_turn", 2));
    pool.stop().await;
}

/// Guards `guard::disk::within`: a guard that waits for its last call would keep its worker waiting.
#[tokio::test]
async fn g2_a_guard_with_a_last_call_that_hangs_reports_its_end_and_exits() {
    let mut pool = Pool::start(0, &[]).await;
    let hangs = pool.stand_in_file("hangs");
    let fault = format!("guard.let_go=return(hang-while:{})", hangs.display());
    fs::write(&hangs, "").unwrap();
    let worker = pool.spawn(&[("LOCK_LOST_AFTER", "1s"), ("FAILPOINTS", &fault)]);
    pool.ready().await;
    for id in ["t", "u"] {
        pool.enqueue(&[turn(id, "a", &["say hi"])]).await;
        assert_eq!(pool.events.ended(id).await.attempt(), 1);
    }
    pool.process(worker).terminate();
    assert_eq!(pool.process(worker).exited().await, Some(0));
}

/// Guards that a peer that stands back counts as one without storage: it would not consume.
#[tokio::test]
async fn g2_a_sequencer_without_storage_stays_where_the_other_stands_back() {
    const ACTIVE: &str = "turn_worker_sequencer_active";
    let mut pool = Pool::start(0, &[]).await;
    let disconnected = pool.stand_in_file("disconnected");
    let fault = format!("pool.lock=return(lost-while:{})", disconnected.display());
    let first = pool.spawn(&[("FAILPOINTS", &fault)]);
    pool.ready().await;
    pool.enqueue(&[turn("s", "a", &["say hi"])]).await;
    pool.events.ended("s").await;
    pool.process(first).metric_is(ACTIVE, 1.0).await;
    let second = pool.spawn(&[("FAILPOINTS", "probe.old_content=return")]);
    pool.process(second).unready("reads_stale").await;
    fs::write(&disconnected, "").unwrap();
    pool.heartbeats(8).await;
    assert_eq!(pool.process(first).metrics().await.get(ACTIVE), 1.0);
    fs::remove_file(&disconnected).unwrap();
    pool.enqueue(&[turn("t", "a", &["say hi"])]).await;
    pool.events.ended("t").await;
    pool.stop().await;
}
