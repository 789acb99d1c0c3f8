//! `thread` in a request: which conversation a turn goes on with.

use std::fs;

use serde_json::Value;

use crate::support::engine::is_exec;
use crate::support::pool::{Pool, turn};

fn new_thread(id: &str, script: &[&str]) -> Value {
    let mut request = turn(id, "a", script);
    request["thread"] = "new".into();
    request
}

fn thread(pool: &Pool, id: &str) -> String {
    let turn = pool.events.turn(id);
    turn.end().unwrap()["thread_id"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Guards `Attempt::session`, also where a server waits with the thread of
/// the turn before.
#[tokio::test]
async fn g7_a_new_conversation_starts_where_one_is_asked_for_and_is_the_workspaces() {
    let mut pool = Pool::start(1, &[]).await;
    let requests = [
        turn("t1", "a", &["say 1", "say 2"]),
        new_thread("t2", &["say 3"]),
        turn("t3", "a", &["say 4"]),
        new_thread("t4", &[]),
    ];
    for request in &requests {
        pool.enqueue(std::slice::from_ref(request)).await;
        let id = request["turn_id"].as_str().unwrap();
        assert_eq!(pool.events.ended(id).await.stop_reason(), "end_turn");
    }
    let [t1, t2, t3, t4] = ["t1", "t2", "t3", "t4"].map(|id| thread(&pool, id));
    assert_ne!(t2, t1);
    assert_eq!(t3, t2);
    assert!(t4 != t1 && t4 != t2);
    for (id, tokens) in [("t1", 300), ("t2", 200), ("t3", 200), ("t4", 100)] {
        let used = pool.events.turn(id).input_tokens();
        assert_eq!(used, Some(tokens), "{id}");
    }
    let session = fs::read_to_string(pool.root().join("a/.plexum-codex-session"));
    assert_eq!(session.unwrap().trim(), t4);
    pool.stop().await;
}

/// The thread that a turn was recorded to have started.
fn begun(pool: &Pool) -> Option<String> {
    let state = pool.root().join(".turn-worker/workspaces/a/.state");
    let record = fs::read_to_string(state.join("begun")).ok()?;
    let record: Value = serde_json::from_str(&record[9..]).unwrap();
    Some(record["thread"].as_str().unwrap().to_owned())
}

/// A pool in which `a` has a conversation, and the next worker has this fault.
async fn pool_with_a_past(fault: &str) -> (Pool, usize) {
    let mut pool = Pool::start(1, &[]).await;
    let first = turn("t1", "a", &["keep-records", "say 1"]);
    pool.enqueue(&[first]).await;
    pool.events.ended("t1").await;
    pool.process(0).terminate();
    assert_eq!(pool.process(0).exited().await, Some(0));
    let next = pool.spawn(&[("FAILPOINTS", fault)]);
    pool.ready().await;
    (pool, next)
}

/// Guards `Attempt::own_thread` and what is recorded for it: SIGKILL before and
/// after that record, when the session file names the conversation before.
#[tokio::test]
async fn a_later_attempt_goes_on_with_its_own_new_conversation_and_no_other() {
    for (place, recorded) in [("turn.thread_adopted", false), ("turn.thread_begun", true)] {
        let (mut pool, dying) = pool_with_a_past(&format!("{place}=return(kill)")).await;
        pool.enqueue(&[new_thread("t2", &["say 2"]), turn("t3", "a", &["say 3"])])
            .await;
        assert_eq!(pool.process(dying).exited().await, None);
        let session = fs::read_to_string(pool.root().join("a/.plexum-codex-session"));
        let (before, own) = (thread(&pool, "t1"), begun(&pool));
        assert_eq!(session.unwrap().trim(), before);
        assert_eq!(own.is_some(), recorded);
        pool.spawn(&[]);
        let t2 = pool.events.ended("t2").await;
        assert_eq!((t2.stop_reason(), t2.attempt()), ("end_turn", 2));
        let new = thread(&pool, "t2");
        assert_ne!(new, before);
        if let Some(own) = own.filter(|_| is_exec()) {
            // app-server forgets a thread that has had no turn, so a third one starts.
            assert_eq!(new, own);
        }
        assert_eq!(pool.events.ended("t3").await.stop_reason(), "end_turn");
        assert_eq!(thread(&pool, "t3"), new);
        pool.stop().await;
    }
}

/// Guards that a turn which never got to its conversation is counted without
/// the one before (`Attempt::spent_before`), which stays the workspace's.
#[tokio::test]
async fn g7_what_never_started_a_conversation_has_spent_no_tokens_of_the_one_before() {
    let (mut pool, dying) = pool_with_a_past("turn.thread_adopted=return(kill)").await;
    let mut request = new_thread("t2", &["say 2"]);
    request["max_attempts"] = 1.into();
    let next = turn("t3", "a", &["keep-records", "say 3"]);
    pool.enqueue(&[request, next]).await;
    assert_eq!(pool.process(dying).exited().await, None);
    pool.spawn(&[]);
    let t2 = pool.events.ended("t2").await;
    assert_eq!(t2.error_code(), Some("turn.attempts_exhausted"));
    assert_eq!(t2.input_tokens(), None);
    assert_eq!(pool.events.ended("t3").await.input_tokens(), Some(200));
    assert_eq!(thread(&pool, "t3"), thread(&pool, "t1"));
    pool.stop().await;
}

/// Guards that what an attempt spent which died is counted from the new
/// conversation's beginning (`Meter::carried`).
#[tokio::test]
async fn g7_a_new_conversation_counts_what_its_dead_attempt_spent_and_no_more() {
    let (mut pool, dying) = pool_with_a_past("").await;
    // Dies when the worker has the new thread.
    let kept = format!(
        "run while grep -q {} .plexum-codex-session; do sleep 0.01; done",
        thread(&pool, "t1")
    );
    let script = [
        "keep-records",
        "say 2",
        "once died",
        &kept,
        "kill-worker",
        "hang",
    ];
    let next = turn("t3", "a", &["keep-records", "say 3"]);
    pool.enqueue(&[new_thread("t2", &script), next]).await;
    assert_eq!(pool.process(dying).exited().await, None);
    let own = begun(&pool).unwrap();
    pool.spawn(&[]);
    let t2 = pool.events.ended("t2").await;
    assert_eq!((t2.stop_reason(), t2.attempt()), ("end_turn", 2));
    assert_eq!(t2.input_tokens(), Some(100 + 200));
    assert_eq!(pool.events.ended("t3").await.input_tokens(), Some(200));
    assert!(["t2", "t3"].iter().all(|id| thread(&pool, id) == own));
    pool.stop().await;
}
