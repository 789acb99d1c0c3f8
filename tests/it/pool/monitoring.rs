//! Metrics and health, as a monitor sees them.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use turn_worker::amqp::connect::CONNECTIONS_OF_A_PROCESS;

use crate::support::broker::Broker;
use crate::support::pool::{Pool, turn};

/// What only an active sequencer knows: a standby's series are absent, not 0.
#[tokio::test]
async fn a_standby_exports_no_backlog() {
    const KNOWN_TO_ONE: [&str; 4] = [
        "backlog_turns",
        "backlog_workspaces",
        "oldest_waiting_seconds",
        "workspaces_stuck",
    ];
    let mut pool = Pool::start(2, &[]).await;
    // How many processes export each of them.
    let exported = async |pool: &Pool| {
        let mut counts = [0; KNOWN_TO_ONE.len()];
        for process in pool.processes() {
            let (_, text) = process.get("/metrics").await?;
            for (count, name) in counts.iter_mut().zip(KNOWN_TO_ONE) {
                *count += usize::from(text.contains(&format!("\nturn_worker_{name} ")));
            }
        }
        Some(counts)
    };
    assert_eq!(exported(&pool).await, Some([0; KNOWN_TO_ONE.len()]));

    pool.enqueue(&[turn("t1", "a", &[])]).await;
    pool.events.ended("t1").await;
    let of_one = async || (exported(&pool).await? == [1; KNOWN_TO_ONE.len()]).then_some(());
    let what = "one of two processes knows the backlog";
    pool.deadline.until(what, of_one).await;
    pool.stop().await;
}

/// What the error at a limit of connections says that a process needs.
#[tokio::test]
async fn a_process_has_as_many_connections_as_it_says() {
    let mut pool = Pool::start(1, &[]).await;
    let lines = pool.process(0).log_lines();
    let starting = lines.iter().find(|line| line["message"] == "starting");
    // By these an operator finds the pool that a process belongs to.
    assert_eq!(starting.unwrap()["prefix"], "codex");
    let id = starting.unwrap()["id"].as_str().unwrap().to_owned();
    let as_said = async || {
        let columns = ["list_connections", "client_properties"];
        let all = tokio::task::spawn_blocking(move || Broker::shared().ctl(&columns));
        let all = all.await.ok()?;
        let own = all.lines().filter(|line| line.contains(&id));
        (own.count() == CONNECTIONS_OF_A_PROCESS).then_some(())
    };
    let what = "it has that many connections";
    pool.deadline.until(what, as_said).await;
    pool.stop().await;
}

