//! A worker that runs nothing: it takes a turn and tells of it what the test
//! wants told, the impossible, too.

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use serde_json::{Value, json};

use crate::support::pool::{Deadline, persistent};

pub struct Scripted {
    _connection: Connection,
    channel: Channel,
    turns: lapin::Consumer,
}

impl Scripted {
    /// In place of a pool, on a vhost where nothing is yet.
    pub async fn on(url: &str) -> Self {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect(url, properties).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let durable = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let none = FieldTable::default;
        for (exchange, kind) in [
            ("codex.requests", ExchangeKind::Direct),
            ("codex.events", ExchangeKind::Topic),
        ] {
            let declare = channel.exchange_declare(exchange.into(), kind, durable, none());
            declare.await.unwrap();
        }
        let queue = "codex.turns";
        let declare = channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), none());
        declare.await.unwrap();
        let options = QueueBindOptions::default();
        let bind = channel.queue_bind(
            queue.into(),
            "codex.requests".into(),
            "turn".into(),
            options,
            none(),
        );
        bind.await.unwrap();
        let options = BasicConsumeOptions::default();
        let consume = channel.basic_consume(queue.into(), "".into(), options, none());
        let turns = consume.await.unwrap();
        Self {
            _connection: connection,
            channel,
            turns,
        }
    }

    /// Leaves the exchanges, and no queue behind them.
    pub async fn leave(self) {
        let options = QueueDeleteOptions::default();
        let delete = self.channel.queue_delete("codex.turns".into(), options);
        delete.await.unwrap();
    }

    /// Takes the next turn, and publishes these events as its own, in this order.
    pub async fn tell(&mut self, events: &[Value]) {
        let next = self.turns.next();
        // Not the test's own: some start a program for each of many turns.
        let turn = Deadline::of_a_test().within("a turn comes", next).await;
        let turn = turn.unwrap().unwrap();
        let request: Value = serde_json::from_slice(&turn.data).unwrap();
        let id = request["turn_id"].as_str().unwrap();
        for event in events {
            let mut event = event.clone();
            event["turn_id"] = json!(id);
            let body = event.to_string();
            let publish = self.channel.basic_publish(
                "codex.events".into(),
                id.into(),
                BasicPublishOptions::default(),
                body.as_bytes(),
                persistent(),
            );
            publish.await.unwrap();
        }
        turn.ack(BasicAckOptions::default()).await.unwrap();
    }
}
