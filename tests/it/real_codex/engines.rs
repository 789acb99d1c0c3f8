//! `codex exec` and `codex app-server`, asked for the same, report the same.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use turn_worker::codex::app_server::Heard;
use turn_worker::codex::protocol::{CliEvent, parse_line};
use turn_worker::codex::translate::{Finished, Translator, Verdict};
use turn_worker::event::{EventBody, Tokens};
use turn_worker::guard::Exit;

use super::{Codex, program};
use crate::support::conversation::Server;

/// So that failing takes a moment and not half a minute.
const IMPATIENT: &str =
    "request_max_retries = 0\nstream_max_retries = 1\n[tools.update_plan]\nenabled = true\n";

struct Told {
    events: Vec<EventBody>,
    finished: Finished,
    /// The tokens of its thread, after it.
    total: Option<Tokens>,
}

fn codex(kind: &str, home: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program());
    command
        .args([
            kind,
            "--disable",
            "plugins",
            "-c",
            "analytics.enabled=false",
        ])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", home)
        .env("CODEX_HOME", home)
        .env("STAND_IN_KEY", "key-of-the-test")
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

fn exec(home: &Path, dir: &Path, prompt: &str) -> Told {
    let mut child = codex("exec", home, dir)
        .args([
            "--json",
            "--skip-git-repo-check",
            "--dangerously-bypass-approvals-and-sandbox",
            "-",
        ])
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(prompt.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let mut translator = Translator::new();
    let lines = output.stdout.split(|byte| *byte == b'\n');
    let events = lines
        .filter(|line| !line.is_empty())
        .flat_map(|line| translator.translate(parse_line(line).unwrap()))
        .collect();
    let finished = translator.finish(&Exit::Code(output.status.code().unwrap()), "");
    Told {
        events,
        total: finished.reported_total,
        finished,
    }
}

fn start(home: &Path, dir: &Path) -> Server {
    Server::start(codex("app-server", home, dir).arg("--stdio"))
}

/// A turn to its end, as it is published; `interrupt` at such an event.
fn turn(server: &mut Server, prompt: &str, interrupt: impl Fn(&CliEvent) -> bool) -> Told {
    let mut translator = Translator::new();
    let thread_id = server.conversation.thread().unwrap().to_owned();
    translator.translate(CliEvent::ThreadStarted { thread_id });
    let events = server.turn(prompt, interrupt);
    Told {
        events: (events.into_iter())
            .flat_map(|event| translator.translate(event))
            .collect(),
        finished: translator.finish(&Exit::Code(0), ""),
        total: server.conversation.reported().total,
    }
}

fn never(_: &CliEvent) -> bool {
    false
}

/// What both engines have to have in common: texts whole, ids by number,
/// without what only one of them reports.
fn common(told: &Told, dir: &Path) -> Vec<Value> {
    let mut events: Vec<Value> = Vec::new();
    let mut texts: HashMap<String, usize> = HashMap::new();
    let mut ids: Vec<String> = Vec::new();
    let mut number = |id: &str| {
        let known = ids.iter().position(|known| known == id);
        known.unwrap_or_else(|| {
            ids.push(id.to_owned());
            ids.len() - 1
        })
    };
    for event in told.events.iter().chain(&told.finished.events) {
        let event = match event {
            EventBody::ToolOutput { .. } => continue,
            EventBody::TextDelta { item_id, text } | EventBody::ThinkingDelta { item_id, text } => {
                if let Some(at) = texts.get(item_id) {
                    let joined = events[*at]["text"].as_str().unwrap().to_owned() + text;
                    events[*at]["text"] = json!(joined);
                    continue;
                }
                texts.insert(item_id.clone(), events.len());
                json!({"type": event.kind(), "item": number(item_id), "text": text})
            }
            EventBody::ToolUse { id, name, input } => {
                json!({"type": "tool_use", "id": number(id), "name": name, "input": input})
            }
            EventBody::ToolResult {
                tool_use_id,
                name,
                is_error,
                content,
            } => json!({"type": "tool_result", "id": number(tool_use_id), "name": name,
                "is_error": is_error, "content": content}),
            other => json!(other),
        };
        events.push(event);
    }
    let finished = &told.finished;
    events.push(match &finished.verdict {
        Verdict::EndTurn => json!("end_turn"),
        Verdict::Failed(error) => json!(error),
    });
    events.push(json!({"text": finished.last_text, "total": told.total}));
    let here = dir.to_str().unwrap();
    let placeless = |event: &Value| {
        let text = event.to_string().replace(here, "/here");
        serde_json::from_str(&text).unwrap()
    };
    events.iter().map(placeless).collect()
}

fn directory(codex: &Codex, name: &str) -> PathBuf {
    let dir = codex.path().join(name);
    fs::create_dir_all(&dir).unwrap();
    dir.canonicalize().unwrap()
}

#[test]
fn a_turn_is_published_alike_by_both_engines() {
    const PROMPTS: &[&str] = &[
        "Hello.",
        "say: é漢 𝄞\nsay: \nsay: again",
        "think: Hm.\nthink: So é.\nrun: { echo out; echo err; } >&2; exit 3\nsay: Done.",
        "run: echo a; echo b; printf c\nrun: true",
        "patch: notes.txt\nsearch: cats",
        "plan: a, +b\nplan: +a, +b",
        "slow: 4\nbig: 20000",
        "leave: sleep 100\nsay: Left.",
        "fail: empty",
        "fail: garbage",
        "fail: incomplete",
        "fail: 400",
        "fail: 401",
        "fail: 404",
        "fail: 429",
        "fail: 500",
        "fail: 503",
        "fail: usage",
        "fail: html",
        "fail: context",
        "fail: quota",
        "fail: policy",
        "fail: invalid",
        "fail: rate",
        "fail: overloaded",
    ];
    let codex = Codex::configured(IMPATIENT);
    let home = codex.path().join("codex-home");
    for (n, prompt) in PROMPTS.iter().enumerate() {
        let dir = directory(&codex, &format!("exec-{n}"));
        let by_exec = common(&exec(&home, &dir, prompt), &dir);
        let dir = directory(&codex, &format!("server-{n}"));
        let mut server = start(&home, &dir);
        assert!(matches!(
            server.load(&dir, None),
            Some(Heard::Loaded { .. })
        ));
        let told = turn(&mut server, prompt, never);
        assert_eq!(
            told.finished.unknown.len(),
            0,
            "{prompt}: {:?}",
            told.finished
        );
        let by_server = common(&told, &dir);
        let failed = matches!(told.finished.verdict, Verdict::Failed(_));
        assert_eq!(
            by_server.len(),
            by_exec.len(),
            "{prompt}:\n{by_server:#?}\n{by_exec:#?}"
        );
        for (served, executed) in by_server.iter().zip(&by_exec) {
            let mut served = served.clone();
            // Of a turn that failed only the server counts tokens.
            if failed && served.get("total").is_some() {
                served["total"] = executed["total"].clone();
            }
            // Of some failures `codex exec` prints no code; the worker reads it from its records.
            if served["reason"] == "policy" {
                served["reason"] = executed["reason"].clone();
            }
            assert_eq!(served, *executed, "{prompt}");
        }
        server.end();
    }
}

/// Its id may be what a reader knows it by, so it can't be taken back.
#[test]
fn a_message_that_broke_off_is_published_and_then_the_next() {
    let codex = Codex::configured(IMPATIENT);
    let home = codex.path().join("codex-home");
    let dir = directory(&codex, "ws");
    let mut server = start(&home, &dir);
    server.load(&dir, None);
    let told = turn(&mut server, "cut: 1\nsay: After.", never);
    let events = common(&told, &dir);
    let kinds: Vec<&str> = events
        .iter()
        .filter_map(|event| event["type"].as_str())
        .collect();
    assert_eq!(kinds, ["text_delta", "notice", "text_delta"]);
    assert_eq!(events[0]["text"], "This will be cut off in the middle");
    assert_eq!(events[2]["text"], "After.");
    assert_eq!(told.finished.last_text.as_deref(), Some("After."));
    server.end();
}

#[test]
fn a_warm_thread_goes_on_after_an_interrupt_and_counts_its_tokens() {
    let codex = Codex::configured(IMPATIENT);
    let home = codex.path().join("codex-home");
    let dir = directory(&codex, "ws");
    let mut server = start(&home, &dir);
    let Some(Heard::Loaded { thread_id }) = server.load(&dir, None) else {
        panic!("no thread")
    };
    let first = turn(&mut server, "I am Ada.", never);
    let spent = first.total.unwrap();
    assert!(server.conversation.is_idle());
    server.load(&dir, Some(&thread_id));
    // Asked for before the server takes it, and in the middle of a command.
    let early = turn(&mut server, "slow: 10000", |event| {
        *event == CliEvent::TurnStarted
    });
    assert!(matches!(early.finished.verdict, Verdict::Failed(_)));
    // The command may start before the answer that calls it has been counted.
    let (runs, is_counted) = (Cell::new(false), Cell::new(false));
    let cut = turn(&mut server, "say: Wait.\nrun: sleep 100000", |event| {
        match event {
            CliEvent::ItemStarted(_) if format!("{event:?}").contains("sleep 100000") => {
                runs.set(true);
            }
            CliEvent::UsageUpdated { .. } => is_counted.set(true),
            _ => {}
        }
        runs.get() && is_counted.get()
    });
    let total = cut.total.unwrap();
    let answer = total.since(spent).unwrap();
    // One answer of two items; where the interrupt is late, the model has been asked once more.
    assert!(matches!(answer.output_tokens, 22 | 43), "{answer:?}");
    let last = turn(&mut server, "Who am I?", never);
    let before = last.total.unwrap();
    assert!(last.finished.last_text.unwrap().contains("I am Ada."));
    server.end();

    // The tokens of a turn that was cut off stay in the thread's total.
    let mut next = start(&home, &dir);
    let busy = {
        let mut other = start(&home, &dir);
        other.load(&dir, Some(&thread_id));
        let busy = next.load(&dir, Some(&thread_id));
        other.end();
        busy
    };
    assert!(
        matches!(busy, Some(Heard::NotResumed { message }) if message.contains("active writer"))
    );
    assert!(matches!(
        next.load(&dir, Some(&thread_id)),
        Some(Heard::Loaded { .. })
    ));
    let resumed = turn(&mut next, "Go on.", never);
    let reported = next.conversation.reported();
    assert!(reported.own.is_some());
    assert_eq!(resumed.total.unwrap().since(before), reported.own);
    let lost = next.load(&dir, Some("01a201f0-dead-7750-a64c-17c79c2eb47b"));
    assert!(matches!(lost, Some(Heard::Lost { .. })), "{lost:?}");
    assert!(matches!(next.load(&dir, None), Some(Heard::Loaded { .. })));
    next.end();
}
