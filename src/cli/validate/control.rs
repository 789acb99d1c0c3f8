//! What the workers would say of a control message.

use serde_json::{Value, json};
use turn_worker::amqp::messages::{Cancel, ControlRequest, DescribeTurn, IgnoredControl};

use super::Ignored;
use crate::cli::render::style::Style;

/// What a question needs besides, and its body doesn't show.
const REPLY_TO: &str = "the message's property reply_to, which must be the name of a queue that the broker has named or \
                        that ends in a UUID";

/// As JSON, and for people.
pub(super) fn shown(
    verdict: &Result<ControlRequest, IgnoredControl>,
    ignored: &Ignored,
    style: Style,
) -> (Value, String) {
    let mut lines = Vec::new();
    let mut told = match verdict {
        Ok(ControlRequest::Describe(DescribeTurn { turn_id, workspace })) => {
            let text = format!("valid: asks where turn {turn_id} in {workspace} is");
            lines.push(style.green(&text));
            lines.push(format!("not checked: {REPLY_TO}"));
            let understood =
                json!({ "action": "describe", "turn_id": turn_id, "workspace": workspace });
            json!({ "valid": true, "understood": understood, "not_checked": [REPLY_TO] })
        }
        Ok(ControlRequest::Cancel(Cancel {
            turn_id, workspace, ..
        })) => {
            let place = workspace.as_ref();
            let place = place.map_or_else(|| "any workspace".to_owned(), ToString::to_string);
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
