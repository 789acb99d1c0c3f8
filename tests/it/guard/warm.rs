//! A server that serves one turn after another, and the time between them.

use std::fs::File;

use turn_worker::guard::Exit;

use super::Script;
use crate::support::host::{awkward, until};

/// One that does a turn a line: `turn` answers, anything else is a command.
const SERVER: &str =
    "echo ready; while read turn; do [ \"$turn\" = go ] || eval \"$turn\"; echo done; done";

async fn ready(text: &str) -> Script {
    let mut script = Script::server(text);
    assert_eq!(script.line().await, "ready");
    script.guard().mark().await;
    script
}

/// Locked, as by a process that needs the workspace.
fn ring(script: &Script) -> File {
    let bell = File::open(script.dir.path().join("bell")).unwrap();
    bell.try_lock().unwrap();
    bell
}

async fn turn(script: &mut Script) {
    script.go().await;
    assert_eq!(script.line().await, "done");
}

async fn rests(script: &mut Script) -> bool {
    matches!(script.guard().rest().await, Some(Ok(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn g1_a_server_that_waits_holds_the_lock_and_takes_the_next_turn() {
    let mut script = ready(SERVER).await;
    for _ in 0..3 {
        turn(&mut script).await;
        assert!(rests(&mut script).await);
        assert!(!script.lock_is_free());
        script.guard().wait().await;
        assert!(script.guard().take().await);
        assert!(!script.lock_is_free());
    }
    script.stdin = None;
    assert_eq!(script.closed().await.exit, Exit::Code(0));
    // As long as the worker has the turn, the lock is the worker's, too.
    assert!(!script.lock_is_free());
    script.worker_lock = None;
    // What another test starts at this moment may have inherited it until it is executed.
    until("the lock is free", || script.lock_is_free().then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn g1_g3_a_process_that_rings_finds_the_lock_free_and_no_process_alive() {
    let mut script = ready(SERVER).await;
    turn(&mut script).await;
    assert!(rests(&mut script).await);
    script.guard().wait().await;
    let _bell = ring(&script);
    // Though the worker still has its copy, as a frozen one would.
    script.unlocked();
    assert!(script.worker_lock.is_some());
    assert!(!script.guard().take().await);
    assert_eq!(script.closed().await.leftovers, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn g1_no_way_is_made_while_a_turn_runs_or_is_recorded() {
    let mut script = ready(SERVER).await;
    let bell = ring(&script);
    turn(&mut script).await;
    assert!(rests(&mut script).await);
    assert!(!script.lock_is_free());
    // It crossed: the worker goes on with the next turn, and then waits.
    assert!(script.guard().take().await);
    turn(&mut script).await;
    assert!(rests(&mut script).await);
    script.guard().wait().await;
    script.unlocked();
    drop(bell);
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_a_server_does_not_rest_while_something_of_its_turn_lives() {
    let mut script =
        ready("sleep 100000 & echo ready; while read go; do setsid sleep 100000 & echo done; done")
            .await;
    turn(&mut script).await;
    assert!(!rests(&mut script).await);
    assert!(!script.lock_is_free());
    script.stdin = None;
    // The server's own does not count.
    assert_eq!(script.closed().await.leftovers, 1);
    script.worker_lock = None;
    script.unlocked();
}

/// Guards `proc::stat`: without it, the process counts as dead, and outlives the turn.
#[tokio::test(flavor = "multi_thread")]
async fn g3_a_server_does_not_rest_while_a_turns_process_lives_without_its_first_thread() {
    let turn_of = awkward();
    let mut script = ready(&format!(
        "echo ready; while read go; do
           {} zombie-leader \"$PWD/of\" >/dev/null 2>&1 &
           until [ -e of ]; do :; done; echo done
         done",
        turn_of.display()
    ))
    .await;
    turn(&mut script).await;
    assert!(!rests(&mut script).await);
    script.stdin = None;
    assert_eq!(script.closed().await.leftovers, 1);
    script.worker_lock = None;
    script.unlocked();
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_a_server_ends_with_its_worker() {
    let mut script = ready(SERVER).await;
    turn(&mut script).await;
    assert!(rests(&mut script).await);
    script.guard().wait().await;
    script.worker_lock = None;
    drop(script.guard.take());
    script.unlocked();
}
