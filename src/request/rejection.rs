use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::{Metadata, TurnId, WorkspaceId};
use crate::codes::ErrorCode;
use crate::trace::TraceContext;

/// More than this many are counted, not kept: a body of ten thousand
/// wrong messages must not grow into an answer of megabytes.
const MAX_VIOLATIONS: usize = 32;

/// How much of a wrong value is shown, in characters.
const MAX_SHOWN: usize = 80;

/// A rule of the contract that a request breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field, such as `messages[0].content`; `body` for the
    /// request as a whole.
    pub field: String,
    /// What stands there, of bounded length and safe to print on one line.
    pub found: String,
    /// What may stand there.
    pub rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: found {}, expected {}",
            self.field, self.found, self.rule
        )
    }
}

/// A request that can't be accepted, and all that is needed to answer it.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejection {
    /// Under which the producer may be listening: the body's, else the
    /// message id, else the correlation id.
    pub turn_id: Option<TurnId>,
    /// For the answer, where the body has a valid one.
    pub workspace: Option<WorkspaceId>,
    /// For the answer, where the body has a valid one.
    pub metadata: Option<Metadata>,
    /// For the answer's headers.
    pub trace: Option<Arc<TraceContext>>,
    /// [`ErrorCode::WorkspaceRejected`] when the workspace that was named is
    /// all that is wrong, else [`ErrorCode::RequestInvalid`].
    pub code: ErrorCode,
    /// What was wrong, what was found and what is expected, one by one.
    pub violations: Vec<Violation>,
    /// How many more violations were found than are kept.
    pub omitted: usize,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.violations.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{violation}")?;
        }
        match self.omitted {
            0 => Ok(()),
            omitted => write!(f, "; and {omitted} more"),
        }
    }
}

impl std::error::Error for Rejection {}

impl Rejection {
    /// What was broken, without what was found: for logs, where no prompt may
    /// end up.
    pub fn rules(&self) -> String {
        let rules: Vec<String> = (self.violations.iter())
            .map(|violation| format!("{}: expected {}", violation.field, violation.rule))
            .collect();
        rules.join("; ")
    }
}

/// Gathers violations while a request is read.
#[derive(Debug, Default)]
pub(super) struct Violations {
    kept: Vec<Violation>,
    omitted: usize,
    others_than_workspace: bool,
}

impl Violations {
    pub(super) fn add(&mut self, field: impl Into<String>, found: String, rule: impl Into<String>) {
        self.others_than_workspace = true;
        self.push(field.into(), found, rule.into());
    }

    /// A workspace was named that can't be one.
    pub(super) fn add_workspace(&mut self, found: String, rule: impl Into<String>) {
        self.push("workspace".to_owned(), found, rule.into());
    }

    fn push(&mut self, field: String, found: String, rule: String) {
        if self.kept.len() < MAX_VIOLATIONS {
            self.kept.push(Violation { field, found, rule });
        } else {
            self.omitted += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    pub(super) fn reject(
        self,
        turn_id: Option<TurnId>,
        workspace: Option<WorkspaceId>,
        metadata: Option<Metadata>,
        trace: Option<Arc<TraceContext>>,
    ) -> Rejection {
        Rejection {
            turn_id,
            workspace,
            metadata,
            trace,
            code: if self.others_than_workspace {
                ErrorCode::RequestInvalid
            } else {
                ErrorCode::WorkspaceRejected
            },
            violations: self.kept,
            omitted: self.omitted,
        }
    }
}

/// A field's value for people: on one line, with any content.
pub(crate) fn shown(value: Option<&Value>) -> String {
    match value {
        None => "nothing".to_owned(),
        Some(Value::String(text)) => quoted(text),
        Some(Value::Array(items)) => format!("an array of {}", items.len()),
        Some(Value::Object(_)) => "an object".to_owned(),
        Some(plain) => plain.to_string(),
    }
}

/// `escape_debug` escapes control characters, and the invisible ones that
/// turn or break a line.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars().take(MAX_SHOWN) {
        quoted.extend(c.escape_debug());
    }
    quoted.push('"');
    let more = text.chars().skip(MAX_SHOWN).count();
    if more > 0 {
        quoted.push_str(&format!(" and {more} more characters"));
    }
    quoted
}
