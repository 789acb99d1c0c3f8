//! The published contract: what a reader of `codex.events` sees.
//!
//! What has a closed set of values has them from [`codes`](crate::codes).

pub(crate) mod rfc3339_ms;
mod sealed;
mod tokens;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use crate::codes::{Advice, Again, ErrorCode, NoticeCode, Reason, StopReason};
use crate::request::{Metadata, TurnId, json};

pub use sealed::{SealedEvent, Sealer};
pub use tokens::{Tokens, Usage};

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
