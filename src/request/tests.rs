use serde_json::json;

use super::*;
use crate::event::ErrorCode;

fn limits() -> Limits {
    Limits {
        max_request_bytes: 256 * 1024,
        roots: vec!["/srv/ws".into(), "/data/real".into()],
        ..Limits::accepted()
    }
}

fn parse(value: &Value) -> Result<TurnRequest, Rejection> {
    TurnRequest::parse(
        value.to_string().as_bytes(),
        &limits(),
        &Properties::default(),
    )
}

fn minimal() -> Value {
    json!({"turn_id": "t-01", "workspace": "acme/website",
           "messages": [{"role": "user", "content": "Fix it"}]})
}

fn with(field: &str, value: Value) -> Value {
    let mut request = minimal();
    request[field] = value;
    request
}

/// The fields that a request's violations name.
fn fields(value: &Value) -> Vec<String> {
    let violations = parse(value).unwrap_err().violations;
    violations.into_iter().map(|v| v.field).collect()
}

#[test]
fn the_contracts_own_example_is_accepted() {
    let request = parse(&json!({
        "turn_id": "t-01", "workspace": "acme/website",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Fix the failing test"}]}],
        "model": "gpt-5.5", "timeout_s": 1800, "max_attempts": 3, "metadata": {"ticket": "42"}
    }))
    .unwrap();
    assert_eq!(request.turn_id.as_str(), "t-01");
    assert_eq!(request.workspace.as_str(), "acme/website");
    assert_eq!(request.prompt, "Fix the failing test");
    assert_eq!(request.model.as_deref(), Some("gpt-5.5"));
    assert_eq!(request.timeout, Some(Duration::from_secs(1800)));
    assert_eq!(request.max_attempts, Some(3));
    assert_eq!(request.metadata.unwrap()["ticket"], "42");
    assert_eq!(request.enqueued_at, None);
}
