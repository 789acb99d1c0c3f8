//! What is exported of a turn, in the words of OpenTelemetry's semantic conventions; pure.
//! See <https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/> and
//! <https://github.com/open-telemetry/semantic-conventions-genai>.

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use opentelemetry::{Context, KeyValue, StringValue, Value};

use crate::event::{Reason, StopReason, TurnError};
use crate::request::TurnRequest;
use crate::trace::TraceContext;
use crate::turn::Summary;

/// The name of the child span: operation and agent.
pub(super) const AGENT_SPAN: &str = "invoke_agent codex";
pub(super) const ERROR_TYPE: &str = "error.type";

/// The trace that the request belongs to, or `None`.
pub(super) fn parent(trace: Option<&TraceContext>) -> Context {
    let context = Context::new();
    match trace.and_then(remote) {
        Some(remote) => context.with_remote_span_context(remote),
        None => context,
    }
}

fn remote(trace: &TraceContext) -> Option<SpanContext> {
    let mut parts = trace.traceparent.split('-').skip(1);
    let trace_id = TraceId::from_hex(parts.next()?).ok()?;
    let span_id = SpanId::from_hex(parts.next()?).ok()?;
    let flags = u8::from_str_radix(parts.next()?, 16).ok()?;
    let state = trace
        .tracestate
        .as_deref()
        .and_then(|state| state.parse().ok());
    let state: TraceState = state.unwrap_or_default();
    Some(SpanContext::new(
        trace_id,
        span_id,
        TraceFlags::new(flags),
        true,
        state,
    ))
}

/// Of every message from that queue: spans and metrics have these.
pub(super) fn of_queue(destination: &str) -> Vec<KeyValue> {
    vec![
        KeyValue::new("messaging.operation.name", "process"),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("messaging.system", "rabbitmq"),
        KeyValue::new("messaging.destination.name", destination.to_owned()),
    ]
}

/// Of the message that asks for the turn.
pub(super) fn of_request(request: &TurnRequest, tenant: Option<&str>) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("messaging.message.id", request.turn_id.as_str().to_owned()),
        // A workspace is a conversation: its turns run in order, each going on where the last ended.
        KeyValue::new(
            "messaging.message.conversation_id",
            request.workspace.as_str().to_owned(),
        ),
    ];
    let tenant = tenant.map(|tenant| KeyValue::new("turn_worker.tenant", tenant.to_owned()));
    attributes.extend(tenant);
    attributes
}

/// Of how the turn ended, for the span of the message.
pub(super) fn of_end(summary: &Summary) -> Vec<KeyValue> {
    vec![
        KeyValue::new("turn_worker.outcome", summary.stop_reason.as_str()),
        KeyValue::new("turn_worker.attempt", i64::from(summary.attempt)),
    ]
}

/// Which agent and model; `request` and `response` are the model that was asked for
/// and the one that answered.
pub(super) fn of_agent(request: Option<&str>, response: Option<&str>) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("gen_ai.operation.name", "invoke_agent"),
        KeyValue::new("gen_ai.provider.name", "openai"),
        KeyValue::new("gen_ai.agent.name", "codex"),
    ];
    let mut add = |name: &'static str, value: Option<&str>| {
        attributes.extend(value.map(|value| KeyValue::new(name, value.to_owned())));
    };
    add("gen_ai.request.model", request);
    add("gen_ai.response.model", response);
    attributes
}

/// Of what the agent did, for its span.
pub(super) fn of_run(summary: &Summary) -> Vec<KeyValue> {
    let asked = summary.asked_model.as_deref().or(summary.model.as_deref());
    let mut attributes = of_agent(asked, summary.model.as_deref());
    let thread = summary.thread_id.clone();
    attributes.extend(thread.map(|id| KeyValue::new("gen_ai.conversation.id", id)));
    let reason = StringValue::from(summary.stop_reason.as_str());
    let reasons = Value::Array(vec![reason].into());
    attributes.push(KeyValue::new("gen_ai.response.finish_reasons", reasons));
    if let Some(usage) = summary.usage {
        let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        let tokens = usage.tokens;
        attributes.extend([
            KeyValue::new("gen_ai.usage.input_tokens", count(tokens.input_tokens)),
            KeyValue::new("gen_ai.usage.output_tokens", count(tokens.output_tokens)),
            KeyValue::new(
                "gen_ai.usage.cache_read.input_tokens",
                count(tokens.cache_read_tokens),
            ),
            KeyValue::new(
                "gen_ai.usage.reasoning.output_tokens",
                count(tokens.thinking_tokens),
            ),
        ]);
    }
    attributes
}

/// The reason where one is known, else the code. Returns `None` if the turn did not fail.
pub(super) fn error_type(stop: StopReason, error: Option<&TurnError>) -> Option<&'static str> {
    match (stop, error) {
        (StopReason::EndTurn | StopReason::Cancelled, _) => None,
        (stop, None) => Some(stop.as_str()),
        (_, Some(error)) => Some(match error.reason {
            Reason::Unknown => error.code.as_str(),
            reason => reason.as_str(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ErrorCode;

    #[test]
    fn a_requests_trace_is_the_parent() {
        let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = TraceContext::read(traceparent, Some("a=1,b@c=2")).unwrap();
        let context = parent(Some(&trace));
        let span = context.span().span_context().clone();
        assert_eq!(span.trace_id().to_string(), trace.trace_id());
        assert_eq!(span.span_id().to_string(), "00f067aa0ba902b7");
        assert!(span.is_sampled() && span.is_remote());
        assert_eq!(span.trace_state().header(), "a=1,b@c=2");
        assert!(!parent(None).has_active_span());
    }

    #[test]
    fn an_error_has_its_reason_as_type_or_else_its_code() {
        let error = |reason| TurnError {
            code: ErrorCode::TurnFailed,
            message: String::new(),
            reason,
            retryable: false,
        };
        let of = |stop, reason| error_type(stop, Some(&error(reason)));
        assert_eq!(of(StopReason::Error, Reason::Auth), Some("auth"));
        assert_eq!(of(StopReason::Error, Reason::Unknown), Some("turn.failed"));
        assert_eq!(error_type(StopReason::Timeout, None), Some("timeout"));
        assert_eq!(error_type(StopReason::EndTurn, None), None);
        assert_eq!(error_type(StopReason::Cancelled, None), None);
    }
}
