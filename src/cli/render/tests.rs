use serde_json::{Value, json};

use super::*;

/// Feeds events, numbered from 0, to a screen of 40 columns.
fn shown(style: Style, events: &[Value]) -> String {
    let mut screen = Screen::new(style);
    let mut out = String::new();
    for (seq, event) in events.iter().enumerate() {
        let arrival = Arrival {
            restarted: event["restarted"] == true,
            missed: event["missed"].as_u64().unwrap_or(0),
        };
        let mut event = event.clone();
        let fields = event.as_object_mut().unwrap();
        for (name, value) in [
            ("turn_id", json!("t-01")),
            ("attempt", json!(1)),
            ("seq", json!(seq)),
            ("time", json!("2026-01-02T03:04:05.000Z")),
        ] {
            fields.entry(name).or_insert(value);
        }
        let message = TurnMessage::parse(event.to_string().as_bytes()).unwrap();
        out.push_str(&screen.event(&message, arrival, 40));
    }
    out
}

fn start() -> Value {
    json!({"type": "message_start", "workspace": "acme/website"})
}

fn text(item: &str, text: &str) -> Value {
    json!({"type": "text_delta", "item_id": item, "text": text})
}

fn command(id: &str, command: &str) -> Value {
    json!({"type": "tool_use", "id": id, "name": "command_execution", "input": {"command": command}})
}

fn output(id: &str, text: &str) -> Value {
    json!({"type": "tool_output", "tool_use_id": id, "text": text})
}

fn result(id: &str, code: i64, output: &str) -> Value {
    json!({"type": "tool_result", "tool_use_id": id, "name": "command_execution", "is_error": code != 0,
           "content": {"exit_code": code, "aggregated_output": output, "status": "completed"}})
}

fn end(stop_reason: &str, text: &str) -> Value {
    json!({"type": "message_end", "stop_reason": stop_reason, "text": text, "duration_ms": 5120,
           "usage": {"input_tokens": 1200, "cache_read_tokens": 800, "cache_write_tokens": 0,
                     "output_tokens": 90, "thinking_tokens": 40}})
}

