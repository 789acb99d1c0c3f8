//! Texts from outside that try to pass for something else: a line of the log,
//! a header, a metric, a path.

use std::fs;

use serde_json::{Value, json};

use crate::support::pool::{Pool, persistent, turn};

/// As a line of the log would start, in either format.
const TEXT_LINE: &str =
    "x\r\n2001-01-01T00:00:00.000000Z ERROR forged: FORGED\u{1b}[2J\u{9b}1A\u{2028}";
const JSON_LINE: &str = "x\n{\"timestamp\":\"2001\",\"level\":\"ERROR\",\"message\":\"FORGED\"}";

/// Requests that name hostile texts wherever a request can hold one.
fn hostile(line: &str) -> Vec<Value> {
    let with = |id: &str, field: &str, value: Value| {
        let mut request = turn(id, "a", &[]);
        request[field] = value;
        request
    };
    vec![
        with("turn-id", "turn_id", json!(line)),
        with("workspace", "workspace", json!(line)),
        with("workspace-2", "workspace", json!(format!("a/{line}"))),
        with("model", "model", json!(line)),
        with("timeout", "timeout_s", json!(line)),
        with("attempts", "max_attempts", json!({ line: 1 })),
        with("metadata", "metadata", json!(line)),
        with("metadata-2", "metadata", json!({ line: line.repeat(100) })),
        with("enqueued", "enqueued_at", json!(line)),
        with(
            "role",
            "messages",
            json!([{"role": [line], "content": line}]),
        ),
        with(
            "content",
            "messages",
            json!([{"role": "user", "content": {line: line}}]),
        ),
        with(
            "block",
            "messages",
            json!([{"role": "user", "content": [{"type": "text", "text": [line]}]}]),
        ),
        json!(line),
        json!([line, line]),
        json!({ line: line }),
    ]
}

/// A pool that has met all of it: its whole log, its metrics, the dead letters.
async fn log_of(format: &str, level: &str, line: &str) -> String {
    let mut pool = Pool::start(1, &[("LOG_FORMAT", format), ("LOG", level)]).await;
    let requests = hostile(line);
    let bodies: Vec<_> = requests
        .iter()
        .enumerate()
        .map(|(n, request)| {
            let properties = persistent().with_correlation_id(format!("r{n}").into());
            (request.to_string().into_bytes(), properties)
        })
        .collect();
    pool.producer.enqueue_raw(&bodies).await;
    pool.producer
        .enqueue_raw(&[(line.as_bytes().to_vec(), persistent())])
        .await;
    for message in [
        json!({"action": line, "turn_id": "t"}),
        json!({"action": "cancel", "turn_id": line}),
        json!({"action": "cancel", "turn_id": "t", "workspace": line}),
        json!({"action": "cancel", "turn_id": [line]}),
        json!([line]),
    ] {
        pool.producer.control(&message).await;
    }

    let one_line = line.replace(['\r', '\n'], " ");
    let codex = format!("# PROMPT-MARK {one_line}");
    let said = format!("CODEX-MARK {one_line}");
    let mut runs = vec![
        turn(
            "fails",
            "b",
            &[&codex, &format!("stderr {said}"), &format!("fail {said}")],
        ),
        turn(
            "exits",
            "b",
            &[&codex, &format!("stderr {said}"), "garbage", "exit 1"],
        ),
        turn(
            "ends",
            "c",
            &[&codex, &format!("say {said}"), &format!("unknown {said}")],
        ),
    ];
    for run in &mut runs {
        run["metadata"] = json!({"METADATA-MARK": line});
        // Of the form that is allowed, and not on anybody's list.
        run["model"] = json!("forged-model");
    }
    pool.enqueue(&runs).await;
    for id in ["fails", "exits", "ends"] {
        pool.events.ended(id).await;
    }
    pool.idle().await;

    let letters = pool.producer.dead_letters(16).await;
    for letter in letters {
        assert!(letter.code.starts_with("request.") || letter.code == "workspace.rejected");
        assert!(letter.message.len() <= 4096, "{}", letter.message);
        assert!(!letter.message.contains(breaks), "{:?}", letter.message);
    }
    let metrics = pool.process(0).get("/metrics").await.unwrap().1;
    assert!(!metrics.contains("FORGED") && !metrics.contains("forged"));
    for line in metrics.lines().filter(|line| line.contains("model=")) {
        let known = ["model=\"default\"", "model=\"other\""];
        assert!(known.iter().any(|label| line.contains(label)), "{line}");
    }
    let spent = pool.metric("turn_worker_input_tokens_total{model=\"other\"}");
    assert!(spent.await > 0.0);
    let log = pool.process(0).log_text();
    pool.stop().await;
    log
}

