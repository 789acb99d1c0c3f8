//! What is sent to the queue that a message names in `reply_to`: the end of a
//! turn, or where a turn is.
//!
//! A worker's user may write to any queue, over the default exchange, and a
//! producer's may not. So only a queue with an unguessable name is written
//! to: who knows it has declared it, or was given it.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use super::messages::Description;
use super::pool::PublisherLink;
use super::publish::{
    PublishError, header_text, json_properties, short, trace_headers, transient_properties,
};
use crate::error::with_sources;
use crate::event::SealedEvent;

/// How a broker's own names of reply queues start: behind it stands what no
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

/// The type of an answer to the question where a turn is.
pub(crate) const DESCRIPTION: &str = "description";

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

    /// What a message's sender wants an answer to be sent to, if anything;
    /// `Err` with the name of a queue that may not be the sender's own.
    pub fn of<'a>(
        queue: Option<&'a str>,
        correlation_id: Option<&str>,
    ) -> Result<Option<Self>, &'a str> {
        let Some(queue) = queue.filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        Self::new(queue, correlation_id).map(Some).ok_or(queue)
    }

    /// The caller's own, or the turn's id if it gave no id.
    fn call_id<'a>(&'a self, turn_id: &'a str) -> &'a str {
        self.correlation_id.as_deref().unwrap_or(turn_id)
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
    /// `end`: the last events of the turn, `message_end` among them. Not retried.
    pub async fn reply(
        &self,
        address: &ReplyAddress,
        message_end: &SealedEvent,
        end: &[SealedEvent],
    ) -> ReplyOutcome {
        let publish = async |event: &SealedEvent| {
            let properties = properties(address, event, end);
            self.send_to(address, properties, event.json.as_bytes())
                .await
        };
        let mut published = publish(message_end).await;
        if matches!(published, Err(PublishError::TooLarge { .. }))
            && let Some(short) = message_end.shortened()
        {
            published = publish(&short).await;
        }
        outcome(published, &message_end.turn_id)
    }

    /// `end`: of a turn that has ended, its last events. Not retried.
    pub async fn answer(
        &self,
        address: &ReplyAddress,
        description: &Description,
        end: &[SealedEvent],
    ) -> ReplyOutcome {
        let publish = async |description: &Description| {
            let mut properties = transient_properties().with_type(DESCRIPTION.into());
            if let Ok(id) = short("correlation id", address.call_id(&description.turn_id)) {
                properties = properties.with_correlation_id(id);
            }
            self.send_to(address, properties, &description.encode())
                .await
        };
        let mut published = publish(description).await;
        if matches!(published, Err(PublishError::TooLarge { .. }))
            && let Some(short) = description.shortened(end)
        {
            published = publish(&short).await;
        }
        outcome(published, &description.turn_id)
    }

    async fn send_to(
        &self,
        address: &ReplyAddress,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<(), PublishError> {
        // The broker takes a direct reply and says all the same that no queue did.
        let mandatory = !address.queue.starts_with(DIRECT);
        self.publish_confirmed("", &address.queue, properties, body, mandatory)
            .await
    }
}

fn outcome(published: Result<(), PublishError>, turn_id: &str) -> ReplyOutcome {
    match published {
        Ok(()) => ReplyOutcome::Sent,
        Err(PublishError::Returned { .. }) => ReplyOutcome::Unroutable,
        Err(error) => {
            let error = with_sources(&error);
            tracing::warn!(error, turn_id, "a reply was not sent");
            ReplyOutcome::Failed
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
    if let Some(error) = end.iter().rev().find_map(SealedEvent::error) {
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
    if let Ok(id) = short("correlation id", address.call_id(&message_end.turn_id)) {
        properties = properties.with_correlation_id(id);
    }
    if let Ok(id) = short("message id", &message_end.message_id()) {
        properties = properties.with_message_id(id);
    }
    properties
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_queue_with_an_unguessable_name_is_replied_to() {
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
