//! G5 for requests that are not accepted.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use turn_worker::request::TurnId;

use crate::support::pool::{DeadLetter, Pool, Turn, persistent, turn};

fn rejected(code: &str) -> String {
    format!("turn_worker_requests_rejected_total{{code=\"{code}\"}}")
}

fn assert_refused(turn: &Turn, code: &str) {
    assert_eq!((turn.stop_reason(), turn.attempt()), ("error", 0));
    assert_eq!(turn.error_code(), Some(code));
    assert_eq!(turn.kinds(0), ["message_start", "error", "message_end"]);
}

async fn letter(pool: &mut Pool) -> DeadLetter {
    pool.producer.dead_letters(1).await.remove(0)
}

/// Guards `TurnRequest::parse` and `Actor::reject`.
#[tokio::test]
async fn g5_a_request_that_breaks_the_contract_is_answered_and_kept() {
    let mut pool = Pool::start(2, &[("MAX_REQUEST_BYTES", "1KiB")]).await;
    let mut no_prompt = turn("no-prompt", "a", &[]);
    no_prompt["messages"] = json!([{"role": "assistant", "content": "hi"}]);
    no_prompt["metadata"] = json!({"ticket": "42"});
    let large = turn("large", "a", &[&"x".repeat(2_000)]);
    let by_message_id = persistent().with_message_id("no-json".into());
    let by_correlation_id = persistent().with_correlation_id("no-object".into());
    let requests: [(&str, &str, Vec<u8>, _); 5] = [
        (
            "no-json",
            "request.invalid",
            b"{\"turn_id\": ".to_vec(),
            by_message_id,
        ),
        (
            "no-object",
            "request.invalid",
            b"[]".to_vec(),
            by_correlation_id,
        ),
        (
            "no-prompt",
            "request.invalid",
            bytes(&no_prompt),
            persistent(),
        ),
        (
            "large",
            "request.invalid",
            bytes(&large),
            persistent().with_message_id("large".into()),
        ),
        (
            "outside",
            "workspace.rejected",
            bytes(&turn("outside", "../a", &[])),
            persistent(),
        ),
    ];
    for (id, code, mut body, properties) in requests {
        pool.producer
            .enqueue_raw(&[(body.clone(), properties)])
            .await;
        assert_refused(&pool.events.ended(id).await, code);
        let letter = letter(&mut pool).await;
        // What is too large is kept in part.
        body.truncate(1024);
        assert_eq!((letter.code.as_str(), letter.body), (code, body), "{id}");
        assert!(!letter.message.is_empty());
    }
    let no_prompt = pool.events.turn("no-prompt");
    assert_eq!(
        no_prompt.end().unwrap()["metadata"],
        json!({"ticket": "42"})
    );
    pool.metric_is(&rejected("request.invalid"), 4.0).await;
    pool.metric_is(&rejected("workspace.rejected"), 1.0).await;
    assert_eq!(pool.runs().all.len(), 0);
    pool.stop().await;
}

/// A request of that id in `a`, with more fields.
fn with(id: &str, more: &str) -> String {
    let request = turn(id, "a", &[]).to_string();
    request.replacen('{', &format!("{{{more},"), 1)
}

