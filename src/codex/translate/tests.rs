use std::collections::HashSet;

use super::errors::bounded;
use super::ids::MAX_USED_IDS;
use super::tools::{MAX_OPEN as MAX_OPEN_TOOLS, MAX_OUTPUT, MAX_PIECE};
use super::*;
use crate::{
    codex::protocol::parse_line,
    event::{ErrorCode, Reason},
};

fn feed(translator: &mut Translator, lines: &[&str]) -> Vec<EventBody> {
    lines
        .iter()
        .flat_map(|line| translator.translate(parse_line(line.as_bytes()).unwrap()))
        .collect()
}

fn failed(finished: &Finished) -> &TurnError {
    match &finished.verdict {
        Verdict::Failed(error) => error,
        Verdict::EndTurn => panic!("{finished:?}"),
    }
}

const ERROR: &str = r#"{"type":"error","message":"rate limit exceeded: x"}"#;

#[test]
fn error_line_that_repeats_the_failure_is_not_published_twice() {
    let mut translator = Translator::new();
    let pair = [
        ERROR,
        r#"{"type":"turn.failed","error":{"message":"rate limit exceeded: x"}}"#,
    ];
    assert_eq!(feed(&mut translator, &pair), []);
    let finished = translator.finish(&Exit::Code(1), "");
    assert_eq!(finished.events, []);
    assert_eq!(failed(&finished).code, ErrorCode::TurnFailed);
    assert_eq!(failed(&finished).reason, Reason::RateLimited);
}

#[test]
fn error_line_with_other_words_is_a_notice() {
    for next in [
        r#"{"type":"turn.failed","error":{"message":"other"}}"#,
        r#"{"type":"turn.completed"}"#,
        r#"{"type":"item.updated","item":{"id":"item_0","type":"reasoning"}}"#,
        r#"{"type":"error","message":"Reconnecting... 1/5 (x)"}"#,
    ] {
        let events = feed(&mut Translator::new(), &[ERROR, next]);
        let notice = notice(NoticeCode::Error, "rate limit exceeded: x".into());
        assert_eq!(events.first(), Some(&notice), "{next}");
    }
}

