//! What all messages share: their version, and how they are encoded and decoded.

use serde::{Deserialize, Serialize};
use serde_json::error::Category;

/// The version of the messages among workers.
pub const VERSION: u32 = 1;

/// What a message is to this version.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded<T> {
    Known(T),
    /// Another version or type; what it says it is.
    Unknown(String),
}

/// Its text ends up in logs: of the message they contain only a name
/// or two, bounded and escaped.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the {what} has {found} bytes; expected at most {allowed}")]
    TooLong {
        what: &'static str,
        found: usize,
        allowed: usize,
    },
    #[error("the {what} is not what it should be: {why}")]
    Json { what: &'static str, why: String },
    #[error("the {what} has the {field} {found:?}; expected {allowed}")]
    Field {
        what: &'static str,
        field: &'static str,
        found: String,
        allowed: &'static str,
    },
}

/// The type of a message of this version, or its other version.
pub(super) fn head(what: &'static str, body: &[u8]) -> Result<Result<String, u32>, DecodeError> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    #[derive(Deserialize)]
    struct Kind {
        #[serde(rename = "type")]
        kind: String,
    }
    // One by one: another version may not even have a type.
    let Version { v } = json(what, body)?;
    if v != VERSION {
        return Ok(Err(v));
    }
    Ok(Ok(json::<Kind>(what, body)?.kind))
}

/// Before anything is made of it.
pub(super) fn bounded(what: &'static str, body: &[u8], allowed: usize) -> Result<(), DecodeError> {
    let found = body.len();
    if found <= allowed {
        return Ok(());
    }
    Err(DecodeError::TooLong {
        what,
        found,
        allowed,
    })
}

pub(super) fn json<'a, T: Deserialize<'a>>(
    what: &'static str,
    body: &'a [u8],
) -> Result<T, DecodeError> {
    serde_json::from_slice(body).map_err(|error| DecodeError::Json {
        what,
        why: why(&error),
    })
}

/// serde_json's own words may quote the whole message, but for those on a
/// field of ours that isn't there.
fn why(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.starts_with("missing field") {
        return text;
    }
    let kind = match error.classify() {
        Category::Data => "a value of another type",
        Category::Io | Category::Syntax | Category::Eof => "no JSON",
    };
    format!("{kind} at line {} column {}", error.line(), error.column())
}

pub(super) fn encode(message: &impl Serialize) -> Vec<u8> {
    #[expect(
        clippy::expect_used,
        reason = "structs of strings, numbers and times always encode"
    )]
    serde_json::to_vec(message).expect("an internal message encodes as JSON")
}

pub(super) fn unknown_type<T>(kind: &str) -> Decoded<T> {
    Decoded::Unknown(format!("type {:?}", shown(kind)))
}

pub(super) fn unknown_version<T>(version: u32) -> Decoded<T> {
    Decoded::Unknown(format!("version {version}"))
}

/// As much of a foreign string as belongs into a log line.
pub(super) fn shown(text: &str) -> &str {
    let mut end = text.len().min(200);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