/// Guards the scan of what can't be read: no message id names the turn.
#[tokio::test]
async fn g5_a_broken_body_is_answered_under_the_id_in_it() {
    let mut pool = Pool::start(2, &[]).await;
    let nested = |n: usize| format!(r#""x":{}{}"#, "[".repeat(n), "]".repeat(n));
    let plain = |id: &str| turn(id, "a", &[]).to_string();
    let utf16 = |text: String| {
        let units: Vec<u16> = format!("\u{feff}{text}").encode_utf16().collect();
        units.into_iter().flat_map(u16::to_le_bytes).collect()
    };
    let latin1 = |text: String| text.chars().map(|c| c as u8).collect();
    let truncated = |mut text: String| {
        text.truncate(text.len() - 1);
        text
    };
    let bodies: [(&str, Vec<u8>, &str); 13] = [
        (
            "large",
            with("large", &format!(r#""x":"{}""#, "x".repeat(300_000))).into(),
            "at most 262144 bytes",
        ),
        (
            "values",
            with("values", &format!(r#""x":[{}0]"#, "0,".repeat(70_000))).into(),
            "more than 65536 JSON values",
        ),
        (
            "deep",
            with("deep", &nested(199)).into(),
            "depth 200, expected a depth of at most 127",
        ),
        (
            "surrogate",
            with("surrogate", r#""x":"\ud83d""#).into(),
            "a lone surrogate",
        ),
        (
            "number",
            with("number", r#""x":1e400"#).into(),
            "the number 1e400 at offset 5",
        ),
        (
            "bom",
            format!("\u{feff}{}", plain("bom")).into(),
            "a UTF-8 byte order mark",
        ),
        (
            "utf16",
            utf16(plain("utf16")),
            "found UTF-16, expected a JSON object in UTF-8",
        ),
        (
            "latin1",
            latin1(with("latin1", "\"x\":\"J\u{fc}rgen\"")),
            "0xfc at offset 7",
        ),
        (
            "truncated",
            truncated(plain("truncated")).into(),
            "truncated after",
        ),
        (
            "twice",
            json!(plain("twice")).to_string().into(),
            "encoded twice",
        ),
        (
            "trailing",
            format!("{0}\n{0}", plain("trailing")).into(),
            "more bytes after the object",
        ),
        (
            "celery",
            format!("[[{}],{{}},{{}}]", plain("celery")).into(),
            "an array of 3",
        ),
        (
            "nan",
            with("nan", r#""x":NaN"#).into(),
            "no JSON (expected value at line 1 column 6)",
        ),
    ];
    for (id, body, found) in bodies {
        pool.producer.enqueue_raw(&[(body, persistent())]).await;
        let turn = pool.events.ended(id).await;
        assert_refused(&turn, "request.invalid");
        let error = turn.all().nth(1).unwrap();
        let message = error["error"]["message"].as_str().unwrap();
        assert!(
            message.starts_with("body: found ") && message.contains(found),
            "{id}: {message}"
        );
        assert_eq!(error["workspace"], "a", "{id}");
        assert_eq!(letter(&mut pool).await.message, message, "{id}");
    }
    // Of a compressed one, that it is.
    let compressed = persistent()
        .with_message_id("gzip".into())
        .with_content_encoding("gzip".into());
    let body = b"\x1f\x8b\x08\x00".to_vec();
    pool.producer.enqueue_raw(&[(body, compressed)]).await;
    assert_refused(&pool.events.ended("gzip").await, "request.invalid");
    let found = r#"found gzip (content_encoding "gzip"), expected a JSON object in UTF-8"#;
    assert!(letter(&mut pool).await.message.contains(found));
    // Its id is seen, and is that of a turn that waits.
    pool.enqueue(&[turn("t1", "a", &["wait go"]), turn("t2", "a", &[])])
        .await;
    pool.started("t1", 1).await;
    let body = with("t2", r#""x":1e400"#).into_bytes();
    pool.producer.enqueue_raw(&[(body, persistent())]).await;
    assert!(letter(&mut pool).await.message.contains("1e400"));
    pool.release("go");
    let t2 = pool.events.ended("t2").await;
    assert_eq!((t2.stop_reason(), t2.attempt()), ("end_turn", 1));
    assert!(!t2.attempts.contains_key(&0));
    pool.metric_is(&rejected("request.invalid"), 15.0).await;
    pool.stop().await;
}

/// Guards `request::notices`, and that nonsense times are no waits.
#[tokio::test]
async fn notices_name_what_of_a_request_is_not_used() {
    let mut pool = Pool::start(1, &[]).await;
    let mut request = turn("t1", "a", &[]);
    let prompt = request["messages"][0]["content"].clone();
    request["messages"] = json!([
        {"role": "system", "content": "Only docs/"},
        {"role": "user", "content": [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": {}}]},
        {"role": "assistant", "content": "Sure: {"},
    ]);
    let properties = persistent()
        .with_expiration("600000".into())
        .with_timestamp(0);
    pool.producer
        .enqueue_raw(&[(bytes(&request), properties)])
        .await;
    let t1 = pool.events.ended("t1").await;
    assert_eq!((t1.stop_reason(), t1.attempt()), ("end_turn", 1));
    let notices: Vec<(&str, &str)> = (t1.all())
        .filter(|event| event["type"] == "notice")
        .map(|event| {
            (
                event["code"].as_str().unwrap(),
                event["message"].as_str().unwrap(),
            )
        })
        .collect();
    let [(ignored, parts), (expiration, _)] = notices[..] else {
        panic!("{notices:?}");
    };
    assert_eq!(ignored, "request.content_ignored");
    for part in [
        "messages[0]: a message of role \"system\"",
        "messages[1].content[1]",
        "messages[2]",
    ] {
        assert!(parts.contains(part), "{parts}");
    }
    assert_eq!(expiration, "request.expiration_set");
    let mut old = turn("t2", "a", &[]);
    old["enqueued_at"] = json!("0001-01-01T00:00:00Z");
    old["messages"] = json!([{"role": "user", "content": "Old"}, {"role": "assistant", "content": "Done"}, old["messages"][0]]);
    pool.enqueue(&[old]).await;
    let t2 = pool.events.ended("t2").await;
    assert!(t2.all().all(|event| event["type"] != "notice"));
    pool.metric_is("turn_worker_queue_wait_seconds_count", 0.0)
        .await;
    pool.stop().await;
}

/// The examples of the contract, each under an id of its own, of the same length.
#[tokio::test]
async fn g5_each_example_of_a_rejected_request_gets_exactly_its_error() {
    const ID: &str = "0199a213-81c0-7800-8aa1-bbab2a035a53";
    // The answers are those of the default settings.
    let mut pool = Pool::start(1, &[("CODEX_ENGINE", "app-server")]).await;
    let (mut sent, mut codes) = (0, BTreeMap::<String, f64>::new());
    for folder in ["by-schema", "by-worker"] {
        let root = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/docs/contract/examples/rejected"
        );
        for entry in std::fs::read_dir(format!("{root}/{folder}")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let body = std::fs::read_to_string(&path).unwrap();
            // What is made of another, and those that mean another root than the pool's.
            if name.ends_with(".error.json") || body.contains("/srv/workspaces") {
                continue;
            }
            let request: Option<Value> = serde_json::from_str(&body).ok();
            let own = request.and_then(|request| request["turn_id"].as_str()?.parse().ok());
            assert!(own.is_none_or(|own: TurnId| own.as_str() == ID), "{name}");
            let error = std::fs::read(path.with_extension("error.json")).unwrap();
            let error: Value = serde_json::from_slice(&error).unwrap();
            let id = format!("0199a213-81c0-7800-8aa1-{sent:012}");
            let body = body.replace(ID, &id).into_bytes();
            // For those without a usable one.
            let properties = persistent().with_message_id(id.as_str().into());
            pool.producer.enqueue_raw(&[(body, properties)]).await;
            let turn = pool.events.ended(&id).await;
            let code = error["error"]["code"].as_str().unwrap();
            assert_refused(&turn, code);
            *codes.entry(code.to_owned()).or_default() += 1.0;
            assert_eq!(
                turn.all().nth(1).unwrap()["error"],
                error["error"],
                "{name}"
            );
            sent += 1;
        }
    }
    assert!(sent > 40, "{sent}");
    // Counted after the answer: then the request is settled, too.
    for (code, count) in codes {
        pool.metric_is(&rejected(&code), count).await;
    }
    pool.stop().await;
}

/// Guards that a request without any id blocks no queue.
#[tokio::test]
async fn g5_a_request_that_names_no_turn_is_kept() {
    let mut pool = Pool::start(1, &[]).await;
    let nobody = json!({"turn_id": "no id!", "workspace": "a"});
    pool.enqueue(&[nobody, turn("t1", "a", &[])]).await;
    assert_eq!(letter(&mut pool).await.code, "request.invalid");
    pool.events.ended("t1").await;
    pool.metric_is(&rejected("request.invalid"), 1.0).await;
    assert_eq!(pool.events.turn_ids(), ["t1"]);
    pool.stop().await;
}

/// Guards the registration of workspaces, and that its verdict is published as any other.
#[tokio::test]
async fn g5_a_workspace_inside_another_is_rejected() {
    let mut pool = Pool::start(2, &[]).await;
    pool.enqueue(&[turn("t1", "a", &[])]).await;
    pool.events.ended("t1").await;
    let nested = turn("t2", "a/b", &[]);
    pool.enqueue(std::slice::from_ref(&nested)).await;
    assert_refused(&pool.events.ended("t2").await, "workspace.rejected");
    let letter = letter(&mut pool).await;
    assert_eq!(letter.code, "workspace.rejected");
    let body: Value = serde_json::from_slice(&letter.body).unwrap();
    assert_eq!(body["turn_id"], "t2");
    pool.metric_is(&rejected("workspace.rejected"), 1.0).await;
    assert_eq!(pool.runs().of_turn("t2").count(), 0);
    pool.stop().await;
}

/// Guards `max_waiting` in `Queue::delivered`, and the claim behind it.
#[tokio::test]
async fn g5_a_turn_too_many_for_its_workspace_is_rejected() {
    let mut pool = Pool::start(2, &[("MAX_WAITING", "2")]).await;
    let requests = [
        turn("t1", "a", &["wait go"]),
        turn("t2", "a", &[]),
        turn("t3", "a", &[]),
    ];
    pool.enqueue(&requests).await;
    let t3 = pool.events.ended("t3").await;
    assert_refused(&t3, "workspace.backlog_full");
    assert_eq!(t3.attempts[&0][1]["error"]["retryable"], true);
    assert_eq!(letter(&mut pool).await.code, "workspace.backlog_full");
    // Another workspace has room, and a turn that waits is not over the limit.
    pool.enqueue(&[turn("t4", "b", &[]), requests[1].clone()])
        .await;
    pool.events.ended("t4").await;
    pool.release("go");
    pool.events.all_ended(["t1", "t2"]).await;
    // Its end is for ever, also when there is room again.
    pool.enqueue(&[requests[2].clone()]).await;
    pool.events.ended_again("t3", 3).await;
    assert_eq!(pool.runs().of_turn("t3").count(), 0);
    pool.metric_is(&rejected("workspace.backlog_full"), 1.0)
        .await;
    pool.stop().await;
}

/// Guards the claim of a rejection: the same one gets the same answer, another one
/// is only counted, and a turn that ran keeps its own end.
#[tokio::test]
async fn g5_a_rejection_is_published_once_and_never_to_another_turns_readers() {
    let mut pool = Pool::start(1, &[]).await;
    pool.enqueue(&[turn("t1", "a", &[])]).await;
    pool.events.ended("t1").await;
    let mut of_a_known_turn = turn("t1", "a", &[]);
    of_a_known_turn["timeout_s"] = json!("soon");
    let mut bad = turn("bad", "a", &[]);
    bad["timeout_s"] = json!(-1);
    let mut worse = bad.clone();
    worse["timeout_s"] = json!(-2);
    pool.enqueue(&[of_a_known_turn, bad.clone(), bad]).await;
    assert_eq!(pool.producer.dead_letters(3).await.len(), 3);
    assert_refused(&pool.events.ended("bad").await, "request.invalid");
    pool.events.ended_again("bad", 3).await;
    pool.enqueue(&[worse]).await;
    assert_eq!(pool.producer.dead_letters(1).await.len(), 1);
    pool.metric_is(&rejected("request.invalid"), 4.0).await;
    assert_eq!(pool.events.duplicates("bad"), 3);
    assert_eq!(pool.events.duplicates("t1"), 0);
    pool.stop().await;
}

fn bytes(request: &Value) -> Vec<u8> {
    request.to_string().into_bytes()
}
