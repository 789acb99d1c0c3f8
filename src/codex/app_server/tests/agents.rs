//! What codex does besides the turn that it was asked for.

use super::*;

const KID: &str = "01a21530-0000-7000-8000-00000000000a";

fn of_kid(conversation: &mut Conversation, method: &str, params: Value) -> Vec<CliEvent> {
    let mut params = params;
    params["threadId"] = json!(KID);
    params["turnId"] = json!("k1");
    note(conversation, method, params)
}

fn status(conversation: &mut Conversation, thread: &str, status: &str) {
    let params = json!({"threadId": thread, "status": {"type": status}});
    assert_eq!(note(conversation, "thread/status/changed", params), []);
}

/// As codex reports it with the newer protocol.
fn spawned(conversation: &mut Conversation) {
    status(conversation, KID, "idle");
    let item = json!({"item": {"type": "subAgentActivity", "id": "c", "kind": "started",
        "model": "gpt-x", "agentThreadId": KID, "agentPath": "/root/kid"}});
    assert_eq!(note(conversation, "item/started", item.clone()), []);
    assert_eq!(note(conversation, "item/completed", item), []);
}

fn kid_started(conversation: &mut Conversation) -> ToolCall {
    let turn = json!({"turn": {"id": "k1", "rootTurnId": "t1"}});
    match &of_kid(conversation, "turn/started", turn)[..] {
        [
            CliEvent::ItemStarted(Item {
                id,
                kind: ItemKind::Tool(call),
            }),
        ] if id == "k1" => call.clone(),
        other => panic!("{other:?}"),
    }
}

fn kid_ended(conversation: &mut Conversation, status: &str, error: Value) -> Vec<CliEvent> {
    let turn = json!({"turn": {"id": "k1", "status": status, "error": error}});
    of_kid(conversation, "turn/completed", turn)
}

fn end(conversation: &mut Conversation) {
    let end = completed(conversation, "completed", json!(null));
    assert_eq!(end, [CliEvent::TurnCompleted { usage: None }]);
}

fn goal(conversation: &mut Conversation, status: &str) {
    let params = json!({"goal": {"objective": "x", "status": status}});
    assert_eq!(note(conversation, "thread/goal/updated", params), []);
}

fn unasked(conversation: &mut Conversation, id: &str) {
    let turn = json!({"turn": {"id": id}, "turnId": null});
    assert_eq!(note(conversation, "turn/started", turn), []);
}

#[test]
fn a_sub_agents_turn_is_a_call_with_its_outcome() {
    let mut conversation = running();
    spawned(&mut conversation);
    let call = kid_started(&mut conversation);
    assert_eq!(
        call.input(),
        json!({"thread_id": KID, "path": "/root/kid", "model": "gpt-x"})
    );
    for (outcome, error, is_error) in [
        ("completed", json!(null), false),
        ("interrupted", json!(null), true),
        ("failed", json!({"message": "no"}), true),
    ] {
        let told = kid_ended(&mut conversation, outcome, error.clone());
        let [
            CliEvent::ItemCompleted(Item {
                id,
                kind: ItemKind::Tool(call),
            }),
        ] = &told[..]
        else {
            panic!("{told:?}")
        };
        assert_eq!((id.as_str(), call.is_error()), ("k1", is_error));
        assert_eq!(
            call.content(),
            json!({"status": outcome, "error": error["message"]})
        );
    }
    end(&mut conversation);
    assert!(conversation.is_idle());
}

