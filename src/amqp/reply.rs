//! The end of a turn, sent to the queue that its request names in `reply_to`.
//!
//! A worker's user may write to any queue, over the default exchange, and a
//! producer's may not. So only a queue whose name can't be guessed is written
//! to: who knows it has declared it, or was given it.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use super::pool::PublisherLink;
use super::publish::{PublishError, header_text, json_properties, short, trace_headers};
use crate::error::with_sources;
use crate::event::{EventBody, SealedEvent, TurnError, TurnEvent};

/// How a broker's own names of reply queues begin: behind it stands what no
/// other client knows.
const DIRECT: &str = "amq.rabbitmq.reply-to.";
const SERVER_NAMED: &str = "amq.gen-";
/// A UUID at the end of a name, with or without its hyphens.
const UUID_DIGITS: usize = 32;

/// The headers that say why a turn did not finish.
const ERROR_CODE: &str = "x-error-code";
const ERROR_REASON: &str = "x-error-reason";
const ERROR_RETRYABLE: &str = "x-error-retryable";
const ERROR_MESSAGE: &str = "x-error-message";

/// What became of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyOutcome {
    Sent,
    /// Its queue is gone.
    Unroutable,
    /// The broker did not confirm it, or the turn's end could not be read.
    Failed,
    /// Another queue than a caller's own may be meant.
    Refused,
}

impl ReplyOutcome {
    pub const ALL: [Self; 4] = [Self::Sent, Self::Unroutable, Self::Failed, Self::Refused];

    /// As the metric names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Unroutable => "unroutable",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }
}

/// A queue that answers are sent to, and what its reader knows its call by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyAddress {
    queue: String,
    pub correlation_id: Option<String>,
}

impl ReplyAddress {
    /// Returns `None` if the name is one that others can guess.
    pub fn new(queue: &str, correlation_id: Option<&str>) -> Option<Self> {
        is_callers_own(queue).then(|| Self {
            queue: queue.to_owned(),
            correlation_id: correlation_id.map(str::to_owned),
        })
    }
}

fn is_callers_own(queue: &str) -> bool {
    let named = |prefix| {
        queue
            .strip_prefix(prefix)
            .is_some_and(|rest: &str| rest.len() >= 16)
    };
    let mut digits = 0;
    for byte in queue.bytes().rev() {
        match byte {
            b'-' => {}
            byte if byte.is_ascii_hexdigit() => digits += 1,
            _ => break,
        }
    }
    named(DIRECT) || named(SERVER_NAMED) || digits >= UUID_DIGITS
}

impl PublisherLink {
    /// `end`: the last events of the turn, `message_end` among them. Not tried again.
    pub async fn reply(
        &self,
        address: &ReplyAddress,
        message_end: &SealedEvent,
        end: &[SealedEvent],
    ) -> ReplyOutcome {
        let queue = &address.queue;
        // The broker takes a direct reply and says all the same that no queue did.
        let mandatory = !queue.starts_with(DIRECT);
        let publish = async |event: &SealedEvent| {
            let (properties, body) = (properties(address, event, end), event.json.as_bytes());
            self.publish_confirmed("", queue, properties, body, mandatory)
                .await
        };
        let mut published = publish(message_end).await;
        if matches!(published, Err(PublishError::TooLarge { .. }))
            && let Some(short) = message_end.shortened()
        {
            published = publish(&short).await;
        }
        match published {
            Ok(()) => ReplyOutcome::Sent,
            Err(PublishError::Returned { .. }) => ReplyOutcome::Unroutable,
            Err(error) => {
                let turn_id = &*message_end.turn_id;
                tracing::warn!(
                    error = with_sources(&error),
                    turn_id,
                    "a reply was not sent"
                );
                ReplyOutcome::Failed
            }
        }
    }
}

fn properties(
    address: &ReplyAddress,
    message_end: &SealedEvent,
    end: &[SealedEvent],
) -> BasicProperties {
    let mut headers = FieldTable::default();
    if let Some(trace) = message_end.trace.as_deref() {
        trace_headers(&mut headers, trace);
    }
    if let Some(error) = end.iter().rev().find_map(error_of) {
        let mut insert = |name: &str, text: &str| {
            headers.insert(name.into(), AMQPValue::LongString(header_text(text)));
        };
        insert(ERROR_CODE, error.code.as_str());
        insert(ERROR_REASON, error.reason.as_str());
        insert(ERROR_MESSAGE, &error.message);
        headers.insert(ERROR_RETRYABLE.into(), AMQPValue::Boolean(error.retryable));
    }
    let mut properties = json_properties()
        .with_type(message_end.kind.as_str().into())
        .with_headers(headers);
    let correlation_id = address.correlation_id.as_deref();
    let correlation_id = correlation_id.unwrap_or(&message_end.turn_id);
    if let Ok(id) = short("correlation id", correlation_id) {
        properties = properties.with_correlation_id(id);
    }
    if let Ok(id) = short("message id", &message_end.message_id()) {
        properties = properties.with_message_id(id);
    }
    properties
}

fn error_of(event: &SealedEvent) -> Option<TurnError> {
    if event.kind != "error" {
        return None;
    }
    match serde_json::from_str::<TurnEvent>(&event.json).ok()?.body {
        EventBody::Error { error } => Some(error),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_queue_whose_name_can_not_be_guessed_is_replied_to() {
        for name in [
            "amq.gen-JzTY20BRgKO-HjmUJj0wLg",
            "amq.rabbitmq.reply-to.g1h2AA5yZXBseUA0OTk0MTAzMQAAC5YAAAAA",
            "amq_0123456789abcdef0123456789abcdef",
            "web.replies.0199a213-81c0-7800-8aa1-bbab2a035a53",
            "codex.events.0123456789abcdef0123456789abcdef",
        ] {
            assert!(ReplyAddress::new(name, None).is_some(), "{name}");
        }
        for name in [
            "",
            "codex.turns",
            "codex.turns.work",
            "codex.turns.dead",
            "replies",
            "amq.gen-",
            "amq.rabbitmq.reply-to",
            "web.replies.0199a213-81c0-7800-8aa1-bbab2a035a5",
            "0123456789abcdef0123456789abcdef.queue",
        ] {
            assert_eq!(ReplyAddress::new(name, Some("c")), None, "{name}");
        }
    }
}
