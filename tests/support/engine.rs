//! The engine that the tests run on, and how to look at what it reported without
//! minding in how many pieces it came.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;

/// Names the engine; `exec` where it is not set.
const VARIABLE: &str = "TURN_WORKER_TEST_ENGINE";

pub fn engine() -> String {
    std::env::var(VARIABLE).unwrap_or_else(|_| "exec".to_owned())
}

/// What only one of the engines does.
pub fn is_exec() -> bool {
    engine() == "exec"
}

/// The events with a text's pieces joined, and without what only one of the
/// engines reports: what commands print while they run, and what was spent so far.
pub fn whole<'a>(events: impl IntoIterator<Item = &'a Value>) -> Vec<Value> {
    let mut whole: Vec<Value> = Vec::new();
    for event in events {
        let kind = event["type"].as_str().unwrap();
        let is_piece = kind.ends_with("_delta");
        match whole.last_mut() {
            _ if kind == "tool_output" || kind == "usage" => {}
            Some(last)
                if is_piece
                    && last["type"] == event["type"]
                    && last["item_id"] == event["item_id"] =>
            {
                let text = [&last["text"], &event["text"]].map(|text| text.as_str().unwrap());
                last["text"] = text.concat().into();
            }
            _ => whole.push(event.clone()),
        }
    }
    whole
}

/// The texts among them.
pub fn said<'a>(events: impl IntoIterator<Item = &'a Value>) -> Vec<String> {
    let whole = whole(events).into_iter();
    let texts = whole.filter(|event| event["type"] == "text_delta");
    texts
        .map(|event| event["text"].as_str().unwrap().to_owned())
        .collect()
}

/// Their types.
pub fn kinds<'a>(events: impl IntoIterator<Item = &'a Value>) -> Vec<String> {
    let whole = whole(events).into_iter();
    whole
        .map(|event| event["type"].as_str().unwrap().to_owned())
        .collect()
}
