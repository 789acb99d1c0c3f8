//! Processes of one pool that do not agree: on the workspace root, on its
//! locks, on settings.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::value::RawValue;
use turn_worker::amqp::connect::Connector;
use turn_worker::amqp::messages::Offer;
use turn_worker::amqp::publish::{json_properties, publish_on};
use uuid::Uuid;

use crate::support::broker::Broker;
use crate::support::pool::{Pool, turn};

fn root_id(root: &Path) -> String {
    let id = fs::read_to_string(root.join(".turn-worker/root-id")).unwrap();
    id.trim().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Guards `Host::set_barred` in `Pool::apply`, and with it `Sequencer::admitted`.
#[tokio::test]
async fn g1_a_process_with_another_root_takes_no_turns_until_the_others_are_gone() {
    let mut pool = Pool::start(1, &[("SLOTS", "1")]).await;
    let other = pool.root().with_file_name("other");
    let impatient = ("FAILPOINTS", "sabotage.patience=return");
    let second = pool.spawn(&[("WORKSPACE_ROOT", text(&other)), impatient]);
    pool.process(second).unready("root_differs").await;
    let (_, shown) = pool.process(second).get("/readyz").await.unwrap();
    for id in [root_id(&pool.root()), root_id(&other)] {
        assert!(shown.contains(&id), "{shown}");
    }
    pool.process(second)
        .unready("the worker does not consume offers")
        .await;
    pool.process(second)
        .unready("the sequencer is neither active nor on standby")
        .await;

    let ids: Vec<_> = (1..=6).map(|number| format!("t{number}")).collect();
    let turns: Vec<_> = ids.iter().map(|id| turn(id, "a", &["say hi"])).collect();
    pool.enqueue(&turns).await;
    pool.events.all_ended(&ids).await;
    assert!(pool.root().join("a").is_dir() && !other.join("a").exists());
    // The one that is in service has no reason to stop.
    pool.process(0).ready().await;

    // What is unacked would come again, and the other root has no record of it.
    pool.idle().await;
    pool.process(0).terminate();
    assert_eq!(pool.process(0).exited().await, Some(0));
    pool.process(second).ready().await;
    pool.enqueue(&[turn("t7", "a", &["say hi"])]).await;
    pool.events.ended("t7").await;
    assert!(other.join("a").is_dir());
    pool.stop().await;
}

/// Guards `Pool::with_patience`: an upgrade hands no pool to a wrong root.
#[tokio::test]
async fn g4_a_process_that_stood_back_leaves_a_restarted_pool_its_place() {
    let mut pool = Pool::start(1, &[("SLOTS", "1")]).await;
    let other = pool.root().with_file_name("other");
    let second = pool.spawn(&[("WORKSPACE_ROOT", text(&other))]);
    pool.process(second).unready("root_differs").await;
    pool.process(0).kill();
    pool.enqueue(&[turn("t1", "a", &["say hi"])]).await;
    let restarted = pool.spawn(&[]);
    pool.process(restarted).ready().await;
    pool.events.ended("t1").await;
    pool.process(second).unready("root_differs").await;
    assert!(pool.root().join("a").is_dir() && !other.join("a").exists());
    pool.idle().await;
}

/// Guards `Pool::announce`: they are not in service when they compare.
#[tokio::test]
async fn g1_of_processes_that_start_at_once_with_a_root_each_one_serves() {
    let mut pool = Pool::start(0, &[("SLOTS", "1")]).await;
    let roots: Vec<_> = (0..3)
        .map(|number| pool.root().with_file_name(format!("root-{number}")))
        .collect();
    for root in &roots {
        pool.spawn(&[("WORKSPACE_ROOT", text(root))]);
    }
    let processes = pool.processes();
    let decided = async || {
        let mut serving = Vec::new();
        let mut standing_back = 0;
        for (number, process) in processes.iter().enumerate() {
            let (status, shown) = process.get("/readyz").await?;
            if status == 200 {
                serving.push(number);
            }
            standing_back += usize::from(shown.contains("root_differs"));
        }
        (standing_back == 2 && serving.len() == 1).then_some(serving)
    };
    let serving = pool.deadline.until("one serves, two stand back", decided);
    let serving = serving.await[0];
    let ids: Vec<_> = (1..=6).map(|number| format!("t{number}")).collect();
    let turns: Vec<_> = ids.iter().map(|id| turn(id, "a", &["say hi"])).collect();
    pool.enqueue(&turns).await;
    pool.events.all_ended(&ids).await;
    for (number, root) in roots.iter().enumerate() {
        assert_eq!(root.join("a").exists(), number == serving, "{root:?}");
    }
    pool.idle().await;
}

/// Guards `Roster::lock_tried`: the root's id is the same, and yet it is another.
#[tokio::test]
async fn g3_a_process_with_a_copied_root_stands_back() {
    let mut pool = Pool::start(1, &[("SLOTS", "1")]).await;
    let copy = pool.root().with_file_name("copy");
    let mut copying = Command::new("cp");
    let copied = copying.arg("-a").arg(pool.root()).arg(&copy).status();
    assert!(copied.unwrap().success());
    assert_eq!(root_id(&pool.root()), root_id(&copy));
    let second = pool.spawn(&[("WORKSPACE_ROOT", text(&copy))]);
    pool.process(second).unready("locks_not_exclusive").await;
    pool.process(second)
        .unready("the worker does not consume offers")
        .await;
    pool.process(0).unready("locks_not_exclusive").await;
    pool.enqueue(&[turn("t1", "a", &["say hi"])]).await;
    pool.events.ended("t1").await;
    assert!(pool.root().join("a").is_dir() && !copy.join("a").exists());
}

/// Guards `Roster::round_read`: locks exclude each other, but what is read under them is old.
#[tokio::test]
async fn g4_a_process_that_reads_old_contents_stands_back_and_names_the_property() {
    let mut pool = Pool::start(1, &[("SLOTS", "1")]).await;
    let second = pool.spawn(&[("FAILPOINTS", "probe.old_content=return")]);
    pool.process(second).unready("reads_stale").await;
    let (_, shown) = pool.process(second).get("/readyz").await.unwrap();
    assert!(shown.contains("(content)"), "{shown}");
    pool.process(second)
        .unready("the worker does not consume offers")
        .await;
    pool.process(0).ready().await;
    pool.enqueue(&[turn("t1", "a", &["say hi"])]).await;
    pool.events.ended("t1").await;
    pool.process(0).logged("turn started").await;
}

/// Guards `Processes::check_round`, and that each property has a line of its own.
#[tokio::test]
async fn check_peer_reports_each_property_of_each_process() {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 2, &[]).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_turn-worker"));
    command
        .args(["check", "--peer", "--json"])
        .env("TURN_WORKER_AMQP_URL", &url)
        .env("TURN_WORKER_WORKSPACE_ROOT", pool.root());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = String::from_utf8(output.await.unwrap().stdout).unwrap();
    let lines = output
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let ok: Vec<_> = lines
        .filter(|line| line["check"] == "peer" && line["status"] == "ok")
        .map(|line| line["detail"].as_str().unwrap().to_owned())
        .collect();
    for process in pool.processes() {
        for property in ["lock", "length", "content", "rename", "claim"] {
            let begin = format!("-{}-", process.pid());
            let named = format!(": {property}: ");
            let is_named = |line: &&String| line.contains(&begin) && line.contains(&named);
            assert_eq!(
                ok.iter().filter(is_named).count(),
                1,
                "{property} in {output}"
            );
        }
    }
    pool.stop().await;
}

