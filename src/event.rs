//! The published contract: what a reader of `codex.events` sees.
//!
//! What has a closed set of values has them from [`codes`](crate::codes).

use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use crate::codes::{Advice, Again, ErrorCode, NoticeCode, Reason, StopReason};
use crate::request::{Metadata, TurnId, json};
use crate::trace::TraceContext;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
/// Why a turn did not come to its end.
pub struct TurnError {
    /// What failed.
    pub code: ErrorCode,
    /// For people; its words may change.
    pub message: String,
    /// Why it failed, as far as codex's words show that.
    pub reason: Reason,
    /// Whether the same turn, sent again under a new id, may succeed later.
    pub retryable: bool,
}

impl TurnError {
    /// What the worker itself says in the message: for logs, which must not
    /// contain text of a request or of codex.
    pub fn own_words(&self) -> Option<&str> {
        match self.code {
            ErrorCode::RequestInvalid | ErrorCode::ImageUnusable | ErrorCode::TurnFailed => None,
            // Before what codex wrote last.
            ErrorCode::Exited => self.message.split(": ").next(),
            _ => Some(&self.message),
        }
    }
}

/// What all agents of a turn spent, all attempts together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    #[serde(flatten)]
    /// Of the turn's agent and its sub-agents together.
    pub tokens: Tokens,
    /// The share of its sub-agents, which the counts beside it include. Absent if they are not known to
    /// have spent any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<Tokens>,
}

impl Usage {
    /// Returns `None` if neither the turn's own agent nor its sub-agents are
    /// known to have spent any.
    pub fn of(own: Option<Tokens>, agents: Option<Tokens>) -> Option<Self> {
        let tokens = [own, agents].into_iter().flatten().reduce(Tokens::plus)?;
        Some(Self { tokens, agents })
    }

    /// Both together; counts stop at their largest value.
    pub fn plus(self, other: Self) -> Self {
        let agents = [self.agents, other.agents].into_iter().flatten();
        Self {
            tokens: self.tokens.plus(other.tokens),
            agents: agents.reduce(Tokens::plus),
        }
    }
}

/// Counts of tokens. Cached ones are a subset of input, thinking ones of output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tokens {
    /// What the model read, cached or not.
    pub input_tokens: u64,
    /// The part of the input that came from the provider's cache.
    pub cache_read_tokens: u64,
    /// The part of the input that the provider put into its cache.
    pub cache_write_tokens: u64,
    /// What the model wrote, its reasoning included.
    pub output_tokens: u64,
    /// The part of the output that is reasoning.
    pub thinking_tokens: u64,
}

impl Tokens {
    /// `self - base`, or `None` if that would be negative anywhere: then
    /// `base` is not an earlier total of the same thread.
    pub fn since(self, base: Tokens) -> Option<Tokens> {
        Some(Tokens {
            input_tokens: self.input_tokens.checked_sub(base.input_tokens)?,
            cache_read_tokens: self.cache_read_tokens.checked_sub(base.cache_read_tokens)?,
            cache_write_tokens: self
                .cache_write_tokens
                .checked_sub(base.cache_write_tokens)?,
            output_tokens: self.output_tokens.checked_sub(base.output_tokens)?,
            thinking_tokens: self.thinking_tokens.checked_sub(base.thinking_tokens)?,
        })
    }

