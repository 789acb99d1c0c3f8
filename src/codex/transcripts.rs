//! What the real CLI printed, through the whole room: one snapshot a case.
//!
//! A new version of codex gets its own folder of captures beside this one.

use std::{fmt::Write, fs, path::PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    app_server::{Conversation, Heard, Load},
    failure::thread_lost,
    protocol::{CliEvent, parse_line},
    translate::{Finished, Translator, Verdict},
};
use crate::event::EventBody;
use crate::guard::Exit;

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/codex/0.169.0"]
        .iter()
        .collect()
}

struct Case {
    name: String,
    exit: Exit,
    stdout: Vec<u8>,
    stderr: String,
}

/// All captures, as `INDEX.tsv` lists them: `name <TAB> exit, arguments`.
fn cases() -> Vec<Case> {
    let index = fs::read_to_string(folder().join("INDEX.tsv")).unwrap();
    index
        .lines()
        .map(|line| {
            let (name, how) = line.split_once('\t').unwrap();
            let exit = match how.split_whitespace().collect::<Vec<_>>()[..] {
                ["killed", "by", "SIGTERM", ..] => Exit::Signal(15),
                ["killed", "by", "SIGKILL", ..] => Exit::Signal(9),
                [rc, ..] => Exit::Code(rc.strip_prefix("rc=").unwrap().parse().unwrap()),
                [] => panic!("no exit: {line}"),
            };
            let file = |kind: &str| folder().join(format!("{name}.{kind}"));
            Case {
                name: name.to_owned(),
                exit,
                stdout: fs::read(file("jsonl")).unwrap(),
                // Not captured if codex had written no line.
                stderr: fs::read_to_string(file("stderr")).unwrap_or_default(),
            }
        })
        .collect()
}

fn run(case: &Case) -> (Vec<EventBody>, bool, Finished) {
    let mut translator = Translator::new();
    let mut events = Vec::new();
    for line in case.stdout.split_inclusive(|byte| *byte == b'\n') {
        let event = parse_line(line).unwrap_or_else(|why| panic!("{}: {why}", case.name));
        events.extend(translator.translate(event));
    }
    let saw_event = translator.saw_event();
    (
        events,
        saw_event,
        translator.finish(&case.exit, &case.stderr),
    )
}

