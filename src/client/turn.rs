//! A turn that a producer asks for.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::request::{
    Effort, Limits, MediaType, OnBusy, Properties, Rejection, ServiceTier, ThreadChoice,
    TurnRequest, encode,
};
use crate::trace::TraceContext;

/// What goes into a request.
#[derive(Debug, Clone, Default)]
pub struct NewTurn {
    /// A new one if absent.
    pub turn_id: Option<String>,
    /// As the worker takes it: an id, or an absolute path under its root.
    pub workspace: String,
    pub prompt: String,
    pub model: Option<String>,
    pub reasoning_effort: Option<Effort>,
    pub service_tier: Option<ServiceTier>,
    pub tenant: Option<String>,
    /// In whole seconds, rounded up.
    pub timeout: Option<Duration>,
    /// In whole seconds, rounded up.
    pub start_within: Option<Duration>,
    pub on_busy: OnBusy,
    pub thread: ThreadChoice,
    /// PNG, JPEG, GIF or WebP; sent along with the prompt.
    pub images: Vec<Vec<u8>>,
    /// A JSON Schema, as it is written.
    pub output_schema: Option<Box<RawValue>>,
    pub trace: Option<TraceContext>,
}

#[derive(Serialize)]
struct Request<'a> {
    turn_id: &'a str,
    workspace: &'a str,
    messages: Value,
    enqueued_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<Effort>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<ServiceTier>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_within_s: Option<u64>,
    #[serde(skip_serializing_if = "OnBusy::is_default")]
    on_busy: OnBusy,
    #[serde(skip_serializing_if = "ThreadChoice::is_default")]
    thread: ThreadChoice,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_schema: Option<&'a RawValue>,
}

impl Request<'_> {
    fn json(&self) -> Vec<u8> {
        #[expect(
            clippy::expect_used,
            reason = "texts, numbers and values always encode"
        )]
        serde_json::to_vec(self).expect("a request encodes as JSON")
    }
}

/// A request that is well-formed. The worker has limits and lists of its own
/// besides, so it may still be rejected there.
#[derive(Debug, Clone)]
pub struct Submission {
    pub turn_id: String,
    pub workspace: String,
    pub body: Vec<u8>,
    pub trace: Option<Arc<TraceContext>>,
}

impl NewTurn {
    pub fn submission(self) -> Result<Submission, Rejection> {
        let turn_id = self
            .turn_id
            .unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let mut request = Request {
            turn_id: &turn_id,
            workspace: &self.workspace,
            messages: json!([{"role": "user", "content": content(&self.prompt, &self.images)}]),
            enqueued_at: Timestamp::now(),
            model: self.model,
            reasoning_effort: self.reasoning_effort,
            service_tier: self.service_tier,
            tenant: self.tenant,
            timeout_s: self.timeout.map(whole_seconds),
            start_within_s: self.start_within.map(whole_seconds),
            on_busy: self.on_busy,
            thread: self.thread,
            output_schema: self.output_schema.as_deref(),
        };
        let body = request.json();
        if self.workspace.starts_with('/') {
            // Only a worker knows its root; the rest can be checked here.
            request.workspace = "unknown";
        }
        let limits = Limits::accepted();
        TurnRequest::parse(&request.json(), &limits, &Properties::default())?;
        Ok(Submission {
            turn_id,
            workspace: self.workspace,
            body,
            trace: self.trace.map(Arc::new),
        })
    }
}

/// Rounded up, and at least one.
fn whole_seconds(limit: Duration) -> u64 {
    let seconds = limit.as_secs() + u64::from(limit.subsec_nanos() > 0);
    seconds.max(1)
}

impl Submission {
    /// What its message holds besides its body.
    pub fn properties(&self) -> Properties<'_> {
        let trace = self.trace.as_deref();
        Properties {
            message_id: Some(&self.turn_id),
            traceparent: trace.map(|trace| trace.traceparent.as_str()),
            tracestate: trace.and_then(|trace| trace.tracestate.as_deref()),
            ..Properties::default()
        }
    }
}

fn content(prompt: &str, images: &[Vec<u8>]) -> Value {
    if images.is_empty() {
        return prompt.into();
    }
    let image = |bytes: &Vec<u8>| {
        // Any other value is reported when the request is read.
        let media_type = MediaType::of(bytes).map_or("unknown", MediaType::as_str);
        json!({"type": "image",
               "source": {"type": "base64", "media_type": media_type, "data": encode(bytes)}})
    };
    let text = json!({"type": "text", "text": prompt});
    [text].into_iter().chain(images.iter().map(image)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Image;

    fn turn(workspace: &str, prompt: &str) -> NewTurn {
        NewTurn {
            workspace: workspace.to_owned(),
            prompt: prompt.to_owned(),
            ..NewTurn::default()
        }
    }

    #[test]
    fn a_submission_is_what_a_worker_reads() {
        let turn = NewTurn {
            model: Some("gpt-5.5".to_owned()),
            reasoning_effort: Some(Effort::Low),
            service_tier: Some(ServiceTier::Flex),
            tenant: Some("acme".to_owned()),
            timeout: Some(Duration::from_millis(1500)),
            start_within: Some(Duration::from_secs(30)),
            on_busy: OnBusy::Interrupt,
            thread: ThreadChoice::New,
            images: vec![b"GIF89a...".to_vec()],
            output_schema: serde_json::from_str(r#"{"b": 1, "a": 2}"#).unwrap(),
            ..turn("a/b", "hi")
        };
        let submission = turn.submission().unwrap();
        let limits = Limits::accepted();
        let read = TurnRequest::parse(&submission.body, &limits, &Properties::default()).unwrap();
        assert_eq!(read.turn_id.as_str(), submission.turn_id);
        assert_eq!(read.workspace.as_str(), "a/b");
        assert_eq!(read.prompt, "hi");
        assert_eq!(read.model.as_deref(), Some("gpt-5.5"));
        assert_eq!(read.reasoning_effort, Some(Effort::Low));
        assert_eq!(read.service_tier, Some(ServiceTier::Flex));
        assert_eq!(read.tenant.as_deref(), Some("acme"));
        assert_eq!(read.timeout, Some(Duration::from_secs(2)));
        assert_eq!(read.start_within, Some(Duration::from_secs(30)));
        assert_eq!(read.on_busy, OnBusy::Interrupt);
        assert_eq!(read.thread, ThreadChoice::New);
        let [Image::Base64 { media_type, data }] = &read.images[..] else {
            panic!("{:?}", read.images);
        };
        assert_eq!((*media_type, &**data), (MediaType::Gif, "R0lGODlhLi4u"));
        assert_eq!(read.output_schema.unwrap().text(), r#"{"b":1,"a":2}"#);
    }

    #[test]
    fn what_no_worker_would_take_is_reported_at_once() {
        for (workspace, prompt, field) in [
            ("..", "hi", "workspace"),
            ("", "hi", "workspace"),
            ("a", " ", "messages"),
        ] {
            let rejection = turn(workspace, prompt).submission().unwrap_err();
            assert_eq!(rejection.violations[0].field, field);
        }
        let wrong_id = NewTurn {
            turn_id: Some("a b".to_owned()),
            ..turn("a", "hi")
        };
        assert_eq!(
            wrong_id.submission().unwrap_err().violations[0].field,
            "turn_id"
        );
        // The worker knows its root.
        let submission = turn("/srv/workspaces/a", "hi").submission().unwrap();
        assert_eq!(submission.workspace, "/srv/workspaces/a");
    }
}
