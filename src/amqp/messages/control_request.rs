//! A control message as it is acted on, or why it is ignored.

use std::fmt;
use std::path::PathBuf;

use serde_json::Value;

use super::control::MAX_CONTROL_BYTES;
use super::{Control, Decoded};
use crate::request::{IdError, TurnId, WorkspaceId, json, shown};

/// A control message that can be acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlRequest {
    Cancel(Cancel),
    Describe(DescribeTurn),
}

/// A cancel that can be acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cancel {
    pub turn_id: String,
    pub workspace: Option<WorkspaceId>,
    /// For which turn, if a sequencer asks.
    pub superseded_by: Option<String>,
}

/// The question where a turn is. It names the workspace, too: who knows only a
/// turn's id learns no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribeTurn {
    pub turn_id: String,
    pub workspace: WorkspaceId,
}

/// What kind of thing is wrong with a control message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlFault {
    /// No JSON object of a control message's size.
    Unreadable,
    /// It asks for something that this version doesn't know.
    UnknownAction,
    /// One of its fields is missing or can't be used.
    UnusableField,
}

impl ControlFault {
    pub const ALL: [Self; 3] = [Self::Unreadable, Self::UnknownAction, Self::UnusableField];

    /// As the metric names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::UnknownAction => "unknown_action",
            Self::UnusableField => "unusable_field",
        }
    }
}

/// A control message that is ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoredControl {
    pub fault: ControlFault,
    /// `body` for the message as a whole.
    pub field: &'static str,
    /// Of bounded length and safe to print on one line.
    pub found: String,
    pub expected: String,
}

impl fmt::Display for IgnoredControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            field,
            found,
            expected,
            ..
        } = self;
        write!(f, "{field}: found {found}, expected {expected}")
    }
}

impl IgnoredControl {
    /// A question without a queue for its answer, or with one that another user may have.
    pub fn without_address(reply_to: Option<&str>) -> Self {
        let found = reply_to.map(Value::from);
        let expected = "a queue named by the broker or with a name that ends in a UUID, as the \
                        message's property";
        unusable("reply_to", found.as_ref(), expected.to_owned())
    }
}

impl ControlRequest {
    /// `roots`: under which a workspace may be named by its path.
    pub fn read(body: &[u8], roots: &[PathBuf]) -> Result<Self, IgnoredControl> {
        let Ok(Decoded::Known(control)) = Control::decode(body) else {
            return Err(why_ignored(body));
        };
        let id = |name: String| {
            WorkspaceId::parse(&name, roots)
                .map_err(|rule| unusable("workspace", Some(&name.into()), rule.to_string()))
        };
        Ok(match control {
            Control::Cancel {
                turn_id,
                workspace,
                superseded_by,
            } => Self::Cancel(Cancel {
                turn_id,
                workspace: workspace.map(id).transpose()?,
                superseded_by,
            }),
            Control::Describe { turn_id, workspace } => Self::Describe(DescribeTurn {
                turn_id,
                workspace: id(workspace)?,
            }),
        })
    }
}

fn unusable(field: &'static str, found: Option<&Value>, expected: String) -> IgnoredControl {
    IgnoredControl {
        fault: ControlFault::UnusableField,
        field,
        found: shown(found),
        expected,
    }
}

