//! Publishes requests and cancels, as a producer in any language would.

use std::hash::{DefaultHasher, Hash, Hasher};

use lapin::message::BasicReturnMessage;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use serde_json::Value;
use tokio::time::timeout;

use super::Deadline;
use super::events::TRY;

pub struct Producer {
    url: String,
    deadline: Deadline,
    /// Dropped and reopened after any error.
    open: Option<(Connection, Channel)>,
}

/// What the pool would not take.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    pub code: String,
    pub message: String,
    pub body: Vec<u8>,
}

impl Producer {
    pub(super) fn new(url: &str, deadline: Deadline) -> Self {
        Self {
            url: url.to_owned(),
            deadline,
            open: None,
        }
    }

    pub async fn enqueue(&mut self, requests: &[Value]) {
        let bodies: Vec<_> = requests
            .iter()
            .map(|request| {
                let id = request["turn_id"].as_str().unwrap_or_default();
                (
                    request.to_string().into_bytes(),
                    persistent().with_headers(trace_of(id)),
                )
            })
            .collect();
        self.enqueue_raw(&bodies).await;
    }

    /// Any bytes, with any properties. What was not confirmed is published
    /// again, so that a lost connection may publish something twice.
    pub async fn enqueue_raw(&mut self, messages: &[(Vec<u8>, BasicProperties)]) {
        let mut left = messages;
        let mut confirmed = Vec::new();
        let deadline = self.deadline;
        let publishing = async || {
            let channel = self.channel().await?;
            let mut confirms = Vec::new();
            for (body, properties) in left {
                let options = BasicPublishOptions {
                    mandatory: true,
                    ..BasicPublishOptions::default()
                };
                let publish = channel.basic_publish(
                    "codex.requests".into(),
                    "turn".into(),
                    options,
                    body,
                    properties.clone(),
                );
                let Ok(confirm) = publish.await else { break };
                confirms.push(confirm);
            }
            for confirm in confirms {
                match confirm.await {
                    Ok(Confirmation::Ack(None)) => confirmed.push(()),
                    Ok(Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned))) => {
                        panic!("a request was returned: {}", reason(&returned))
                    }
                    _ => break,
                }
            }
            left = &messages[confirmed.len()..];
            if !left.is_empty() {
                self.open = None;
            }
            left.is_empty().then_some(())
        };
        deadline.until("requests are confirmed", publishing).await;
    }

    pub async fn control(&mut self, message: &Value) {
        self.control_with(message, persistent()).await;
    }

    pub async fn control_with(&mut self, message: &Value, properties: BasicProperties) {
        let deadline = self.deadline;
        let body = message.to_string();
        let publishing = async || {
            let channel = self.channel().await?;
            let publish = channel.basic_publish(
                "codex.control".into(),
                "".into(),
                BasicPublishOptions::default(),
                body.as_bytes(),
                properties.clone(),
            );
            let confirm = async { publish.await?.await };
            if confirm.await.is_err() {
                self.open = None;
                return None;
            }
            Some(())
        };
        deadline.until("a cancel is confirmed", publishing).await;
    }

    /// Messages that are ready in a queue.
    pub async fn depth(&mut self, queue: &str) -> u32 {
        let deadline = self.deadline;
        let asking = async || {
            let options = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            let channel = self.channel().await?;
            let declare = channel.queue_declare(queue.into(), options, FieldTable::default());
            match declare.await {
                Ok(queue) => Some(queue.message_count()),
                Err(_) => {
                    self.open = None;
                    None
                }
            }
        };
        deadline.until("a queue's depth is told", asking).await
    }

    /// Puts a message that is no event straight into a queue.
    pub(super) async fn mark(&mut self, queue: &str) {
        let deadline = self.deadline;
        let marking = async || {
            let channel = self.channel().await?;
            let publish = channel.basic_publish(
                "".into(),
                queue.into(),
                BasicPublishOptions::default(),
                b"marker",
                persistent(),
            );
            let confirm = async { publish.await?.await };
            confirm.await.ok()
        };
        deadline.until("the marker is confirmed", marking).await;
    }

    /// Takes `count` messages out of the dead queue.
    pub async fn dead_letters(&mut self, count: usize) -> Vec<DeadLetter> {
        let deadline = self.deadline;
        let mut letters = Vec::new();
        let taking = async || {
            let options = BasicGetOptions { no_ack: true };
            let channel = self.channel().await?;
            let get = channel.basic_get("codex.turns.dead".into(), options);
            if let Some(message) = get.await.ok()? {
                letters.push(dead_letter(message.delivery));
            }
            (letters.len() == count).then_some(())
        };
        deadline
            .until(&format!("{count} dead letters"), taking)
            .await;
        letters
    }

    async fn channel(&mut self) -> Option<Channel> {
        if self.open.is_none() {
            let opened = timeout(TRY, opened(&self.url)).await;
            self.open = Some(opened.ok()?.ok()?);
        }
        let (_, channel) = self.open.as_ref()?;
        Some(channel.clone())
    }
}

async fn opened(url: &str) -> lapin::Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let options = ConfirmSelectOptions::default();
    channel.confirm_select(options).await?;
    Ok((connection, channel))
}

pub fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

/// The trace in which [`Producer::enqueue`] sends a turn.
pub fn trace_of(turn_id: &str) -> FieldTable {
    let mut hasher = DefaultHasher::new();
    turn_id.hash(&mut hasher);
    let id = hasher.finish() | 1;
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("traceparent", format!("00-{id:032x}-{id:016x}-01")),
        ("tracestate", format!("test={id:x}")),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    headers
}

fn reason(returned: &BasicReturnMessage) -> String {
    format!("{} {}", returned.reply_code, returned.reply_text)
}

fn dead_letter(delivery: lapin::message::Delivery) -> DeadLetter {
    let headers = delivery.properties.headers().clone().unwrap_or_default();
    let header = |name: &str| {
        let value = headers.inner().get(name);
        let text = value.and_then(|value| value.as_long_string());
        let bytes = text.map_or_else(Vec::new, |text| text.as_bytes().to_vec());
        String::from_utf8(bytes).unwrap()
    };
    DeadLetter {
        code: header("x-error-code"),
        message: header("x-error-message"),
        body: delivery.data,
    }
}
