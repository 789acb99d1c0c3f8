//! A host whose disk is full, and a workspace whose records are spoilt.

use std::fs::{self, File};
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::pool::{Pool, Process, turn};

const WORK: &str = "codex.turns.work";
const UNFIT: &str = "turn_worker_host_unfit{reason=\"disk\"}";
const NOT_STARTED: &str = "turn_worker_turns_not_started_total{reason=\"disk\"}";

/// Of the processes that have its faults.
struct Disk {
    dir: TempDir,
    full: PathBuf,
}

impl Disk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let full = dir.path().join("full");
        Self { dir, full }
    }

    fn faults(&self) -> String {
        let full = self.dir.path().join("full");
        format!("disk.write=return(full-while:{})", full.display())
    }

    fn fill(&self) {
        File::create(&self.full).unwrap();
    }

    fn free(&self) {
        fs::remove_file(&self.full).unwrap();
    }
}

/// Until it says that its disk is full, and where.
async fn told(process: &Process) {
    process
        .unready("this host can't run turns (disk): cannot write to ")
        .await;
    let (_, reasons) = process.get("/readyz").await.unwrap();
    for part in ["/.turn-worker/workspaces: ", "(os error 28)"] {
        assert!(reasons.contains(part), "{reasons}");
    }
    process.metric_is(UNFIT, 1.0).await;
    process.metric_is("turn_worker_consumer_active", 0.0).await;
}

const TAKES_NONE: &str = "this host can't run turns, so it takes no offers";

fn logged(process: &Process, message: &str) -> Vec<Value> {
    let mut lines = process.log_lines();
    lines.retain(|line| line["message"] == message);
    lines
}

/// Guards that an unfit host's offers go back (`Settlement::of`), that its slots
/// stop consuming (`Worker::serve_slot`), and that it is watched (`serve::serve`).
#[tokio::test]
async fn g4_a_full_disk_neither_starts_nor_charges_turns_and_recovers_by_itself() {
    let disk = Disk::new();
    let faults = disk.faults();
    let settings = [
        ("FAILPOINTS", &*faults),
        ("SLOTS", "2"),
        ("MAX_ATTEMPTS", "1"),
    ];
    let mut pool = Pool::start(1, &settings).await;
    disk.fill();
    pool.enqueue(&[turn("t1", "a", &[]), turn("t2", "a", &[])])
        .await;
    pool.enqueue(&[turn("t3", "b", &[]), turn("t4", "c", &[])])
        .await;
    told(&pool.processes()[0]).await;
    // Each workspace's first waits where another host would find it.
    pool.ready_in(WORK, 3).await;
    assert!(pool.runs().all.is_empty());
    assert!(pool.events.turn_ids().is_empty());
    // At most one a slot: what goes back does not come again and again.
    assert!(pool.metric(NOT_STARTED).await <= 2.0);

    disk.free();
    pool.ready().await;
    pool.events.all_ended(["t1", "t2", "t3", "t4"]).await;
    for id in ["t1", "t2", "t3", "t4"] {
        let ended = pool.events.turn(id);
        assert_eq!((ended.stop_reason(), ended.attempt()), ("end_turn", 1));
    }
    assert_eq!(pool.runs().first_starts()["a"], ["t1", "t2"]);
    assert_eq!(pool.metric(UNFIT).await, 0.0);
    let process = &pool.processes()[0];
    for (message, times) in [
        (TAKES_NONE, 1),
        ("this host still can't run turns", 0),
        ("what this host lacked is there again", 1),
    ] {
        assert_eq!(logged(process, message).len(), times, "{message}");
    }
    // It was a turn that made the worker look (`Runner::take`).
    let found = &logged(process, TAKES_NONE)[0];
    assert!(found["span"]["turn_id"].is_string(), "{found}");
    pool.stop().await;
}

/// Guards the same lines, for the pool: it goes on without that host, and
/// that host's sequencer goes on as well.
#[tokio::test]
async fn g4_another_host_takes_the_work_of_one_with_a_full_disk() {
    let disk = Disk::new();
    let mut pool = Pool::start(0, &[("SLOTS", "1")]).await;
    let full = pool.spawn(&[("FAILPOINTS", &disk.faults())]);
    pool.ready().await;
    disk.fill();
    pool.enqueue(&[turn("t1", "a", &[])]).await;
    told(&pool.processes()[full]).await;
    pool.spawn(&[]);
    pool.events.ended("t1").await;
    // The very offer that went back, and no repeat of it.
    assert_eq!(pool.metric("turn_worker_redeliveries_total").await, 1.0);
    let more: Vec<String> = (2..12).map(|n| format!("t{n}")).collect();
    let requests: Vec<_> = more
        .iter()
        .map(|id| turn(id, &format!("w-{id}"), &[]))
        .collect();
    pool.enqueue(&requests).await;
    pool.events.all_ended(&more).await;
    let process = &pool.processes()[full];
    assert_eq!(process.metrics().await.get(NOT_STARTED), 1.0);
    assert_eq!(
        process.metrics().await.get("turn_worker_sequencer_active"),
        1.0
    );
    disk.free();
    pool.metric_is("turn_worker_consumer_active", 2.0).await;
    pool.stop().await;
}

