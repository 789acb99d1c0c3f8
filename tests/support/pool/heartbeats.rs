//! The workers' heartbeats, by which a test knows that time has passed for them.

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use serde_json::Value;

use super::Pool;

impl Pool {
    /// Until so many more heartbeats have come from a pool of one process.
    pub async fn heartbeats(&self, count: usize) {
        let connecting = Connection::connect(&self.url, ConnectionProperties::default());
        let connection = connecting.await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let none = FieldTable::default;
        let declaring = channel.queue_declare("test.heartbeats".into(), options, none());
        declaring.await.unwrap();
        let binding = channel.queue_bind(
            "test.heartbeats".into(),
            "codex.status".into(),
            "".into(),
            QueueBindOptions::default(),
            none(),
        );
        binding.await.unwrap();
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let consuming = channel.basic_consume("test.heartbeats".into(), "".into(), options, none());
        let mut messages = consuming.await.unwrap();
        let mut seen = 0;
        while seen < count {
            let message = self.deadline.within("a heartbeat", messages.next()).await;
            let message = message.unwrap().unwrap();
            let body: Value = serde_json::from_slice(&message.data).unwrap();
            seen += usize::from(body["type"] == "heartbeat");
        }
    }
}
