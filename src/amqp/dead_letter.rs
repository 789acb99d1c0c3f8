//! Keeps what could not be accepted, with the reason in headers.

use lapin::types::{AMQPValue, FieldTable};

use super::pool::PublisherLink;
use super::publish::{PublishError, header_text, json_properties};
use super::topology::Topology;
use crate::event::ErrorCode;

const CODE_HEADER: &str = "x-error-code";
const MESSAGE_HEADER: &str = "x-error-message";

/// Puts a request into the dead queue, confirmed.
pub async fn bury(
    publisher: &PublisherLink,
    topology: &Topology,
    request: &[u8],
    code: ErrorCode,
    message: &str,
) -> Result<(), PublishError> {
    let mut headers = FieldTable::default();
    let text = |text: &str| AMQPValue::LongString(header_text(text));
    headers.insert(CODE_HEADER.into(), text(code.as_str()));
    headers.insert(MESSAGE_HEADER.into(), text(message));
    let properties = json_properties().with_headers(headers);
    publisher
        .publish_confirmed("", &topology.dead, properties, request, true)
        .await
}