/// Guards every call into `Metrics` on the way of a turn.
#[tokio::test]
async fn metrics_count_exactly_what_happened() {
    let settings = [
        ("CODEX_MODELS", "m1,m2,stand-in"),
        ("SLOTS", "3"),
        ("LOG", "info"),
    ];
    let mut pool = Pool::start(1, &settings).await;
    let long_ago = Timestamp::now() - SignedDuration::from_secs(60);
    let mut first = turn("t1", "a", &["say one", "think so", "wait go"]);
    first["model"] = json!("m1");
    first["enqueued_at"] = json!(long_ago.to_string());
    let mut other_model = turn("t5", "d", &[]);
    other_model["model"] = json!("m9");
    pool.enqueue(&[
        first,
        turn("t2", "a", &["say two"]),
        turn("t3", "b", &["fail no"]),
        turn("t4", "a", &[]),
        other_model,
    ])
    .await;
    pool.started("t1", 1).await;
    pool.metric_is("turn_worker_backlog_turns", 3.0).await;
    assert_eq!(pool.metric("turn_worker_slots_busy").await, 1.0);
    assert_eq!(pool.metric("turn_worker_backlog_workspaces").await, 1.0);
    pool.cancel("t4").await;
    pool.events.ended("t4").await;
    pool.release("go");
    pool.events.all_ended(["t1", "t2", "t3", "t5"]).await;
    pool.idle().await;

    let metrics = pool.process(0).metrics().await;
    for (series, value) in [
        ("turns_total{outcome=\"end_turn\"}", 2.0),
        ("turns_total{outcome=\"error\"}", 1.0),
        ("turns_total{outcome=\"cancelled\"}", 1.0),
        ("turns_total{outcome=\"timeout\"}", 0.0),
        ("attempts_total{start=\"first\"}", 3.0),
        ("attempts_total{start=\"again\"}", 0.0),
        ("turn_timeout_seconds", 3600.0),
        ("backlog_limit", 10_000.0),
        (
            "turn_failures_total{code=\"turn.failed\",reason=\"unknown\"}",
            1.0,
        ),
        ("requests_rejected_total{code=\"request.invalid\"}", 1.0),
        ("turn_duration_seconds_count", 3.0),
        // Only this one had when it was enqueued.
        ("queue_wait_seconds_count", 1.0),
        ("queue_wait_seconds_bucket{le=\"30\"}", 0.0),
        ("queue_wait_seconds_bucket{le=\"120\"}", 1.0),
        ("first_text_seconds_count", 2.0),
        // Two answers of the model in t1, two in t2 without a model; t3 reported none.
        ("input_tokens_total{model=\"m1\"}", 200.0),
        ("cached_input_tokens_total{model=\"m1\"}", 80.0),
        ("output_tokens_total{model=\"m1\"}", 40.0),
        ("reasoning_output_tokens_total{model=\"m1\"}", 10.0),
        ("input_tokens_total{model=\"m2\"}", 0.0),
        ("turns_without_usage_total", 1.0),
        ("events_published_total{type=\"message_start\"}", 5.0),
        ("events_published_total{type=\"error\"}", 2.0),
        ("events_published_total{type=\"message_end\"}", 5.0),
        ("events_nacked_total", 0.0),
        ("redeliveries_total", 0.0),
        ("duplicate_turns_total", 0.0),
        ("offers_repeated_total", 0.0),
        ("leftover_processes_killed_total", 0.0),
        ("slots", 3.0),
        ("slots_busy", 0.0),
        ("oldest_turn_seconds", 0.0),
        ("backlog_turns", 0.0),
        ("backlog_workspaces", 0.0),
        ("oldest_waiting_seconds", 0.0),
        ("amqp_connected", 1.0),
        ("amqp_reconnects_total{connection=\"publisher\"}", 0.0),
        ("turns_unpublished", 0.0),
        ("consumer_active", 1.0),
        ("sequencer_active", 1.0),
    ] {
        assert_eq!(
            metrics.get(&format!("turn_worker_{series}")),
            value,
            "{series}"
        );
    }
    for kind in ["thinking_delta", "text_delta"] {
        let turns = pool.events.turn_ids().into_iter();
        let told = turns.map(|id| {
            let turn = pool.events.turn(&id);
            turn.all().filter(|event| event["type"] == kind).count()
        });
        let series = format!("turn_worker_events_published_total{{type=\"{kind}\"}}");
        let told: usize = told.sum();
        assert!(told >= 1);
        assert_eq!(metrics.get(&series), told as f64, "{kind}");
    }
    let version = env!("CARGO_PKG_VERSION");
    let codex = turn_worker::versions::CODEX;
    // By the same name in the log.
    let log = pool.process(0).log_text();
    let start = log
        .lines()
        .find(|line| line.contains("\"starting\""))
        .unwrap();
    let start: serde_json::Value = serde_json::from_str(start).unwrap();
    let worker = start["id"].as_str().unwrap();
    let build = format!(
        "turn_worker_build_info{{codex_version=\"{codex}\",version=\"{version}\",worker=\"{worker}\"}}"
    );
    assert_eq!(metrics.get(&build), 1.0);
    pool.stop().await;
}

/// Guards `Health`: ready is who can take turns, but not while draining.
#[tokio::test]
async fn health_shows_a_drain_and_a_lost_broker() {
    let mut broker = crate::support::broker::Broker::private();
    let mut pool = Pool::on(&broker.url(), 1, &[]).await;
    broker.stop();
    let process = &pool.processes()[0];
    process.unready("not connected to the broker").await;
    assert_eq!(process.get("/healthz").await.unwrap().0, 200);
    assert_eq!(
        process.metrics().await.get("turn_worker_amqp_connected"),
        0.0
    );
    broker.start();
    process.ready().await;
    pool.enqueue(&[turn("t1", "a", &["wait go"])]).await;
    pool.started("t1", 1).await;
    pool.process(0).terminate();
    pool.process(0).draining().await;
    assert_eq!(pool.process(0).get("/healthz").await.unwrap().0, 200);
    pool.release("go");
    assert_eq!(pool.process(0).exited().await, Some(0));
    assert_eq!(pool.events.ended("t1").await.stop_reason(), "end_turn");
}
