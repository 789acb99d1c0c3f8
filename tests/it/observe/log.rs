//! The log is what `docs/observability.md` says of it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{path, read};
use crate::support::pool::{Pool, turn};

/// A line; serde rejects one with duplicates of these.
#[derive(Debug, Deserialize)]
struct Line {
    timestamp: Timestamp,
    level: String,
    target: String,
    message: String,
    span: Option<Span>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Span {
    name: String,
    turn_id: String,
    #[expect(dead_code, reason = "that it is there is what matters")]
    workspace: String,
    worker: String,
    #[expect(dead_code, reason = "as above")]
    tenant: Option<String>,
    #[expect(dead_code, reason = "as above")]
    trace_id: Option<String>,
}

fn lines(log: &str) -> Vec<Line> {
    let lines = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")));
    lines.collect()
}

/// By the second table of the section: the field and its type.
fn documented() -> BTreeMap<String, String> {
    let page = read("docs/observability.md");
    let (_, section) = page.split_once("\n## The log\n").unwrap();
    let (_, table) = section.split_once("And those that belong to it").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let mut fields = BTreeMap::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        for name in cells[1].split(", ") {
            let name = name.trim_matches('`').to_owned();
            assert!(fields.insert(name, cells[2].to_owned()).is_none(), "{row}");
        }
    }
    fields
}

/// Every line that a process has logged at `info` or above.
pub fn check(log: &str) {
    let documented = documented();
    for line in lines(log) {
        assert!(
            !line.message.is_empty() && line.target.starts_with("turn_worker"),
            "{line:?}"
        );
        assert!(line.timestamp > Timestamp::UNIX_EPOCH);
        if line.level == "DEBUG" {
            continue;
        }
        assert!(
            ["ERROR", "WARN", "INFO"].contains(&line.level.as_str()),
            "{line:?}"
        );
        assert!(
            line.span.as_ref().is_none_or(|span| span.name == "turn"),
            "{line:?}"
        );
        for (name, value) in &line.more {
            let kind = match value {
                Value::String(_) => "string",
                Value::Number(_) => "number",
                Value::Bool(_) => "boolean",
                _ => "other",
            };
            let told = documented.get(name).map(String::as_str);
            assert_eq!(told, Some(kind), "{name} of {line:?}");
        }
    }
}

#[test]
fn no_documented_field_is_gone() {
    let mut code = String::new();
    crate::docs::collect(&path("src"), &mut code);
    for name in documented().keys() {
        assert!(code.contains(name.as_str()), "nothing logs {name}");
    }
}

#[tokio::test]
async fn an_ordinary_turn_is_two_lines() {
    let mut pool = Pool::start(1, &[("LOG", "info")]).await;
    let script = ["think so", "run echo", "say hi", "reconnect"];
    pool.enqueue(&[turn("t1", "a", &script)]).await;
    pool.events.ended("t1").await;
    pool.process(0).logged("turn ended").await;
    let log = pool.process(0).log_text();
    check(&log);
    let of_turn = lines(&log).into_iter().filter(|line| {
        let span = line
            .span
            .as_ref()
            .is_some_and(|span| span.turn_id == "t1" && !span.worker.is_empty());
        span || line.more.get("turn_id").is_some_and(|id| id == "t1")
    });
    let messages: Vec<String> = of_turn.map(|line| line.message).collect();
    assert_eq!(messages, ["turn started", "turn ended"]);
    pool.stop().await;
}
