//! A process that can't be killed, in a pool.

use std::process::Command;

use serde_json::Value;

use crate::support::broker::Broker;
use crate::support::hung::{HungFolder, leave};
use crate::support::pool::{Pool, is_alive, turn};

/// Guards `Report::Unkillable`: a turn that waited for it would keep its slot.
#[tokio::test]
async fn g2_g3_what_cannot_be_killed_holds_its_workspace_and_no_slot() {
    let settings = [("SLOTS", "1"), ("KILL_TIMEOUT", "1s")];
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 2, &settings).await;
    let folder = pool.stand_in_file("hung");
    let Some(hung) = HungFolder::at(&folder) else {
        return pool.stop().await;
    };
    let file = pool.stand_in_file("of");
    let leave = leave(&folder, &file);
    pool.enqueue(&[
        turn("leaves", "a", &[&leave, "say hi"]),
        turn("waits", "a", &["say hi"]),
    ])
    .await;
    assert_eq!(pool.events.ended("leaves").await.stop_reason(), "end_turn");
    let pid = pool.pid_in("of");
    assert!(is_alive(pid), "the test shows nothing");
    // Both slots are free for others.
    let others: Vec<Value> = (0..4)
        .map(|number| turn(&format!("other-{number}"), &format!("o{number}"), &[]))
        .collect();
    pool.enqueue(&others).await;
    pool.events
        .all_ended((0..4).map(|number| format!("other-{number}")))
        .await;
    assert!(pool.events.turn("waits").end().is_none() && is_alive(pid));
    let held = async || (pool.metric("turn_worker_workspaces_held").await >= 1.0).then_some(());
    pool.deadline.until("a worker reports it", held).await;
    let text = pool.processes()[0].get("/metrics").await.unwrap().1
        + &pool.processes()[1].get("/metrics").await.unwrap().1;
    let series = text
        .lines()
        .find(|line| line.starts_with("turn_worker_unkillable_process_timestamp_seconds{"));
    let series = series.unwrap();
    for label in [
        &format!("pid=\"{pid}\""),
        "user=\"root\"",
        "workspace=\"a\"",
        "command=\"cat ",
    ] {
        assert!(series.contains(label), "{series}");
    }
    let told = async || {
        let status = status(&url).await;
        let mut workers = status["workers"].as_array()?.iter();
        let held = workers.find_map(|worker| worker.get("held").cloned())?;
        Some(held[0].clone())
    };
    let told = pool.deadline.until("status tells of it", told).await;
    assert_eq!(
        (&told["workspace"], &told["pid"]),
        (&"a".into(), &pid.into())
    );
    drop(hung);
    assert_eq!(pool.events.ended("waits").await.stop_reason(), "end_turn");
    assert!(!is_alive(pid));
    pool.metric_is("turn_worker_workspaces_held", 0.0).await;
    pool.stop().await;
}

/// A worker that drains does not wait for it; the lock stays, and the next worker knows why.
#[tokio::test]
async fn g3_g9_a_worker_that_drains_leaves_it_to_the_guard() {
    let settings = [("SLOTS", "1"), ("KILL_TIMEOUT", "1s")];
    let mut pool = Pool::start(1, &settings).await;
    let folder = pool.stand_in_file("hung");
    let Some(hung) = HungFolder::at(&folder) else {
        return pool.stop().await;
    };
    let file = pool.stand_in_file("of");
    let leave = leave(&folder, &file);
    pool.enqueue(&[turn("leaves", "a", &[&leave, "say hi"])])
        .await;
    pool.events.ended("leaves").await;
    let pid = pool.pid_in("of");
    pool.process(0).terminate();
    assert_eq!(pool.process(0).exited().await, Some(0));
    pool.spawn(&[]);
    pool.ready().await;
    pool.enqueue(&[turn("waits", "a", &[]), turn("other", "b", &[])])
        .await;
    pool.events.ended("other").await;
    let logged = "the turn waits: processes of an earlier turn can't be killed";
    pool.process(1).logged(logged).await;
    pool.process(1)
        .metric_is("turn_worker_workspaces_held", 1.0)
        .await;
    assert!(is_alive(pid) && pool.events.turn("waits").end().is_none());
    drop(hung);
    pool.events.ended("waits").await;
    assert!(!is_alive(pid));
    pool.stop().await;
}

async fn status(url: &str) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_turn-worker"));
    command
        .args(["status", "--json"])
        .env("TURN_WORKER_AMQP_URL", url);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    serde_json::from_slice(&output.await.unwrap().stdout).unwrap_or_default()
}