fn why_ignored(body: &[u8]) -> IgnoredControl {
    let unreadable = |found| IgnoredControl {
        fault: ControlFault::Unreadable,
        field: "body",
        found,
        expected: format!("a JSON object of at most {MAX_CONTROL_BYTES} bytes"),
    };
    if body.len() > MAX_CONTROL_BYTES {
        return unreadable(format!("{} bytes", body.len()));
    }
    let message = match json::from_slice(body) {
        Ok(message) if message.is_object() => message,
        Ok(other) => return unreadable(shown(Some(&other))),
        Err(_) => return unreadable(format!("{} bytes that are no JSON", body.len())),
    };
    let action = message.get("action");
    if !matches!(action.and_then(Value::as_str), Some("cancel" | "describe")) {
        return IgnoredControl {
            fault: ControlFault::UnknownAction,
            field: "action",
            found: shown(action),
            expected: "\"cancel\" or \"describe\"".to_owned(),
        };
    }
    let is_turn_id = |id: &Value| id.as_str().is_some_and(|id| id.parse::<TurnId>().is_ok());
    let turn_id = message.get("turn_id");
    if !turn_id.is_some_and(is_turn_id) {
        return unusable("turn_id", turn_id, IdError::TurnId.to_string());
    }
    let by = message.get("superseded_by").filter(|by| !by.is_null());
    if by.is_some_and(|by| !is_turn_id(by)) {
        return unusable("superseded_by", by, IdError::TurnId.to_string());
    }
    let workspace = message.get("workspace");
    unusable("workspace", workspace, IdError::Workspace.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<ControlRequest, IgnoredControl> {
        ControlRequest::read(body.as_bytes(), &["/srv/ws".into()])
    }

    #[test]
    fn each_is_read_with_its_workspace_in_either_spelling() {
        for spelling in ["a/b", "/srv/ws/a/b"] {
            let body =
                format!(r#"{{"action":"cancel","turn_id":"t","workspace":"{spelling}","x":1}}"#);
            let cancel = Cancel {
                turn_id: "t".to_owned(),
                workspace: Some("a/b".parse().unwrap()),
                superseded_by: None,
            };
            assert_eq!(read(&body), Ok(ControlRequest::Cancel(cancel)));
            let question = DescribeTurn {
                turn_id: "t".to_owned(),
                workspace: "a/b".parse().unwrap(),
            };
            let body = body.replace("cancel", "describe");
            assert_eq!(read(&body), Ok(ControlRequest::Describe(question)));
        }
        let cancel = read(r#"{"action":"cancel","turn_id":"t","workspace":null}"#);
        let Ok(ControlRequest::Cancel(cancel)) = cancel else {
            panic!("{cancel:?}");
        };
        assert_eq!(cancel.workspace, None);
    }

    #[test]
    fn what_is_ignored_is_named_by_its_field() {
        use ControlFault::{UnknownAction, Unreadable, UnusableField};
        for (body, fault, text) in [
            (
                r#"{"action":"Cancel","turn_id":"t"}"#,
                UnknownAction,
                r#"action: found "Cancel", expected "cancel" or "describe""#,
            ),
            (
                r#"{"action":"stop"}"#,
                UnknownAction,
                r#"action: found "stop", expected "cancel" or "describe""#,
            ),
            (
                "{}",
                UnknownAction,
                r#"action: found nothing, expected "cancel" or "describe""#,
            ),
            (
                r#"{"action":7}"#,
                UnknownAction,
                r#"action: found 7, expected "cancel" or "describe""#,
            ),
            (
                r#"{"action":"cancel","turnId":"t"}"#,
                UnusableField,
                "turn_id: found nothing, expected 1 to 128 of A-Z a-z 0-9 . _ -",
            ),
            (
                r#"{"action":"cancel","turn_id":"a b"}"#,
                UnusableField,
                "turn_id: found \"a b\", expected 1 to 128 of A-Z a-z 0-9 . _ -",
            ),
            (
                r#"{"action":"cancel","turn_id":"t","workspace":"/etc"}"#,
                UnusableField,
                "workspace: found \"/etc\", expected a path under the workspace root",
            ),
            (
                r#"{"action":"cancel","turn_id":"t","workspace":7}"#,
                UnusableField,
                "workspace: found 7, expected 1 to 4 segments",
            ),
            (
                r#"{"action":"cancel","turn_id":"t","superseded_by":""}"#,
                UnusableField,
                "superseded_by: found \"\", expected 1 to 128",
            ),
            (
                r#"{"action":"describe","turn_id":"t"}"#,
                UnusableField,
                "workspace: found nothing, expected 1 to 4 segments",
            ),
            (
                r#"{"action":"describe","turn_id":"t","workspace":null}"#,
                UnusableField,
                "workspace: found null, expected 1 to 4 segments",
            ),
            (
                r#"{"action":"describe","turn_id":"a b","workspace":"a"}"#,
                UnusableField,
                "turn_id: found \"a b\", expected 1 to 128",
            ),
            (
                "cancel",
                Unreadable,
                "body: found 6 bytes that are no JSON, expected a JSON object of at most 16384 bytes",
            ),
            ("[1]", Unreadable, "body: found an array of 1, expected"),
            (
                "",
                Unreadable,
                "body: found 0 bytes that are no JSON, expected",
            ),
            (
                &" ".repeat(20_000),
                Unreadable,
                "body: found 20000 bytes, expected",
            ),
        ] {
            let ignored = read(body).unwrap_err();
            assert_eq!(ignored.fault, fault, "{body}");
            assert!(ignored.to_string().starts_with(text), "{ignored}");
        }
    }

    #[test]
    fn g10_what_is_shown_of_it_is_bounded() {
        let body = format!(r#"{{"action":"\u001b[31m{}"}}"#, "x".repeat(10_000));
        let text = read(&body).unwrap_err().to_string();
        assert!(text.len() < 200 && !text.contains('\u{1b}'), "{text}");
    }
}
