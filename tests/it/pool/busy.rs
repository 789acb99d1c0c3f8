//! `on_busy` in a request: what becomes of a turn in a busy workspace, and
//! of the turns ahead of it.

use std::slice::from_ref;

use serde_json::Value;

use crate::support::pool::{Pool, Turn, turn};

const BUSY: Option<&str> = Some("workspace.busy");

fn on_busy(how: &str, id: &str, script: &[&str]) -> Value {
    let mut request = turn(id, "a", script);
    request["on_busy"] = how.into();
    request
}

fn reject(id: &str) -> Value {
    on_busy("reject", id, &[])
}

fn interrupt(id: &str) -> Value {
    on_busy("interrupt", id, &["say done"])
}

/// Its end, if it was cancelled, and in which attempt and for which turn.
async fn superseded(pool: &Pool, id: &str) -> (u64, String) {
    let turn = pool.events.ended(id).await;
    assert_eq!(turn.stop_reason(), "cancelled", "{id}");
    (turn.attempt(), superseder(&turn).unwrap())
}

fn superseder(turn: &Turn) -> Option<String> {
    let by = turn.end().unwrap()["superseded_by"].as_str();
    by.map(str::to_owned)
}

/// Guards the claim of a turn that is not to wait (`Queue::wanted`).
#[tokio::test]
async fn g5_a_turn_that_is_not_to_wait_runs_at_once_or_not_at_all() {
    let mut pool = Pool::start(1, &[]).await;
    pool.enqueue(&[on_busy("reject", "t1", &["wait go"])]).await;
    pool.started("t1", 1).await;
    pool.enqueue(&[reject("r1"), turn("t2", "a", &[]), reject("r2")])
        .await;
    for id in ["r1", "r2"] {
        let ended = pool.events.ended(id).await;
        assert_eq!((ended.error_code(), ended.attempt()), (BUSY, 0), "{id}");
        assert_eq!(ended.kinds(0), ["message_start", "error", "message_end"]);
        assert_eq!(ended.all().nth(1).unwrap()["error"]["retryable"], true);
    }
    assert!(pool.events.turn("t1").end().is_none());
    pool.release("go");
    pool.events.all_ended(["t1", "t2"]).await;
    pool.idle().await;
    pool.enqueue(&[reject("r3")]).await;
    assert_eq!(pool.events.ended("r3").await.stop_reason(), "end_turn");
    // Published again, each ends as it did.
    pool.enqueue(&[reject("r1")]).await;
    pool.events.ended_again("r1", 3).await;
    assert_eq!(pool.runs().first_starts()["a"], ["t1", "t2", "r3"]);
    let failures = r#"turn_worker_turn_failures_total{code="workspace.busy",reason="unknown"}"#;
    assert_eq!(pool.metric(failures).await, 2.0);
    pool.ready_in("codex.turns.dead", 0).await;
    pool.stop().await;
}

/// Guards that what is busy is decided by the records, not by the line: a turn
/// stands there that has ended, as its last ack is lost. And that a turn that
/// was let in is not rejected by a later sequencer.
#[tokio::test]
async fn g5_a_turn_that_was_let_in_runs_with_any_outcome_of_the_acks_ahead() {
    let mut pool = Pool::start(0, &[]).await;
    let first = pool.spawn(&[
        ("ROLES", "sequencer"),
        ("FAILPOINTS", "sequencer.done=return(kill)"),
    ]);
    pool.ready().await;
    pool.spawn(&[("ROLES", "worker"), ("SLOTS", "1")]);
    pool.ready().await;
    pool.enqueue(&[turn("t1", "a", &[])]).await;
    pool.events.ended("t1").await;
    assert_eq!(pool.process(first).exited().await, None);
    let second = pool.spawn(&[("ROLES", "sequencer")]);
    pool.ready().await;
    // The only slot is taken, so that what is let in can't run yet.
    pool.enqueue(&[turn("other", "b", &["wait go"])]).await;
    pool.started("other", 1).await;
    pool.enqueue(&[reject("r1"), reject("r2")]).await;
    assert_eq!(pool.events.ended("r2").await.error_code(), BUSY);
    pool.process(second).kill();
    pool.spawn(&[("ROLES", "sequencer")]);
    pool.ready().await;
    pool.enqueue(&[reject("r3")]).await;
    assert_eq!(pool.events.ended("r3").await.error_code(), BUSY);
    pool.release("go");
    let r1 = pool.events.ended("r1").await;
    assert_eq!((r1.stop_reason(), r1.attempt()), ("end_turn", 1));
    pool.stop().await;
}

/// Guards that turns that are not to wait don't, and each has one end.
#[tokio::test]
async fn g5_of_many_that_are_not_to_wait_each_runs_or_is_rejected_at_once() {
    let mut pool = Pool::start(2, &[("MAX_WAITING", "1")]).await;
    let ids: Vec<_> = (0..40).map(|n| format!("r{n:02}")).collect();
    let requests: Vec<_> = ids.iter().map(|id| reject(id)).collect();
    pool.enqueue(&requests).await;
    let mut ran = Vec::new();
    for id in &ids {
        let ended = pool.events.ended(id).await;
        match ended.error_code() {
            None => ran.push(id.clone()),
            code => assert_eq!((code, ended.attempt()), (BUSY, 0), "{id}"),
        }
    }
    assert_eq!(ran[0], ids[0]);
    assert_eq!(pool.runs().first_starts()["a"], ran);
    pool.stop().await;
}