    /// Both together; counts stop at their largest value.
    pub fn plus(self, other: Tokens) -> Tokens {
        Tokens {
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            cache_read_tokens: self
                .cache_read_tokens
                .saturating_add(other.cache_read_tokens),
            cache_write_tokens: self
                .cache_write_tokens
                .saturating_add(other.cache_write_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
            thinking_tokens: self.thinking_tokens.saturating_add(other.thinking_tokens),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
/// One entry of the agent's to-do list.
pub struct PlanItem {
    /// What there is to do.
    pub text: String,
    /// Whether the agent has ticked it off.
    pub completed: bool,
}

/// The comments are what schemas and docs say of a type. A field that is not
/// always there is an `Option` that is left out, never `null`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventBody {
    /// Always first.
    MessageStart {
        /// The model that the request or the worker's settings name, or else codex's own default; the turn's agent is
        /// asked with it unless `message_end` names another. Absent if neither names one and codex has not reported its
        /// default yet.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<String>,
        /// The request's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Option<Map<String, Value>>")]
        metadata: Option<Metadata>,
    },
    /// The agent's reasoning, if codex reports it, or a part of it.
    ThinkingDelta {
        /// The pieces of one id, joined, are the text.
        item_id: String,
        /// What is added.
        text: String,
    },
    /// A tool call starts.
    ToolUse {
        /// The call's own; the events of its output and result name it.
        id: String,
        /// See Tools.
        name: String,
        #[serde(deserialize_with = "json::plain")]
        /// What the tool is called with.
        input: Value,
    },
    /// A part of what a call prints while it runs; the result has all of it.
    ToolOutput {
        /// The call's `id`.
        tool_use_id: String,
        /// What is added.
        text: String,
    },
    /// A tool call's result. One that never finished gets `is_error: true` and `content.status` `unfinished`.
    ToolResult {
        /// The call's `id`.
        tool_use_id: String,
        /// The tool's, as in the call.
        name: String,
        /// Whether the call failed, or did not finish.
        is_error: bool,
        #[serde(deserialize_with = "json::plain")]
        /// What the tool returned.
        content: Value,
    },
    /// The agent's to-do list, whole, each time it changes.
    Plan {
        /// In the agent's order.
        items: Vec<PlanItem>,
    },
    /// What the attempt's agents have spent so far: every few seconds, where it has grown. With `app-server` only.
    Usage {
        /// All attempts together.
        usage: Usage,
    },
    /// Something worth knowing though the turn goes on.
    Notice {
        /// Which kind it is.
        code: NoticeCode,
        /// For people; its words may change.
        message: String,
    },
    /// A message of the agent, or a part of one: join those of one `item_id`.
    TextDelta {
        /// The pieces of one id, joined, are the text.
        item_id: String,
        /// What is added.
        text: String,
    },
    /// Why the turn did not come to its end: at most once, right before `message_end`.
    Error {
        /// What failed, and why.
        error: TurnError,
    },
    /// Always last.
    MessageEnd {
        /// How the turn ended.
        stop_reason: StopReason,
        /// The last agent message whole.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// The text as a JSON value, if the request has a schema for it. Absent if it is
        /// no JSON.
        #[serde(
            default,
            deserialize_with = "json::some_plain",
            skip_serializing_if = "Option::is_none"
        )]
        structured: Option<Value>,
        /// codex's own, of the conversation.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        thread_id: Option<String>,
        /// The turn that interrupted this one, if that is why it was cancelled.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        superseded_by: Option<String>,
        /// The model that the turn's agent asked; its sub-agents may ask others. Absent if codex was not started, or
        /// has not reported it and the request sets no model.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<String>,
        /// Of the last attempt.
        duration_ms: u64,
        /// The request's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Option<Map<String, Value>>")]
        metadata: Option<Metadata>,
        /// Absent when codex never reported it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
    },
}

impl EventBody {
    /// The `type` on the wire; also a metric label.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::ThinkingDelta { .. } => "thinking_delta",
            Self::ToolUse { .. } => "tool_use",
            Self::ToolOutput { .. } => "tool_output",
            Self::ToolResult { .. } => "tool_result",
            Self::Plan { .. } => "plan",
            Self::Usage { .. } => "usage",
            Self::Notice { .. } => "notice",
            Self::TextDelta { .. } => "text_delta",
            Self::Error { .. } => "error",
            Self::MessageEnd { .. } => "message_end",
        }
    }

    /// The types that the event set `minimal` publishes.
    pub const MINIMAL: &'static [&'static str] =
        &["message_start", "text_delta", "error", "message_end"];

    /// Whether the event set `minimal` publishes it.
    pub fn is_minimal(&self) -> bool {
        Self::MINIMAL.contains(&self.kind())
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
/// One event of a turn, as readers get it.
pub struct TurnEvent {
    #[schemars(with = "TurnId")]
    /// The id of the turn, which is also the routing key.
    pub turn_id: String,
    /// The id of the turn's workspace; readers drop events of any other. Empty if a rejected request's workspace is
    /// missing or invalid. Workers older than this field set it on `message_start` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// How often the turn was started. 0: it never was.
    pub attempt: u32,
    /// 0, 1, 2 … within an attempt, without a gap.
    pub seq: u64,
    /// RFC 3339, UTC, milliseconds.
    #[serde(with = "rfc3339_ms")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub time: Timestamp,
    #[serde(flatten)]
    /// What happened.
    pub body: EventBody,
}

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

pub(crate) mod rfc3339_ms {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(time: &Timestamp, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{time:.3}"))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Timestamp, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn g7_a_total_below_its_baseline_is_no_difference() {
        let total = Tokens {
            input_tokens: 200,
            output_tokens: 40,
            ..Tokens::default()
        };
        let base = Tokens {
            input_tokens: 100,
            output_tokens: 20,
            ..Tokens::default()
        };
        assert_eq!(total.since(base), Some(base));
        assert_eq!(base.since(total), None);
    }
}
