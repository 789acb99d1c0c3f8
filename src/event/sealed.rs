//! An event in its published form, encoded once.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{EventBody, TurnError, TurnEvent};
use crate::codes::NoticeCode;
use crate::trace::TraceContext;

/// An event in its published form. It is encoded once: what waits for its
/// confirm, what the journal holds and what is published again are the same
/// bytes, so that a duplicate is identical.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SealedEvent {
    /// The turn's id, which is also the routing key.
    pub turn_id: Arc<str>,
    /// As in [`TurnEvent`].
    pub attempt: u32,
    /// As in [`TurnEvent`].
    pub seq: u64,
    /// As [`EventBody::kind`] names it.
    pub kind: String,
    /// The message's body.
    pub json: Arc<str>,
    /// Of the request, for the message's headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Arc<TraceContext>>,
}

/// Of an error's message, where all of it is too much.
const SHORT_MESSAGE_CHARS: usize = 4096;

impl SealedEvent {
    /// What an `error` event has.
    pub fn error(&self) -> Option<TurnError> {
        if self.kind != "error" {
            return None;
        }
        match serde_json::from_str::<TurnEvent>(&self.json).ok()?.body {
            EventBody::Error { error } => Some(error),
            _ => None,
        }
    }

    /// The property of that name, by which readers know a duplicate: `turn/attempt/seq`.
    pub fn message_id(&self) -> String {
        format!("{}/{}/{}", self.turn_id, self.attempt, self.seq)
    }

    /// What is published in its place where the broker takes no message of its
    /// size: the same each time, under the same number, so that `seq` has no
    /// gap (G6) and a turn its end (G5). `None`: it can't be shortened further.
    pub fn shortened(&self) -> Option<Self> {
        let mut event: TurnEvent = serde_json::from_str(&self.json).ok()?;
        match &mut event.body {
            EventBody::MessageStart { .. } => {}
            EventBody::MessageEnd {
                text, structured, ..
            } => (*text, *structured) = (None, None),
            EventBody::Error { error } => {
                error.message = error.message.chars().take(SHORT_MESSAGE_CHARS).collect();
            }
            body => {
                let (kind, bytes) = (body.kind(), self.json.len());
                let message = format!(
                    "a {kind} of {bytes} bytes is left out: the broker takes no message of that size"
                );
                *body = EventBody::Notice {
                    code: NoticeCode::EventTooLarge,
                    message,
                };
            }
        }
        let short = Self {
            trace: self.trace.clone(),
            ..Self::of(&event)
        };
        (short.json.len() < self.json.len()).then_some(short)
    }

    fn of(event: &TurnEvent) -> Self {
        #[expect(
            clippy::expect_used,
            reason = "maps with string keys and plain values always encode"
        )]
        let json = serde_json::to_string(event).expect("a turn event encodes as JSON");
        Self {
            turn_id: event.turn_id.as_str().into(),
            attempt: event.attempt,
            seq: event.seq,
            kind: event.body.kind().to_owned(),
            json: json.into(),
            trace: None,
        }
    }
}

/// Numbers the events of one attempt: 0, 1, 2 … without a gap.
#[derive(Debug)]
pub struct Sealer {
    turn_id: Arc<str>,
    workspace: Arc<str>,
    attempt: u32,
    next_seq: u64,
    trace: Option<Arc<TraceContext>>,
}

impl Sealer {
    /// `workspace`: its id, or empty if the request's is missing or invalid.
    pub fn new(turn_id: &str, workspace: &str, attempt: u32) -> Self {
        Self {
            turn_id: turn_id.into(),
            workspace: workspace.into(),
            attempt,
            next_seq: 0,
            trace: None,
        }
    }

    /// The trace that the events belong to.
    pub fn traced(mut self, trace: Option<&Arc<TraceContext>>) -> Self {
        self.trace = trace.cloned();
        self
    }

