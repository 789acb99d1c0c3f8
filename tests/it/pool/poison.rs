//! G4 for messages that a broker delivers and lapin does not survive.

use std::collections::BTreeSet;

use serde_json::json;
use tokio::task::spawn_blocking;

use crate::support::broker::Broker;
use crate::support::poison::{Poison, matrix, texts};
use crate::support::pool::{Pool, turn};
use crate::support::raw_amqp::{Answer, RawMessage, RawProducer, RawProperties};

/// A simple request.
pub fn request(turn_id: &str, workspace: &str, properties: RawProperties) -> RawMessage {
    let body = turn(turn_id, workspace, &[]).to_string();
    RawMessage::new("codex.requests", b"turn", properties, body.as_bytes())
}

/// A cancel of a turn that there is not.
pub fn cancel(routing_key: &[u8], properties: RawProperties) -> RawMessage {
    let body = json!({"action": "cancel", "turn_id": "no-such-turn"}).to_string();
    RawMessage::new("codex.control", routing_key, properties, body.as_bytes())
}

/// Publishes it, unless this version of the broker does not take it.
pub async fn published(producer: &mut RawProducer, poison: &Poison, message: &RawMessage) -> bool {
    match producer.publish(message).await {
        Answer::Taken => true,
        Answer::Refused(words) => {
            assert!(poison.may_be_refused, "{}: {words}", poison.name);
            println!("refused by the broker: {}: {words}", poison.name);
            false
        }
    }
}

/// The connections of a vhost's pool, by the broker's names for them.
async fn connections(url: &str) -> BTreeSet<String> {
    let vhost = url.rsplit('/').next().unwrap().to_owned();
    let listed = spawn_blocking(|| {
        Broker::shared().ctl(&["list_connections", "pid", "vhost", "client_properties"])
    });
    let listed = listed.await.unwrap();
    let lines = listed.lines().map(|line| line.split('\t'));
    let ours = lines.filter_map(|mut columns| {
        let (pid, of, properties) = (columns.next()?, columns.next()?, columns.next()?);
        let is_ours = of == vhost && properties.contains(env!("CARGO_PKG_NAME"));
        // The one that compares the process with its pool comes and goes.
        (is_ours && !properties.contains(" pool\"")).then(|| pid.to_owned())
    });
    ours.collect()
}

fn repaired(what: &str) -> String {
    format!("turn_worker_amqp_repaired_total{{what=\"{what}\"}}")
}

/// Guards `FrameFilter`, and that `Connector::connect` puts it before lapin.
#[tokio::test]
async fn g4_no_message_of_a_producer_ends_a_connection_or_a_process() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 2, &[]).await;
    pool.enqueue(&[turn("before", "a", &[])]).await;
    pool.events.ended("before").await;
    let before = connections(&url).await;
    // For publishing, the worker and the sequencer.
    assert_eq!(before.len(), 2 * 3, "{before:?}");

    let mut producer = RawProducer::new(&url);
    let mut turns = Vec::new();
    for (number, poison) in matrix().iter().enumerate() {
        let properties = poison.properties.clone();
        published(&mut producer, poison, &cancel(b"", properties.clone())).await;
        // A few lines, so that order matters, too.
        let (id, workspace) = (format!("t{number}"), format!("w{}", number % 8));
        if published(&mut producer, poison, &request(&id, &workspace, properties)).await {
            turns.push(id);
        }
    }
    for (_, key) in texts() {
        let message = cancel(&key, RawProperties::default());
        assert_eq!(producer.publish(&message).await, Answer::Taken);
    }
    let mut in_pieces = request("in-pieces", "a", RawProperties::default());
    in_pieces.piece = 1;
    assert_eq!(producer.publish(&in_pieces).await, Answer::Taken);
    turns.push("in-pieces".to_owned());
    pool.enqueue(&[turn("after", "a", &[])]).await;
    turns.push("after".to_owned());
    assert!(turns.len() > 100, "{}", turns.len());
    for id in turns {
        let turn = pool.events.ended(&id).await;
        assert_eq!(
            (turn.stop_reason(), turn.attempt()),
            ("end_turn", 1),
            "{id}"
        );
    }

    assert_eq!(connections(&url).await, before);
    pool.ready().await;
    for process in pool.processes() {
        assert!(process.lives());
        assert!(process.metrics().await.get(&repaired("string")) > 0.0);
    }
    for what in ["string", "depth", "size"] {
        assert!(pool.metric(&repaired(what)).await > 0.0, "{what}");
    }
    pool.metric_is("turn_worker_amqp_reconnects_total", 0.0)
        .await;
    pool.stop().await;
}