/// Guards `Queue::interrupt`, that a worker is informed, and that only what
/// came before is meant, also when the interrupting turn comes again.
#[tokio::test]
async fn g1_g5_a_turn_that_interrupts_ends_those_ahead_of_it_and_no_other() {
    let mut pool = Pool::start(2, &[]).await;
    let script = ["daemon daemon", "say half", "until-interrupted heard"];
    pool.enqueue(&[turn("t1", "a", &script)]).await;
    pool.events.said("t1", "half").await;
    let waiting = ["t2", "t3"].map(|id| turn(id, "a", &[]));
    pool.enqueue(&waiting).await;
    pool.enqueue(&[interrupt("i1"), turn("t4", "a", &["wait go"])])
        .await;
    for (id, attempt) in [("t1", 1), ("t2", 0), ("t3", 0)] {
        assert_eq!(superseded(&pool, id).await, (attempt, "i1".to_owned()));
    }
    let i1 = pool.events.ended("i1").await;
    assert_eq!((i1.stop_reason(), i1.attempt()), ("end_turn", 1));
    // Once more, behind a turn that runs: that is not its concern.
    pool.started("t4", 1).await;
    pool.enqueue(&[interrupt("i1"), turn("t5", "a", &[])]).await;
    pool.enqueue(&[reject("busy")]).await;
    assert_eq!(pool.events.ended("busy").await.error_code(), BUSY);
    pool.release("go");
    for id in ["t4", "t5"] {
        assert_eq!(pool.events.ended(id).await.stop_reason(), "end_turn");
    }
    assert_eq!(pool.runs().first_starts()["a"], ["t1", "i1", "t4", "t5"]);
    assert_eq!(pool.runs().of_turn("i1").count(), 1);
    pool.stop().await;
}

/// Guards that an interrupting turn is interrupted like any other, and leaves
/// those ahead of it to the next one (`Queue::superseder`).
#[tokio::test]
async fn g5_of_many_that_interrupt_the_last_one_runs() {
    let mut pool = Pool::start(2, &[("MAX_WAITING", "1")]).await;
    pool.enqueue(&[turn("t1", "a", &["wait never"])]).await;
    pool.started("t1", 1).await;
    let ids: Vec<_> = (0..20).map(|n| format!("i{n:02}")).collect();
    let requests: Vec<_> = ids.iter().map(|id| interrupt(id)).collect();
    pool.enqueue(&requests).await;
    let last = pool.events.ended(&ids[19]).await;
    assert_eq!((last.stop_reason(), last.attempt()), ("end_turn", 1));
    let (attempt, by) = superseded(&pool, "t1").await;
    assert!(attempt == 1 && ids.contains(&by));
    for (n, id) in ids[..19].iter().enumerate() {
        let ended = pool.events.ended(id).await;
        // One may have got to run before the next one came.
        if let Some(by) = superseder(&ended) {
            assert!(ids[n + 1..].contains(&by), "{id} by {by}");
        } else {
            assert_eq!(ended.stop_reason(), "end_turn", "{id}");
        }
    }
    pool.stop().await;
}

/// Guards that the durable mark says why a turn was cancelled
/// (`Claims::mark_cancelled`): its worker dies when codex has been stopped.
#[tokio::test]
async fn g5_the_next_attempt_of_a_superseded_turn_is_superseded_too() {
    let mut pool = Pool::start(0, &[("ROLES", "worker")]).await;
    pool.spawn(&[("ROLES", "sequencer")]);
    let dying = pool.spawn(&[("FAILPOINTS", "turn.exited=return(kill)")]);
    pool.ready().await;
    pool.enqueue(&[turn("t1", "a", &["wait never"])]).await;
    pool.started("t1", 1).await;
    pool.spawn(&[]);
    pool.ready().await;
    pool.enqueue(&[interrupt("i1")]).await;
    assert_eq!(pool.process(dying).exited().await, None);
    assert_eq!(superseded(&pool, "t1").await, (2, "i1".to_owned()));
    assert_eq!(pool.events.ended("i1").await.stop_reason(), "end_turn");
    assert_eq!(pool.runs().of_turn("t1").count(), 1);
    pool.stop().await;
}

/// Guards that a turn has one end, with any cause of its end.
#[tokio::test]
async fn g5_a_cancel_and_an_interrupt_at_once_are_one_end() {
    let mut pool = Pool::start(2, &[]).await;
    for round in 0..8 {
        let [t, w, i] = ["t", "w", "i"].map(|kind| format!("{kind}{round}"));
        pool.enqueue(&[turn(&t, "a", &["wait never"])]).await;
        pool.started(&t, 1).await;
        pool.enqueue(&[turn(&w, "a", &["wait never"])]).await;
        let interrupt = interrupt(&i);
        if round % 2 == 0 {
            pool.enqueue(from_ref(&interrupt)).await;
        }
        pool.cancel(&t).await;
        pool.cancel(&w).await;
        if round % 2 == 1 {
            pool.enqueue(from_ref(&interrupt)).await;
        }
        // The second may start between the first one's end and its own cancel.
        for (id, attempts) in [(&t, 1..=1), (&w, 0..=1)] {
            let ended = pool.events.ended(id).await;
            assert_eq!(ended.stop_reason(), "cancelled", "{id}");
            assert!(attempts.contains(&ended.attempt()), "{id}: {ended:#?}");
            assert!(superseder(&ended).is_none_or(|by| by == i), "{id}");
        }
        // One that began has had its start confirmed, mostly: its end alone comes again.
        let repeated = match pool.events.turn(&w).attempt() {
            0 => 2,
            _ => 1,
        };
        assert_eq!(pool.events.ended(&i).await.stop_reason(), "end_turn");
        // Their ends come again as they were, which the pool checks.
        pool.enqueue(&[turn(&t, "a", &["wait never"])]).await;
        pool.enqueue(&[turn(&w, "a", &["wait never"])]).await;
        pool.events.ended_again(&w, repeated).await;
    }
    pool.stop().await;
}