#[test]
fn an_answer_by_a_schema_is_shown_as_the_value_that_it_is() {
    let mut end = end("end_turn", r#"{"a":["x"]}"#);
    end["structured"] = json!({"a": ["x\u{1b}[2J"]});
    let shown = shown(
        Style::default(),
        &[start(), text("m1", r#"{"a":["x"]}"#), end],
    );
    let value = "the answer as JSON:\n{\n  \"a\": [\n    \"x\\u001b[2J\"\n  ]\n}\n";
    assert!(shown.contains(value), "{shown}");
}

#[test]
fn a_turn_reads_from_top_to_bottom() {
    let shown = shown(
        Style::default(),
        &[
            start(),
            json!({"type": "thinking_delta", "item_id": "i0", "text": "Let me look."}),
            command("i1", "/bin/bash -lc 'cargo test'"),
            result("i1", 101, "one\ntwo\n"),
            command("i2", "true"),
            result("i2", 0, ""),
            json!({"type": "plan", "items": [{"text": "Look", "completed": true}, {"text": "Fix", "completed": false}]}),
            json!({"type": "plan", "items": [{"text": "Look", "completed": true}, {"text": "Fix", "completed": true}]}),
            json!({"type": "notice", "code": "codex.reconnecting", "message": "Reconnecting... 1/5"}),
            text("i3", "Fix"),
            text("i3", "ed."),
            text("i4", "All is \u{1b}[31mwell.\n"),
            end("end_turn", "All is well.\n"),
        ],
    );
    assert_eq!(
        shown,
        "\
turn t-01 in acme/website

Let me look.

$ cargo test
  one
  two
  exit code 101
$ true

[x] Look
[ ] Fix

[x] Look
[x] Fix

! Reconnecting... 1/5

Fixed.

All is well.

done · 5.1 s · 1,200 tokens in (800 cached) · 90 out (40 thinking)
"
    );
}

#[test]
fn a_failure_says_what_why_and_what_next() {
    let shown = shown(
        Style::default(),
        &[
            start(),
            json!({"type": "error", "error": {"code": "turn.failed", "message": "slow down",
                   "reason": "rate_limited", "retryable": true}}),
            json!({"type": "message_end", "stop_reason": "error", "duration_ms": 61_000}),
        ],
    );
    assert_eq!(
        shown,
        "\
turn t-01 in acme/website
error: slow down
  turn.failed, rate_limited; sent again under a new id, it may succeed later
failed · 1 min 1 s · tokens unknown
"
    );
}

#[test]
fn what_came_of_calls_that_overlap_stands_below_each() {
    let shown = shown(
        Style::default(),
        &[
            command("a", "first"),
            command("b", "second"),
            result("a", 0, "of the first"),
            result("b", 0, "of the second"),
            result("unheard of", 1, ""),
        ],
    );
    assert_eq!(
        shown,
        "\
$ first
$ second
$ first
  of the first
$ second
  of the second
$ 
  exit code 1
"
    );
}

#[test]
fn what_comes_in_pieces_reads_as_if_it_came_whole() {
    let thought = |text: &str| json!({"type": "thinking_delta", "item_id": "i0", "text": text});
    let shown = shown(
        Style::default(),
        &[
            thought("Let me"),
            thought(" look."),
            command("a", "cargo test"),
            output("a", "Compi"),
            output("a", "ling\nrunn"),
            output("a", "ing"),
            result("a", 1, "Compiling\nrunning"),
            command("b", "first"),
            command("c", "second"),
            output("b", "of the first\n"),
            output("c", "of the second\n"),
            result("c", 0, "of the second\n"),
            result("b", 0, "of the first\n"),
            text("i1", "Fix"),
            text("i1", "ed."),
        ],
    );
    assert_eq!(
        shown,
        "\
Let me look.

$ cargo test
  Compiling
  running
  exit code 1
$ first
$ second
  of the second
$ first
  of the first

Fixed."
    );
}

#[test]
fn a_new_attempt_voids_what_was_shown() {
    let mut again = start();
    again["attempt"] = json!(2);
    again["restarted"] = json!(true);
    let shown = shown(
        Style::default(),
        &[start(), text("i", "half a sent"), again, text("i", "whole")],
    );
    assert_eq!(
        shown,
        "\
turn t-01 in acme/website

half a sent

! the worker was lost, and the turn starts over (attempt 2); what stands above is void
turn t-01 in acme/website, attempt 2

whole"
    );
}

#[test]
fn an_answer_with_a_missed_part_is_printed_whole_at_the_end() {
    let missed = |missed: u64, mut event: Value| {
        event["missed"] = missed.into();
        event
    };
    let lost = shown(
        Style::default(),
        &[
            missed(3, text("i", "end.")),
            end("end_turn", "The whole end."),
        ],
    );
    assert!(
        lost.starts_with("! 3 events were missed\n\nend.\n\nThe whole end.\n\ndone"),
        "{lost}"
    );
    // No part of the answer was among what was missed.
    let kept = shown(
        Style::default(),
        &[
            missed(1, text("i", "The end.")),
            end("end_turn", "The end."),
        ],
    );
    assert_eq!(kept.matches("The end.").count(), 1, "{kept}");
    // Something else came between its pieces.
    let parted = shown(
        Style::default(),
        &[
            missed(1, text("i", "The ")),
            json!({"type": "notice", "code": "codex.warning", "message": "hm"}),
            text("i", "end."),
            end("end_turn", "The end."),
        ],
    );
    assert_eq!(parted.matches("end.").count(), 1, "{parted}");
}

#[test]
fn what_a_newer_worker_says_is_passed_over_but_for_the_end() {
    let shown = shown(
        Style::default(),
        &[
            json!({"type": "applause"}),
            json!({"type": "message_end", "stop_reason": "bored", "duration_ms": 1}),
        ],
    );
    assert_eq!(
        shown,
        "! the turn ended in a way that this version does not know\n"
    );
}

#[test]
fn g8_no_field_of_an_event_reaches_the_terminal_raw() {
    let evil = "\u{1b}]0;owned\u{7}\u{9b}2J\u{8}\u{202e}";
    let mut result = result("i", 1, evil);
    result["content"]["status"] = json!(evil);
    let mut named = start();
    named["workspace"] = json!(evil);
    let mcp = json!({"type": "tool_result", "tool_use_id": "m", "name": "mcp_tool_call", "is_error": true,
        "content": {"error": {"message": evil}, "result": {"content": [{"text": evil}]}}});
    let events = [
        named,
        text("i", evil),
        json!({"type": "thinking_delta", "item_id": "i", "text": evil}),
        command("i", evil),
        output("i", &format!("{evil}\n")),
        result,
        json!({"type": "tool_use", "id": "n", "name": evil, "input": {"x": evil}}),
        json!({"type": "tool_result", "tool_use_id": "n", "name": evil, "is_error": true, "content": {"status": evil}}),
        mcp,
        json!({"type": "plan", "items": [{"text": evil, "completed": false}]}),
        json!({"type": "notice", "code": "codex.error", "message": evil}),
        json!({"type": "error", "error": {"code": "turn.failed", "message": evil, "reason": "unknown", "retryable": false}}),
        json!({"missed": 1, "type": "message_end", "stop_reason": "error", "text": evil, "duration_ms": 1}),
    ];
    let shown = shown(Style::default(), &events);
    let bad: Vec<char> = shown
        .chars()
        .filter(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}')
        .collect();
    assert!(bad.is_empty(), "{shown:?}");
}

#[test]
fn colours_are_for_those_who_want_them() {
    let events = [start(), end("end_turn", "")];
    assert!(shown(Style::COLOURED, &events).contains("\u{1b}[32mdone\u{1b}[0m"));
    assert!(!shown(Style::default(), &events).contains('\u{1b}'));
}
