use serde_json::{Value, json};

use super::*;
use crate::codes::ErrorCode;

fn limits() -> Limits {
    Limits {
        max_request_bytes: 256 * 1024,
        roots: vec!["/srv/ws".into(), "/data/real".into()],
        ..Limits::accepted()
    }
}

fn parse(value: &Value) -> Result<TurnRequest, Rejection> {
    TurnRequest::parse(
        value.to_string().as_bytes(),
        &limits(),
        &Properties::default(),
    )
}

fn minimal() -> Value {
    json!({"turn_id": "t-01", "workspace": "acme/website",
           "messages": [{"role": "user", "content": "Fix it"}]})
}

fn with(field: &str, value: Value) -> Value {
    let mut request = minimal();
    request[field] = value;
    request
}

/// The fields that a request's violations name.
fn fields(value: &Value) -> Vec<String> {
    let violations = parse(value).unwrap_err().violations;
    violations.into_iter().map(|v| v.field).collect()
}

#[test]
fn the_contracts_own_example_is_accepted() {
    let request = parse(&json!({
        "turn_id": "t-01", "workspace": "acme/website",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Fix the failing test"}]}],
        "model": "gpt-5.5", "timeout_s": 1800, "max_attempts": 3, "metadata": {"ticket": "42"}
    }))
    .unwrap();
    assert_eq!(request.turn_id.as_str(), "t-01");
    assert_eq!(request.workspace.as_str(), "acme/website");
    assert_eq!(request.prompt, "Fix the failing test");
    assert_eq!(request.model.as_deref(), Some("gpt-5.5"));
    assert_eq!(request.timeout, Some(Duration::from_secs(1800)));
    assert_eq!(request.max_attempts, Some(3));
    assert_eq!(request.metadata.unwrap().text(), r#"{"ticket":"42"}"#);
    assert_eq!(request.enqueued_at, None);
}

#[test]
fn the_prompt_is_the_last_user_message_that_has_text() {
    let image = json!({"type": "image", "source": {"type": "path", "path": "a.png"}});
    let video = json!({"type": "video", "source": 5});
    let cases = [
        (json!([{"role": "user", "content": "a"}]), "a"),
        (
            json!([{"role": "user", "content": "old"}, {"role": "assistant", "content": "no"},
                   {"role": "user", "content": "new"}, {"role": "tool", "content": 5}]),
            "new",
        ),
        (
            json!([{"role": "user", "content": [
                {"type": "text", "text": "one"}, image, video, {"type": "text", "text": "two"}]}]),
            "one\ntwo",
        ),
        (
            json!([{"role": "user", "content": "text"}, {"role": "user", "content": [image]},
                   {"role": "user", "content": " \n\t"}, {"role": "user", "content": null},
                   {"role": "user"}]),
            "text",
        ),
        (
            json!([{"role": "user", "content": "--help\u{0}"}]),
            "--help\u{0}",
        ),
    ];
    for (messages, prompt) in cases {
        let request = parse(&with("messages", messages.clone())).unwrap();
        assert_eq!(request.prompt, prompt, "{messages}");
    }
}

#[test]
fn each_rule_names_its_field() {
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let cases = [
        ("turn_id", json!("a b"), "turn_id"),
        ("turn_id", json!(""), "turn_id"),
        ("turn_id", json!("x".repeat(129)), "turn_id"),
        ("turn_id", json!(7), "turn_id"),
        ("turn_id", json!(null), "turn_id"),
        ("workspace", json!(["a"]), "workspace"),
        ("workspace", json!("a//b"), "workspace"),
        ("messages", json!("hi"), "messages"),
        ("messages", json!([]), "messages"),
        (
            "messages",
            json!([{"role": "assistant", "content": "hi"}]),
            "messages",
        ),
        ("messages", user(json!("  ")), "messages"),
        ("model", json!("-x"), "model"),
        ("model", json!(""), "model"),
        ("model", json!("a b"), "model"),
        ("model", json!("m".repeat(129)), "model"),
        ("model", json!(["gpt"]), "model"),
        ("reasoning_effort", json!("High"), "reasoning_effort"),
        ("reasoning_effort", json!(""), "reasoning_effort"),
        ("reasoning_effort", json!(3), "reasoning_effort"),
        ("service_tier", json!("fast"), "service_tier"),
        ("service_tier", json!(""), "service_tier"),
        ("tenant", json!("a/b"), "tenant"),
        ("tenant", json!(""), "tenant"),
        ("tenant", json!("x".repeat(65)), "tenant"),
        ("tenant", json!(7), "tenant"),
        ("timeout_s", json!(0), "timeout_s"),
        ("timeout_s", json!(-1), "timeout_s"),
        ("timeout_s", json!(1.5), "timeout_s"),
        ("timeout_s", json!("60"), "timeout_s"),
        ("max_attempts", json!(0), "max_attempts"),
        ("max_attempts", json!(true), "max_attempts"),
        ("start_within_s", json!(0), "start_within_s"),
        ("start_within_s", json!(0.5), "start_within_s"),
        ("start_within_s", json!("30"), "start_within_s"),
        ("on_busy", json!("steer"), "on_busy"),
        ("on_busy", json!(["reject"]), "on_busy"),
        ("thread", json!("fresh"), "thread"),
        ("thread", json!("New"), "thread"),
        ("thread", json!(true), "thread"),
        ("metadata", json!([1]), "metadata"),
        ("metadata", json!({"a": "x".repeat(4096)}), "metadata"),
        (
            "metadata",
            json!({"a": [{"$serde_json::private::RawValue": "1"}]}),
            "metadata",
        ),
        ("output_schema", json!([]), "output_schema"),
        ("output_schema", json!("{}"), "output_schema"),
        (
            "output_schema",
            json!({"a": "x".repeat(MAX_OUTPUT_SCHEMA_BYTES)}),
            "output_schema",
        ),
        (
            "output_schema",
            json!({"$serde_json::private::RawValue": "1"}),
            "output_schema",
        ),
        ("enqueued_at", json!("yesterday"), "enqueued_at"),
        ("enqueued_at", json!(1_700_000_000), "enqueued_at"),
    ];
    for (field, value, named) in cases {
        assert_eq!(fields(&with(field, value.clone())), [named], "{value}");
    }
}

fn showing(sources: &[Value]) -> Value {
    let image = |source: &Value| json!({"type": "image", "source": source});
    let mut content = vec![json!({"type": "text", "text": "Look"})];
    content.extend(sources.iter().map(image));
    with("messages", json!([{"role": "user", "content": content}]))
}

#[test]
fn the_images_are_those_of_the_message_that_the_prompt_is_taken_from() {
    let path = |path: &str| json!({"type": "image", "source": {"type": "path", "path": path}});
    let text = json!({"type": "text", "text": "Look"});
    let messages = json!([
        {"role": "user", "content": [text, {"type": "image", "source": "of an older one"}]},
        {"role": "user", "content": [path("a.png"), text, path("b/c.png")]},
        {"role": "assistant", "content": [path("d.png")]},
        // Without text it is no prompt.
        {"role": "user", "content": [path("../e.png")]}
    ]);
    let request = parse(&with("messages", messages)).unwrap();
    let paths: Vec<&str> = request
        .images
        .iter()
        .map(|image| match image {
            Image::Path { path } => path.as_str(),
            Image::Base64 { .. } => panic!("{image:?}"),
        })
        .collect();
    assert_eq!(paths, ["a.png", "b/c.png"]);
    assert_eq!(
        fields(&with(
            "messages",
            json!([{"role": "user", "content": [path("a.png")]}])
        )),
        ["messages"]
    );
}

#[test]
fn images_of_all_kinds_are_taken_and_read_back() {
    let sources = [
        json!({"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}),
        json!({"type": "base64", "media_type": "image/jpeg", "data": "/9j/4A=="}),
        json!({"type": "base64", "media_type": "image/gif", "data": "R0lGODlh"}),
        json!({"type": "base64", "media_type": "image/webp", "data": "UklGRgAAAABXRUJQ"}),
        json!({"type": "path", "path": "--config=x/ä b.png"}),
    ];
    let request = parse(&showing(&sources)).unwrap();
    assert_eq!(request.images.len(), 5);
    let canonical = request.to_canonical_json();
    let again = TurnRequest::parse(canonical.as_bytes(), &limits(), &Properties::default());
    assert_eq!(again, Ok(request.clone()));
    let fewer = parse(&showing(&sources[1..])).unwrap();
    assert_ne!(request.fingerprint(), fewer.fingerprint());
    assert!(parse(&showing(&vec![sources[4].clone(); MAX_IMAGES])).is_ok());
}

#[test]
fn g8_a_wrong_image_is_named_by_its_path() {
    let base64 =
        |kind: &str, data: Value| json!({"type": "base64", "media_type": kind, "data": data});
    let path = |path: Value| json!({"type": "path", "path": path});
    for (source, field, rule) in [
        (json!(null), "", "an object"),
        (json!("a.png"), "", "an object"),
        (json!({}), ".type", "\"base64\" or \"path\""),
        (
            json!({"type": "url", "url": "http://x/a.png"}),
            ".type",
            "\"base64\" or \"path\"",
        ),
        (
            base64("image/svg+xml", json!("PHN2Zy8+")),
            ".media_type",
            "one of image/png, image/jpeg",
        ),
        (base64("image/png", json!(null)), ".data", "image/png"),
        (base64("image/png", json!("")), ".data", "image/png"),
        (
            base64("image/png", json!("iVBORw0KGgo")),
            ".data",
            "with its padding",
        ),
        (
            base64("image/png", json!("iVBORw0K\nGgo=")),
            ".data",
            "without line breaks",
        ),
        (
            base64("image/png", json!("/9j/4A==")),
            ".data",
            "an image of image/png",
        ),
        (
            base64("image/png", json!("cm9vdDp4")),
            ".data",
            "an image of image/png",
        ),
        (path(json!(null)), ".path", "inside the workspace"),
        (path(json!("")), ".path", "inside the workspace"),
        (path(json!("/etc/passwd")), ".path", "inside the workspace"),
        (
            path(json!("a/../../b.png")),
            ".path",
            "inside the workspace",
        ),
        (path(json!("a\0.png")), ".path", "inside the workspace"),
        (path(json!(["a.png"])), ".path", "inside the workspace"),
    ] {
        let violations = parse(&showing(std::slice::from_ref(&source)))
            .unwrap_err()
            .violations;
        let [violation] = &violations[..] else {
            panic!("{source}: {violations:?}");
        };
        assert_eq!(
            violation.field,
            format!("messages[0].content[1].source{field}")
        );
        assert!(violation.rule.contains(rule), "{source}: {violation}");
    }
    let many = vec![json!({"type": "path", "path": "a.png"}); MAX_IMAGES + 1];
    assert_eq!(fields(&showing(&many)), ["messages[0].content"]);
}

#[test]
fn a_wrong_part_of_a_message_is_named_by_its_path() {
    let messages = json!([
        "text", {"content": "x"}, {"role": 1}, {"role": "user", "content": 5},
        {"role": "user", "content": ["y", {"type": "text", "text": 1}, {"type": "text"}]},
        {"role": "user", "content": "z"}
    ]);
    assert_eq!(
        fields(&with("messages", messages)),
        [
            "messages[0]",
            "messages[1].role",
            "messages[2].role",
            "messages[3].content",
            "messages[4].content[0]",
            "messages[4].content[1].text",
            "messages[4].content[2].text",
        ]
    );
}

#[test]
fn all_violations_are_reported_at_once() {
    let request = json!({"turn_id": "a b", "messages": [], "timeout_s": 0, "metadata": {"k": 1}});
    let rejection = parse(&request).unwrap_err();
    assert_eq!(rejection.code, ErrorCode::RequestInvalid);
    assert_eq!(rejection.metadata.as_ref().unwrap().text(), r#"{"k":1}"#);
    insta::assert_snapshot!(rejection, @r#"turn_id: found "a b", expected 1 to 128 of A-Z a-z 0-9 . _ -; workspace: found nothing, expected 1 to 4 segments joined by /, each 1 to 64 of A-Z a-z 0-9 . _ - and beginning with a letter or digit; messages: found an array of 0, expected at least one message of role "user" that has text; timeout_s: found 0, expected a whole number of seconds, at least 1"#);
}

#[test]
fn an_answer_stays_small_and_on_one_line() {
    let rejection = parse(&with("messages", json!(vec![1; 50_000]))).unwrap_err();
    assert_eq!(rejection.violations.len() + rejection.omitted, 50_000);
    assert!(rejection.to_string().len() < 4096);

    let forged = format!(
        "x\r\n{{\"level\":\"ERROR\"}}\u{1b}[31m\u{202e}\u{2028}{}",
        "y".repeat(1000)
    );
    let text = parse(&with("turn_id", json!(forged)))
        .unwrap_err()
        .to_string();
    assert!(
        text.contains(r#"x\r\n{\"level\":\"ERROR\"}\u{1b}[31m\u{202e}\u{2028}yyy"#),
        "{text}"
    );
    assert!(
        text.contains("more characters") && text.len() < 400,
        "{text}"
    );
}

#[test]
fn null_is_as_good_as_absent_and_unknown_fields_are_ignored() {
    let mut request = minimal();
    for field in [
        "model",
        "timeout_s",
        "max_attempts",
        "metadata",
        "enqueued_at",
    ] {
        request[field] = json!(null);
    }
    request["priority"] = json!({"of": "somebody's"});
    assert_eq!(parse(&request), parse(&minimal()));
}

#[test]
fn a_model_must_be_on_the_list_when_there_is_one() {
    let listed = Limits {
        models: Some(["gpt-5.5".to_owned()].into()),
        ..limits()
    };
    let parse = |model: &str| {
        let body = with("model", json!(model)).to_string();
        TurnRequest::parse(body.as_bytes(), &listed, &Properties::default())
    };
    assert!(parse("gpt-5.5").is_ok());
    let text = parse("gpt-4").unwrap_err().to_string();
    assert_eq!(text, r#"model: found "gpt-4", expected one of gpt-5.5"#);
}

#[test]
fn an_effort_and_a_tier_must_be_on_their_lists_where_there_are_some() {
    let listed = Limits {
        efforts: Some([Effort::Low, Effort::Medium].into()),
        service_tiers: Some([ServiceTier::Flex].into()),
        ..limits()
    };
    let parse = |field: &str, value: &str, limits: &Limits| {
        let body = with(field, json!(value)).to_string();
        TurnRequest::parse(body.as_bytes(), limits, &Properties::default())
    };
    let low = parse("reasoning_effort", "low", &listed).unwrap();
    assert_eq!(low.reasoning_effort, Some(Effort::Low));
    let flex = parse("service_tier", "flex", &listed).unwrap();
    assert_eq!(flex.service_tier, Some(ServiceTier::Flex));
    for (field, value, rule) in [
        ("reasoning_effort", "xhigh", r#"one of "low", "medium""#),
        ("service_tier", "priority", r#"one of "flex""#),
    ] {
        let text = parse(field, value, &listed).unwrap_err().to_string();
        assert!(
            text.contains(&format!("{field}: found \"{value}\"")),
            "{text}"
        );
        assert!(text.ends_with(rule), "{text}");
        // An accepted one stays accepted.
        let accepted = parse(field, value, &Limits::accepted()).unwrap();
        let again = serde_json::from_str(&accepted.to_canonical_json()).ok();
        assert_eq!(again, Some(accepted));
    }
}

#[test]
fn the_producer_is_answered_under_the_first_usable_id() {
    let properties = |message_id, correlation_id| Properties {
        message_id,
        correlation_id,
        ..Properties::default()
    };
    let answered = |body: &str, properties| {
        let rejection = TurnRequest::parse(body.as_bytes(), &limits(), &properties).unwrap_err();
        rejection.turn_id.map(|id| id.to_string())
    };
    let both = properties(Some("m"), Some("c"));
    assert_eq!(answered(r#"{"turn_id":"b"}"#, both).as_deref(), Some("b"));
    assert_eq!(answered(r#"{"turn_id":"b b"}"#, both).as_deref(), Some("m"));
    assert_eq!(answered("{", both).as_deref(), Some("m"));
    assert_eq!(
        answered("[]", properties(Some("t/1/2"), Some("c"))).as_deref(),
        Some("c")
    );
    assert_eq!(
        answered(&" ".repeat(300_000), properties(None, Some("c"))).as_deref(),
        Some("c")
    );
    assert_eq!(answered("{", properties(None, None)), None);
    // The body's own, also of one that can't be read.
    let broken = r#"{"turn_id":"b","workspace":"a","x":"\ud83d"}"#;
    assert_eq!(answered(broken, both).as_deref(), Some("b"));
    let large = format!(r#"{{"x":"{}","turn_id":"b"}}"#, "x".repeat(300_000));
    assert_eq!(answered(&large, both).as_deref(), Some("b"));
    let unusable = r#"{"turn_id":"b b","x":"\ud83d"}"#;
    assert_eq!(answered(unusable, both).as_deref(), Some("m"));
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const OTHER_TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

#[test]
fn the_headers_trace_goes_before_the_bodys_and_a_wrong_one_breaks_no_rule() {
    let parse = |body: &Value, traceparent, tracestate| {
        let properties = Properties {
            traceparent,
            tracestate,
            ..Properties::default()
        };
        let body = body.to_string();
        let request = TurnRequest::parse(body.as_bytes(), &limits(), &properties);
        let trace = match &request {
            Ok(request) => request.trace.clone(),
            Err(rejection) => rejection.trace.clone(),
        };
        trace.map(|trace| (trace.traceparent.clone(), trace.tracestate.clone()))
    };
    let told = |parent: &str, state: Option<&str>| {
        let state = state.map(str::to_owned);
        Some((parent.to_owned(), state))
    };
    let mut body = with("traceparent", json!(OTHER_TRACE));
    body["tracestate"] = json!("b=2");
    assert_eq!(parse(&body, None, None), told(OTHER_TRACE, Some("b=2")));
    // Never one's parent with the other's state.
    assert_eq!(
        parse(&body, None, Some("a=1")),
        told(OTHER_TRACE, Some("b=2"))
    );
    assert_eq!(parse(&body, Some(TRACE), None), told(TRACE, None));
    assert_eq!(
        parse(&body, Some("00-x"), None),
        told(OTHER_TRACE, Some("b=2"))
    );
    for wrong in [json!(7), json!("00-x"), json!({"a": []}), json!(null)] {
        let body = with("traceparent", wrong);
        assert_eq!(parse(&body, None, Some("a=1")), None);
    }
    // What is refused is visible in its trace as well.
    for refused in [json!([]), json!({"turn_id": "t"})] {
        assert_eq!(
            parse(&refused, Some(TRACE), Some("a=1")),
            told(TRACE, Some("a=1"))
        );
    }
    assert_eq!(
        parse(&json!({"traceparent": TRACE}), None, None),
        told(TRACE, None)
    );
}

#[test]
fn a_trace_travels_with_a_request_and_is_no_part_of_what_it_asks_for() {
    let mut body = with("traceparent", json!(TRACE));
    body["tracestate"] = json!("a=1");
    let request = parse(&body).unwrap();
    let canonical = request.to_canonical_json();
    let again = TurnRequest::parse(canonical.as_bytes(), &limits(), &Properties::default());
    assert_eq!(again.as_ref(), Ok(&request));
    assert_eq!(request.trace_id(), Some(&TRACE[3..35]));
    let plain = parse(&with("model", json!(null))).unwrap();
    assert_eq!(plain.fingerprint(), request.fingerprint());
}

#[test]
fn the_bodys_time_goes_before_the_propertys() {
    let parse = |value: Value, timestamp| {
        let properties = Properties {
            timestamp,
            ..Properties::default()
        };
        let body = value.to_string();
        let request = TurnRequest::parse(body.as_bytes(), &limits(), &properties).unwrap();
        request.enqueued_at.map(|time| time.to_string())
    };
    let told = with("enqueued_at", json!("2026-01-02T03:04:05.678+01:00"));
    assert_eq!(
        parse(told, Some(1)).as_deref(),
        Some("2026-01-02T02:04:05.678Z")
    );
    assert_eq!(
        parse(minimal(), Some(1)).as_deref(),
        Some("1970-01-01T00:00:01Z")
    );
    assert_eq!(parse(minimal(), Some(u64::MAX)), None);
}

#[test]
fn what_its_sender_should_know_travels_with_a_request_and_no_producer_makes_it_up() {
    let own = Limits {
        handed_on: false,
        ..limits()
    };
    let mut body = minimal();
    body["messages"] =
        json!([{"role": "system", "content": "Only docs/"}, {"role": "user", "content": "Fix it"}]);
    body["notices"] = json!([{"code": "codex.warning", "message": "forged"}]);
    let properties = Properties {
        expiration: Some("60000"),
        ..Properties::default()
    };
    let request = TurnRequest::parse(body.to_string().as_bytes(), &own, &properties).unwrap();
    let codes: Vec<&str> = request.notices.iter().map(|n| n.code.as_str()).collect();
    assert_eq!(codes, ["request.content_ignored", "request.expiration_set"]);
    let canonical = request.to_canonical_json();
    let again = TurnRequest::parse(canonical.as_bytes(), &limits(), &Properties::default());
    assert_eq!(again.as_ref(), Ok(&request));
    assert_eq!(
        request.fingerprint(),
        parse(&minimal()).unwrap().fingerprint()
    );
    // Of a newer sequencer, what is known.
    let newer = canonical.replace("request.expiration_set", "request.from_the_future");
    let again = TurnRequest::parse(newer.as_bytes(), &limits(), &Properties::default());
    assert_eq!(again.unwrap().notices, request.notices[..1]);
}

#[test]
fn a_whole_number_may_be_written_as_a_float() {
    for (text, seconds) in [
        ("60.0", 60),
        ("6e1", 60),
        ("1.0", 1),
        ("18446744073709549568.0", 18_446_744_073_709_549_568),
    ] {
        let body = minimal()
            .to_string()
            .replacen('{', &format!(r#"{{"timeout_s":{text},"#), 1);
        let request = TurnRequest::parse(body.as_bytes(), &limits(), &Properties::default());
        assert_eq!(
            request.unwrap().timeout,
            Some(Duration::from_secs(seconds)),
            "{text}"
        );
    }
    for value in [
        json!(0.0),
        json!(-60.0),
        json!(60.5),
        json!(1e300),
        json!(18_446_744_073_709_551_616.0),
    ] {
        assert_eq!(
            fields(&with("timeout_s", value.clone())),
            ["timeout_s"],
            "{value}"
        );
    }
}

#[test]
fn a_workers_limits_cap_what_is_asked_for() {
    let hour = Duration::from_secs(3600);
    let asked = |timeout: Value, attempts: Value| {
        let mut request = with("timeout_s", timeout);
        request["max_attempts"] = attempts;
        let request = parse(&request).unwrap();
        (
            request.effective_timeout(hour),
            request.effective_max_attempts(3),
        )
    };
    assert_eq!(asked(json!(60), json!(1)), (Duration::from_secs(60), 1));
    assert_eq!(asked(json!(u64::MAX), json!(u64::MAX)), (hour, 3));
    assert_eq!(asked(json!(null), json!(null)), (hour, 3));
}

#[test]
fn g10_size_and_depth_are_bounded_before_anything_else() {
    let large = with(
        "messages",
        json!([{"role": "user", "content": "x".repeat(300_000)}]),
    );
    assert_eq!(fields(&large), ["body"]);
    assert_eq!(fields(&with("metadata", nested(33))), ["metadata"]);
    assert!(parse(&with("metadata", nested(32))).is_ok());

    let body = |depth: usize| {
        let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
        minimal()
            .to_string()
            .replacen('{', &format!(r#"{{"x":{open}{close},"#), 1)
    };
    let parse = |body: &str| TurnRequest::parse(body.as_bytes(), &limits(), &Properties::default());
    assert!(parse(&body(127)).is_ok());
    assert_eq!(parse(&body(128)).unwrap_err().violations[0].field, "body");
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let rejection = TurnRequest::parse(deep.as_bytes(), &limits(), &Properties::default());
    assert_eq!(rejection.unwrap_err().violations[0].field, "body");
}

/// Each of them takes a hundred times its own size, and they are not looked at.
#[test]
fn g10_values_are_counted_while_they_are_read() {
    let limits = Limits {
        max_request_bytes: 8 << 20,
        ..limits()
    };
    let with_more = |values: &str| {
        let body = minimal().to_string();
        let body = body.replacen('{', &format!(r#"{{"x":{values},"#), 1);
        TurnRequest::parse(body.as_bytes(), &limits, &Properties::default())
    };
    // The request itself, its two ids, its one message of two fields, their list, and `x`.
    let others = 8;
    let objects = (json::MAX_VALUES - others) / 2;
    let text = |count: usize| format!("[{}[]]", r#"{"":0},"#.repeat(count));
    assert!(with_more(&text(objects - 1)).is_ok());
    for values in [
        text(objects + 1),
        format!("[{}0]", "0,".repeat(json::MAX_VALUES)),
        format!("{{{}\"a\":0}}", "\"a\":0,".repeat(json::MAX_VALUES)),
    ] {
        let rejection = with_more(&values).unwrap_err();
        let [violation] = &rejection.violations[..] else {
            panic!("{rejection}");
        };
        assert_eq!(violation.field, "body");
        assert!(violation.rule.contains("65536 values"), "{rejection}");
    }
}

/// See [`super::json`]: read as serde_json does, this body overflows the
/// stack and ends the process.
#[test]
fn g10_texts_in_texts_do_not_get_around_the_depth_limit() {
    let mut text = "1".to_owned();
    while text.len() < 100_000 {
        let raw = json!({"$serde_json::private::RawValue": text}).to_string();
        text = format!("{}{raw}{}", "[".repeat(120), "]".repeat(120));
    }
    let body = minimal()
        .to_string()
        .replacen('{', &format!(r#"{{"x":{text},"#), 1);
    let request = TurnRequest::parse(body.as_bytes(), &limits(), &Properties::default());
    assert_eq!(request, parse(&minimal()));
}

fn nested(depth: usize) -> Value {
    (1..depth).fold(json!({}), |inner, _| json!({ "a": inner }))
}

#[test]
fn g8_a_workspace_is_a_name_below_the_root() {
    let code = |text: &str| parse(&with("workspace", json!(text))).map_err(|r| r.code);
    let good = [
        ("a", "a"),
        ("acme/website", "acme/website"),
        ("A.b_c-9/0/x/y", "A.b_c-9/0/x/y"),
        ("/srv/ws/acme/website", "acme/website"),
        ("/srv/ws//acme/./website/", "acme/website"),
        ("/data/real/acme/website", "acme/website"),
    ];
    for (text, id) in good {
        assert_eq!(code(text).unwrap().workspace.as_str(), id);
    }
    let segment = "s".repeat(65);
    let bad = [
        "",
        "/",
        ".",
        "..",
        "a/..",
        "../a",
        "a/../b",
        "a/",
        "a//b",
        "a/.hidden",
        ".turn-worker",
        "-a",
        "_a",
        "a/b/c/d/e",
        "a b",
        "a\nb",
        "a\u{0}",
        "ä",
        "~",
        "a\\b",
        &segment,
        "/srv/ws",
        "/srv/ws/",
        "/srv/ws/../etc",
        "/srv/ws/a/../../b",
        "/srv/wsx/a",
        "/etc/passwd",
        "/srv/ws/.turn-worker/x",
    ];
    for text in bad {
        assert_eq!(code(text), Err(ErrorCode::WorkspaceRejected), "{text:?}");
    }
}

#[test]
fn the_nearest_of_two_nested_roots_counts() {
    let roots = ["/a".into(), "/a/link".into()];
    let id = WorkspaceId::parse("/a/link/x", &roots).unwrap();
    assert_eq!(id.as_str(), "x");
}

#[test]
fn the_code_distinguishes_the_workspace_from_the_rest() {
    let mut request = with("workspace", json!("../x"));
    assert_eq!(
        parse(&request).unwrap_err().code,
        ErrorCode::WorkspaceRejected
    );
    request["timeout_s"] = json!(0);
    assert_eq!(parse(&request).unwrap_err().code, ErrorCode::RequestInvalid);
    assert_eq!(
        parse(&with("workspace", json!(5))).unwrap_err().code,
        ErrorCode::RequestInvalid
    );
}

#[test]
fn ids_are_checked_when_they_are_read_back() {
    assert!(serde_json::from_str::<TurnId>(r#""t-1""#).is_ok());
    assert!(serde_json::from_str::<TurnId>(r#""t/1""#).is_err());
    assert!(serde_json::from_str::<WorkspaceId>(r#""a/b""#).is_ok());
    assert!(serde_json::from_str::<WorkspaceId>(r#""/srv/ws/a""#).is_err());
    assert!(serde_json::from_str::<WorkspaceId>(r#""a/..""#).is_err());
}

#[test]
fn the_fingerprint_depends_on_meaning_not_on_spelling() {
    let print = |value: &Value| parse(value).unwrap().fingerprint();
    let block = json!([{"role": "system", "content": "s"},
                       {"role": "user", "content": [{"type": "text", "text": "Fix it"}]}]);
    let same = [
        with("messages", block),
        with("workspace", json!("/srv/ws/acme/website")),
        with("enqueued_at", json!("2026-01-01T00:00:00Z")),
        with("priority", json!(1)),
        with("tenant", json!("acme")),
        with("on_busy", json!("enqueue")),
        with("thread", json!("continue")),
        with("thread", json!(null)),
    ];
    for value in same {
        assert_eq!(print(&value), print(&minimal()), "{value}");
    }
    let other = [
        with("messages", json!([{"role": "user", "content": "Fix it."}])),
        with("workspace", json!("acme/app")),
        with("model", json!("m")),
        with("reasoning_effort", json!("low")),
        with("service_tier", json!("flex")),
        with("timeout_s", json!(1)),
        with("max_attempts", json!(1)),
        with("start_within_s", json!(1)),
        with("on_busy", json!("reject")),
        with("on_busy", json!("interrupt")),
        with("thread", json!("new")),
        with("metadata", json!({})),
        with("output_schema", json!({})),
    ];
    for value in other {
        assert_ne!(print(&value), print(&minimal()), "{value}");
    }
}

/// What a request that was recorded before there were images and schemas is
/// known by.
#[test]
fn the_fingerprint_of_what_could_always_be_asked_for_stays() {
    let old = json!({
        "turn_id": "t-01", "workspace": "acme/website",
        "messages": [{"role": "user", "content": "Fix it"}],
        "model": "gpt-5.5", "timeout_s": 1800, "max_attempts": 3, "metadata": {"ticket": "42"}
    });
    let old = parse(&old).unwrap();
    assert_eq!(
        old.to_canonical_json(),
        r#"{"turn_id":"t-01","workspace":"acme/website","messages":[{"role":"user","content":"Fix it"}],"model":"gpt-5.5","timeout_s":1800,"max_attempts":3,"metadata":{"ticket":"42"}}"#
    );
    assert_eq!(
        old.fingerprint(),
        crc32fast::hash(old.to_canonical_json().as_bytes())
    );
}

#[test]
fn a_schema_keeps_the_order_of_its_fields() {
    let body = r#"{"turn_id": "t", "workspace": "a", "messages": [{"role": "user", "content": "x"}],
        "output\u005fschema": {"b": {"d": "é \" }"}, "a": [1, 2]}}"#;
    let limits = limits();
    let read =
        |body: &str| TurnRequest::parse(body.as_bytes(), &limits, &Properties::default()).unwrap();
    let request = read(body);
    let schema = request.output_schema.as_ref().unwrap();
    assert_eq!(schema.text(), r#"{"b":{"d":"é \" }"},"a":[1,2]}"#);
    assert_eq!(read(&request.to_canonical_json()), request);
    let null = body.replace(r#"{"b""#, r#"null, "x": {"b""#);
    assert_eq!(read(&null).output_schema, None);
}

#[test]
fn what_is_nested_too_deep_to_be_handed_on_is_rejected() {
    let nested = |levels: usize| {
        let levels = levels - 1;
        let text = format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
        serde_json::from_str::<Value>(&format!(r#"{{"a":{text}}}"#)).unwrap()
    };
    for (field, limit) in [("metadata", 32), ("output_schema", 64)] {
        assert!(parse(&with(field, nested(limit))).is_ok(), "{field}");
        assert_eq!(fields(&with(field, nested(limit + 1))), [field]);
    }
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            Just(json!("user")),
            Just(json!("text")),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            let key = prop_oneof![
                "[a-z]{0,4}",
                Just("role".to_owned()),
                Just("content".to_owned()),
                Just("type".to_owned()),
                Just("text".to_owned()),
                Just("$serde_json::private::RawValue".to_owned())
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((key, inner), 0..6)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    /// Requests that are nearly right: each field is sound or anything.
    fn request() -> impl Strategy<Value = Value> {
        let or_any = |sound: BoxedStrategy<Value>| prop_oneof![9 => sound, 1 => json_value()];
        let text = |pattern: &'static str| pattern.prop_map(Value::from).boxed();
        let map = || {
            prop::collection::hash_map("[$a-z]{0,3}", json_value(), 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
        };
        let message = ("user|assistant", "\\PC{0,20}").prop_map(
            |(role, text)| json!({"role": role, "content": [{"type": "text", "text": text}]}),
        );
        (
            or_any(text("[A-Za-z0-9._-]{1,128}")),
            or_any(text("(/srv/ws/)?[a-z0-9][a-z./]{0,6}[a-z0-9]")),
            or_any(prop::collection::vec(message, 1..4).prop_map(Value::from).boxed()),
            or_any(text("[A-Za-z0-9._:/@-]{1,20}")),
            or_any(any::<u64>().prop_map(Value::from).boxed()),
            or_any(any::<u64>().prop_map(Value::from).boxed()),
            or_any(any::<u64>().prop_map(Value::from).boxed()),
            or_any(text("enqueue|reject|interrupt")),
            or_any(text("continue|new")),
            prop_oneof![map(), json_value()],
            prop_oneof![map(), json_value()],
            or_any((-377_705_023_201i64..253_402_207_200, 0..1_000_000_000).prop_map(|(s, ns)|
                json!(Timestamp::new(s, ns).unwrap().to_string())).boxed()),
        )
            .prop_map(|(turn_id, workspace, messages, model, timeout_s, max_attempts, start_within_s, on_busy, thread, metadata, output_schema, enqueued_at)| {
                json!({"turn_id": turn_id, "workspace": workspace, "messages": messages, "model": model,
                       "timeout_s": timeout_s, "max_attempts": max_attempts,
                       "start_within_s": start_within_s, "on_busy": on_busy, "thread": thread, "metadata": metadata,
                       "output_schema": output_schema, "enqueued_at": enqueued_at})
            })
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let rejection = TurnRequest::parse(&body, &limits(), &Properties::default()).unwrap_err();
            prop_assert!(!rejection.violations.is_empty());
        }

        #[test]
        fn no_json_makes_it_panic_or_forge_a_line(value in json_value()) {
            let text = parse(&value).unwrap_err().to_string();
            prop_assert!(!text.chars().any(char::is_control), "{text:?}");
        }

        #[test]
        fn what_is_accepted_is_read_back_the_same(value in request()) {
            if let Ok(request) = parse(&value) {
                let canonical = request.to_canonical_json();
                let again = TurnRequest::parse(canonical.as_bytes(), &limits(), &Properties::default());
                prop_assert_eq!(again.as_ref(), Ok(&request));
                prop_assert_eq!(again.unwrap().to_canonical_json(), canonical.clone());
                let within = serde_json::from_str::<TurnRequest>(&canonical);
                prop_assert_eq!(within.unwrap(), request);
            }
        }

        #[test]
        fn g8_no_text_becomes_an_id_that_leaves_the_root(text in "(/srv/ws)?[a-c./\\x00-\\x20-]{0,12}") {
            if let Ok(id) = WorkspaceId::parse(&text, &limits().roots) {
                prop_assert!((1..=4).contains(&id.segments().count()));
                for segment in id.segments() {
                    prop_assert!(!segment.is_empty() && !segment.starts_with('.'));
                    prop_assert!(!segment.chars().any(|c| c.is_control() || c == ' '));
                }
                // Both spellings are one workspace.
                let path = format!("/srv/ws/{id}");
                prop_assert_eq!(WorkspaceId::parse(&path, &limits().roots), Ok(id));
            }
        }
    }
}

#[test]
fn a_field_that_an_object_has_twice_is_rejected_with_its_path() {
    let request = r#"{"turn_id":"old","workspace":"a","turn_id":"t","metadata":{"n":{"k":1,"k":2}},
        "messages":[{"role":"user","content":"x"}],"x":[{"y":0}]}"#;
    let parse = |body: &str| TurnRequest::parse(body.as_bytes(), &limits(), &Properties::default());
    let rejection = parse(request).unwrap_err();
    assert_eq!(rejection.turn_id.unwrap().as_str(), "t");
    let fields: Vec<&str> = rejection.violations.iter().map(|v| &*v.field).collect();
    assert_eq!(fields, ["turn_id", "metadata.n.k"]);
    assert_eq!(
        rejection.violations[0].to_string(),
        "turn_id: found it more than once, expected each field of an object once"
    );
}

#[test]
fn metadata_keeps_large_integers_and_counts_their_digits() {
    let with = |digits: usize| {
        let metadata = format!(r#"{{"n":{}}}"#, "7".repeat(digits));
        let body = format!(
            r#"{{"turn_id":"t","workspace":"a","messages":[{{"role":"user","content":"x"}}],"metadata": {metadata} }}"#
        );
        (
            metadata,
            TurnRequest::parse(body.as_bytes(), &limits(), &Properties::default()),
        )
    };
    let (metadata, request) = with(300);
    let request = request.unwrap();
    assert!(request.to_canonical_json().contains(&metadata));
    let again: TurnRequest = serde_json::from_str(&request.to_canonical_json()).unwrap();
    assert_eq!(again, request);
    let many = format!("[{}]", vec!["7".repeat(200); 21].join(","));
    let body = format!(
        r#"{{"turn_id":"t","workspace":"a","messages":[{{"role":"user","content":"x"}}],"metadata":{{"n":{many}}}}}"#
    );
    let rejection = TurnRequest::parse(body.as_bytes(), &limits(), &Properties::default());
    assert_eq!(
        rejection.unwrap_err().violations[0].found,
        format!("{} bytes", many.len() + 6)
    );
}
