//! Requests: bytes in, a validated value out, or everything that is wrong
//! with them at once.
//!
//! No I/O in here: whether a workspace can be used on disk is the
//! workspace room's question.

mod canonical;
mod choice;
mod ids;
mod image;
pub mod json;
mod json_schema;
mod messages;
mod metadata;
mod model_choice;
mod notices;
mod parse;
mod rejection;
mod repeated_fields;
mod scan;
mod schema;
mod unreadable;
mod wait;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

pub use choice::{OnBusy, ThreadChoice};
pub(crate) use ids::is_model_name;
pub use ids::{IdError, TENANT_RULE, TurnId, WorkspaceId, is_tenant};
pub use image::{Image, ImagePath, MediaType};
pub(crate) use image::{decode, encode};
pub use messages::{IgnoredPart, IgnoredParts};
pub use metadata::Metadata;
pub(crate) use model_choice::ModelChoice;
pub use model_choice::{Effort, ServiceTier};
pub use notices::RequestNotice;
pub(crate) use rejection::shown;
pub use rejection::{Rejection, Violation};
pub use scan::{BodyForm, MAX_SCANNED, Scan};
pub use schema::OutputSchema;
pub use wait::plausible_wait;

use crate::trace::TraceContext;

/// codex reads no longer prompt from its stdin, in characters: beyond it, it
/// ends without saying why.
pub const MAX_PROMPT_CHARS: usize = 1_048_576;

/// The most images of one prompt.
pub const MAX_IMAGES: usize = 16;

/// The most that the images of one prompt may take together, in bytes. What
/// comes within a request is bounded by its size already.
pub const MAX_IMAGE_BYTES: usize = 16 << 20;

/// The most that `metadata` may take as compact JSON, in bytes: it comes back
/// on two events of every attempt and lies in the journal with them.
pub const MAX_METADATA_BYTES: usize = 4096;

/// The most that `output_schema` may take without white space, in bytes.
pub const MAX_OUTPUT_SCHEMA_BYTES: usize = 64 << 10;

/// A turn to be run, as its producer asked for it. The worker's own limits
/// are applied where it is run, so that workers with other limits agree on
/// what the request is.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnRequest {
    /// Chosen by the producer.
    pub turn_id: TurnId,
    /// Where it runs.
    pub workspace: WorkspaceId,
    /// 1 to [`MAX_PROMPT_CHARS`] characters, not only white space.
    pub prompt: String,
    /// Of the same message; at most [`MAX_IMAGES`].
    pub images: Vec<Image>,
    /// The model asked for; `None`: the worker's or codex's default.
    pub model: Option<String>,
    /// How much the model is to think; `None`: its default.
    pub reasoning_effort: Option<Effort>,
    /// How fast, and for which price, the model is served.
    pub service_tier: Option<ServiceTier>,
    /// The tenant, by its producer's word; see [`crate::tenants`].
    pub tenant: Option<String>,
    /// Whole seconds, at least one.
    pub timeout: Option<Duration>,
    /// At least one.
    pub max_attempts: Option<u32>,
    /// Whole seconds, at least one: later than that it is not to be started.
    pub start_within: Option<Duration>,
    /// What becomes of it where its workspace is busy.
    pub on_busy: OnBusy,
    /// Which conversation it goes on with.
    pub thread: ThreadChoice,
    /// The producer's own; it comes back on the turn's first and last event.
    pub metadata: Option<Metadata>,
    /// What the answer is to look like.
    pub output_schema: Option<OutputSchema>,
    /// For the queue-wait metric only; a producer's clock has no influence.
    pub enqueued_at: Option<Timestamp>,
    /// What it is a part of for its producer; no influence either.
    pub trace: Option<Arc<TraceContext>>,
    /// For its producer, once it runs.
    pub notices: Vec<RequestNotice>,
}

impl TurnRequest {
    /// The turn's timeout under a worker's own.
    pub fn effective_timeout(&self, limit: Duration) -> Duration {
        self.timeout.map_or(limit, |asked| asked.min(limit))
    }

    /// For the log.
    pub fn trace_id(&self) -> Option<&str> {
        self.trace.as_deref().map(TraceContext::trace_id)
    }

    /// How many attempts the turn gets under a worker's own limit.
    pub fn effective_max_attempts(&self, limit: u32) -> u32 {
        self.max_attempts.map_or(limit, |asked| asked.min(limit))
    }
}

/// What a request may ask for.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Of the whole body.
    pub max_request_bytes: usize,
    /// Of the prompt, in Unicode scalar values.
    pub max_prompt_chars: usize,
    /// Of the metadata, as compact JSON.
    pub max_metadata_bytes: usize,
    /// The models that may be asked for; `None`: any.
    pub models: Option<BTreeSet<String>>,
    /// The reasoning efforts that may be asked for; `None`: any.
    pub efforts: Option<BTreeSet<Effort>>,
    /// The service tiers that may be asked for; `None`: any. Empty where the
    /// engine can't hold one to its turn.
    pub service_tiers: Option<BTreeSet<ServiceTier>>,
    /// Spellings of the workspace root, absolute; a workspace that is an
    /// absolute path must lie under one of them.
    pub roots: Vec<PathBuf>,
    /// It comes from a sequencer, in its canonical form.
    pub handed_on: bool,
}

impl Limits {
    /// For requests that a sequencer has already accepted: an operator's
    /// limits, which differ during a roll-out, no longer apply to them.
    pub fn accepted() -> Self {
        Self {
            max_request_bytes: usize::MAX,
            max_prompt_chars: MAX_PROMPT_CHARS,
            max_metadata_bytes: MAX_METADATA_BYTES,
            models: None,
            efforts: None,
            service_tiers: None,
            roots: Vec::new(),
            handed_on: true,
        }
    }
}

/// What the message's AMQP properties say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Properties<'a> {
    /// The turn's id where the body has none.
    pub message_id: Option<&'a str>,
    /// The turn's id where neither the body nor `message_id` has one.
    pub correlation_id: Option<&'a str>,
    /// Ignored but for a hint in a rejection.
    pub content_type: Option<&'a str>,
    /// Ignored but for a hint in a rejection.
    pub content_encoding: Option<&'a str>,
    /// The broker's time limit for the message, of which the producer is warned.
    pub expiration: Option<&'a str>,
    /// Seconds since the Unix epoch.
    pub timestamp: Option<u64>,
    /// The headers of these names, as they came.
    pub traceparent: Option<&'a str>,
    /// See [`crate::trace`].
    pub tracestate: Option<&'a str>,
}

#[cfg(test)]
mod tests;
