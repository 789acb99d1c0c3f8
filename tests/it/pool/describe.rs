//! Where is my turn? Asked over the control exchange, and answered to the queue
//! that the question names.

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::{Value, json};

use super::replies::{Caller, Reply};
use crate::support::broker::Broker;
use crate::support::pool::{Pool, persistent, turn};

/// Asks, also again: a question may be dropped, as of a pool that has just started.
async fn describe(pool: &mut Pool, caller: &mut Caller, turn_id: &str, workspace: &str) -> Reply {
    let question = json!({"action": "describe", "turn_id": turn_id, "workspace": workspace});
    let id = format!("{turn_id} in {workspace}");
    let properties = persistent()
        .with_reply_to(caller.queue.as_str().into())
        .with_correlation_id(id.as_str().into());
    let asked = async || {
        let properties = properties.clone();
        pool.producer.control_with(&question, properties).await;
        let pause = std::time::Duration::from_secs(4);
        let reply = tokio::time::timeout(pause, caller.next()).await.ok()?;
        (reply.correlation_id == id).then_some(reply)
    };
    let deadline = pool.deadline;
    let reply = deadline.until("a question is answered", asked).await;
    assert_eq!(reply.kind, "description");
    let (id, place) = (&reply.body["turn_id"], &reply.body["workspace"]);
    assert_eq!((id, place), (&turn_id.into(), &workspace.into()));
    reply
}

async fn state(pool: &mut Pool, caller: &mut Caller, turn_id: &str, workspace: &str) -> Value {
    describe(pool, caller, turn_id, workspace).await.body["state"].clone()
}

/// Guards `Actor::describe`, and `Peers::is_to_describe`: one process answers, also
/// while the broker has not chosen one since they started.
#[tokio::test]
async fn a_producer_learns_where_its_turn_is() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 2, &[]).await;
    let mut caller = Caller::start(&url).await;
    let runs = turn("t1", "a", &["wait go"]);
    pool.enqueue(&[
        runs,
        turn("t2", "a", &[]),
        turn("t3", "a", &["fail no luck"]),
    ])
    .await;
    pool.started("t1", 1).await;
    let reply = describe(&mut pool, &mut caller, "t1", "a").await.body;
    let (state_, attempt) = (&reply["state"], &reply["attempt"]);
    assert_eq!((state_, attempt), (&"running".into(), &1.into()));
    let reply = describe(&mut pool, &mut caller, "t3", "a").await.body;
    let (state_, place) = (&reply["state"], &reply["place"]);
    assert_eq!((state_, place), (&"waiting".into(), &3.into()));
    // With only a turn's id, the answer is empty.
    assert_eq!(state(&mut pool, &mut caller, "t1", "b").await, "unknown");
    let workspaces = std::fs::read_dir(pool.root()).unwrap();
    let names: Vec<_> = workspaces.map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.contains(&"b".into()), "a question creates nothing");
    // A queue that may be another user's gets no answer.
    let question = json!({"action": "describe", "turn_id": "t1", "workspace": "a"});
    let forged = persistent().with_reply_to("codex.turns.dead".into());
    for properties in [forged, persistent()] {
        pool.producer.control_with(&question, properties).await;
    }
    let ignored = "turn_worker_controls_ignored_total{why=\"unusable_field\"}";
    pool.metric_is(ignored, 4.0).await;
    pool.release("go");
    pool.events.all_ended(["t1", "t2", "t3"]).await;
    let reply = describe(&mut pool, &mut caller, "t1", "a").await.body;
    let end = pool.events.ended("t1").await.end().unwrap().clone();
    assert_eq!((&reply["state"], &reply["end"]), (&"ended".into(), &end));
    assert_eq!(reply["error"], Value::Null);

    for number in 0..2 {
        pool.process(number).kill();
    }
    for _ in 0..2 {
        pool.spawn(&[]);
    }
    let reply = describe(&mut pool, &mut caller, "t3", "a").await.body;
    assert_eq!(reply["end"]["stop_reason"], "error");
    assert_eq!(reply["error"]["code"], "turn.failed");
    for (id, workspace) in [("t2", "a"), ("t1", "a"), ("t2", "b")] {
        let expected = if workspace == "a" { "ended" } else { "unknown" };
        assert_eq!(state(&mut pool, &mut caller, id, workspace).await, expected);
    }
    pool.stop().await;
}

/// So many questions at once, where that turn is. Returns when the broker has them.
async fn flood(url: &str, caller: &Caller, turn_id: &str, workspace: &str, questions: usize) {
    let connection = Connection::connect(url, ConnectionProperties::default());
    let connection = connection.await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let confirms = ConfirmSelectOptions::default();
    channel.confirm_select(confirms).await.unwrap();
    let question = json!({"action": "describe", "turn_id": turn_id, "workspace": workspace});
    let body = question.to_string();
    let mut confirms = Vec::new();
    for _ in 0..questions {
        let properties = BasicProperties::default().with_reply_to(caller.queue.as_str().into());
        let (exchange, options) = ("codex.control".into(), BasicPublishOptions::default());
        let publish =
            channel.basic_publish(exchange, "".into(), options, body.as_bytes(), properties);
        confirms.push(publish.await.unwrap());
    }
    for confirm in confirms {
        confirm.await.unwrap();
    }
}

/// Guards the order in which `Sequencer::session` listens.
#[tokio::test]
async fn g2_a_flood_of_questions_delays_no_turn() {
    const QUESTIONS: usize = 5_000;
    let url = Broker::vhost();
    // Slower than the broker delivers them, so that there is always another.
    let slow = ("FAILPOINTS", "sequencer.control=sleep(2)");
    let mut pool = Pool::on(&url, 1, &[slow]).await;
    let asker = Caller::start(&url).await;
    pool.enqueue(&[turn("t1", "a", &[])]).await;
    pool.events.ended("t1").await;
    pool.process(0).freeze();
    flood(&url, &asker, "t1", "a", QUESTIONS).await;
    pool.enqueue(&[turn("t2", "a", &[])]).await;
    pool.process(0).thaw();
    pool.started("t2", 1).await;
    let mut handled = 0.0;
    for outcome in ["sent", "unroutable", "failed", "dropped"] {
        let series = format!("turn_worker_descriptions_total{{outcome=\"{outcome}\"}}");
        handled += pool.metric(&series).await;
    }
    assert!(handled < QUESTIONS as f64, "all were handled before");
    pool.events.ended("t2").await;
    let mut caller = Caller::start(&url).await;
    assert_eq!(state(&mut pool, &mut caller, "t2", "a").await, "ended");
    pool.stop().await;
}
