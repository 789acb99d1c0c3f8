//! `turn-worker dead show`.

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use turn_worker::operator::{DeadLetter, Operator};

use super::{FoundLetter, Patience, Which, find};
use crate::cli::output::{self, Output};
use crate::cli::render::clean::clean;
use crate::cli::render::human::{age, bytes, since};
use crate::cli::render::layout::{Layout, layout};
use crate::cli::render::style::Style;

pub(super) const HELP: &str = "\
Examples:
  turn-worker dead show 12
  turn-worker dead show nightly-42
  turn-worker dead show --turn-id 42
  turn-worker dead show 12 --body > request.json

Places may change: when the queue is full, the oldest go. Of several requests under one turn id, the newest is \
shown, and the places of the others are listed. Without a terminal, one JSON object: place, of, turn_id, workspace, \
code, message, time, bytes, properties, headers, others, and the request as `body` where it is JSON, else as `text` \
(with what is no UTF-8 replaced); --body prints it byte for byte.";

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Its place in the queue, as `dead list` shows it, or its turn's id
    #[arg(value_name = "N|TURN_ID")]
    which: String,
    /// Take it for a turn's id, though it is a number
    #[arg(long)]
    turn_id: bool,
    /// Print only the request itself
    #[arg(long)]
    body: bool,
    /// JSON, also on a terminal
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    patience: Patience,
}

pub(super) async fn show(operator: &Operator, args: ShowArgs) -> anyhow::Result<ExitCode> {
    let which = Which::of(&args.which, args.turn_id)?;
    let FoundLetter {
        letter,
        others,
        total,
    } = find(operator, &which, args.patience.timeout).await?;
    let output = Output::new(args.json);
    let printed = match output.screen() {
        _ if args.body && output.is_terminal() => output::print(&(body(&letter) + "\n")),
        _ if args.body => output::print_bytes(&letter.body),
        Some((style, _)) => output::print(&shown(&letter, total, &others, style)),
        None => output.json_text(&as_json(&letter, total, &others)),
    };
    output::status(printed)
}

/// Laid out if it is JSON, and in any case without what a terminal obeys.
fn body(letter: &DeadLetter) -> String {
    let text = String::from_utf8_lossy(&letter.body);
    layout(&text, Layout::Pretty).unwrap_or_else(|| clean(&text))
}

fn shown(letter: &DeadLetter, total: u64, others: &[u64], style: Style) -> String {
    let title = format!("rejected request {} of {total}", letter.place);
    let mut out = format!("{}\n", style.bold(&title));
    let mut line = |name: &str, value: &str| {
        let value = clean(value).trim_end().replace('\n', "\n            ");
        out.push_str(&format!("{} {value}\n", style.dim(&format!("{name:<11}"))));
    };
    let known = |text: &Option<String>| text.as_deref().unwrap_or("–").to_owned();
    line("turn", &known(&letter.turn_id));
    line("workspace", &known(&letter.workspace));
    line("code", &known(&letter.code));
    line("message", &known(&letter.message));
    if let Some(then) = letter.rejected_at {
        let ago = age(since(then, Timestamp::now()));
        line("rejected", &format!("{then}, {ago} ago"));
    }
    line("size", &bytes(letter.body.len() as u64));
    let fields = |map: &Map<String, Value>| {
        let field = |(name, value): (&String, &Value)| match value {
            Value::String(text) => format!("{name}: {text}"),
            value => format!("{name}: {value}"),
        };
        map.iter().map(field).collect::<Vec<_>>().join("\n")
    };
    if !letter.properties.is_empty() {
        line("properties", &fields(&letter.properties));
    }
    let mut headers = letter.headers.clone();
    // They stand above.
    headers.retain(|name, _| !matches!(name.as_str(), "x-error-code" | "x-error-message"));
    if !headers.is_empty() {
        line("headers", &fields(&headers));
    }
    if !others.is_empty() {
        let places: Vec<String> = others.iter().map(u64::to_string).collect();
        line("others", &format!("of this turn: {}", places.join(", ")));
    }
    out.push_str(&format!("\n{}\n", body(letter)));
    out
}

fn as_json(letter: &DeadLetter, total: u64, others: &[u64]) -> String {
    let told = json!({
        "place": letter.place,
        "of": total,
        "turn_id": letter.turn_id,
        "workspace": letter.workspace,
        "code": letter.code,
        "message": letter.message,
        "time": letter.rejected_at,
        "bytes": letter.body.len(),
        "properties": letter.properties,
        "headers": letter.headers,
        "others": others,
    });
    let text = String::from_utf8_lossy(&letter.body);
    // As it was written: a value would lose order, doubled keys and digits.
    let compact = layout(&text, Layout::Compact).and_then(|json| RawValue::from_string(json).ok());
    let (name, body) = match &compact {
        Some(json) => ("body", json.get().to_owned()),
        None => ("text", json!(text).to_string()),
    };
    let told = told.to_string();
    let open = told.strip_suffix('}').unwrap_or(&told);
    format!("{open},{}:{body}}}", json!(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(body: &str) -> DeadLetter {
        let headers = json!({"x-error-code": "request.invalid", "x-delivery-count": 2});
        DeadLetter {
            place: 3,
            code: Some("request.invalid".to_owned()),
            message: Some("one\ntwo\u{1b}[31m".to_owned()),
            turn_id: None,
            workspace: Some("a\u{9b}2J".to_owned()),
            rejected_at: None,
            headers: headers.as_object().cloned().unwrap_or_default(),
            properties: Map::new(),
            body: body.as_bytes().to_vec(),
        }
    }

    #[test]
    fn g8_a_letter_reads_well_and_moves_no_cursor() {
        let told = shown(
            &letter("{\"b\":1,\"a\":\"\u{202e}\"}"),
            4,
            &[1, 2],
            Style::default(),
        );
        assert_eq!(
            told,
            "\
rejected request 3 of 4
turn        –
workspace   a
code        request.invalid
message     one
            two
size        17 B
headers     x-delivery-count: 2
others      of this turn: 1, 2

{
  \"b\": 1,
  \"a\": \"\\u202e\"
}
"
        );
        let told = shown(&letter("no\u{1b}]0;x\u{7} JSON"), 4, &[], Style::default());
        assert!(told.ends_with("\n\nno JSON\n"), "{told}");
    }

    #[test]
    fn a_letter_as_json_keeps_the_body_as_it_was_written() {
        let told = as_json(&letter("{\"b\": 1.0,\n\"b\": 2}"), 4, &[]);
        assert!(told.ends_with(r#","body":{"b":1.0,"b":2}}"#), "{told}");
        let told: Value = serde_json::from_str(&as_json(&letter("{\"b"), 4, &[])).unwrap();
        assert_eq!((&told["text"], &told["of"]), (&json!("{\"b"), &json!(4)));
        assert_eq!(told["body"], Value::Null);
    }

    #[test]
    fn a_number_is_a_place_unless_it_is_said_to_be_an_id() {
        let of = |text, id| Which::of(text, id).ok();
        assert_eq!(of("12", false), Some(Which::Place(12)));
        assert_eq!(of("12", true), Some(Which::Turn("12".to_owned())));
        assert_eq!(of("t-12", false), Some(Which::Turn("t-12".to_owned())));
        for wrong in ["0", "65536", "99999999999999999999999"] {
            let told = Which::of(wrong, false).unwrap_err().to_string();
            assert!(
                told.contains(wrong) && told.contains("1 (the oldest)"),
                "{told}"
            );
        }
    }
}
