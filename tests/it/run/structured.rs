//! Answers that are to be JSON.

use std::fs;

use serde_json::{Value, json};

use crate::support::host::{Host, Turn};

/// Its fields are in another order than that of their names.
const SCHEMA: &str = r#"{"type":"object","properties":{"b":{"type":"string"},"a":{}}}"#;

fn run(host: &Host, workspace: &str, prompt: &str) -> Turn {
    let file = host.path().join("schema.json");
    fs::write(&file, format!("\n {SCHEMA}\n")).unwrap();
    let mut command = host.call(&["run", "--json", "--workspace", workspace]);
    command.arg("--output-schema").arg(file).arg("-");
    host.start_command(command, workspace, prompt).ended()
}

fn structured(turn: &Turn) -> Option<&Value> {
    turn.end().get("structured")
}

#[test]
fn the_last_message_is_published_as_the_value_that_it_is() {
    let host = Host::new();
    let turn = run(
        &host,
        "a",
        "t\nsay Let me see.\nsay {\"b\": [1, null], \"a\": 2}",
    );
    turn.assert_end_turn();
    assert_eq!(structured(&turn), Some(&json!({"b": [1, null], "a": 2})));
    assert_eq!(turn.end()["text"], "{\"b\": [1, null], \"a\": 2}");
    assert_eq!(turn.notices(), [""; 0]);
    let null = run(&host, "a", "u\nsay null");
    assert_eq!(structured(&null), Some(&Value::Null));
    // Of this turn only: the conversation is the same.
    let plain = host.run("a", "v\nschema");
    assert_eq!(plain.said(), ["none"]);
    assert_eq!(structured(&plain), None);
    assert_eq!(plain.thread(), turn.thread());
}

#[test]
fn codex_gets_the_schema_and_no_file_of_it_is_left() {
    let host = Host::new();
    let turn = run(&host, "a", "t\nschema");
    turn.assert_end_turn();
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    assert_eq!(structured(&turn), Some(&schema));
    if crate::support::engine::is_exec() {
        assert_eq!(turn.said(), [SCHEMA]);
        let argv = host.argv();
        let (_, file) = argv.split_once(" --output-schema=").unwrap();
        assert!(file.starts_with("/proc/self/fd/"), "{argv}");
    }
}

#[test]
fn what_is_no_json_is_a_notice_and_only_of_a_good_end() {
    let host = Host::new();
    let turn = run(&host, "a", "t\nsay Here you are: {}");
    turn.assert_end_turn();
    assert_eq!(structured(&turn), None);
    assert_eq!(turn.notices(), ["codex.not_structured"]);
    let silent = run(&host, "a", "u");
    assert_eq!(silent.notices(), ["codex.not_structured"]);
    let failed = run(&host, "a", "v\nsay {}\nfail no more");
    assert_eq!(failed.stop_reason(), "error");
    assert_eq!(structured(&failed), None);
    assert_eq!(failed.notices(), [""; 0]);
}
