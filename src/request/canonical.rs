//! The form in which a request travels between a sequencer and a worker: a
//! request like any other, reduced to what was understood of it.

use jiff::Timestamp;
use serde::de;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{
    Effort, Image, Limits, Metadata, OnBusy, OutputSchema, Properties, RequestNotice, ServiceTier,
    ThreadChoice, TurnId, TurnRequest, WorkspaceId,
};

#[derive(Serialize)]
struct Canonical<'a> {
    turn_id: &'a TurnId,
    workspace: &'a WorkspaceId,
    messages: [Message<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<Effort>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<ServiceTier>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_within_s: Option<u64>,
    #[serde(skip_serializing_if = "OnBusy::is_default")]
    on_busy: OnBusy,
    #[serde(skip_serializing_if = "ThreadChoice::is_default")]
    thread: ThreadChoice,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_schema: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enqueued_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracestate: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    notices: &'a [RequestNotice],
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Content<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(&'a str),
    Blocks(Vec<Block<'a>>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block<'a> {
    Text { text: &'a str },
    Image { source: &'a Image },
}

impl<'a> Content<'a> {
    fn of(request: &'a TurnRequest) -> Self {
        let text = request.prompt.as_str();
        let images = request.images.iter();
        match request.images.is_empty() {
            true => Self::Text(text),
            false => Self::Blocks(
                [Block::Text { text }]
                    .into_iter()
                    .chain(images.map(|source| Block::Image { source }))
                    .collect(),
            ),
        }
    }
}

impl<'a> Canonical<'a> {
    fn of(request: &'a TurnRequest) -> Self {
        let trace = request.trace.as_deref();
        Self {
            turn_id: &request.turn_id,
            workspace: &request.workspace,
            messages: [Message {
                role: "user",
                content: Content::of(request),
            }],
            model: request.model.as_deref(),
            reasoning_effort: request.reasoning_effort,
            service_tier: request.service_tier,
            tenant: request.tenant.as_deref(),
            timeout_s: request.timeout.map(|t| t.as_secs()),
            max_attempts: request.max_attempts,
            start_within_s: request.start_within.map(|t| t.as_secs()),
            on_busy: request.on_busy,
            thread: request.thread,
            metadata: request.metadata.as_ref(),
            output_schema: request.output_schema.as_ref().map(OutputSchema::raw),
            enqueued_at: request.enqueued_at,
            traceparent: trace.map(|trace| trace.traceparent.as_str()),
            tracestate: trace.and_then(|trace| trace.tracestate.as_deref()),
            notices: &request.notices,
        }
    }

    fn json(&self) -> String {
        #[expect(
            clippy::expect_used,
            reason = "texts, numbers and maps with string keys always encode"
        )]
        serde_json::to_string(self).expect("a request encodes as JSON")
    }
}

impl TurnRequest {
    /// A request object that [`TurnRequest::parse`] reads back as an equal
    /// value.
    pub fn to_canonical_json(&self) -> String {
        Canonical::of(self).json()
    }

    /// Returns whether two requests with one turn id ask for the same. When
    /// they were sent, in which trace, and with what that is ignored plays no part:
    /// a producer that sends a turn again may stamp it again. Nor does the tenant,
    /// which older workers do not know.
    pub fn fingerprint(&self) -> u32 {
        let timeless = Canonical {
            tenant: None,
            enqueued_at: None,
            traceparent: None,
            tracestate: None,
            notices: &[],
            ..Canonical::of(self)
        };
        crc32fast::hash(timeless.json().as_bytes())
    }
}

impl Serialize for TurnRequest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Canonical::of(self).serialize(serializer)
    }
}

/// Reads an accepted request, see [`Limits::accepted`].
impl<'de> Deserialize<'de> for TurnRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        TurnRequest::parse(
            text.get().as_bytes(),
            &Limits::accepted(),
            &Properties::default(),
        )
        .map_err(de::Error::custom)
    }
}
