//! Turns that codex has finished, though their end is not reported as it should be.

use super::*;

fn status(conversation: &mut Conversation, status: &str) {
    let params = json!({"status": {"type": status}});
    assert_eq!(note(conversation, "thread/status/changed", params), []);
}

fn said(conversation: &mut Conversation, id: &str) {
    let item = json!({"item": {"type": "agentMessage", "id": id, "text": "Hi"}});
    assert_eq!(note(conversation, "item/completed", item).len(), 1);
}

fn ended(event: CliEvent) -> Vec<Heard> {
    vec![Heard::Event(event)]
}

fn failed() -> CliEvent {
    CliEvent::TurnFailed {
        message: String::new(),
        cause: None,
    }
}

const COMPLETED: CliEvent = CliEvent::TurnCompleted { usage: None };

#[test]
fn a_turn_without_a_reported_end_ends_by_its_threads_status() {
    for (to, end) in [
        ("idle", COMPLETED),
        ("notLoaded", COMPLETED),
        ("systemError", failed()),
    ] {
        let mut conversation = running();
        assert!(!conversation.seems_over());
        status(&mut conversation, to);
        assert!(conversation.seems_over());
        assert_eq!(
            conversation.conclude().into_iter().collect::<Vec<_>>(),
            ended(end)
        );
        assert!(!conversation.seems_over());
        // It is not used again, and its end is not reported twice.
        assert!(!conversation.is_idle());
        assert_eq!(completed(&mut conversation, "completed", json!(null)), []);
    }
    // Of a thread that was idle before its turn started, and that works on.
    let mut conversation = loaded(load());
    conversation.go("x".into());
    status(&mut conversation, "idle");
    started(&mut conversation);
    status(&mut conversation, "idle");
    status(&mut conversation, "active");
    assert!(!conversation.seems_over());
    // Its end was asked for.
    conversation.interrupt();
    sent(&mut conversation);
    status(&mut conversation, "idle");
    let end = conversation.conclude().into_iter().collect::<Vec<_>>();
    assert_eq!(end, ended(CliEvent::TurnInterrupted));
}

#[test]
fn codex_is_asked_how_the_turn_has_ended() {
    let message = json!({"type": "agentMessage", "id": "m", "text": "Hi"});
    let error = json!({"message": "no", "codexErrorInfo": "other"});
    for (turn, heard, ends) in [
        (
            json!({"id": "t1", "status": "completed", "items": [message]}),
            1,
            true,
        ),
        (
            json!({"id": "t1", "status": "failed", "error": error}),
            1,
            true,
        ),
        (json!({"id": "t1", "status": "inProgress"}), 0, false),
        (json!({"id": "t0", "status": "completed"}), 0, false),
    ] {
        let mut conversation = running();
        said(&mut conversation, "m");
        status(&mut conversation, "idle");
        conversation.ask_for_end();
        let asked = sent(&mut conversation);
        assert_eq!(asked[0]["method"], "thread/turns/list");
        assert_eq!(asked[0]["params"], json!({"threadId": THREAD, "limit": 1}));
        let answer = json!({"id": asked[0]["id"], "result": {"data": [turn]}});
        assert_eq!(hear(&mut conversation, answer).len(), heard, "{turn}");
        assert_eq!(conversation.seems_over(), !ends, "{turn}");
        assert!(!conversation.is_idle());
    }
    // One that knows of no such question.
    let mut conversation = running();
    status(&mut conversation, "idle");
    conversation.ask_for_end();
    let heard = refuse(&mut conversation, "thread/turns/list", "unknown variant");
    assert_eq!(heard, []);
    assert!(conversation.seems_over());
}

/// Its own line may have been too long, or unreadable.
#[test]
fn the_last_message_is_taken_from_the_end_where_it_was_not_heard() {
    let end = json!({"turn": {"id": "t1", "status": "completed",
        "items": [{"type": "agentMessage", "id": "m2", "text": "Last"}]}});
    let mut conversation = running();
    said(&mut conversation, "m1");
    let told = note(&mut conversation, "turn/completed", end.clone());
    let [
        CliEvent::ItemCompleted(Item {
            id,
            kind: ItemKind::AgentMessage { text },
        }),
        COMPLETED,
    ] = &told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!((id.as_str(), text.as_str()), ("m2", "Last"));
    let mut conversation = running();
    said(&mut conversation, "m2");
    assert_eq!(note(&mut conversation, "turn/completed", end), [COMPLETED]);
}

#[test]
fn g10_a_line_that_is_too_long_is_known_by_its_first_bytes() {
    let line = |thread: &str, turn: &str| {
        format!(
            r#"{{"method":"turn/completed","params":{{"threadId":"{thread}","turn":{{"id":"{turn}","items":[{{"text":"xx"#
        )
    };
    for (head, to, end) in [
        (line(THREAD, "t1"), "idle", Some(COMPLETED)),
        (line(THREAD, "t1"), "systemError", Some(failed())),
        (line(THREAD, "t0"), "idle", None),
        (line("sub-agent", "t1"), "idle", None),
        (
            line(THREAD, "t1").replace("turn/completed", "item/completed"),
            "idle",
            None,
        ),
        (format!("x{}", line(THREAD, "t1")), "idle", None),
    ] {
        let mut conversation = running();
        status(&mut conversation, to);
        let heard = conversation.skipped(head.as_bytes());
        assert_eq!(heard, end.map(ended).unwrap_or_default(), "{head}");
    }
}

#[test]
fn a_message_behind_unreadable_bytes_is_heard() {
    let turn = json!({"id": "t1", "status": "completed"});
    let end = json!({"method": "turn/completed", "params": {"threadId": THREAD, "turn": turn}});
    for before in [&b"\xff\xfe"[..], b"not json ", b"{\"id\":1,", b"{}"] {
        let mut conversation = running();
        let line = [before, end.to_string().as_bytes()].concat();
        let heard = conversation.hear(&line);
        let bytes = line.len();
        assert_eq!(
            heard,
            [Heard::Garbage { bytes }, Heard::Event(COMPLETED)],
            "{before:?}"
        );
    }
}
