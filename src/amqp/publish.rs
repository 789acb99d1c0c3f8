//! Publishes one message and waits until the broker has it.

use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::protocol::AMQPError;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, ErrorKind};
use tokio::time::timeout;

use super::pool::{ChannelError, PublisherLink};
use crate::error::with_sources;
use crate::trace::{TRACEPARENT, TRACESTATE, TraceContext};

/// How long the broker may take to confirm. A quorum queue writes to disk on
/// several nodes first; more than this is not slow but stuck.
pub(super) const CONFIRM_LIMIT: Duration = Duration::from_secs(30);

/// AMQP's delivery mode for messages that survive the broker's restart.
const PERSISTENT: u8 = 2;

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Only for mandatory messages.
    #[error(
        "no queue takes what is published to exchange {exchange:?} with routing key {key:?}: {reply}"
    )]
    Returned {
        exchange: String,
        key: String,
        reply: String,
    },
    #[error("the broker refused the message (nack): a queue that it goes to is full or failed")]
    Nacked,
    /// The broker closed the channel over it: there is no such exchange, or
    /// the user may not publish to it.
    #[error("publishing to exchange {exchange:?} was refused: {detail}")]
    Refused { exchange: String, detail: String },
    /// The broker closed the channel over its size; it never takes it.
    #[error(
        "found a message of {bytes} bytes, expected at most the broker's max_message_size: {detail}"
    )]
    TooLarge { bytes: usize, detail: String },
    /// The broker may or may not have it: published again, it may be there twice.
    #[error("the message is not confirmed: {0}")]
    Lost(String),
    #[error("the {what} has {length} bytes; expected at most 255")]
    TooLong { what: &'static str, length: usize },
}

impl From<ChannelError> for PublishError {
    fn from(error: ChannelError) -> Self {
        Self::Lost(with_sources(&error))
    }
}

/// What every message of ours has: persistent, and JSON.
pub fn json_properties() -> BasicProperties {
    BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type("application/json".into())
}

/// The same, for what need not survive the broker's restart.
pub fn transient_properties() -> BasicProperties {
    BasicProperties::default().with_content_type("application/json".into())
}

pub(crate) fn short(what: &'static str, text: &str) -> Result<ShortString, PublishError> {
    // lapin's own conversion panics.
    ShortString::try_new(text).map_err(|_| PublishError::TooLong {
        what,
        length: text.len(),
    })
}

impl PublisherLink {
    /// Publishes and waits for the confirm, in bounded time. One channel
    /// carries one such message at a time: with several, lapin may report the
    /// wrong one that it was returned.
    ///
    /// Headers must fit into one frame (128 KiB): the broker closes the whole
    /// connection over more.
    pub async fn publish_confirmed(
        &self,
        exchange: &str,
        key: &str,
        properties: BasicProperties,
        body: &[u8],
        mandatory: bool,
    ) -> Result<(), PublishError> {
        short("exchange name", exchange)?;
        short("routing key", key)?;
        // On a blocked connection lapin would keep the message, and publish it
        // at some time after this has given up.
        match timeout(CONFIRM_LIMIT, self.ready()).await {
            Ok(Some(_)) => {}
            Ok(None) => return Err(ChannelError::ShutDown.into()),
            Err(_) => return Err(self.not_ready().into()),
        }
        let lease = self.lease().await?;
        let verdict = publish_on(&lease.channel, exchange, key, properties, body, mandatory).await;
        // After these, the channel's state is unknown.
        if !matches!(
            verdict,
            Err(PublishError::Lost(_)
                | PublishError::Refused { .. }
                | PublishError::TooLarge { .. })
        ) {
            lease.give_back();
        }
        verdict
    }
}

/// As [`PublisherLink::publish_confirmed`], on a channel with confirms on which
/// no other message is in flight.
pub async fn publish_on(
    channel: &Channel,
    exchange: &str,
    key: &str,
    properties: BasicProperties,
    body: &[u8],
    mandatory: bool,
) -> Result<(), PublishError> {
    let exchange_name = short("exchange name", exchange)?;
    let routing_key = short("routing key", key)?;
    let options = BasicPublishOptions {
        mandatory,
        ..BasicPublishOptions::default()
    };
    let confirmed = timeout(CONFIRM_LIMIT, async {
        channel
            .basic_publish(exchange_name, routing_key, options, body, properties)
            .await?
            .await
    });
    match confirmed.await {
        Ok(Ok(Confirmation::Ack(None))) => Ok(()),
        Ok(Ok(Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)))) => {
            Err(PublishError::Returned {
                exchange: exchange.to_owned(),
                key: key.to_owned(),
                reply: format!("{} {}", returned.reply_code, returned.reply_text),
            })
        }
        Ok(Ok(Confirmation::Nack(None))) => Err(PublishError::Nacked),
        Ok(Ok(Confirmation::NotRequested)) => {
            Err(PublishError::Lost("the channel has no confirms".to_owned()))
        }
        Ok(Err(error)) => Err(match error.kind() {
            ErrorKind::ProtocolError(refusal) if matches!(refusal.get_id(), 403 | 404) => {
                PublishError::Refused {
                    exchange: exchange.to_owned(),
                    detail: refusal.get_message().to_string(),
                }
            }
            ErrorKind::ProtocolError(refusal) if is_too_large(refusal) => PublishError::TooLarge {
                bytes: body.len(),
                detail: refusal.get_message().to_string(),
            },
            _ => PublishError::Lost(with_sources(&error)),
        }),
        Err(_) => {
            let limit = CONFIRM_LIMIT.as_secs();
            Err(PublishError::Lost(format!("no confirm within {limit} s")))
        }
    }
}

/// Whether the broker closed a channel over a message's size.
fn is_too_large(refusal: &AMQPError) -> bool {
    refusal.get_id() == 406 && refusal.get_message().as_str().contains("message size")
}

/// The headers of a message that belongs to this trace.
pub fn trace_headers(headers: &mut FieldTable, trace: &TraceContext) {
    let mut insert = |name: &'static str, value: &str| {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    };
    insert(TRACEPARENT, &trace.traceparent);
    if let Some(state) = &trace.tracestate {
        insert(TRACESTATE, state);
    }
}

/// A header's text; clients differ in the type that they give it.
pub fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a str> {
    match properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        AMQPValue::ByteArray(bytes) => std::str::from_utf8(bytes.as_slice()).ok(),
        _ => None,
    }
}

/// A header value for [`BasicProperties::with_headers`], bounded so that a
/// foreign text can't make the header frame too large.
pub fn header_text(text: &str) -> LongString {
    let mut end = text.len().min(4096);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    LongString::from(&text[..end])
}
