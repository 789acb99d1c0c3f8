use serde_json::{Value, json};

use super::*;
use crate::codex::protocol::{Item, ItemKind};
use crate::codex::tool::{ToolCall, ToolKind};
use crate::event::{NoticeCode, Tokens};
use crate::labels::RateLimitWindow;

mod agents;
mod ends;

const THREAD: &str = "01a21530-0000-7000-8000-000000000001";

fn load() -> Load {
    Load {
        cwd: "/srv/ws".into(),
        sandbox: Sandbox::Bypass,
        model: None,
        effort: None,
        resume: None,
    }
}

fn resume() -> Load {
    Load {
        resume: Some(THREAD.into()),
        ..load()
    }
}

/// The lines to be sent, as values.
fn sent(conversation: &mut Conversation) -> Vec<Value> {
    let out = String::from_utf8(conversation.take_outgoing()).unwrap();
    assert!(out.is_empty() || out.ends_with('\n'));
    out.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn hear(conversation: &mut Conversation, line: Value) -> Vec<Heard> {
    conversation.hear(format!("{line}\n").as_bytes())
}

/// Answers the only request that is to be sent.
fn answer(conversation: &mut Conversation, method: &str, result: Value) -> Vec<Heard> {
    let asked = sent(conversation);
    let request = asked.iter().find(|line| line["method"] == method);
    let id = &request.unwrap_or_else(|| panic!("{asked:?}"))["id"];
    hear(conversation, json!({"id": id, "result": result}))
}

fn refuse(conversation: &mut Conversation, method: &str, message: &str) -> Vec<Heard> {
    let asked = sent(conversation);
    let request = asked.iter().find(|line| line["method"] == method).unwrap();
    let error = json!({"code": -32600, "message": message});
    hear(conversation, json!({"error": error, "id": request["id"]}))
}

fn initialized() -> Conversation {
    let mut conversation = Conversation::new();
    assert_eq!(answer(&mut conversation, "initialize", json!({})), []);
    conversation
}

/// To the request that loads it.
fn begin_to_load(conversation: &mut Conversation, load: Load) {
    let resumes = load.resume.is_some();
    let asks_for_default = load.model.is_none();
    conversation.load(load);
    if resumes {
        // As where codex knows of no goals.
        assert_eq!(refuse(conversation, "thread/goal/clear", "no goals"), []);
        let config = json!({"config": {"model_provider": "mine"}});
        assert_eq!(answer(conversation, "config/read", config), []);
        if asks_for_default {
            // No server is configured, and the server has no list.
            assert_eq!(refuse(conversation, "model/list", "unknown"), []);
        }
    }
}

fn loaded(load: Load) -> Conversation {
    let mut conversation = initialized();
    begin_to_load(&mut conversation, load.clone());
    let method = match load.resume {
        Some(_) => "thread/resume",
        None => "thread/start",
    };
    let heard = answer(&mut conversation, method, json!({"thread": {"id": THREAD}}));
    let thread_id = THREAD.to_owned();
    assert_eq!(heard, [Heard::Loaded { thread_id }]);
    conversation
}

fn note(conversation: &mut Conversation, method: &str, params: Value) -> Vec<CliEvent> {
    let mut all = json!({"threadId": THREAD, "turnId": "t1"});
    let fields = all.as_object_mut().unwrap();
    fields.extend(params.as_object().unwrap().clone());
    let heard = hear(conversation, json!({"method": method, "params": all}));
    let event = |heard| match heard {
        Heard::Event(event) => event,
        other => panic!("{other:?}"),
    };
    heard.into_iter().map(event).collect()
}

fn running() -> Conversation {
    let mut conversation = loaded(load());
    conversation.go("Hello".into());
    started(&mut conversation);
    conversation
}

fn started(conversation: &mut Conversation) {
    let turn = json!({"turn": {"id": "t1"}});
    answer(conversation, "turn/start", turn.clone());
    let told = note(conversation, "turn/started", turn);
    assert_eq!(told, [CliEvent::TurnStarted]);
}

fn completed(conversation: &mut Conversation, status: &str, error: Value) -> Vec<CliEvent> {
    let turn = json!({"turn": {"id": "t1", "status": status, "error": error}});
    note(conversation, "turn/completed", turn)
}

fn delta(conversation: &mut Conversation, text: &str) -> Vec<CliEvent> {
    let params = json!({"itemId": "m", "delta": text});
    note(conversation, "item/agentMessage/delta", params)
}

#[test]
fn a_conversation_goes_on_from_greeting_to_greeting() {
    let mut conversation = Conversation::new();
    assert!(!conversation.is_idle());
    let greeting = &sent(&mut conversation)[0];
    assert_eq!(greeting["method"], "initialize");
    let out = &greeting["params"]["capabilities"]["optOutNotificationMethods"];
    assert!(
        out.as_array()
            .unwrap()
            .contains(&json!("turn/diff/updated"))
    );
    // Asked for before the server is there.
    conversation.load(load());
    assert_eq!(sent(&mut conversation), [json!(null); 0]);
    hear(
        &mut conversation,
        json!({"id": greeting["id"], "result": {}}),
    );
    let lines = sent(&mut conversation);
    assert_eq!(lines[0], json!({"method": "initialized"}));
    assert_eq!(
        lines[1],
        json!({"id": 2, "method": "thread/start",
            "params": {"cwd": "/srv/ws", "approvalPolicy": "never", "sandbox": "danger-full-access"}})
    );
    hear(
        &mut conversation,
        json!({"id": 2, "result": {"thread": {"id": THREAD}}}),
    );
    assert_eq!(conversation.thread(), Some(THREAD));
    assert!(conversation.is_idle());

    conversation.go("Hel\nlo".into());
    assert!(!conversation.is_idle());
    assert_eq!(
        sent(&mut conversation),
        [json!({"id": 3, "method": "turn/start",
            "params": {"threadId": THREAD, "input": [{"type": "text", "text": "Hel\nlo"}]}})]
    );
    hear(
        &mut conversation,
        json!({"id": 3, "result": {"turn": {"id": "t1"}}}),
    );
    note(
        &mut conversation,
        "turn/started",
        json!({"turn": {"id": "t1"}}),
    );
    let text = CliEvent::TextDelta {
        item_id: "m".into(),
        text: "Hi".into(),
    };
    assert_eq!(delta(&mut conversation, "Hi"), [text]);
    let end = completed(&mut conversation, "completed", json!(null));
    assert_eq!(end, [CliEvent::TurnCompleted { usage: None }]);
    assert!(conversation.is_idle());
    // The same thread again is there at once.
    assert!(conversation.has_loaded(&resume()));
}

#[test]
fn a_resume_asks_for_the_thread_and_not_for_its_history() {
    let mut conversation = initialized();
    let asked = Load {
        model: Some("gpt-x".into()),
        sandbox: Sandbox::ReadOnly,
        effort: Some(Effort::High),
        ..resume()
    };
    begin_to_load(&mut conversation, asked);
    let lines = sent(&mut conversation);
    assert_eq!(
        lines[0]["params"],
        json!({"cwd": "/srv/ws", "approvalPolicy": "never", "sandbox": "read-only", "model": "gpt-x",
            "config": {"model_reasoning_effort": "high"}, "threadId": THREAD, "excludeTurns": true,
            "modelProvider": "mine"})
    );
}

#[test]
fn a_model_that_a_turn_has_named_does_not_hold_for_the_next() {
    let set = json!({"config": {"model": "gpt-set"}});
    let unset = json!({"config": {"model": null}});
    let list = json!({"data": [{"model": "gpt-a", "isDefault": false}, {"model": "gpt-b", "isDefault": true}]});
    let none = json!({"data": [{"model": "gpt-a", "isDefault": false}]});
    for (settings, models, expected) in [
        (set, None, json!("gpt-set")),
        (unset.clone(), Some(list), json!("gpt-b")),
        (unset, Some(none), Value::Null),
    ] {
        let mut conversation = initialized();
        conversation.load(resume());
        refuse(&mut conversation, "thread/goal/clear", "no goals");
        assert_eq!(answer(&mut conversation, "config/read", settings), []);
        if let Some(models) = models {
            assert_eq!(answer(&mut conversation, "model/list", models), []);
        }
        let lines = sent(&mut conversation);
        assert_eq!(lines[0]["method"], "thread/resume");
        assert_eq!(lines[0]["params"]["model"], expected);
    }
    // A new thread has no model to keep.
    let mut conversation = initialized();
    conversation.load(load());
    let lines = sent(&mut conversation);
    let last = lines.last().unwrap();
    assert_eq!(last["method"], "thread/start");
    assert_eq!(last["params"]["model"], Value::Null);
}

#[test]
fn the_default_model_is_found_without_a_thread() {
    let set = json!({"config": {"model": "gpt-set"}});
    let list = json!({"data": [{"model": "gpt-b", "isDefault": true}]});
    for (settings, models, expected) in [
        (set, None, Some("gpt-set")),
        (json!({"config": {}}), Some(list), Some("gpt-b")),
        (json!({}), Some(json!({})), None),
    ] {
        let mut conversation = Conversation::about_settings("/srv/ws".to_owned());
        answer(&mut conversation, "initialize", json!({}));
        assert_eq!(answer(&mut conversation, "config/read", settings), []);
        if let Some(models) = models {
            assert!(!conversation.is_idle());
            assert_eq!(answer(&mut conversation, "model/list", models), []);
        }
        assert_eq!(conversation.default_model(), expected);
        assert!(conversation.is_idle());
    }
}

#[test]
fn the_model_that_is_asked_is_what_the_server_reports() {
    let mut conversation = initialized();
    begin_to_load(&mut conversation, load());
    let thread = json!({"thread": {"id": THREAD}, "model": "gpt-x"});
    answer(&mut conversation, "thread/start", thread);
    conversation.go("Hello".into());
    started(&mut conversation);
    assert_eq!(conversation.reported().model.as_deref(), Some("gpt-x"));
    let rerouted =
        json!({"fromModel": "gpt-x", "toModel": "gpt-y", "reason": "highRiskCyberActivity"});
    let noted = note(&mut conversation, "model/rerouted", rerouted);
    assert!(matches!(
        &noted[..],
        [CliEvent::Notice {
            code: NoticeCode::ModelRerouted,
            ..
        }]
    ));
    assert_eq!(conversation.reported().model.as_deref(), Some("gpt-y"));
    completed(&mut conversation, "completed", Value::Null);
    conversation.go("Hello".into());
    assert_eq!(conversation.reported().model.as_deref(), Some("gpt-x"));
}

#[test]
fn a_thread_is_loaded_only_as_it_was_asked_for() {
    let conversation = loaded(load());
    assert!(conversation.has_loaded(&resume()));
    let mut other = [(); 6].map(|()| resume());
    other[0].model = Some("other".to_owned());
    other[1].sandbox = Sandbox::ReadOnly;
    other[2].cwd = "/srv/b".into();
    other[3].resume = Some("01a21530-0000-7000-8000-000000000002".to_owned());
    other[4].resume = None;
    other[5].effort = Some(Effort::Low);
    for other in other {
        assert!(!conversation.has_loaded(&other), "{other:?}");
    }
}

#[test]
fn a_lost_thread_is_distinguished_from_a_busy_one() {
    let gone = format!("no rollout found for thread id {THREAD}");
    let busy = format!("thread {THREAD} already has an active writer");
    let unreadable = "failed to read thread: thread-store internal error: failed to read session metadata /h/r.jsonl: rollout at /h/r.jsonl is empty";
    let denied = "failed to read thread: thread-store internal error: failed to read session metadata /h/r.jsonl: Permission denied (os error 13)";
    for (message, lost) in [
        (gone.as_str(), true),
        (unreadable, true),
        (&busy, false),
        (denied, false),
    ] {
        let mut conversation = initialized();
        begin_to_load(&mut conversation, resume());
        let message = message.to_owned();
        let heard = refuse(&mut conversation, "thread/resume", &message);
        let expected = match lost {
            true => Heard::Lost { message },
            false => Heard::NotResumed {
                message: format!("thread/resume failed: {message}"),
            },
        };
        assert_eq!(heard, [expected]);
        assert!(conversation.is_idle());
        conversation.load(load());
        assert_eq!(sent(&mut conversation)[0]["method"], "thread/start");
    }
    // A new thread can't be lost.
    let mut conversation = initialized();
    conversation.load(load());
    let heard = refuse(&mut conversation, "thread/start", &gone);
    assert_eq!(heard, [Heard::Refused { message: gone }]);
}

/// Left to itself, the server would ask the provider of the thread's first turn.
#[test]
fn a_thread_is_resumed_with_the_provider_that_is_configured() {
    for (config, provider) in [
        (json!({"config": {"model_provider": "mine"}}), json!("mine")),
        (json!({"config": {"model_provider": null}}), json!("openai")),
        (json!({"config": {}}), json!("openai")),
    ] {
        let mut conversation = initialized();
        conversation.load(Load {
            model: Some("gpt-x".to_owned()),
            ..resume()
        });
        refuse(&mut conversation, "thread/goal/clear", "no goals");
        answer(&mut conversation, "config/read", config);
        let asked = &sent(&mut conversation)[0];
        assert_eq!(asked["method"], "thread/resume");
        assert_eq!(asked["params"]["modelProvider"], provider);
    }
    // A server that does not say decides by itself.
    let mut conversation = initialized();
    conversation.load(Load {
        model: Some("gpt-x".to_owned()),
        ..resume()
    });
    refuse(&mut conversation, "thread/goal/clear", "no goals");
    refuse(&mut conversation, "config/read", "no");
    assert_eq!(
        sent(&mut conversation)[0]["params"]["modelProvider"],
        json!(null)
    );
}

#[test]
fn what_codex_does_to_a_turn_unasked_is_a_notice() {
    let mut conversation = running();
    let item = |kind: &str| json!({"item": {"type": kind, "id": "i", "failure": {"type": "usageLimitExceeded", "limitId": "images"}}});
    assert_eq!(
        note(&mut conversation, "item/started", item("contextCompaction")),
        []
    );
    let codes = [
        (
            "item/completed",
            item("contextCompaction"),
            NoticeCode::Compacted,
            "summary",
        ),
        (
            "item/completed",
            item("imageGeneration"),
            NoticeCode::Warning,
            "usageLimitExceeded",
        ),
        (
            "model/rerouted",
            json!({"fromModel": "a-1", "toModel": "b-2", "reason": "highRiskCyberActivity"}),
            NoticeCode::ModelRerouted,
            "b-2 in place of a-1",
        ),
    ];
    for (method, params, expected, words) in codes {
        let noted = note(&mut conversation, method, params);
        let [CliEvent::Notice { code, message }] = &noted[..] else {
            panic!("{noted:?}")
        };
        assert_eq!(*code, expected);
        assert!(message.contains(words), "{message}");
    }
    let fine = json!({"item": {"type": "imageGeneration", "id": "i", "status": "completed", "failure": null}});
    assert_eq!(note(&mut conversation, "item/completed", fine), []);
}

/// As codex 0.171.0 has passed them on.
#[test]
fn the_accounts_limits_are_reported() {
    let mut conversation = running();
    let mut report = |id: &str, primary: Value| {
        hear(
            &mut conversation,
            json!({"method": "account/rateLimits/updated", "params": {"rateLimits": {
                "limitId": id, "limitName": null, "primary": primary, "secondary": null}},
                "emittedAtMs": 1795999698698_u64}),
        )
    };
    let used = json!({"usedPercent": 43, "windowDurationMins": 300, "resetsAt": 1800000000});
    let expected = RateLimit {
        window: RateLimitWindow::Primary,
        used_percent: 43,
        resets_at: Some(1_800_000_000),
    };
    assert_eq!(
        report("codex", used.clone()),
        [Heard::RateLimits(vec![expected])]
    );
    assert_eq!(report("images", used), []);
    assert_eq!(report("codex", json!(null)), []);
}

#[test]
fn what_the_server_will_not_start_is_refused() {
    let refused = |message: &str| {
        [Heard::Refused {
            message: message.into(),
        }]
    };
    let mut conversation = Conversation::new();
    assert_eq!(refuse(&mut conversation, "initialize", "no"), refused("no"));
    let mut conversation = loaded(load());
    conversation.go("x".into());
    assert_eq!(
        refuse(&mut conversation, "turn/start", "too long"),
        refused("too long")
    );
    assert!(conversation.is_idle());
}

#[test]
fn an_interrupt_waits_until_it_can_be_heard() {
    let mut conversation = loaded(load());
    conversation.interrupt();
    assert_eq!(sent(&mut conversation), [json!(null); 0]);
    conversation.go("x".into());
    let asked = sent(&mut conversation);
    conversation.interrupt();
    conversation.interrupt();
    assert_eq!(sent(&mut conversation), [json!(null); 0]);
    hear(
        &mut conversation,
        json!({"id": asked[0]["id"], "result": {"turn": {"id": "t1"}}}),
    );
    assert_eq!(sent(&mut conversation), [json!(null); 0]);
    note(
        &mut conversation,
        "turn/started",
        json!({"turn": {"id": "t1"}}),
    );
    let interrupt = sent(&mut conversation);
    assert_eq!(interrupt[0]["method"], "turn/interrupt");
    assert_eq!(
        interrupt[0]["params"],
        json!({"threadId": THREAD, "turnId": "t1"})
    );
    assert_eq!(interrupt.len(), 1);
    // The end may come before the answer.
    let end = completed(&mut conversation, "interrupted", json!(null));
    assert_eq!(end, [CliEvent::TurnInterrupted]);
    assert!(!conversation.is_idle());
    hear(
        &mut conversation,
        json!({"id": interrupt[0]["id"], "result": {}}),
    );
    assert!(conversation.is_idle());
}

#[test]
fn an_interrupt_between_the_answer_and_the_start_waits_too() {
    let mut conversation = loaded(load());
    conversation.go("x".into());
    let turn = json!({"turn": {"id": "t1"}});
    answer(&mut conversation, "turn/start", turn.clone());
    conversation.interrupt();
    assert_eq!(sent(&mut conversation), [json!(null); 0]);
    note(&mut conversation, "turn/started", turn);
    assert_eq!(sent(&mut conversation)[0]["method"], "turn/interrupt");
}

#[test]
fn a_refused_interrupt_may_be_asked_again() {
    let mut conversation = running();
    conversation.interrupt();
    refuse(
        &mut conversation,
        "turn/interrupt",
        "no active turn to interrupt",
    );
    conversation.interrupt();
    assert_eq!(sent(&mut conversation)[0]["method"], "turn/interrupt");
}

#[test]
fn words_of_other_threads_and_turns_are_not_the_turns() {
    let mut conversation = running();
    for (thread, turn) in [("sub-agent", "t1"), ("sub-agent", "t2"), (THREAD, "t0")] {
        for (method, params) in [
            (
                "item/agentMessage/delta",
                json!({"itemId": "m", "delta": "x"}),
            ),
            (
                "item/completed",
                json!({"item": {"type": "agentMessage", "id": "m", "text": "x"}}),
            ),
            (
                "thread/tokenUsage/updated",
                json!({"tokenUsage": {"total": {"inputTokens": 1, "outputTokens": 1}}}),
            ),
            ("turn/plan/updated", json!({"plan": []})),
            (
                "error",
                json!({"error": {"message": "x"}, "willRetry": false}),
            ),
            ("new/kind", json!({})),
        ] {
            let mut params = params;
            params["threadId"] = json!(thread);
            params["turnId"] = json!(turn);
            let told = note(&mut conversation, method, params);
            assert_eq!(told, [], "{method} of {thread} {turn}");
        }
    }
    assert!(!conversation.is_idle());
    // After its end even its own.
    completed(&mut conversation, "completed", json!(null));
    assert_eq!(delta(&mut conversation, "late"), []);
    conversation.go("again".into());
    answer(
        &mut conversation,
        "turn/start",
        json!({"turn": {"id": "t2"}}),
    );
    assert_eq!(delta(&mut conversation, "later"), []);
    assert_eq!(completed(&mut conversation, "completed", json!(null)), []);
}

#[test]
fn warnings_count_also_before_the_turn() {
    let warned = |events: Vec<CliEvent>| match &events[..] {
        [
            CliEvent::ItemCompleted(Item {
                kind: ItemKind::Warning { message },
                ..
            }),
        ] => Some(message.clone()),
        [] => None,
        other => panic!("{other:?}"),
    };
    let mut conversation = initialized();
    let notice = json!({"threadId": null, "summary": "old", "details": "use new"});
    assert_eq!(
        warned(note(&mut conversation, "deprecationNotice", notice)).as_deref(),
        Some("old (use new)")
    );
    conversation.load(load());
    let warning = json!({"message": "fallback metadata"});
    assert_eq!(
        warned(note(&mut conversation, "warning", warning.clone())).as_deref(),
        Some("fallback metadata")
    );
    let mut conversation = running();
    assert!(warned(note(&mut conversation, "guardianWarning", warning.clone())).is_some());
    let of_another = json!({"message": "x", "threadId": "sub-agent"});
    assert_eq!(warned(note(&mut conversation, "warning", of_another)), None);
}

#[test]
fn a_failure_has_its_code_and_a_retry_is_no_failure() {
    let mut conversation = running();
    let error = |retry: bool| {
        json!({"error": {"message": "Reconnecting... 1/5", "additionalDetails": "cut",
            "codexErrorInfo": {"responseStreamDisconnected": {"httpStatusCode": 401}}}, "willRetry": retry})
    };
    let message = "Reconnecting... 1/5 (cut)".to_owned();
    let told = note(&mut conversation, "error", error(true));
    assert_eq!(
        told,
        [CliEvent::Retrying {
            message: message.clone()
        }]
    );
    let told = note(&mut conversation, "error", error(false));
    let [
        CliEvent::Error {
            message: said,
            cause: Some(cause),
        },
    ] = &told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!((said, cause.reason), (&message, crate::event::Reason::Auth));
    let error = json!({"message": "full", "codexErrorInfo": "contextWindowExceeded"});
    let told = completed(&mut conversation, "failed", error);
    let [
        CliEvent::TurnFailed {
            message,
            cause: Some(cause),
        },
    ] = &told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!(
        (message.as_str(), cause.reason),
        ("full", crate::event::Reason::ContextWindow)
    );
    // A status that is not known is no success.
    let told = completed(&mut running(), "exploded", json!(null));
    assert_eq!(
        told,
        [CliEvent::TurnFailed {
            message: String::new(),
            cause: None
        }]
    );
}

#[test]
fn parts_of_a_reasoning_are_joined_as_its_whole_is() {
    let mut conversation = running();
    let mut joined = String::new();
    for (part, text) in [(0, "One"), (0, " a"), (1, "Two\n"), (3, "Four")] {
        let params = json!({"itemId": "r", "delta": text, "summaryIndex": part});
        let told = note(&mut conversation, "item/reasoning/summaryTextDelta", params);
        let [CliEvent::ThinkingDelta { text, .. }] = &told[..] else {
            panic!("{told:?}")
        };
        joined.push_str(text);
    }
    let summary = ["One a", "Two\n", "", "Four"];
    assert_eq!(joined, summary.join("\n"));
    let item = json!({"item": {"type": "reasoning", "id": "r", "summary": summary, "content": []}});
    let told = note(&mut conversation, "item/completed", item);
    let [
        CliEvent::ItemCompleted(Item {
            kind: ItemKind::Reasoning { text },
            ..
        }),
    ] = &told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!(*text, joined);
    let many = json!({"itemId": "s", "delta": "x", "summaryIndex": u64::MAX});
    let told = note(&mut conversation, "item/reasoning/summaryTextDelta", many);
    assert!(matches!(&told[..], [CliEvent::ThinkingDelta { text, .. }] if text.len() < 2_000));
}

fn usage(total: [u64; 2], last: [u64; 2]) -> Value {
    let tokens = |[input, output]: [u64; 2]| json!({"totalTokens": input + output, "inputTokens": input, "outputTokens": output});
    json!({"tokenUsage": {"total": tokens(total), "last": tokens(last)}})
}

fn spent(conversation: &Conversation) -> (Option<u64>, Option<u64>) {
    let reported = conversation.reported();
    let input = |tokens: Option<Tokens>| tokens.map(|tokens| tokens.input_tokens);
    (input(reported.own), input(reported.agents))
}

const TOKENS: &str = "thread/tokenUsage/updated";

#[test]
fn g7_a_turns_tokens_are_what_its_thread_has_grown_by() {
    let mut conversation = loaded(resume());
    // Reported when the thread was loaded, of its last turn.
    let mut before = usage([10, 5], [10, 5]);
    before["turnId"] = json!("t0");
    assert_eq!(note(&mut conversation, TOKENS, before), []);
    conversation.go("x".into());
    started(&mut conversation);
    // Where a request fails before it was answered.
    let repeated = usage([10, 5], [10, 5]);
    assert_eq!(note(&mut conversation, TOKENS, repeated), []);
    assert_eq!(spent(&conversation), (None, None));
    let told = note(&mut conversation, TOKENS, usage([30, 9], [20, 4]));
    assert!(matches!(told[..], [CliEvent::UsageUpdated { spent }] if spent.input_tokens == 20));
    assert_eq!(spent(&conversation), (Some(20), None));
    let total = conversation.reported().total;
    assert_eq!(total.map(|total| total.input_tokens), Some(30));
    // The next turn counts from there.
    completed(&mut conversation, "completed", Value::Null);
    conversation.go("x".into());
    assert_eq!(spent(&conversation), (None, None));
}

#[test]
fn g7_a_full_context_window_spends_no_tokens() {
    let mut conversation = running();
    // Also when it is full again, and what was answered before it counts.
    for answered in [None, Some(10), Some(20)] {
        if let Some(input) = answered {
            let one = usage([input, 5], [input, 5]);
            assert_eq!(note(&mut conversation, TOKENS, one).len(), 1);
        }
        let mut full = usage([0, 0], [0, 0]);
        full["tokenUsage"]["total"]["totalTokens"] = json!(258_400);
        assert_eq!(note(&mut conversation, TOKENS, full), []);
        assert_eq!(spent(&conversation).0, answered);
        completed(&mut conversation, "failed", json!({"message": "full"}));
        conversation.go("x".into());
        started(&mut conversation);
    }
}

#[test]
fn g7_what_sub_agents_spend_is_the_turns() {
    let mut conversation = running();
    let of_agent = |conversation: &mut Conversation, agent: &str, total, last| {
        let mut params = usage(total, last);
        params["threadId"] = json!(agent);
        params["turnId"] = json!("k");
        assert_eq!(note(conversation, TOKENS, params), []);
    };
    of_agent(&mut conversation, "kid", [100, 20], [100, 20]);
    of_agent(&mut conversation, "kid", [210, 40], [110, 20]);
    of_agent(&mut conversation, "kid", [210, 40], [110, 20]);
    of_agent(&mut conversation, "other", [50, 10], [50, 10]);
    note(&mut conversation, TOKENS, usage([30, 9], [30, 9]));
    assert_eq!(spent(&conversation), (Some(30), Some(260)));
    // Its last words may come after the turn's.
    completed(&mut conversation, "completed", Value::Null);
    of_agent(&mut conversation, "kid", [310, 60], [100, 20]);
    assert_eq!(spent(&conversation), (Some(30), Some(360)));
    // One that goes on for the next turn has spent the rest before.
    conversation.go("x".into());
    of_agent(&mut conversation, "kid", [410, 80], [100, 20]);
    assert_eq!(spent(&conversation), (None, Some(100)));
}

#[test]
fn requests_of_the_server_are_declined_under_their_own_ids() {
    let mut conversation = running();
    for (method, result) in [
        (
            "item/commandExecution/requestApproval",
            json!({"decision": "decline"}),
        ),
        (
            "item/fileChange/requestApproval",
            json!({"decision": "decline"}),
        ),
        (
            "item/permissions/requestApproval",
            json!({"permissions": {}}),
        ),
        (
            "mcpServer/elicitation/request",
            json!({"action": "decline", "content": null}),
        ),
    ] {
        for id in [json!(7), json!("a \"b")] {
            let request = json!({"id": id, "method": method, "params": {"threadId": "sub-agent"}});
            assert_eq!(hear(&mut conversation, request), []);
            assert_eq!(
                sent(&mut conversation),
                [json!({"id": id, "result": result})]
            );
        }
    }
    hear(
        &mut conversation,
        json!({"id": 9, "method": "attestation/generate", "params": {}}),
    );
    assert_eq!(sent(&mut conversation)[0]["error"]["code"], -32601);
}

#[test]
fn non_messages_and_unknown_messages_are_reported() {
    let mut conversation = running();
    for line in [
        &b"\xff\xfe"[..],
        b"[1]",
        b"{}",
        b"{\"id\":1}x",
        b"",
        b"{\"id\":\"x\"}",
    ] {
        let bytes = line.len();
        assert_eq!(
            conversation.hear(line),
            [Heard::Garbage { bytes }],
            "{line:?}"
        );
    }
    let unknown = |what: &str| [CliEvent::Unknown { what: what.into() }];
    assert_eq!(
        note(&mut conversation, "turn/paused", json!({})),
        unknown("event turn/paused")
    );
    let item = json!({"item": {"type": "teleport", "id": "x"}});
    assert_eq!(
        note(&mut conversation, "item/started", item),
        unknown("item teleport")
    );
    for method in notice::UNWANTED
        .iter()
        .chain(&["account/x", "hook/started"])
    {
        assert_eq!(note(&mut conversation, method, json!({})), [], "{method}");
    }
    // An answer that is not awaited.
    assert_eq!(hear(&mut conversation, json!({"id": 99, "result": {}})), []);
}

#[test]
fn a_thread_that_the_server_has_closed_is_loaded_again() {
    let mut conversation = loaded(load());
    note(&mut conversation, "thread/closed", json!({}));
    assert_eq!(conversation.thread(), None);
    begin_to_load(&mut conversation, resume());
    assert_eq!(sent(&mut conversation)[0]["method"], "thread/resume");
}

#[test]
fn items_are_published_under_execs_names() {
    let mut conversation = running();
    let item = json!({"item": {"type": "commandExecution", "id": "c", "command": "ls",
        "status": "inProgress", "aggregatedOutput": null, "exitCode": null}});
    let told = note(&mut conversation, "item/started", item);
    let [
        CliEvent::ItemStarted(Item {
            id,
            kind: ItemKind::Tool(call),
        }),
    ] = &told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!((id.as_str(), call.kind), ("c", ToolKind::CommandExecution));
    assert_eq!(
        call.content(),
        json!({"aggregated_output": "", "exit_code": null, "status": "in_progress"})
    );
    let params = json!({"itemId": "c", "delta": "out"});
    let told = note(
        &mut conversation,
        "item/commandExecution/outputDelta",
        params,
    );
    assert!(
        matches!(&told[..], [CliEvent::OutputDelta { item_id, text }] if item_id == "c" && text == "out")
    );
    let plan = json!({"plan": [{"step": "Look", "status": "completed"}, {"step": "Fix", "status": "inProgress"}]});
    let told = note(&mut conversation, "turn/plan/updated", plan);
    let [
        CliEvent::ItemUpdated(Item {
            kind: ItemKind::TodoList { items },
            ..
        }),
    ] = &told[..]
    else {
        panic!("{told:?}")
    };
    assert!(items[0].completed && !items[1].completed && items[1].text == "Fix");
}
