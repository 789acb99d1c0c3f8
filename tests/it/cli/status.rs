//! `turn-worker status`: what the pool reports.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use turn_worker::amqp::connect::Connector;
use turn_worker::amqp::link::Link;
use turn_worker::amqp::messages::{About, Running, Status};
use turn_worker::amqp::publish::{json_properties, publish_on};
use turn_worker::amqp::topology::Topology;

use super::call::Call;
use super::submit::producer;
use crate::support::broker::Broker;
use crate::support::pool::{Deadline, Pool, turn};

fn status(url: &str, arguments: &[&str]) -> Call {
    // Heartbeats may come late on a busy machine.
    let call = producer(url, &[&["status"], arguments].concat());
    call.env("NO_COLOR", "1")
}

/// Until the pool reports what `is_so` wants.
pub(super) async fn reported(url: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let probe = async || {
        let done = status(url, &["--timeout", "10m"]).run().await.ended(0);
        let told = done.events().remove(0);
        is_so(&told).then_some(told)
    };
    Deadline::of_a_test().until(what, probe).await
}

async fn link(url: &str) -> Link {
    let url = url.to_owned();
    let connector = Connector::new("test", move || Ok(url.as_str().into()));
    connector.connect().await.unwrap()
}

/// Guards what workers and sequencers report for the operator.
#[tokio::test]
async fn a_pool_with_a_standby_and_a_full_line_is_reported() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 2, &[("SLOTS", "1"), ("MAX_WAITING", "3")]).await;
    // Before the first turn the broker does not show which one it chose.
    let idle = reported(&url, "both are there", |told| {
        told["sequencers"].as_array().unwrap().len() == 2
    });
    let idle = idle.await;
    assert_eq!(idle["backlog"], Value::Null);
    assert!(
        idle["sequencers"]
            .as_array()
            .unwrap()
            .iter()
            .all(|one| one["active"] == false)
    );

    let enqueued_at = "2026-01-02T03:04:05Z";
    let mut old = turn("a2", "a", &[]);
    old["enqueued_at"] = json!(enqueued_at);
    pool.enqueue(&[turn("a1", "a", &["wait go"]), turn("b1", "b", &["wait go"])])
        .await;
    pool.started("a1", 1).await;
    pool.started("b1", 1).await;
    pool.enqueue(&[
        old,
        turn("a3", "a", &[]),
        turn("c1", "c", &[]),
        turn("a4", "a", &[]),
    ])
    .await;
    pool.events.ended("a4").await;
    let busy = reported(&url, "two run and three wait", |told| {
        let workers = told["workers"].as_array().unwrap();
        told["backlog"]["waiting"] == 3 && workers.iter().all(|worker| worker["busy"] == 1)
    });
    let busy = busy.await;

    let version = env!("CARGO_PKG_VERSION");
    let workers = busy["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 2);
    let mut ids = Vec::new();
    for worker in workers {
        assert_eq!(
            (&worker["slots"], &worker["version"]),
            (&json!(1), &json!(version))
        );
        assert_eq!(worker["codex"], turn_worker::versions::CODEX);
        let (name, host) = (
            worker["name"].as_str().unwrap(),
            worker["host"].as_str().unwrap(),
        );
        assert!(!host.is_empty() && name.starts_with(host), "{worker}");
        let running = &worker["running"][0];
        assert_eq!(running["attempt"], 1);
        ids.push(running["turn_id"].as_str().unwrap());
    }
    ids.sort_unstable();
    assert_eq!(ids, ["a1", "b1"]);
    let active = pool.active_sequencer().await;
    let pid = pool.process(active).pid();
    for sequencer in busy["sequencers"].as_array().unwrap() {
        let is_it = sequencer["name"]
            .as_str()
            .unwrap()
            .contains(&format!("-{pid}-"));
        assert_eq!(sequencer["active"], is_it, "{sequencer}");
    }
    let backlog = &busy["backlog"];
    assert_eq!(
        (&backlog["turns"], &backlog["workspaces"]),
        (&json!(5), &json!(3))
    );
    assert_eq!(backlog["oldest"]["enqueued_at"], enqueued_at);
    let line = &backlog["top"][0];
    assert_eq!(
        (&line["workspace"], &line["turns"], &line["running"]),
        (&json!("a"), &json!(3), &json!(true))
    );
    for (name, count) in [
        ("offers_untaken", 1),
        ("dead_letters", 1),
        ("turns_not_held", 0),
        ("turns_consumers", 1),
    ] {
        assert_eq!(busy[name], count, "{name}");
    }

    let call = status(&url, &["-n", "1", "--timeout", "10m"]).start_on_terminal();
    let screen = call.done().await.ended(0).out.replace("\r\n", "\n");
    for part in [
        "workers     2, 2 of 2 slots busy\n",
        "is active, 1 on standby\n",
        "turns       5 of 3 workspaces (at most 10000); 3 wait, the oldest for ",
        "rejected    1 (turn-worker dead list)\n",
        "takes turns\n",
        "… and 1 more\n",
        "… and 2 more\n",
    ] {
        assert!(screen.contains(part), "no {part:?} in {screen}");
    }

    // The active one drains, and runs its turn to the end: the other takes over.
    pool.process(active).terminate();
    pool.process(active).draining().await;
    let drained = reported(&url, "one drains, the other has taken over", |told| {
        let workers = told["workers"].as_array().unwrap();
        told["backlog"]["turns"] == 5
            && told["sequencers"].as_array().unwrap().len() == 1
            && workers
                .iter()
                .filter(|worker| worker["draining"] == true)
                .count()
                == 1
    });
    drained.await;
    pool.release("go");
    pool.events.all_ended(["a1", "a2", "a3", "b1", "c1"]).await;
    assert_eq!(pool.process(active).exited().await, Some(0));
    pool.stop().await;
}