/// Guards the loop in `Attempt::record`, and what it reports.
#[tokio::test]
async fn g4_an_end_that_finds_no_room_is_recorded_and_published_once_there_is() {
    let disk = Disk::new();
    let mut pool = Pool::start(1, &[("FAILPOINTS", &*disk.faults())]).await;
    let script = ["wait go", "say done"];
    pool.enqueue(&[turn("t1", "a", &script), turn("t2", "a", &[])])
        .await;
    pool.started("t1", 1).await;
    disk.fill();
    pool.release("go");
    pool.metric_is("turn_worker_turns_unrecorded", 1.0).await;
    told(&pool.processes()[0]).await;
    // It is over, but its end is not published, and its workspace is not free.
    assert!(pool.events.turn("t1").end().is_none());
    assert_eq!(pool.runs().first_starts()["a"], ["t1"]);

    disk.free();
    let t1 = pool.events.ended("t1").await;
    assert_eq!((t1.stop_reason(), t1.attempt()), ("end_turn", 1));
    pool.events.ended("t2").await;
    assert_eq!(pool.runs().first_starts()["a"], ["t1", "t2"]);
    assert_eq!(pool.runs().all.len(), 2);
    assert_eq!(pool.metric("turn_worker_turns_unrecorded").await, 0.0);
    let message = "can't record the turn's end yet; trying every second";
    let process = &pool.processes()[0];
    assert_eq!(logged(process, message).len(), 1);
    // It was the turn that made the worker look.
    let found = &logged(process, TAKES_NONE)[0];
    assert_eq!(found["span"]["turn_id"], "t1", "{found}");
    pool.stop().await;
}

/// Guards `Fate::ToAsk` after a claim that failed (`Queue::claim_answered`),
/// and that a rejection is tried until it is recorded (`Actor::reject`).
#[tokio::test]
async fn g1_g4_a_sequencer_with_a_full_disk_loses_and_misorders_no_turn() {
    let disk = Disk::new();
    let mut pool = Pool::start(0, &[]).await;
    let faults = disk.faults();
    let sequencer = pool.spawn(&[("FAILPOINTS", &*faults), ("ROLES", "sequencer")]);
    pool.spawn(&[("ROLES", "worker")]);
    pool.ready().await;
    pool.enqueue(&[
        turn("t1", "a", &["wait go"]),
        turn("t2", "a", &[]),
        turn("t3", "a", &[]),
    ])
    .await;
    pool.started("t1", 1).await;
    disk.fill();
    pool.cancel("t2").await;
    let mut invalid = turn("bad", "a", &[]);
    invalid["messages"] = json!([]);
    pool.enqueue(&[invalid]).await;
    told(&pool.processes()[sequencer]).await;
    pool.release("go");
    pool.events.ended("t1").await;
    // Its `done` has been heard, and yet t2 keeps its place before t3.
    pool.metric_is("turn_worker_backlog_turns", 2.0).await;
    pool.ready_in(WORK, 0).await;
    assert_eq!(pool.events.turn_ids(), ["t1"]);

    disk.free();
    let t2 = pool.events.ended("t2").await;
    assert_eq!((t2.stop_reason(), t2.attempt()), ("cancelled", 0));
    pool.events.ended("t3").await;
    let bad = pool.events.ended("bad").await;
    assert_eq!(bad.error_code(), Some("request.invalid"));
    assert_eq!(pool.runs().first_starts()["a"], ["t1", "t3"]);
    pool.producer.dead_letters(1).await;
    pool.metric_is(UNFIT, 0.0).await;
    pool.stop().await;
}

/// Guards that a workspace's own damage is not taken for the host's
/// (`NotStarted::suspect`), and waits for the sequencer's repeat (`Settlement::of`).
#[tokio::test]
async fn g4_a_damaged_journal_holds_up_its_own_workspace_only() {
    let mut pool = Pool::start(1, &[("SLOTS", "1")]).await;
    pool.enqueue(&[turn("t1", "a", &[])]).await;
    pool.events.ended("t1").await;
    let state = pool.root().join(".turn-worker/workspaces/a/.state");
    let (journal, aside) = (state.join("journal"), state.join("aside"));
    fs::rename(&journal, &aside).unwrap();
    fs::write(&journal, "not what was written\n").unwrap();

    pool.enqueue(&[turn("t2", "a", &[])]).await;
    let own = "turn_worker_turns_not_started_total{reason=\"workspace\"}";
    pool.metric_is(own, 1.0).await;
    // The one slot is free for others.
    pool.enqueue(&[turn("t3", "b", &[])]).await;
    pool.events.ended("t3").await;
    let process = &pool.processes()[0];
    assert_eq!(process.get("/readyz").await.unwrap().0, 200);
    process.logged("could not start the turn").await;
    assert_eq!(pool.metric(own).await, 1.0);

    fs::rename(&aside, &journal).unwrap();
    let t2 = pool.events.ended("t2").await;
    assert_eq!((t2.stop_reason(), t2.attempt()), ("end_turn", 1));
    pool.stop().await;
}