/// A server that keeps working is no server that waits.
#[test]
fn g3_a_server_rests_only_when_its_sub_agents_do() {
    let mut conversation = running();
    spawned(&mut conversation);
    end(&mut conversation);
    // Its turn is due.
    assert!(!conversation.is_idle());
    status(&mut conversation, KID, "active");
    let turn = json!({"turn": {"id": "k1", "rootTurnId": "t1"}});
    assert_eq!(of_kid(&mut conversation, "turn/started", turn), []);
    assert!(!conversation.is_idle());
    assert!(conversation.interrupt_agents() && conversation.interrupt_agents());
    let asked = sent(&mut conversation);
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0]["params"], json!({"threadId": KID, "turnId": "k1"}));
    status(&mut conversation, KID, "idle");
    assert_eq!(kid_ended(&mut conversation, "interrupted", json!(null)), []);
    assert!(!conversation.is_idle());
    hear(
        &mut conversation,
        json!({"id": asked[0]["id"], "result": {}}),
    );
    assert!(conversation.is_idle());
    // The command that it has left, as it is reported when it ends.
    let late = json!({"item": {"type": "commandExecution", "id": "c", "status": "failed"}});
    assert_eq!(of_kid(&mut conversation, "item/completed", late), []);
    assert!(conversation.is_idle());
    // Another agent has it go on.
    status(&mut conversation, KID, "active");
    assert!(!conversation.is_idle());
}

#[test]
fn g3_a_command_with_an_unreadable_start_is_known() {
    for (method, params) in [
        (
            "item/started",
            json!({"item": {"type": "agentMessage", "id": "m"}}),
        ),
        (
            "item/agentMessage/delta",
            json!({"itemId": "m", "delta": "x"}),
        ),
        (
            "thread/status/changed",
            json!({"status": {"type": "active"}}),
        ),
    ] {
        let mut conversation = running();
        assert_eq!(of_kid(&mut conversation, method, params), []);
        end(&mut conversation);
        assert!(!conversation.is_idle(), "{method}");
        assert_eq!(kid_ended(&mut conversation, "completed", json!(null)), []);
        assert!(conversation.is_idle(), "{method}");
    }
}

#[test]
fn g10_of_too_many_sub_agents_it_is_known_that_there_are_more() {
    let mut conversation = running();
    for n in 0..2_000 {
        let params =
            json!({"threadId": format!("kid-{n}"), "turn": {"id": "k", "status": "completed"}});
        note(&mut conversation, "turn/completed", params);
    }
    end(&mut conversation);
    assert!(!conversation.is_idle());
    assert!(!conversation.interrupt_agents());
}

/// codex would start a turn for it as soon as this one ends.
#[test]
fn g3_a_server_with_a_goal_does_not_rest() {
    for (last, rests) in [("active", false), ("paused", false), ("complete", true)] {
        let mut conversation = running();
        goal(&mut conversation, "active");
        answer(&mut conversation, "thread/goal/set", json!({}));
        goal(&mut conversation, last);
        if last == "active" {
            answer(&mut conversation, "thread/goal/set", json!({}));
        }
        end(&mut conversation);
        assert_eq!(conversation.is_idle(), rests, "{last}");
        assert_eq!(conversation.interrupt_agents(), rests);
    }
    let mut conversation = running();
    goal(&mut conversation, "active");
    let asked = sent(&mut conversation);
    assert_eq!(asked[0]["method"], "thread/goal/set");
    assert_eq!(
        asked[0]["params"],
        json!({"threadId": THREAD, "status": "paused"})
    );
    hear(
        &mut conversation,
        json!({"id": asked[0]["id"], "result": {}}),
    );
    note(&mut conversation, "thread/goal/cleared", json!({}));
    end(&mut conversation);
    assert!(conversation.is_idle());
}

#[test]
fn g3_a_server_that_has_started_a_turn_by_itself_rests_no_more() {
    let mut conversation = running();
    end(&mut conversation);
    unasked(&mut conversation, "g1");
    assert!(!conversation.is_idle() && !conversation.others_rest());
    let turn = json!({"turn": {"id": "g1", "status": "completed"}});
    assert_eq!(note(&mut conversation, "turn/completed", turn), []);
    assert!(!conversation.others_rest());
}