/// What could end a line, or lead a terminal astray.
fn breaks(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Guards that texts from outside are logged as escaped fields: codex's stderr,
/// `Rejection::rules`, `DecodeError`'s texts. One that is not is still caught by
/// `OneLine`, so this fails only without both; a test beside `OneLine` guards it.
#[tokio::test]
async fn g8_no_text_forges_a_line_of_the_text_log() {
    let log = log_of("text", "debug", TEXT_LINE).await;
    assert!(
        log.contains("CODEX-MARK"),
        "codex's words are told at debug"
    );
    for line in log.lines() {
        assert!(!line.contains(breaks), "{line:?}");
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{line:?}");
        assert!(!time.starts_with("2001"), "{line:?}");
        let level = rest.split_whitespace().next().unwrap();
        assert!(
            ["ERROR", "WARN", "INFO", "DEBUG"].contains(&level),
            "{line:?}"
        );
    }
    for kept in ["PROMPT-MARK", "METADATA-MARK"] {
        assert!(!log.contains(kept), "{kept}");
    }
}

/// Guards the same, and `TurnError::own_words`: what codex says, and what it
/// was published, is not in the log that operators have by default.
#[tokio::test]
async fn g8_the_json_log_holds_neither_forged_lines_nor_what_codex_said() {
    let log = log_of("json", "info", JSON_LINE).await;
    for line in log.lines() {
        assert!(!line.contains(breaks), "{line:?}");
        let event: Value = serde_json::from_str(line).unwrap();
        assert_ne!(event["timestamp"], "2001", "{line}");
        assert_ne!(event["message"], "FORGED", "{line}");
    }
    for kept in ["CODEX-MARK", "PROMPT-MARK", "METADATA-MARK"] {
        assert!(!log.contains(kept), "{kept}");
    }
    assert!(log.contains("\"code\":\"turn.failed\""));
    assert!(log.contains("codex exited with code 1 before it told how the turn ended"));
}

/// Guards `WorkspaceId::parse`, and the look at each segment before a path is
/// formed of it.
#[tokio::test]
async fn g8_no_spelling_of_a_workspace_leads_out_of_the_root() {
    let mut pool = Pool::start(1, &[]).await;
    let root = pool.root().canonicalize().unwrap();
    let under = |rest: &str| format!("{}{rest}", root.display());
    let long = "a".repeat(65);
    let spellings = [
        "..",
        ".",
        "../x",
        "a/../..",
        "a/./b",
        "a//b",
        "/a",
        "a/",
        "",
        "/",
        "~",
        "~root",
        ".turn-worker",
        ".Turn-Worker",
        "a/.state",
        "a/.turn-worker",
        "-a",
        "a/-b",
        "_a",
        "a b",
        "a\u{0}",
        "a\n",
        "a\\b",
        "a\\..\\b",
        "C:\\x",
        "a:b",
        "%2e%2e",
        "a%2fb",
        "$HOME",
        "*",
        // What other software may fold into dots, slashes or letters.
        "．．",
        "a／b",
        "a\u{2215}b",
        "a\u{2024}\u{2024}",
        "ａ",
        "é",
        "e\u{301}",
        "a\u{200b}",
        "\u{202e}a",
        "\u{212a}",
        "/etc",
        "/etc/passwd",
        "//etc",
        "/proc/self/cwd",
        &long,
        "a/b/c/d/e",
        &"a/".repeat(5000),
        &under("/../outside"),
        &under("/a/../../b"),
        &under(""),
        &under("/"),
        &under("/.turn-worker"),
        &under("x/a"),
    ];
    let requests: Vec<_> = spellings
        .iter()
        .enumerate()
        .map(|(n, spelling)| {
            let mut request = turn(&format!("t{n}"), "x", &["touch ran"]);
            request["workspace"] = json!(spelling);
            request
        })
        .collect();
    pool.enqueue(&requests).await;
    for (n, spelling) in spellings.iter().enumerate() {
        let ended = pool.events.ended(&format!("t{n}")).await;
        assert_eq!(
            ended.error_code(),
            Some("workspace.rejected"),
            "{spelling:?}"
        );
    }
    // Longest, and the root's own spelling: those are good.
    let good = ["b".repeat(64), under("/c/d"), under("//e")];
    for (n, spelling) in good.iter().enumerate() {
        let id = format!("good{n}");
        let mut request = turn(&id, "x", &[]);
        request["workspace"] = json!(spelling);
        pool.enqueue(&[request]).await;
        assert_eq!(
            pool.events.ended(&id).await.stop_reason(),
            "end_turn",
            "{spelling}"
        );
    }
    let mut found: Vec<_> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, [".turn-worker", &"b".repeat(64), "c", "e"]);
    assert!(!pool.stand_in_file("ran").exists());
    pool.stop().await;
}
