//! An old request under a new turn id.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::value::RawValue;

use super::Submission;
use crate::request::{Limits, Properties, Rejection, TurnRequest};

/// A turn id has so many characters at most.
const MAX_TURN_ID: usize = 128;

#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    #[error("the request is no JSON object")]
    NoObject,
    #[error("the request would be rejected again: {0}")]
    Rejected(Rejection),
}

/// The id of the `number`th retry of a turn, from 1: `t-01.retry-1`. The old
/// id can be read from it; of one that is too long, it is cut.
pub fn retry_id(turn_id: &str, number: u32) -> String {
    let suffix = format!(".retry-{number}");
    // A retry of a retry is one of the first turn.
    let first = turn_id.rsplit_once(".retry-");
    let first = first.filter(|(_, number)| number.parse::<u32>().is_ok());
    let first = first.map_or(turn_id, |(first, _)| first);
    let room = MAX_TURN_ID - suffix.len();
    let kept: String = first.chars().take(room).collect();
    format!("{kept}{suffix}")
}

/// The request as it was, but for its turn id and the time that it was enqueued at.
pub fn retried(body: &[u8], turn_id: &str) -> Result<Submission, RetryError> {
    let mut fields: BTreeMap<String, Box<RawValue>> =
        serde_json::from_slice(body).map_err(|_| RetryError::NoObject)?;
    let text = |text: String| RawValue::from_string(serde_json::json!(text).to_string());
    let values = [
        ("turn_id", text(turn_id.to_owned())),
        ("enqueued_at", text(Timestamp::now().to_string())),
    ];
    for (name, value) in values {
        fields.insert(name.to_owned(), value.map_err(|_| RetryError::NoObject)?);
    }
    let body = serde_json::to_vec(&fields).map_err(|_| RetryError::NoObject)?;
    // What every worker refuses, with any settings, need not be sent.
    let request = TurnRequest::parse(&body, &Limits::accepted(), &Properties::default());
    let request = request.map_err(RetryError::Rejected)?;
    Ok(Submission {
        turn_id: turn_id.to_owned(),
        workspace: request.workspace.as_str().to_owned(),
        body,
        trace: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_has_an_id_that_names_the_first_turn() {
        assert_eq!(retry_id("t-01", 1), "t-01.retry-1");
        assert_eq!(retry_id("t-01.retry-1", 2), "t-01.retry-2");
        assert_eq!(retry_id("t.retry-x", 1), "t.retry-x.retry-1");
        let long = retry_id(&"t".repeat(128), 12);
        assert!(long.len() == 128 && long.ends_with("t.retry-12"));
    }

    #[test]
    fn a_retry_is_the_request_as_it_was_under_a_new_id() {
        let body = br#"{"turn_id":"t","workspace":"acme/a","metadata":{"n":1.0e3},"enqueued_at":"2020-01-01T00:00:00Z","messages":[{"role":"user","content":"hi"}]}"#;
        let retry = retried(body, "t.retry-1").unwrap();
        assert_eq!(
            (&*retry.turn_id, &*retry.workspace),
            ("t.retry-1", "acme/a")
        );
        let text = String::from_utf8(retry.body).unwrap();
        assert!(
            text.contains(r#""turn_id":"t.retry-1""#) && text.contains("1.0e3"),
            "{text}"
        );
        assert!(!text.contains("2020"), "{text}");
        assert!(matches!(retried(b"[]", "t"), Err(RetryError::NoObject)));
        assert!(matches!(retried(b"{}", "t"), Err(RetryError::Rejected(_))));
    }
}
