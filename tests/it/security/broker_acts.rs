//! What users may try on the broker, and whether it lets them.

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ExchangeBindOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ErrorKind, ExchangeKind};
use turn_worker::amqp::link::Link;
use turn_worker::amqp::publish::json_properties;

use super::broker_rights::link;

/// What a user tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act<'a> {
    Publish {
        exchange: &'a str,
        key: &'a str,
    },
    Get {
        queue: &'a str,
    },
    Purge {
        queue: &'a str,
    },
    Delete {
        queue: &'a str,
    },
    Declare {
        queue: &'a str,
    },
    /// A queue of one's own, of which what is taken out goes on to `to`.
    DeclareToDeadLetter {
        exchange: &'a str,
        to: &'a str,
    },
    DeclareExchange {
        exchange: &'a str,
    },
    /// A queue that the broker names, or another.
    Bind {
        queue: &'a str,
        exchange: &'a str,
        key: &'a str,
    },
    BindExchange {
        from: &'a str,
        to: &'a str,
    },
}

impl Act<'_> {
    /// Whether the broker lets that happen; it must not fail for other reasons.
    async fn is_allowed(self, link: &Link) -> bool {
        let channel = link.confirm_channel().await.unwrap();
        match self.tried(&channel).await {
            Ok(()) => true,
            Err(error) => match error.kind() {
                ErrorKind::ProtocolError(refusal) if refusal.get_id() == 403 => false,
                _ => panic!("{self:?}: {error}"),
            },
        }
    }

    async fn tried(self, channel: &Channel) -> lapin::Result<()> {
        let exclusive = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        let none = FieldTable::default;
        match self {
            Self::Publish { exchange, key } => {
                let options = BasicPublishOptions::default();
                let publish = channel.basic_publish(
                    exchange.into(),
                    key.into(),
                    options,
                    b"{}",
                    json_properties(),
                );
                publish.await?.await.map(|_| ())
            }
            Self::Get { queue } => {
                let options = BasicGetOptions { no_ack: true };
                channel.basic_get(queue.into(), options).await.map(|_| ())
            }
            Self::Purge { queue } => channel
                .queue_purge(queue.into(), Default::default())
                .await
                .map(|_| ()),
            Self::Delete { queue } => channel
                .queue_delete(queue.into(), QueueDeleteOptions::default())
                .await
                .map(|_| ()),
            Self::Declare { queue } => channel
                .queue_declare(queue.into(), exclusive, none())
                .await
                .map(|_| ()),
            Self::DeclareToDeadLetter { exchange, to } => {
                let mut arguments = none();
                let text = |text: &str| AMQPValue::LongString(text.into());
                arguments.insert("x-dead-letter-exchange".into(), text(exchange));
                arguments.insert("x-dead-letter-routing-key".into(), text(to));
                channel
                    .queue_declare("".into(), exclusive, arguments)
                    .await
                    .map(|_| ())
            }
            Self::DeclareExchange { exchange } => {
                let options = ExchangeDeclareOptions::default();
                channel
                    .exchange_declare(exchange.into(), ExchangeKind::Fanout, options, none())
                    .await
            }
            Self::Bind {
                queue,
                exchange,
                key,
            } => {
                let mut name = queue.to_owned();
                if name.is_empty() {
                    let declared = channel.queue_declare("".into(), exclusive, none()).await?;
                    name = declared.name().to_string();
                }
                channel
                    .queue_bind(
                        name.as_str().into(),
                        exchange.into(),
                        key.into(),
                        QueueBindOptions::default(),
                        none(),
                    )
                    .await
            }
            Self::BindExchange { from, to } => {
                let options = ExchangeBindOptions::default();
                channel
                    .exchange_bind(to.into(), from.into(), "#".into(), options, none())
                    .await
            }
        }
    }
}

/// What of these the user is allowed, which must be just the second list.
pub async fn assert_only(url: &str, acts: &[Act<'_>], allowed: &[Act<'_>]) {
    let link = link(url).await;
    let mut found = Vec::new();
    for act in acts.iter().chain(allowed) {
        if act.is_allowed(&link).await {
            found.push(format!("{act:?}"));
        }
    }
    let wanted: Vec<String> = allowed.iter().map(|act| format!("{act:?}")).collect();
    assert_eq!(found, wanted);
}