#[test]
fn every_transcript_matches_its_snapshot() {
    let cases = cases();
    let captured = fs::read_dir(folder()).unwrap().filter(|entry| {
        let path = entry.as_ref().unwrap().path();
        path.extension().is_some_and(|kind| kind == "jsonl")
    });
    assert_eq!(
        captured.count(),
        cases.len(),
        "INDEX.tsv lists every capture"
    );

    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(folder().join("snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for case in cases {
        let (events, saw_event, finished) = run(&case);
        assert_eq!(finished.unknown.len(), 0, "{}", case.name);
        let lost = thread_lost(&case.exit, saw_event, &case.stderr);
        let told = describe(&case.exit, &events, &finished, lost);
        settings.bind(|| insta::assert_snapshot!(case.name.as_str(), told));
    }
}

/// What the server wrote, heard by a conversation that asked as the one did
/// to which it was written: ids of requests count from 1.
fn replay(name: &str, stdout: &[u8]) -> String {
    let mut conversation = Conversation::new();
    conversation.load(Load {
        cwd: "/srv/workspaces/ws".to_owned(),
        sandbox: crate::config::Sandbox::Bypass,
        // Without one it would ask for the default.
        model: (name == "lost").then(|| "gpt-5.5".to_owned()),
        effort: None,
        resume: (name == "lost").then(|| "01a201f0-dead-7750-a64c-17c79c2eb47b".to_owned()),
    });
    let mut translator = Translator::new();
    let mut events = Vec::new();
    let mut told = String::new();
    for line in stdout.split_inclusive(|byte| *byte == b'\n') {
        for heard in conversation.hear(line) {
            match heard {
                Heard::Loaded { thread_id } => {
                    translator.translate(CliEvent::ThreadStarted { thread_id });
                    conversation.go("by the index".into());
                }
                Heard::Event(event) => {
                    if name == "interrupted" && matches!(event, CliEvent::ItemStarted(_)) {
                        conversation.interrupt();
                    }
                    events.extend(translator.translate(event));
                }
                other => writeln!(told, "{other:?}").unwrap(),
            }
        }
    }
    assert!(conversation.take_outgoing().ends_with(b"\n"));
    assert!(conversation.is_idle(), "{name}");
    let exit = Exit::Code(0);
    let finished = translator.finish(&exit, "");
    assert_eq!(finished.unknown.len(), 0, "{name}: {:?}", finished.unknown);
    told + &describe(&exit, &events, &finished, false) + &format!("{:?}\n", conversation.reported())
}

#[test]
fn every_transcript_of_the_server_matches_its_snapshot() {
    let folder = folder().join("app-server");
    let index = fs::read_to_string(folder.join("INDEX.tsv")).unwrap();
    let captured = fs::read_dir(&folder).unwrap().filter(|entry| {
        let path = entry.as_ref().unwrap().path();
        path.extension().is_some_and(|kind| kind == "jsonl")
    });
    assert_eq!(captured.count(), index.lines().count());
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(folder.join("snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for line in index.lines() {
        let (name, _) = line.split_once('\t').unwrap();
        let stdout = fs::read(folder.join(format!("{name}.jsonl"))).unwrap();
        let told = replay(name, &stdout);
        settings.bind(|| insta::assert_snapshot!(name, told));
    }
}

/// One JSON line an event; long texts by their length.
fn describe(exit: &Exit, events: &[EventBody], finished: &Finished, lost: bool) -> String {
    let mut out = String::new();
    let mut line = |value: Value| writeln!(out, "{}", shorten(value)).unwrap();
    for event in events {
        line(json!(event));
    }
    line(json!({"---": format!("{exit:?}")}));
    for event in &finished.events {
        line(json!(event));
    }
    line(match &finished.verdict {
        Verdict::EndTurn => json!({"verdict": "end_turn"}),
        Verdict::Failed(error) => json!({"verdict": error}),
    });
    line(json!({"last_text": finished.last_text}));
    line(json!({"thread_id": finished.thread_id, "thread_lost": lost}));
    line(json!({"reported_total": finished.reported_total}));
    out
}

fn shorten(value: Value) -> Value {
    match value {
        Value::String(text) if text.len() > 2500 => json!(format!("<{} bytes>", text.len())),
        Value::Object(fields) => fields.into_iter().map(|(k, v)| (k, shorten(v))).collect(),
        other => other,
    }
}

/// Lines that look like the CLI's, with ids from a small set, so that they
/// collide, and with fields left out or of the wrong type.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let odd = prop_oneof![
        Just(json!(null)),
        any::<i64>().prop_map(|n| json!(n)),
        "[a-z]{0,3}".prop_map(|text| json!(text)),
        Just(json!({"message": "x", "input_tokens": 1, "output_tokens": 2})),
        Just(json!([{"text": "a"}, 3])),
    ];
    const KINDS: &[&str] = &[
        "thread.started",
        "turn.started",
        "item.started",
        "item.started",
        "item.updated",
        "item.completed",
        "item.completed",
        "turn.completed",
        "turn.failed",
        "error",
        "other",
    ];
    const ITEMS: &[&str] = &[
        "command_execution",
        "file_change",
        "mcp_tool_call",
        "web_search",
        "collab_tool_call",
        "agent_message",
        "reasoning",
        "todo_list",
        "error",
        "other",
    ];
    let id = prop_oneof![
        4 => (0..3u8).prop_map(|n| json!(format!("item_{n}"))),
        1 => odd.clone(),
    ];
    let fields = prop::sample::subsequence(
        vec![
            "text",
            "message",
            "items",
            "status",
            "exit_code",
            "error",
            "command",
        ],
        0..4,
    );
    let event = (
        prop::sample::select(KINDS),
        prop::sample::select(ITEMS),
        prop::option::weighted(0.9, id),
        fields,
        odd,
    )
        .prop_map(|(kind, item, id, fields, odd)| {
            let mut line = json!({"type": kind, "item": {"type": item}, "message": odd,
                "error": odd, "usage": odd, "thread_id": odd});
            for field in fields {
                line["item"][field] = odd.clone();
            }
            if let Some(id) = id {
                line["item"]["id"] = id;
            }
            line.to_string().into_bytes()
        });
    prop_oneof![
        8 => event,
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => ".{0,40}".prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn any_output_pairs_each_tool_use_with_one_result(
        lines in prop::collection::vec(line(), 0..40),
        code in 0..3i32,
        stderr in ".{0,200}",
    ) {
        let mut translator = Translator::new();
        let mut events = Vec::new();
        for line in &lines {
            if let Ok(event) = parse_line(line) {
                events.extend(translator.translate(event));
            }
        }
        let saw_event = translator.saw_event();
        let exit = Exit::Code(code);
        thread_lost(&exit, saw_event, &stderr);
        events.extend(translator.finish(&exit, &stderr).events);

        // Id → whether its result has come.
        let mut calls = std::collections::HashMap::new();
        for event in &events {
            match event {
                EventBody::ToolUse { id, name, .. } => {
                    let again = calls.insert(id.clone(), (name.clone(), false));
                    prop_assert!(again.is_none(), "{id} stands for two calls");
                }
                EventBody::ToolResult { tool_use_id, name, .. } => {
                    let call = calls.get_mut(tool_use_id);
                    prop_assert_eq!(call, Some(&mut (name.clone(), false)));
                    calls.insert(tool_use_id.clone(), (name.clone(), true));
                }
                EventBody::MessageStart { .. }
                | EventBody::MessageEnd { .. }
                | EventBody::Error { .. } => prop_assert!(false, "not the translator's: {event:?}"),
                _ => {}
            }
        }
        prop_assert!(calls.values().all(|(_, done)| *done), "{calls:?}");
    }
}