#[test]
fn error_line_at_the_very_end_is_the_failures_message() {
    let mut translator = Translator::new();
    let lines = [ERROR, r#"{"type":"new.kind"}"#];
    assert_eq!(feed(&mut translator, &lines), []);
    let finished = translator.finish(&Exit::Signal(9), "noise");
    let error = failed(&finished);
    assert_eq!(error.code, ErrorCode::Exited);
    assert_eq!(error.reason, Reason::RateLimited);
    assert!(
        error.message.ends_with("ended: rate limit exceeded: x"),
        "{error:?}"
    );
}

#[test]
fn failure_without_a_message_takes_the_error_lines() {
    let mut translator = Translator::new();
    let events = feed(&mut translator, &[ERROR, r#"{"type":"turn.failed"}"#]);
    assert_eq!(events, []);
    let finished = translator.finish(&Exit::Code(1), "");
    assert_eq!(failed(&finished).message, "rate limit exceeded: x");
}

#[test]
fn terminal_event_outweighs_an_odd_exit() {
    for exit in [
        Exit::Code(0),
        Exit::Code(101),
        Exit::Signal(9),
        Exit::GuardLost,
    ] {
        let mut translator = Translator::new();
        feed(&mut translator, &[r#"{"type":"turn.completed"}"#, ERROR]);
        let finished = translator.finish(&exit, "thread 'main' panicked");
        assert_eq!(finished.verdict, Verdict::EndTurn);
        assert_eq!(finished.events.len(), 1, "the late error line");
    }
}

#[test]
fn every_exit_without_a_terminal_event_is_a_failure_that_says_so() {
    for (exit, code, part) in [
        (Exit::Code(0), ErrorCode::Exited, "exited with code 0"),
        (Exit::Signal(15), ErrorCode::Exited, "signal 15"),
        (Exit::GuardLost, ErrorCode::Exited, "guard died"),
        (
            Exit::NotStarted {
                message: "`codex`: no such file".into(),
                errno: None,
            },
            ErrorCode::StartFailed,
            "no such file",
        ),
    ] {
        let finished = Translator::new().finish(&exit, "\u{1b}[31mError:\u{1b}[0m why");
        let error = failed(&finished);
        assert_eq!(error.code, code);
        assert!(error.message.contains(part), "{error:?}");
        if code == ErrorCode::Exited {
            assert!(error.message.ends_with(": Error: why"), "{error:?}");
        }
    }
}

#[test]
fn ids_that_come_again_stand_for_new_calls() {
    let start = r#"{"type":"item.started","item":{"id":"item_0","type":"command_execution","command":"a"}}"#;
    let end = r#"{"type":"item.completed","item":{"id":"item_0","type":"command_execution","exit_code":0}}"#;
    let mut translator = Translator::new();
    let events = feed(&mut translator, &[start, start, end, end, start]);
    let ids: Vec<_> = events
        .iter()
        .map(|event| match event {
            EventBody::ToolUse { id, .. } => ("use", id.as_str()),
            EventBody::ToolResult { tool_use_id, .. } => ("result", tool_use_id.as_str()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        ids,
        [
            ("use", "item_0"),
            ("result", "item_0"),
            ("use", "item_0#2"),
            ("result", "item_0#2"),
            ("use", "item_0#3"),
        ]
    );
    let rest = translator.finish(&Exit::Code(1), "").events;
    assert!(matches!(&rest[..],
        [EventBody::ToolResult { tool_use_id, is_error: true, content, .. }]
        if tool_use_id == "item_0#3" && content["status"] == "unfinished"));
}

/// Starts so many calls, with ids that start with `prefix`.
fn start(translator: &mut Translator, prefix: &str, count: usize) -> Vec<EventBody> {
    let lines = (0..count).map(|n| {
        format!(r#"{{"type":"item.started","item":{{"id":"{prefix}{n}","type":"web_search"}}}}"#)
    });
    lines.flat_map(|line| feed(translator, &[&line])).collect()
}

#[test]
fn g8_what_is_no_name_of_a_kind_is_not_reported() {
    let mut translator = Translator::new();
    let long = "x".repeat(65);
    for kind in ["new.kind_2", "a secret", "\n", "é", &long] {
        let what = format!("event {kind}");
        translator.translate(CliEvent::Unknown { what });
    }
    let unknown = translator.finish(&Exit::Code(0), "").unknown;
    let told: Vec<_> = unknown.iter().map(|(what, n)| (&**what, *n)).collect();
    assert_eq!(told, [("event new.kind_2", 1), ("other", 4)]);
}

#[test]
fn g10_what_is_kept_of_tool_calls_is_bounded() {
    let mut translator = Translator::new();
    let events = start(&mut translator, &"x".repeat(1000), MAX_OPEN_TOOLS + 1);
    // All start alike, as far as they are looked at.
    assert_eq!(events.len(), 1);
    let events = start(&mut translator, "y", MAX_OPEN_TOOLS);
    assert_eq!(events.len(), MAX_OPEN_TOOLS + 1);
    assert!(matches!(events.last(),
        Some(EventBody::ToolResult { tool_use_id, is_error: true, .. }) if tool_use_id.starts_with("xxx")));
    let EventBody::ToolUse { id, .. } = &start(&mut Translator::new(), "a#", 1)[0] else {
        panic!("no call");
    };
    assert_eq!(id, "a_0");

    start(&mut translator, "z", 2 * MAX_USED_IDS);
    assert_eq!(translator.tools.open().len(), MAX_OPEN_TOOLS);
    assert_eq!(translator.tools.ids().used(), MAX_USED_IDS);
    let ids: HashSet<&str> = translator
        .tools
        .open()
        .iter()
        .map(|tool| &*tool.id)
        .collect();
    assert_eq!(ids.len(), MAX_OPEN_TOOLS);
}

#[test]
fn g8_of_a_failure_only_the_workers_own_words_are_for_logs() {
    let end = |exit: Exit, lines: &[&str]| {
        let mut translator = Translator::new();
        feed(&mut translator, lines);
        let finished = translator.finish(&exit, "error: SECRET: in config.toml");
        failed(&finished).own_words().map(ToOwned::to_owned)
    };
    let failure = r#"{"type":"turn.failed","error":{"message":"SECRET"}}"#;
    assert_eq!(end(Exit::Code(1), &[failure]), None);
    assert_eq!(
        end(Exit::Code(3), &[ERROR]).as_deref(),
        Some("codex exited with code 3 before it told how the turn ended")
    );
    assert_eq!(
        end(Exit::Signal(9), &[]).as_deref(),
        Some("codex was ended by signal 9 before it told how the turn ended")
    );
    let missing = Exit::NotStarted {
        message: "/bin/codex: No such file".into(),
        errno: None,
    };
    assert_eq!(
        end(missing, &[]).as_deref(),
        Some("codex could not be started: /bin/codex: No such file")
    );
}

#[test]
fn g10_what_is_kept_of_unknown_kinds_is_bounded() {
    let mut translator = Translator::new();
    for n in 0..100 {
        let what = format!("event {n}");
        translator.translate(CliEvent::Unknown { what });
    }
    let unknown = translator.finish(&Exit::Code(0), "").unknown;
    assert_eq!(unknown.len(), MAX_UNKNOWN_KINDS + 1);
    assert_eq!(unknown.values().sum::<u64>(), 100);
    assert_eq!(bounded("éééé".into(), 7), "é …");
}

fn delta(kind: fn(String, String) -> CliEvent, id: &str, text: &str) -> CliEvent {
    kind(id.to_owned(), text.to_owned())
}

fn output(id: &str, text: &str) -> CliEvent {
    delta(
        |item_id, text| CliEvent::OutputDelta { item_id, text },
        id,
        text,
    )
}

#[test]
fn a_message_in_pieces_is_published_once_and_remembered_whole() {
    let mut translator = Translator::new();
    let text = |text: &str| {
        delta(
            |item_id, text| CliEvent::TextDelta { item_id, text },
            "m",
            text,
        )
    };
    let mut events = translator.translate(text("Hel"));
    events.extend(translator.translate(text("lo")));
    let whole =
        r#"{"type":"item.completed","item":{"id":"m","type":"agent_message","text":"Hello."}}"#;
    events.extend(feed(&mut translator, &[whole]));
    let pieces: Vec<_> = events
        .iter()
        .map(|event| match event {
            EventBody::TextDelta { item_id, text } => (item_id.as_str(), text.as_str()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(pieces, [("m", "Hel"), ("m", "lo"), ("m", ".")]);
    let finished = translator.finish(&Exit::Code(0), "");
    assert_eq!(finished.last_text.as_deref(), Some("Hello."));
}

#[test]
fn g10_output_is_published_in_small_pieces_up_to_a_limit() {
    let start =
        r#"{"type":"item.started","item":{"id":"c","type":"command_execution","command":"a"}}"#;
    let end =
        r#"{"type":"item.completed","item":{"id":"c","type":"command_execution","exit_code":0}}"#;
    let mut translator = Translator::new();
    assert_eq!(translator.translate(output("c", "too early")), []);
    feed(&mut translator, &[start]);
    let long = "é".repeat(MAX_OUTPUT);
    let events: Vec<_> = ["x", &long, "more"]
        .iter()
        .flat_map(|text| translator.translate(output("c", text)))
        .collect();
    let pieces = events.iter().map(|event| match event {
        EventBody::ToolOutput { tool_use_id, text } => {
            assert_eq!(tool_use_id, "c");
            assert!(text.len() <= MAX_PIECE);
            text.as_str()
        }
        other => panic!("{other:?}"),
    });
    let told: String = pieces.collect();
    assert_eq!(told.len(), MAX_OUTPUT - 1);
    assert!(format!("x{long}").starts_with(&told));
    feed(&mut translator, &[end]);
    assert_eq!(translator.translate(output("c", "too late")), []);
}

#[test]
fn a_code_outweighs_the_words_of_a_failure() {
    let cause = Some(Cause {
        reason: Reason::Auth,
        retryable: false,
    });
    let message = || "stream disconnected".to_owned();
    let error = || CliEvent::Error {
        message: message(),
        cause,
    };
    let mut told = Translator::new();
    told.translate(error());
    let failed_turn = CliEvent::TurnFailed {
        message: message(),
        cause,
    };
    assert_eq!(told.translate(failed_turn), []);
    let finished = told.finish(&Exit::Code(0), "");
    assert_eq!(failed(&finished).reason, Reason::Auth);
    // Also where codex dies on it.
    let mut cut = Translator::new();
    cut.translate(error());
    let finished = cut.finish(&Exit::Signal(9), "");
    assert_eq!(failed(&finished).code, ErrorCode::Exited);
    assert_eq!(failed(&finished).reason, Reason::Auth);
}

#[test]
fn what_is_tried_again_is_a_notice_and_never_a_failure() {
    let mut translator = Translator::new();
    let retrying = CliEvent::Retrying {
        message: "busy".into(),
    };
    let notice = notice(NoticeCode::Reconnecting, "busy".into());
    assert_eq!(translator.translate(retrying), [notice]);
    let finished = translator.finish(&Exit::Code(0), "");
    assert!(!failed(&finished).message.contains("busy"));
}

#[test]
fn g7_a_turn_that_failed_before_the_model_was_asked_has_spent_no_tokens() {
    const BEGUN: &str = r#"{"type":"turn.started"}"#;
    const SAID: &str =
        r#"{"type":"item.completed","item":{"id":"item_0","type":"agent_message","text":"x"}}"#;
    let failed = |message: &str| {
        let line = serde_json::json!({"type": "turn.failed", "error": {"message": message}});
        line.to_string()
    };
    let refused = failed("unexpected status 401 Unauthorized");
    let disconnected = failed("stream disconnected before completion: x");
    let quota = failed("You exceeded your current quota");
    for (lines, reached) in [
        (&[][..], false),
        (&[&*quota], false),
        // A request may be in flight when codex is stopped, or dies.
        (&[BEGUN], true),
        (&[BEGUN, &*quota], false),
        (&[BEGUN, &*refused], false),
        (&[BEGUN, SAID, &*quota], true),
        (&[BEGUN, &*disconnected], false),
        (&[BEGUN, SAID, &*disconnected], true),
    ] {
        let mut translator = Translator::new();
        for line in lines {
            translator.translate(parse_line(line.as_bytes()).unwrap());
        }
        let finished = translator.finish(&Exit::Code(1), "");
        assert_eq!(finished.reached_model, reached, "{lines:?}");
    }
}

#[test]
fn an_interrupted_turn_is_not_over() {
    let mut translator = Translator::new();
    translator.translate(CliEvent::TurnInterrupted);
    assert!(!translator.is_over());
    let finished = translator.finish(&Exit::Code(0), "");
    assert!(failed(&finished).retryable);
}