#[tokio::test]
async fn no_reports_are_an_error_that_says_what_that_means() {
    let url = Broker::vhost();
    let done = status(&url, &[]).run().await.ended(1);
    done.says(&["no worker has ever run on 127.0.0.1:", "codex.status"]);
    let link = link(&url).await;
    Topology::new("codex", 10_000).declare(&link).await.unwrap();
    link.close().await;
    let done = status(&url, &["--timeout", "3s"]).run().await.ended(1);
    done.says(&[
        "no reports on exchange \"codex.status\" of 127.0.0.1:",
        "within 3s",
        "TURN_WORKER_PREFIX",
    ]);
    assert_eq!(done.out, "");
    let nowhere = status("amqp://127.0.0.1:1/v", &[]).run().await.ended(1);
    nowhere.says(&["can't reach the broker"]);
    let wrong = status(&url, &["--watch"]).run().await.ended(2);
    wrong.says(&["--watch is for a terminal"]);
    for (arguments, part) in [(&["-n", "0"][..], "1..=100"), (&["--timeout", "1s"], "3s")] {
        let done = status(&url, arguments).run().await.ended(2);
        assert!(done.err.contains(part), "{done:?}");
    }
}

/// Input by a worker's user is bounded, and has no escape sequences when it is
/// printed.
#[tokio::test]
async fn g8_g10_what_is_forged_on_the_status_exchange_does_no_harm() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 1, &[]).await;
    let forged = Status::Heartbeat {
        worker: format!("\u{1b}[2Jowned\u{9b}31m{}", "x".repeat(100_000)),
        version: "\u{1b}]0;owned\u{7}".to_owned(),
        slots: u32::MAX,
        running: vec![Running {
            workspace: "a".to_owned(),
            turn_id: "forged".to_owned(),
            attempt: u32::MAX,
            started_at: jiff::Timestamp::MAX,
            spent: None,
        }],
        about: About {
            lacks: vec!["\u{1b}[31m\n\n".to_owned(); 1000],
            ..About::default()
        },
    };
    let bodies = [
        forged.encode(),
        b"no JSON".to_vec(),
        br#"{"v":1,"type":"sequencer","process":"p","active":true,"backlog":{"limit":1,"turns":1,"waiting":1,"workspaces":1,"top":[{"workspace":"../\n","turns":1,"running":true}]}}"#.to_vec(),
        br#"{"v":9,"type":"farewell"}"#.to_vec(),
    ];
    let link = link(&url).await;
    let channel = link.confirm_channel().await.unwrap();
    let call = status(&url, &["--timeout", "10m"]).start_on_terminal();
    let forging = async {
        loop {
            for body in &bodies {
                let published =
                    publish_on(&channel, "codex.status", "", json_properties(), body, false);
                published.await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let done = tokio::select! {
        done = call.done() => done.ended(0),
        () = forging => unreachable!("it goes on for ever"),
    };
    assert!(
        done.out.contains("workers     2, ") && done.out.contains("forged"),
        "{done:?}"
    );
    assert!(
        !done.out.contains(['\u{1b}', '\u{9b}', '\u{7}']),
        "{done:?}"
    );
    assert!(done.out.len() < 10_000, "{} bytes", done.out.len());
    link.close().await;
    // Nor the pool.
    pool.enqueue(&[turn("t1", "a", &[])]).await;
    pool.events.ended("t1").await;
    pool.stop().await;
}

#[tokio::test]
async fn a_watch_goes_on_until_ctrl_c() {
    let url = Broker::vhost();
    let watch = status(&url, &["--watch", "--timeout", "3s"]).start_on_terminal();
    watch.printed("no worker has ever run").await;
    let pool = Pool::on(&url, 1, &[]).await;
    watch.printed("takes turns").await;
    watch.signal(Signal::INT);
    assert_eq!(watch.done().await.code, None);
    pool.stop().await;
}
