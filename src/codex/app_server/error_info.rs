//! `codexErrorInfo`: what codex says as a code about a failure.

use serde_json::Value;

use super::super::failure::{Cause, classify};
use super::wire::Fields;
use crate::event::Reason::{self, *};

/// Every code of version 0.171.0 that identifies the cause by itself.
#[rustfmt::skip]
const TABLE: &[(&str, Reason, bool)] = &[
    ("contextWindowExceeded", ContextWindow, false),
    ("sessionBudgetExceeded", UsageLimit, false),
    // Also if the account needs a payment: there the words are narrower.
    ("usageLimitExceeded", UsageLimit, true),
    ("rateLimitExceeded", RateLimited, true),
    ("flexUnavailable", Overloaded, true),
    ("serverOverloaded", Overloaded, true),
    ("policyCapacityUnavailable", Overloaded, true),
    ("internalServerError", Overloaded, true),
    ("modelNotFound", Config, false),
    ("cyberPolicy", Policy, false),
    ("bioPolicy", Policy, false),
    ("misalignmentPolicyViolation", Policy, false),
    ("inferenceHookDenied", Policy, false),
    ("unauthorized", Auth, false),
    ("badRequest", InvalidPrompt, false),
    // Only in records; on the wire it is `other`.
    ("invalidPrompt", InvalidPrompt, false),
];

/// Of the connection to the model; the API's status, where there is one, says more.
const CONNECTION: &[&str] = &[
    "httpConnectionFailed",
    "responseStreamConnectionFailed",
    "responseStreamDisconnected",
    "responseTooManyFailedAttempts",
];

/// Codes that don't identify the cause: for these only the message is left.
#[cfg(test)]
const WITHOUT_A_CAUSE: &[&str] = &[
    "other",
    "tooManyDenials",
    "threadRollbackFailed",
    "sandboxError",
    "activeTurnNotSteerable",
];

/// The cause of an error in the code's terms, made narrower by its words.
pub(super) fn cause(error: &Fields<'_>) -> Option<Cause> {
    narrowed(
        coded(&error.value("codexErrorInfo"))?,
        &error.text("message"),
    )
}

/// The same of what codex has recorded, where codes are in snake case.
pub(in crate::codex) fn cause_of_record(message: &str, info: &Value) -> Option<Cause> {
    narrowed(coded(&camel(info))?, message)
}

fn camel(info: &Value) -> Value {
    let camel = |snake: &str| {
        let mut words = snake.split('_');
        let mut out = words.next().unwrap_or_default().to_owned();
        for word in words {
            let (first, rest) = word.split_at(word.len().min(1));
            out.push_str(&first.to_ascii_uppercase());
            out.push_str(rest);
        }
        out
    };
    match info {
        Value::String(name) => Value::String(camel(name)),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| {
                let value = match value {
                    Value::Object(_) => self::camel(value),
                    other => other.clone(),
                };
                (camel(name), value)
            };
            Value::Object(fields.iter().map(field).collect())
        }
        other => other.clone(),
    }
}

fn narrowed(coded: Cause, message: &str) -> Option<Cause> {
    let told = classify(message);
    Some(if told.reason == coded.reason {
        told
    } else {
        coded
    })
}

fn coded(info: &Value) -> Option<Cause> {
    // A code is a text, or the only field of an object with its details.
    let (name, details) = match info {
        Value::String(name) => (name, &Value::Null),
        Value::Object(fields) => fields.iter().next()?,
        _ => return None,
    };
    if CONNECTION.contains(&name.as_str()) {
        return Some(of_status(details["httpStatusCode"].as_u64()));
    }
    let row = TABLE.iter().find(|(known, ..)| known == name)?;
    Some(Cause {
        reason: row.1,
        retryable: row.2,
    })
}

fn of_status(status: Option<u64>) -> Cause {
    let (reason, retryable) = match status {
        Some(401 | 403) => (Auth, false),
        Some(404) => (Config, false),
        Some(429) => (RateLimited, true),
        Some(400..=499) => (InvalidPrompt, false),
        Some(500..) => (Overloaded, true),
        _ => (Network, true),
    };
    Cause { reason, retryable }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(info: Value, message: &str) -> Option<(Reason, bool)> {
        let error = json!({"message": message, "codexErrorInfo": info}).to_string();
        let cause = cause(&Fields::of(error.as_bytes()).unwrap())?;
        Some((cause.reason, cause.retryable))
    }

    /// As the program's own schema names them (`CodexErrorInfo`).
    const SCHEMA: &[&str] = &[
        "contextWindowExceeded",
        "sessionBudgetExceeded",
        "usageLimitExceeded",
        "rateLimitExceeded",
        "flexUnavailable",
        "serverOverloaded",
        "modelNotFound",
        "policyCapacityUnavailable",
        "cyberPolicy",
        "bioPolicy",
        "misalignmentPolicyViolation",
        "tooManyDenials",
        "internalServerError",
        "unauthorized",
        "badRequest",
        "threadRollbackFailed",
        "sandboxError",
        "other",
        "inferenceHookDenied",
        "httpConnectionFailed",
        "responseStreamConnectionFailed",
        "responseStreamDisconnected",
        "responseTooManyFailedAttempts",
        "activeTurnNotSteerable",
    ];

    #[test]
    fn every_code_of_the_schema_is_known() {
        let known = TABLE.iter().map(|(name, ..)| *name);
        let known = known.filter(|name| *name != "invalidPrompt");
        let known = known.chain(CONNECTION.iter().chain(WITHOUT_A_CAUSE).copied());
        let mut known: Vec<_> = known.collect();
        let mut schema = SCHEMA.to_vec();
        known.sort_unstable();
        schema.sort_unstable();
        assert_eq!(known, schema);
        for name in SCHEMA {
            let caused = of(json!(name), "x").is_some();
            assert_eq!(caused, !WITHOUT_A_CAUSE.contains(name), "{name}");
            assert_eq!(of(json!({*name: {}}), "x"), of(json!(name), "x"), "{name}");
        }
    }

    #[test]
    fn a_code_outweighs_words_unless_these_are_narrower() {
        for (info, message, cause) in [
            (
                json!("contextWindowExceeded"),
                "rate limit",
                Some((ContextWindow, false)),
            ),
            (
                json!("usageLimitExceeded"),
                "try again at 7:30 AM",
                Some((UsageLimit, true)),
            ),
            (
                json!("usageLimitExceeded"),
                "Quota exceeded. Check your plan and billing details.",
                Some((UsageLimit, false)),
            ),
            (json!("other"), "stream disconnected", None),
            (json!(null), "x", None),
            (json!("new"), "x", None),
            (json!(7), "x", None),
        ] {
            assert_eq!(of(info, message), cause, "{message}");
        }
    }

    #[test]
    fn a_connections_failure_is_what_its_status_says() {
        let of = |status: Value| {
            of(
                json!({"httpConnectionFailed": {"httpStatusCode": status}}),
                "x",
            )
            .unwrap()
        };
        assert_eq!(of(json!(null)), (Network, true));
        assert_eq!(of(json!(401)), (Auth, false));
        assert_eq!(of(json!(403)), (Auth, false));
        assert_eq!(of(json!(404)), (Config, false));
        assert_eq!(of(json!(400)), (InvalidPrompt, false));
        assert_eq!(of(json!(429)), (RateLimited, true));
        assert_eq!(of(json!(503)), (Overloaded, true));
        assert_eq!(of(json!(200)), (Network, true));
    }
}