/// codex would put the prompt into the turn that runs.
#[test]
fn a_turn_is_started_only_when_the_one_that_was_not_asked_for_has_ended() {
    let mut conversation = loaded(load());
    unasked(&mut conversation, "g1");
    conversation.go("Hello".into());
    let asked = sent(&mut conversation);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0]["method"], "turn/interrupt");
    assert_eq!(
        asked[0]["params"],
        json!({"threadId": THREAD, "turnId": "g1"})
    );
    let turn = json!({"turn": {"id": "g1", "status": "interrupted"}});
    assert_eq!(note(&mut conversation, "turn/completed", turn), []);
    assert_eq!(sent(&mut conversation)[0]["method"], "turn/start");
    // Merged all the same.
    conversation = loaded(load());
    unasked(&mut conversation, "g1");
    let turn = json!({"turn": {"id": "g1", "status": "completed"}});
    note(&mut conversation, "turn/completed", turn);
    conversation.go("Hello".into());
    let heard = answer(
        &mut conversation,
        "turn/start",
        json!({"turn": {"id": "g1"}}),
    );
    assert!(matches!(&heard[..], [Heard::Refused { .. }]), "{heard:?}");
}

/// Or the thread would start a turn as soon as it is loaded.
/// As where the goal was paused too late.
#[test]
fn g7_what_codex_does_for_a_goal_is_spent_on_the_turn_that_has_set_it() {
    let mut conversation = running();
    note(&mut conversation, TOKENS, usage([30, 9], [30, 9]));
    completed(&mut conversation, "completed", Value::Null);
    unasked(&mut conversation, "g1");
    let mut for_goal = usage([50, 12], [20, 3]);
    for_goal["turnId"] = json!("g1");
    assert_eq!(note(&mut conversation, TOKENS, for_goal), []);
    assert_eq!(spent(&conversation), (Some(50), None));
}

#[test]
fn the_goal_of_an_ended_turn_is_cleared_before_its_thread_is_loaded() {
    let mut conversation = initialized();
    conversation.load(Load {
        model: Some("gpt-x".to_owned()),
        ..resume()
    });
    let asked = sent(&mut conversation);
    let last = asked.last().unwrap();
    assert_eq!(last["method"], "thread/goal/clear");
    assert_eq!(last["params"], json!({"threadId": THREAD}));
    let result = json!({"id": last["id"], "result": {"cleared": true}});
    assert_eq!(hear(&mut conversation, result), []);
    answer(&mut conversation, "config/read", json!({"config": {}}));
    assert_eq!(sent(&mut conversation)[0]["method"], "thread/resume");
}

#[test]
fn a_refused_interrupt_is_repeated_with_the_next_that_is_heard_of_the_turn() {
    let mut conversation = running();
    conversation.interrupt();
    let message = "no active turn to interrupt";
    refuse(&mut conversation, "turn/interrupt", message);
    assert_eq!(sent(&mut conversation), [json!(null); 0]);
    delta(&mut conversation, "x");
    assert_eq!(sent(&mut conversation)[0]["method"], "turn/interrupt");
}

/// The line that says that it has started need not have been understood.
#[test]
fn an_interrupt_waits_for_anything_that_is_heard_of_the_turn() {
    let mut conversation = loaded(load());
    conversation.go("x".into());
    let turn = json!({"turn": {"id": "t1"}});
    answer(&mut conversation, "turn/start", turn);
    conversation.interrupt();
    assert_eq!(sent(&mut conversation), [json!(null); 0]);
    delta(&mut conversation, "x");
    assert_eq!(sent(&mut conversation)[0]["method"], "turn/interrupt");
}

#[test]
fn a_tool_that_sleeps_says_for_how_long() {
    let mut conversation = running();
    for thread in [THREAD, KID] {
        let item = json!({"type": "sleep", "id": "s", "durationMs": 700});
        let params = json!({"threadId": thread, "turnId": "t1", "item": item});
        let line = json!({"method": "item/started", "params": params});
        assert_eq!(
            hear(&mut conversation, line),
            [Heard::Sleeps(Duration::from_millis(700))]
        );
    }
}
