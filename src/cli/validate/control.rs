//! What the workers would say of a control message.

use serde_json::{Value, json};
use turn_worker::amqp::messages::{Cancel, IgnoredControl};

use super::Ignored;
use crate::cli::render::style::Style;

/// As JSON, and for people.
pub fn shown(
    verdict: &Result<Cancel, IgnoredControl>,
    ignored: &Ignored,
    style: Style,
) -> (Value, String) {
    let mut lines = Vec::new();
    let mut told = match verdict {
        Ok(cancel) => {
            let turn_id = &cancel.turn_id;
            let workspace = cancel.workspace.as_ref();
            let place = workspace.map_or_else(|| "any workspace".to_owned(), ToString::to_string);
            lines.push(style.green(&format!("valid: cancels turn {turn_id} in {place}")));
            let understood =
                json!({ "action": "cancel", "turn_id": turn_id, "workspace": workspace });
            json!({ "valid": true, "understood": understood })
        }
        Err(IgnoredControl {
            fault,
            field,
            found,
            expected,
        }) => {
            lines.push(style.red(&format!("not valid: {}", fault.as_str())));
            lines.push(style.bold(field));
            lines.push(format!("  found    {found}"));
            lines.push(format!("  expected {expected}"));
            let violation = json!({ "field": field, "found": found, "allowed": expected });
            json!({ "valid": false, "code": fault.as_str(), "violations": [violation] })
        }
    };
    ignored.add_to(&mut told);
    lines.extend(ignored.lines(style));
    (told, lines.join("\n") + "\n")
}
