use super::*;
use crate::request::json::MAX_VALUES;

fn parse(line: &str) -> CliEvent {
    parse_line(line.as_bytes()).unwrap()
}

#[test]
fn first_of_two_ids_is_the_items() {
    let event = parse(
        r#"{"type":"item.started","item":{"id":"item_0","type":"web_search","id":"ws_16","query":"q"}}"#,
    );
    let CliEvent::ItemStarted(item) = event else {
        panic!("{event:?}")
    };
    assert_eq!(item.id, "item_0");
}

#[test]
fn what_is_not_known_is_a_value() {
    for (line, what) in [
        (r#"{"type":"turn.paused"}"#, "event turn.paused"),
        (
            r#"{"type":"item.started","item":{"type":"teleport"}}"#,
            "item teleport",
        ),
        (r#"{"type":"item.completed","item":7}"#, "item "),
        (r#"{"type":"item.completed"}"#, "item "),
    ] {
        assert_eq!(parse(line), unknown(what.into()), "{line}");
    }
}

#[test]
fn odd_fields_read_as_empty() {
    let error = |message: &str| CliEvent::Error {
        message: message.into(),
        cause: None,
    };
    assert_eq!(
        parse(r#" {"message":"a","type":"error","new":[1]} "#),
        error("a")
    );
    assert_eq!(parse(r#"{"type":"error"}"#), error(""));
    assert_eq!(parse(r#"{"type":"error","message":{"a":1}}"#), error(""));
    for line in [
        r#"{"type":"turn.failed"}"#,
        r#"{"type":"turn.failed","error":"x"}"#,
        r#"{"type":"turn.failed","error":{"message":null}}"#,
    ] {
        assert_eq!(
            parse(line),
            CliEvent::TurnFailed {
                message: String::new(),
                cause: None,
            }
        );
    }
    let event = parse(
        r#"{"type":"item.updated","item":{"id":3,"type":"todo_list","items":[1,{},{"text":"a","completed":true}]}}"#,
    );
    let CliEvent::ItemUpdated(item) = event else {
        panic!("{event:?}")
    };
    assert_eq!(item.id, "3");
    let ItemKind::TodoList { items } = item.kind else {
        panic!("{item:?}")
    };
    assert_eq!(items.len(), 2);
    assert!(items[1].completed && items[1].text == "a");
}

fn values(of: &Value) -> usize {
    1 + match of {
        Value::Array(items) => items.iter().map(values).sum(),
        Value::Object(fields) => fields.values().map(values).sum::<usize>(),
        _ => 0,
    }
}

/// A line of 16 MiB would take a hundred times that in memory.
#[test]
fn g10_of_too_many_values_the_last_are_left_out_and_the_items_own_stay() {
    for (open, one, close) in [
        ("[0", ",0", "]"),
        ("[0", r#",{"a":[{}]}"#, "]"),
        (r#"{"a":0"#, r#","a":1,"b":{"c":0}"#, "}"),
    ] {
        let many = format!("{open}{}{close}", one.repeat(100_000));
        let event = parse(&format!(
            r#"{{"type":"item.completed","item":{{"id":"i","type":"mcp_tool_call","arguments":{many},"result":{many},"server":"s","status":"failed"}}}}"#
        ));
        let CliEvent::ItemCompleted(item) = event else {
            panic!("no item")
        };
        let ItemKind::Tool(call) = item.kind else {
            panic!("another kind")
        };
        assert!(call.is_error(), "{one}");
        assert_eq!(call.fields["server"], "s");
        assert_eq!(call.fields["arguments"].is_array(), open == "[0");
        let held: usize = call.fields.values().map(values).sum();
        assert!(held <= MAX_VALUES + MAX_FIELDS, "{one}: {held}");
    }
}

#[test]
fn g10_of_too_many_fields_the_first_are_kept() {
    let many: String = (0..1000).map(|n| format!(r#""f{n}":0,"#)).collect();
    let event = parse(&format!(
        r#"{{{many}"type":"item.started","item":{{"id":"i","type":"web_search",{many}"x":0}},{many}"y":0}}"#
    ));
    let CliEvent::ItemStarted(item) = event else {
        panic!("{event:?}")
    };
    let ItemKind::Tool(call) = item.kind else {
        panic!("{item:?}")
    };
    assert_eq!(call.fields.len(), MAX_FIELDS);
}

#[test]
fn g7_usage_that_is_not_reported_is_absent() {
    let told = |usage: &str| match parse(&format!(r#"{{"type":"turn.completed"{usage}}}"#)) {
        CliEvent::TurnCompleted { usage } => usage,
        other => panic!("{other:?}"),
    };
    assert_eq!(told(""), None);
    assert_eq!(told(r#","usage":null"#), None);
    assert_eq!(told(r#","usage":{"input_tokens":5}"#), None);
    assert_eq!(
        told(r#","usage":{"input_tokens":-5,"output_tokens":1}"#),
        None
    );
    assert_eq!(
        told(
            r#","usage":{"input_tokens":9,"cached_input_tokens":4,"cache_write_input_tokens":3,"output_tokens":2,"reasoning_output_tokens":1}"#
        ),
        Some(Tokens {
            input_tokens: 9,
            cache_read_tokens: 4,
            cache_write_tokens: 3,
            output_tokens: 2,
            thinking_tokens: 1,
        })
    );
}

#[test]
fn an_event_behind_unreadable_bytes_is_read() {
    let event = parse_rest(b"\xff\xfe {\"x {\"type\":\"turn.started\"}");
    assert_eq!(event, Some(CliEvent::TurnStarted));
    // Not out of the middle of what is readable.
    let quoted = br#"\xff {"text":"{\"type\":\"turn.started\"}"#;
    assert_eq!(parse_rest(quoted), None);
    assert_eq!(parse_rest(b"\xff\xfe not json"), None);
}

#[test]
fn what_is_no_event_says_why() {
    use NotAnEvent::*;
    assert!(matches!(parse_line(b" \r\n"), Err(Empty)));
    for line in [
        &b"Reading additional input"[..],
        b"[1]",
        b"{\"type\":\"error\"",
        b"{\"type\":\"err\xff\"}",
    ] {
        assert!(matches!(parse_line(line), Err(NotAnObject(_))), "{line:?}");
    }
    for line in [&b"{}"[..], b"{\"type\":7}"] {
        assert!(matches!(parse_line(line), Err(NoType)), "{line:?}");
    }
}

/// Texts within texts, each as deep as one may be. So escaped they hardly
/// grow: one line can hold hundreds.
fn hidden_texts(texts: usize) -> String {
    let mut text = "1".to_owned();
    for _ in 0..texts {
        let deep = "[".repeat(100) + &text + &"]".repeat(100);
        let quoted = deep.replace('\\', r"\u005c").replace('"', r"\u0022");
        text = format!(r#"{{"$serde_json::private::RawValue":"{quoted}"}}"#);
    }
    text
}

#[test]
fn g10_a_text_in_an_agents_arguments_stays_a_text() {
    let hidden = r#"{"$serde_json::private::RawValue":"[1]"}"#;
    let line = |arguments: &str| {
        format!(
            r#"{{"type":"item.started","item":{{"id":"i","type":"mcp_tool_call","arguments":{arguments}}}}}"#
        )
    };
    let CliEvent::ItemStarted(item) = parse(&line(hidden)) else {
        panic!("no item")
    };
    let ItemKind::Tool(call) = item.kind else {
        panic!("{item:?}")
    };
    assert_eq!(
        call.fields["arguments"],
        serde_json::json!({"$serde_json::private::RawValue": "[1]"})
    );
    // More than any thread's stack would hold.
    let deep = line(&hidden_texts(200));
    assert!(deep.len() < 16 << 20, "{}", deep.len());
    assert!(matches!(parse(&deep), CliEvent::ItemStarted(_)));
}
