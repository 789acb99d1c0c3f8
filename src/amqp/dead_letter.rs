//! Keeps what could not be accepted, with the reason in headers.

use jiff::Timestamp;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::pool::PublisherLink;
use super::publish::{PublishError, header_text, json_properties};
use super::topology::Topology;
use crate::event::ErrorCode;

pub(crate) const CODE_HEADER: &str = "x-error-code";
pub(crate) const MESSAGE_HEADER: &str = "x-error-message";
/// The code of what is no request of which anything is known; no event has it.
pub(crate) const UNDELIVERABLE: &str = "turn.undeliverable";

/// A request that could not be accepted, and why.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusal<'a> {
    /// As it came, or as it was understood.
    pub request: &'a [u8],
    /// As far as one could be found, in the request or beside it.
    pub turn_id: Option<&'a str>,
    pub code: ErrorCode,
    pub message: &'a str,
}

/// Puts a request into the dead queue, confirmed.
pub(crate) async fn bury(
    publisher: &PublisherLink,
    topology: &Topology,
    refusal: Refusal<'_>,
) -> Result<(), PublishError> {
    let Refusal {
        request,
        turn_id,
        code,
        message,
    } = refusal;
    keep(
        publisher,
        topology,
        request,
        turn_id,
        code.as_str(),
        message,
    )
    .await
}

/// Puts a record of a message that the broker cannot deliver into the dead
/// queue, confirmed. Content and id are not known.
pub(crate) async fn keep_undeliverable(
    publisher: &PublisherLink,
    topology: &Topology,
) -> Result<(), PublishError> {
    let message = format!(
        "the broker cannot deliver this message of queue {:?} to AMQP 0-9-1 (channels end with INTERNAL_ERROR), so it is removed; neither its content nor its id can be read",
        topology.turns
    );
    keep(publisher, topology, b"", None, UNDELIVERABLE, &message).await
}

async fn keep(
    publisher: &PublisherLink,
    topology: &Topology,
    request: &[u8],
    turn_id: Option<&str>,
    code: &str,
    message: &str,
) -> Result<(), PublishError> {
    let mut headers = FieldTable::default();
    let text = |text: &str| AMQPValue::LongString(header_text(text));
    headers.insert(CODE_HEADER.into(), text(code));
    headers.insert(MESSAGE_HEADER.into(), text(message));
    let now = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
    let mut properties = json_properties().with_headers(headers).with_timestamp(now);
    if let Some(id) = turn_id.and_then(|id| ShortString::try_new(id).ok()) {
        properties = properties.with_message_id(id);
    }
    publisher
        .publish_confirmed("", &topology.dead, properties, request, true)
        .await
}
