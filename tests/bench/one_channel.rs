//! What one channel with confirms can publish, with no other work.

use std::collections::VecDeque;

use anyhow::Result;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Connection, ConnectionProperties, PublisherConfirm};
use turn_worker::amqp::outbox::WINDOW_EVENTS;

use crate::load::{Load, Message, Seen, Turn};

pub struct OneChannel {
    channel: Channel,
    /// What a turn published, to be published once more for each turn.
    pub messages: Vec<Message>,
    _connection: Connection,
}

impl OneChannel {
    pub async fn open(url: &str) -> Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        Ok(Self {
            channel,
            messages: Vec::new(),
            _connection: connection,
        })
    }

    /// The same events with the same properties to the same exchange, as many
    /// unconfirmed at a time as a turn may have; read by `load`, as a turn's are.
    pub async fn publish(&self, load: &Load, turns: &[Turn]) -> Result<Vec<Seen>> {
        let ended = load.log().ended;
        let mut unconfirmed: VecDeque<PublisherConfirm> = VecDeque::new();
        for turn in turns {
            for message in &self.messages {
                if unconfirmed.len() >= WINDOW_EVENTS
                    && let Some(oldest) = unconfirmed.pop_front()
                {
                    oldest.await?;
                }
                let publish = self.channel.basic_publish(
                    "codex.events".into(),
                    turn.id.as_str().into(),
                    BasicPublishOptions::default(),
                    &message.body,
                    message.properties.clone(),
                );
                unconfirmed.push_back(publish.await?);
            }
        }
        for confirm in unconfirmed {
            confirm.await?;
        }
        load.all_ended(ended, turns).await
    }
}