    /// The attempt whose events it seals.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The next event of the attempt, encoded once for all.
    pub fn seal(&mut self, body: EventBody, time: Timestamp) -> SealedEvent {
        let event = TurnEvent {
            turn_id: self.turn_id.to_string(),
            workspace: Some(self.workspace.to_string()),
            attempt: self.attempt,
            seq: self.next_seq,
            time,
            body,
        };
        self.next_seq += 1;
        SealedEvent {
            turn_id: Arc::clone(&self.turn_id),
            trace: self.trace.clone(),
            ..SealedEvent::of(&event)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes::{ErrorCode, Reason, StopReason};
    use crate::event::{Tokens, Usage};

    #[test]
    fn g6_seals_events_with_seq_from_zero_without_a_gap() {
        let mut sealer = Sealer::new("t-01", "a/b", 2);
        let time = Timestamp::from_millisecond(1_700_000_000_007).unwrap();
        for seq in 0..3 {
            let event = sealer.seal(
                EventBody::TextDelta {
                    item_id: "item_0".into(),
                    text: "hi".into(),
                },
                time,
            );
            assert_eq!(event.seq, seq);
            assert_eq!(event.message_id(), format!("t-01/2/{seq}"));
        }
    }

    #[test]
    fn event_reads_as_the_contract_shows_it() {
        let mut sealer = Sealer::new("t-01", "a/b", 1);
        let time = Timestamp::from_millisecond(1_700_000_000_000).unwrap();
        let event = sealer.seal(
            EventBody::Error {
                error: TurnError {
                    code: ErrorCode::TurnFailed,
                    message: "no".into(),
                    reason: Reason::RateLimited,
                    retryable: true,
                },
            },
            time,
        );
        assert_eq!(
            &*event.json,
            r#"{"turn_id":"t-01","workspace":"a/b","attempt":1,"seq":0,"time":"2023-11-14T22:13:20.000Z","type":"error","error":{"code":"turn.failed","message":"no","reason":"rate_limited","retryable":true}}"#
        );
        let back: TurnEvent = serde_json::from_str(&event.json).unwrap();
        assert_eq!(back.body.kind(), "error");
        assert_eq!(back.time, time);
    }

    #[test]
    fn a_tools_input_is_read_as_it_was_written() {
        let body = EventBody::ToolUse {
            id: "item_0".into(),
            name: "mcp_tool_call".into(),
            input: serde_json::json!({"$serde_json::private::RawValue": "[1]"}),
        };
        let event = Sealer::new("t-01", "a/b", 1).seal(body.clone(), Timestamp::UNIX_EPOCH);
        let back: TurnEvent = serde_json::from_str(&event.json).unwrap();
        assert_eq!(back.body, body);
    }

    #[test]
    fn g5_g6_a_too_large_event_is_published_short_under_its_number() {
        let long = "x".repeat(100_000);
        let error = TurnError {
            code: ErrorCode::TurnFailed,
            message: long.clone(),
            reason: Reason::Unknown,
            retryable: false,
        };
        let bodies = [
            EventBody::ToolResult {
                tool_use_id: "item_0".into(),
                name: "command_execution".into(),
                is_error: false,
                content: serde_json::json!({"aggregated_output": long}),
            },
            EventBody::Error { error },
            EventBody::MessageEnd {
                stop_reason: StopReason::Error,
                text: Some(long.clone()),
                structured: Some(serde_json::json!({"answer": long})),
                thread_id: Some("t".into()),
                superseded_by: None,
                model: None,
                duration_ms: 7,
                metadata: None,
                usage: Usage::of(Some(Tokens::default()), None),
            },
        ];
        let mut sealer = Sealer::new("t-01", "a/b", 1);
        let time = Timestamp::from_millisecond(1_700_000_000_000).unwrap();
        let [result, error, end] = bodies.map(|body| {
            let event = sealer.seal(body, time);
            let short = event.shortened().unwrap();
            assert_eq!(short.message_id(), event.message_id());
            assert_eq!(event.shortened().unwrap(), short);
            assert!(short.json.len() < 5_000);
            short.json.to_string()
        });
        assert!(result.contains("a tool_result of 100"), "{result}");
        assert!(error.contains(r#""code":"turn.failed""#), "{error}");
        assert!(
            end.ends_with(r#""type":"message_end","stop_reason":"error","thread_id":"t","duration_ms":7,"usage":{"input_tokens":0,"cache_read_tokens":0,"cache_write_tokens":0,"output_tokens":0,"thinking_tokens":0}}"#),
            "{end}"
        );
    }

    #[test]
    fn a_trace_goes_with_every_event_also_short_and_from_the_records() {
        let trace = TraceContext::read(
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            Some("a=1"),
        )
        .map(Arc::new);
        let mut sealer = Sealer::new("t-01", "a/b", 1).traced(trace.as_ref());
        let body = EventBody::TextDelta {
            item_id: "item_0".into(),
            text: "x".repeat(1000),
        };
        let event = sealer.seal(body, Timestamp::UNIX_EPOCH);
        assert_eq!(event.trace, trace);
        assert_eq!(event.shortened().unwrap().trace, trace);
        let record = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<SealedEvent>(&record).unwrap(), event);
        // As a worker wrote it that knew of no traces.
        let old = record.replace(r#","trace":"#, r#","other":"#);
        assert_eq!(
            serde_json::from_str::<SealedEvent>(&old).unwrap().trace,
            None
        );
    }
}
