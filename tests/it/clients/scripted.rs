//! A worker without codex: it takes a turn and publishes of it what the test
//! wants, the impossible, too.

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
    /// In place of a pool, on a vhost that is empty.
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
        let turn = self.take().await;
        let request: Value = serde_json::from_slice(&turn.data).unwrap();
        self.publish(&request, events).await;
        turn.ack(BasicAckOptions::default()).await.unwrap();
    }

    /// Answers so many turns, as they come: with their prompt, with an error if it is `fail`, and with N pieces of a text
    /// if it is `flood N`.
    pub async fn repeat_prompts(&mut self, turns: usize) {
        for _ in 0..turns {
            let turn = self.take().await;
            let request: Value = serde_json::from_slice(&turn.data).unwrap();
            let prompt = request["messages"][0]["content"].as_str().unwrap();
            let mut events = vec![json!({"type": "message_start"})];
            let piece = |text: &str| json!({"type": "text_delta", "item_id": "m1", "text": text});
            let end = |text: &str| json!({"type": "message_end", "stop_reason": "end_turn", "text": text, "duration_ms": 1});
            match prompt.split_once(' ') {
                Some(("flood", pieces)) => {
                    let pieces = pieces.parse().unwrap();
                    events.extend((0..pieces).map(|_| piece("x")));
                    events.push(end(&"x".repeat(pieces)));
                }
                None if prompt == "fail" => {
                    events.push(json!({"type": "error", "error": {"code": "turn.failed", "message": "no", "reason": "rate_limited", "retryable": true}}));
                    events.push(
                        json!({"type": "message_end", "stop_reason": "error", "duration_ms": 1}),
                    );
                }
                _ => events.extend([piece(prompt), end(prompt)]),
            }
            for (event, seq) in events.iter_mut().zip(0..) {
                event["attempt"] = json!(1);
                event["seq"] = json!(seq);
                event["workspace"] = request["workspace"].clone();
            }
            self.publish(&request, &events).await;
            turn.ack(BasicAckOptions::default()).await.unwrap();
        }
    }

    async fn take(&mut self) -> lapin::message::Delivery {
        let next = self.turns.next();
        // Not the test's own: some start a program for each of many turns.
        let turn = Deadline::of_a_test().within("a turn comes", next).await;
        turn.unwrap().unwrap()
    }

    async fn publish(&self, request: &Value, events: &[Value]) {
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
    }
}
