//! A reader with a full queue: the broker then refuses every event that
//! reaches it, although all other queues have it.

use anyhow::Context;
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};

/// The queue is exclusive: it lives as long as this connection.
pub struct FullReader {
    _connection: Connection,
}

impl FullReader {
    /// Binds a queue of one message that is there already to all events.
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), 1.into());
        let refuse = AMQPValue::LongString("reject-publish".into());
        arguments.insert("x-overflow".into(), refuse);
        let options = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        let queue = channel.queue_declare("".into(), options, arguments).await?;
        let name = queue.name().clone();
        // Full before it is bound, so that it never takes an event.
        for _ in 0..2 {
            let publish = channel.basic_publish(
                "".into(),
                name.clone(),
                BasicPublishOptions::default(),
                b"full",
                BasicProperties::default(),
            );
            publish.await?.await?;
        }
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        channel
            .queue_bind(name, "codex.events".into(), "#".into(), options, none)
            .await
            .context("binding a full queue")?;
        Ok(Self {
            _connection: connection,
        })
    }
}
