//! What an operator asks and does: `show`, `status`, `pause`, `resume`, `retry`.

use std::fs::File;

use serde_json::{Value, json};

use super::call::Call;
use super::status::reported;
use super::submit::producer;
use crate::support::broker::Broker;
use crate::support::engine::is_exec;
use crate::support::pool::{Pool, turn};

fn call(pool: &Pool, url: &str, arguments: &[&str]) -> Call {
    let root = pool.root();
    producer(url, arguments)
        .set("WORKSPACE_ROOT", root.to_str().unwrap())
        .env("NO_COLOR", "1")
}

async fn shown(pool: &Pool, url: &str, id: &str, code: i32) -> Value {
    let arguments = ["show", id, "--timeout", "10m"];
    let done = call(pool, url, &arguments).run().await.ended(code);
    done.events().remove(0)
}

fn line<'a>(status: &'a Value, workspace: &str) -> &'a Value {
    let lines = status["backlog"]["top"].as_array();
    let mut lines = lines.into_iter().flatten();
    let line = lines.find(|line| line["workspace"] == workspace);
    line.unwrap_or(&Value::Null)
}

/// Guards `TurnReport`, `why`, `BlockedTurns`, `Queue::set_paused`, `PauseWatch` and `keep_failed`.
#[tokio::test]
async fn what_an_operator_asks_of_turns_and_workspaces_is_answered() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 1, &[("SLOTS", "3")]).await;
    let paused = call(&pool, &url, &["pause", "b", "--reason", "a fix"]);
    paused.run().await.ended(0);
    pool.enqueue(&[
        turn("f1", "locked", &["fail unexpected status 401 Unauthorized"]),
        turn("a1", "a", &["say hi", "wait go"]),
        turn("a2", "a", &[]),
    ])
    .await;
    pool.events.ended("f1").await;
    pool.started("a1", 1).await;
    pool.metric_is("turn_worker_condition{condition=\"paused\"}", 1.0)
        .await;
    pool.unlocked("locked").await;
    let lock = pool
        .root()
        .join(".turn-worker/workspaces/locked/.state/lock");
    let lock = File::open(lock).unwrap();
    lock.try_lock().unwrap();
    pool.enqueue(&[turn("l1", "locked", &[]), turn("b1", "b/below", &[])])
        .await;

    let why = |status: &Value, workspace: &str| line(status, workspace)["why"].to_string();
    let status = reported(&url, "why each workspace waits", |status| {
        why(status, "locked").contains("locked since") && line(status, "b/below") != &Value::Null
    });
    let (status, a1, a2, f1, unknown) = tokio::join!(
        status,
        shown(&pool, &url, "a1", 0),
        shown(&pool, &url, "a2", 0),
        shown(&pool, &url, "f1", 0),
        shown(&pool, &url, "nowhere", 1),
    );
    let holder = format!("locked by process {}", std::process::id());
    assert!(why(&status, "locked").contains(&holder), "{status:#}");
    assert!(why(&status, "a").contains("a1 runs on"), "{status:#}");
    assert_eq!(line(&status, "b/below")["why"], "paused");
    let conditions = status["workers"][0]["conditions"].to_string();
    assert!(conditions.contains("b is paused since") && conditions.contains("(a fix)"));

    let worker = status["workers"][0]["name"].clone();
    assert_eq!((&a1["state"], &a1["worker"]), (&json!("running"), &worker));
    assert_eq!(a1["attempts"][0]["end"], "open");
    // The other engine reports them at the end.
    let so_far = a1["spent"]["input_tokens"].as_u64();
    assert_eq!(so_far.is_some_and(|tokens| tokens > 0), !is_exec(), "{a1}");
    let place = json!([a2["state"], a2["place"], a2["of"], a2["workspace"]]);
    assert_eq!(place, json!(["waiting", 2, 2, "a"]));
    let end = json!([
        f1["state"],
        f1["outcome"],
        f1["code"],
        f1["attempts"][0]["worker"]
    ]);
    assert_eq!(end, json!(["ended", "error", "turn.failed", worker]));
    assert!(f1["error"].as_str().unwrap().contains("401"), "{f1}");
    assert_eq!(unknown["state"], "unknown");

    // That its offers are taken is no sign that it runs.
    let waits = |status: &Value| line(status, "locked")["running"] == false;
    reported(&url, "a turn whose workspace is locked waits", waits).await;

    // What was paused is offered at once, and a retry is the turn once more.
    drop(lock);
    pool.cancel("l1").await;
    call(&pool, &url, &["resume", "b"]).run().await.ended(0);
    let retry = call(&pool, &url, &["retry", "f1"]).run().await.ended(0);
    assert_eq!(retry.out, "f1.retry-1\n");
    pool.release("go");
    pool.events
        .all_ended(["a1", "a2", "b1", "l1", "f1.retry-1"])
        .await;
    let retried = pool.events.turn("f1.retry-1");
    assert_eq!(retried.stop_reason(), "error");
    let failed = pool.process(0).log_text();
    let failed = failed
        .lines()
        .filter(|line| line.contains("\"turn ended\""));
    let failed = failed.map(|line| serde_json::from_str::<Value>(line).unwrap());
    for line in failed.filter(|line| line["outcome"] == "error") {
        assert_eq!(
            (&line["level"], &line["span"]["worker"]),
            (&json!("WARN"), &worker)
        );
        assert!(line["error"].as_str().unwrap().contains("401"), "{line}");
    }
    pool.stop().await;
}

/// Guards `Tenants`, `PauseScope::Tenant` and the label `tenant`, in a pool of two processes.
#[tokio::test]
async fn a_tenant_is_counted_paused_and_resumed() {
    let url = Broker::vhost();
    let settings = [("SLOTS", "2"), ("TENANTS", "acme")];
    let mut pool = Pool::on(&url, 2, &settings).await;
    let paused = call(&pool, &url, &["pause", "--tenant", "acme"]);
    paused.run().await.ended(0);
    pool.metric_is("turn_worker_condition{condition=\"paused\"}", 2.0)
        .await;
    let of_tenant = |id: &str, workspace: &str, tenant: &str| {
        let mut request = turn(id, workspace, &["say hi"]);
        request["tenant"] = json!(tenant);
        request
    };
    pool.enqueue(&[
        of_tenant("paused", "a", "acme"),
        of_tenant("other", "b", "globex"),
        turn("none", "c", &["say hi"]),
    ])
    .await;
    pool.events.all_ended(["other", "none"]).await;
    let status = reported(&url, "that the tenant is paused", |status| {
        line(status, "a")["why"] == "paused"
    });
    let conditions = status.await["workers"][0]["conditions"].to_string();
    assert!(conditions.contains("tenant acme is paused"), "{conditions}");
    let resumed = call(&pool, &url, &["resume", "--tenant", "acme"]);
    resumed.run().await.ended(0);
    pool.events.ended("paused").await;
    for tenant in ["acme", "other", "none"] {
        let ended = format!("turn_worker_turns_total{{outcome=\"end_turn\",tenant=\"{tenant}\"}}");
        pool.metric_is(&ended, 1.0).await;
    }
    pool.stop().await;
}
