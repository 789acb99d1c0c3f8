//! What the sender of an accepted request should know: found where the request
//! is read, published by the worker that runs the turn.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::messages::IgnoredParts;
use super::rejection::quoted;
use super::{Limits, Properties};
use crate::codes::NoticeCode;

/// As many as there are kinds, and room for those of newer sequencers.
const MAX_NOTICES: usize = 8;
/// The longest text of one, in bytes.
const MAX_MESSAGE_BYTES: usize = 8 << 10;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
/// What a producer should know of its request though it was accepted.
pub struct RequestNotice {
    /// Which kind it is.
    pub code: NoticeCode,
    /// For people; at most 8 KiB.
    pub message: String,
}

/// Of a request as its producer sent it.
pub(super) fn found(ignored: &IgnoredParts, properties: &Properties<'_>) -> Vec<RequestNotice> {
    let ignored = ignored.notice().map(|message| RequestNotice {
        code: NoticeCode::ContentIgnored,
        message,
    });
    let expiration = properties.expiration.map(|expiration| RequestNotice {
        code: NoticeCode::ExpirationSet,
        message: format!(
            "the message has the property expiration {}, expected none: \
             the broker drops a turn that waits for longer, without an event; \
             start_within_s has such a turn end with turn.expired",
            quoted(expiration)
        ),
    });
    ignored.into_iter().chain(expiration).collect()
}

/// Of a request as a sequencer handed it on. Those that only a newer version
/// knows are left out.
pub(super) fn handed_on(notices: Option<&Value>, limits: &Limits) -> Vec<RequestNotice> {
    let notices = notices.and_then(Value::as_array);
    let notices = notices.filter(|_| limits.handed_on);
    notices
        .into_iter()
        .flatten()
        .take(MAX_NOTICES)
        .filter_map(|notice| RequestNotice::deserialize(notice).ok())
        .filter(|notice| notice.message.len() <= MAX_MESSAGE_BYTES)
        .collect()
}