/// Guards `Roster::settings_differ`, and that a worker keeps to its own list.
#[tokio::test]
async fn settings_that_differ_are_a_warning_on_both_sides() {
    let mut pool = Pool::start(1, &[("SLOTS", "1")]).await;
    let second = pool.spawn(&[("CODEX_MODELS", "m1"), ("CODEX_MODEL", "m1")]);
    let warned = |number: usize| {
        let process = &pool.processes()[number];
        process.metric_is("turn_worker_condition{condition=\"settings_differ\"}", 1.0)
    };
    warned(second).await;
    warned(0).await;
    pool.ready().await;
    let (status, shown) = pool.processes()[second].get("/readyz").await.unwrap();
    assert_eq!(status, 200);
    assert!(
        shown.contains("CODEX_MODELS is m1 here, (any) at"),
        "{shown}"
    );
    pool.stop().await;
}

/// Guards the comparison of `Offer::root` in `Worker::read`.
#[tokio::test]
async fn g1_an_offer_of_another_roots_sequencer_is_not_run() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 1, &[("SLOTS", "1")]).await;
    let request = turn("t1", "a", &["say hi"]).to_string();
    let offer = Offer {
        repeat: false,
        enqueued_at: None,
        root: Some(Uuid::new_v4()),
        next_waits: false,
        journal: None,
        request: RawValue::from_string(request).unwrap(),
    };
    let connector = Connector::new("test", move || Ok(url.as_str().into()));
    let link = connector.connect().await.unwrap();
    let channel = link.confirm_channel().await.unwrap();
    let (queue, body) = ("codex.turns.work", offer.encode());
    let published = publish_on(&channel, "", queue, json_properties(), &body, true);
    published.await.unwrap();
    let refused = "turn_worker_turns_not_started_total{reason=\"root\"}";
    pool.metric_is(refused, 1.0).await;
    pool.enqueue(&[turn("t2", "a", &["say hi"])]).await;
    pool.events.ended("t2").await;
    assert_eq!(pool.runs().of_turn("t1").count(), 0);
    link.close().await;
    pool.stop().await;
}

/// Guards `Limits::models` in `Worker::read`: the sequencer has no list.
#[tokio::test]
async fn a_worker_runs_no_model_that_is_not_on_its_own_list() {
    let mut pool = Pool::start(1, &[("SLOTS", "1"), ("ROLES", "sequencer")]).await;
    let strict = pool.spawn(&[("ROLES", "worker"), ("CODEX_MODELS", "m1")]);
    let mut request = turn("t1", "a", &["wait go"]);
    request["model"] = "o9".into();
    pool.enqueue(&[request]).await;
    pool.process(strict)
        .logged("dropped an offer of a request that is not valid here")
        .await;
    let open = pool.spawn(&[("ROLES", "worker")]);
    let run = pool.started("t1", 1).await;
    assert_eq!(pool.process_of(&run), open);
    pool.release("go");
    pool.events.ended("t1").await;
    pool.stop().await;
}
