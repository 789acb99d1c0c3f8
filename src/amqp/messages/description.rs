//! Where a turn is: the answer to a producer's question.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::codec::encode;
use crate::event::{SealedEvent, TurnError, rfc3339_ms};
use crate::request::TurnId;

/// Only written: a [`RawValue`] in a tagged enum can't be read.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "TurnDescription")]
pub struct Description {
    #[schemars(with = "TurnId")]
    pub turn_id: String,
    /// The workspace's id, never a path.
    pub workspace: String,
    #[serde(flatten)]
    pub position: TurnPosition,
}

/// The comments are what the schema says of a state.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TurnPosition {
    /// No turn of that id in that workspace is known: it never came, or was forgotten.
    Unknown {
        /// Turns that the broker has and the sequencer has not read yet; this one may be among them. Absent if there
        /// are 0.
        #[serde(skip_serializing_if = "is_zero")]
        #[schemars(extend("minimum" = 1))]
        unread: u64,
    },
    /// It waits.
    Waiting {
        /// In its workspace's line, from 1: so many turns less one are ahead of it, one that runs included.
        #[schemars(extend("minimum" = 1))]
        place: u64,
        /// An operator has paused the workspace. Absent if not.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        paused: bool,
    },
    /// A worker runs it.
    Running {
        attempt: u32,
        /// When this attempt started: RFC 3339, UTC, milliseconds.
        #[serde(with = "rfc3339_ms")]
        #[schemars(with = "String", extend("format" = "date-time"))]
        since: Timestamp,
    },
    /// It has ended.
    Ended {
        /// The event `message_end`, as it was published.
        #[schemars(with = "Map<String, Value>")]
        end: Box<RawValue>,
        /// What the event `error` before it had. Absent if there was no error.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<TurnError>,
    },
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl TurnPosition {
    /// `events`: the last ones of the turn. Returns `None` if the end is not among them.
    pub fn ended(events: &[SealedEvent]) -> Option<Self> {
        let end = events.last()?;
        Some(Self::Ended {
            end: RawValue::from_string(end.json.to_string()).ok()?,
            error: events.iter().rev().find_map(SealedEvent::error),
        })
    }
}

impl Description {
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// What is sent in its place where the broker takes no message of its size.
    /// Returns `None` if it can't be shortened further.
    pub fn shortened(&self, events: &[SealedEvent]) -> Option<Self> {
        let short: Vec<SealedEvent> = events
            .iter()
            .map(|event| event.shortened().unwrap_or_else(|| event.clone()))
            .collect();
        Some(Self {
            turn_id: self.turn_id.clone(),
            workspace: self.workspace.clone(),
            position: TurnPosition::ended(&short)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{ErrorCode, Reason, StopReason};
    use crate::request::{Limits, Properties, TurnRequest};
    use crate::turn::simple_ending;

    #[test]
    fn an_end_is_described_by_the_bytes_that_were_published() {
        let request =
            br#"{"turn_id":"t","workspace":"a","messages":[{"role":"user","content":"hi"}],
            "metadata":{"n":12345678901234567890123}}"#;
        let request =
            TurnRequest::parse(request, &Limits::accepted(), &Properties::default()).unwrap();
        let error = TurnError {
            code: ErrorCode::TurnFailed,
            message: "no".repeat(3_000),
            reason: Reason::Auth,
            retryable: false,
        };
        let events = simple_ending(&request, StopReason::Error, Some(error.clone()));
        let description = Description {
            turn_id: "t".to_owned(),
            workspace: "a".to_owned(),
            position: TurnPosition::ended(&events).unwrap(),
        };
        let text = String::from_utf8(description.encode()).unwrap();
        let end = &events.last().unwrap().json;
        assert!(text.starts_with(r#"{"turn_id":"t","workspace":"a","state":"ended","end":{"#));
        assert!(text.contains(&**end), "{text}");
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["error"], serde_json::json!(error));
        let short = description.shortened(&events).unwrap().encode();
        assert!(short.len() < text.len());
    }

    #[test]
    fn what_is_absent_is_left_out() {
        let encode = |position| {
            let (turn_id, workspace) = ("t".to_owned(), "a".to_owned());
            let description = Description {
                turn_id,
                workspace,
                position,
            };
            String::from_utf8(description.encode()).unwrap()
        };
        for (position, rest) in [
            (TurnPosition::Unknown { unread: 0 }, r#""state":"unknown"}"#),
            (
                TurnPosition::Unknown { unread: 3 },
                r#""state":"unknown","unread":3}"#,
            ),
            (
                TurnPosition::Waiting {
                    place: 2,
                    paused: false,
                },
                r#""state":"waiting","place":2}"#,
            ),
            (
                TurnPosition::Running {
                    attempt: 1,
                    since: "2026-01-02T03:04:05Z".parse().unwrap(),
                },
                r#""state":"running","attempt":1,"since":"2026-01-02T03:04:05.000Z"}"#,
            ),
        ] {
            let expected = format!(r#"{{"turn_id":"t","workspace":"a",{rest}"#);
            assert_eq!(encode(position), expected);
        }
        assert!(TurnPosition::ended(&[]).is_none());
    }
}
