//! What is kept of a delivery of `codex.turns` until the queue takes it.

use lapin::types::ShortString;

use crate::amqp::consume::Delivery;
use crate::amqp::publish::header;
use crate::amqp::reply::ReplyAddress;
use crate::request::Properties;
use crate::trace::{TRACEPARENT, TRACESTATE};

/// Without the properties that are not read: strangers' headers can be large (G10).
#[derive(Debug)]
pub(super) struct TurnMessage {
    pub body: Vec<u8>,
    pub redelivered: bool,
    message_id: Option<String>,
    correlation_id: Option<String>,
    reply_to: Option<String>,
    content_type: Option<String>,
    content_encoding: Option<String>,
    expiration: Option<String>,
    timestamp: Option<u64>,
    traceparent: Option<String>,
    tracestate: Option<String>,
}

impl TurnMessage {
    /// Takes the body out of the delivery.
    pub(super) fn take(delivery: &mut Delivery) -> Self {
        let properties = &delivery.properties;
        let text = |text: &Option<ShortString>| text.as_ref().map(|text| text.as_str().to_owned());
        Self {
            redelivered: delivery.redelivered,
            message_id: text(properties.message_id()),
            correlation_id: text(properties.correlation_id()),
            reply_to: text(properties.reply_to()),
            content_type: text(properties.content_type()),
            content_encoding: text(properties.content_encoding()),
            expiration: text(properties.expiration()),
            timestamp: *properties.timestamp(),
            traceparent: header(properties, TRACEPARENT).map(str::to_owned),
            tracestate: header(properties, TRACESTATE).map(str::to_owned),
            body: std::mem::take(&mut delivery.body),
        }
    }

    pub(super) fn properties(&self) -> Properties<'_> {
        Properties {
            message_id: self.message_id.as_deref(),
            correlation_id: self.correlation_id.as_deref(),
            content_type: self.content_type.as_deref(),
            content_encoding: self.content_encoding.as_deref(),
            expiration: self.expiration.as_deref(),
            timestamp: self.timestamp,
            traceparent: self.traceparent.as_deref(),
            tracestate: self.tracestate.as_deref(),
        }
    }

    /// Where the sender wants the turn's end sent to; `Err` with the name of a
    /// queue that may not be the sender's own.
    pub(super) fn reply_address(&self) -> Result<Option<ReplyAddress>, &str> {
        ReplyAddress::of(self.reply_to.as_deref(), self.correlation_id.as_deref())
    }

    /// How much memory it takes, about.
    pub(super) fn bytes(&self) -> usize {
        let texts = [
            &self.message_id,
            &self.correlation_id,
            &self.reply_to,
            &self.content_type,
            &self.content_encoding,
            &self.expiration,
            &self.traceparent,
            &self.tracestate,
        ];
        let texts: usize = texts.into_iter().flatten().map(String::len).sum();
        size_of::<Self>() + self.body.capacity() + texts
    }
}
