//! A turn in the words of `codex app-server`.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::files::{plus, write_all, write_line};
use super::steps::Voice;

/// Numbers the items of the process.
static ITEMS: AtomicU64 = AtomicU64::new(0);

/// What is told about a turn, until it is told that the turn is over.
pub struct Talk {
    pub thread: String,
    pub turn: String,
    /// The thread's total before it.
    pub before: [u64; 5],
    pub unwanted: Arc<HashSet<String>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    over: bool,
    /// Answers of the model's that were counted.
    answers: u64,
}

impl Talk {
    pub fn new(
        thread: String,
        turn: String,
        before: [u64; 5],
        unwanted: Arc<HashSet<String>>,
    ) -> Self {
        Self {
            thread,
            turn,
            before,
            unwanted,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_over(&self) -> bool {
        self.state().over
    }

    /// How many answers the turn has had so far.
    pub fn answers(&self) -> u64 {
        self.state().answers
    }

    pub fn begin(&self, prompt: &str) {
        self.note(
            "thread/status/changed",
            json!({"status": {"type": "active", "activeFlags": []}}),
        );
        self.note(
            "turn/started",
            json!({"turn": self.as_turn("inProgress", Value::Null)}),
        );
        let item = json!({"type": "userMessage", "id": uuid::Uuid::now_v7(),
            "content": [{"type": "text", "text": prompt, "text_elements": []}]});
        self.note("item/started", json!({"item": item}));
        self.note("item/completed", json!({"item": item}));
    }

    /// Tells the turn's end, once.
    pub fn end(&self, status: &str, error: Value) -> bool {
        let mut state = self.state();
        if std::mem::replace(&mut state.over, true) {
            return false;
        }
        if status == "interrupted" {
            self.tell_tokens(plus(self.before, state.answers));
        }
        self.note("thread/status/changed", json!({"status": {"type": "idle"}}));
        self.note(
            "turn/completed",
            json!({"turn": self.as_turn(status, error)}),
        );
        true
    }

    pub fn as_turn(&self, status: &str, error: Value) -> Value {
        json!({"id": self.turn, "rootTurnId": self.turn, "items": [], "itemsView": "notLoaded",
            "status": status, "error": error, "startedAt": null, "completedAt": null, "durationMs": null})
    }

    /// Unless the turn is over.
    fn tell(&self, method: &str, params: Value) {
        let state = self.state();
        if !state.over {
            self.note(method, params);
        }
    }

    fn note(&self, method: &str, mut params: Value) {
        params["threadId"] = json!(self.thread);
        if !method.starts_with("thread/status") && !method.starts_with("turn/") {
            params["turnId"] = json!(self.turn);
        }
        notify(&self.unwanted, method, &params);
    }

    pub fn tell_tokens(&self, total: [u64; 5]) {
        self.note(
            "thread/tokenUsage/updated",
            json!({"tokenUsage": tokens(total)}),
        );
    }

    fn error(&self, message: &str, details: Value, retry: bool) {
        let error =
            json!({"message": message, "codexErrorInfo": "other", "additionalDetails": details});
        self.tell("error", json!({"error": error, "willRetry": retry}));
    }

    fn streamed(&self, kind: &str, id: &str, text: &str) {
        for piece in pieces(text) {
            match kind {
                "agentMessage" => self.tell(
                    "item/agentMessage/delta",
                    json!({"itemId": id, "delta": piece}),
                ),
                _ => self.tell(
                    "item/reasoning/summaryTextDelta",
                    json!({"itemId": id, "delta": piece, "summaryIndex": 0}),
                ),
            }
        }
    }
}

pub fn notify(unwanted: &HashSet<String>, method: &str, params: &Value) {
    if !unwanted.contains(method) {
        write_line(&json!({"method": method, "params": params, "emittedAtMs": 0}));
    }
}

pub fn tokens(total: [u64; 5]) -> Value {
    let all = json!({"totalTokens": total[0] + total[3], "inputTokens": total[0],
        "cachedInputTokens": total[1], "cacheWriteInputTokens": total[2],
        "outputTokens": total[3], "reasoningOutputTokens": total[4]});
    json!({"total": all, "last": all, "modelContextWindow": 258_400})
}

/// As a model writes: in some pieces, however long it is.
fn pieces(text: &str) -> Vec<&str> {
    let size = (text.len() / 3).clamp(1, 1024);
    let mut rest = text;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(rest.ceil_char_boundary(size.min(rest.len())));
        pieces.push(piece);
        rest = more;
    }
    pieces
}

fn next_id(kind: &str) -> String {
    format!("{kind}_{}", ITEMS.fetch_add(1, Ordering::Relaxed))
}

pub struct ServerVoice(pub Arc<Talk>);

impl ServerVoice {
    fn command(&self, id: &str, command: &str, output: Value, code: Value, status: &str) -> Value {
        json!({"item": {"type": "commandExecution", "id": id, "command": command, "status": status,
            "aggregatedOutput": output, "exitCode": code}})
    }
}

impl Voice for ServerVoice {
    fn message(&self, text: &str) {
        let id = next_id("msg");
        let item = |text: &str| json!({"item": {"type": "agentMessage", "id": id, "text": text}});
        self.0.tell("item/started", item(""));
        self.0.streamed("agentMessage", &id, text);
        self.0.tell("item/completed", item(text));
    }

    fn thought(&self, text: &str) {
        let id = next_id("rs");
        let item = |summary: &[&str]| json!({"item": {"type": "reasoning", "id": id, "summary": summary, "content": []}});
        self.0.tell("item/started", item(&[]));
        let part = json!({"itemId": id, "summaryIndex": 0});
        self.0.tell("item/reasoning/summaryPartAdded", part);
        self.0.streamed("reasoning", &id, text);
        self.0.tell("item/completed", item(&[text]));
    }

    fn command_started(&self, command: &str) -> String {
        let id = next_id("call");
        let item = self.command(&id, command, Value::Null, Value::Null, "inProgress");
        self.0.tell("item/started", item);
        id
    }

    fn command_printed(&self, id: &str, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let params = json!({"itemId": id, "delta": text});
        self.0.tell("item/commandExecution/outputDelta", params);
    }

    fn command_ended(&self, id: &str, command: &str, output: &str, code: i32) {
        let status = if code == 0 { "completed" } else { "failed" };
        let item = self.command(id, command, json!(output), json!(code), status);
        // Also when the turn is over, as the real one does.
        self.0.note("item/completed", item);
    }

    fn unknown(&self, kind: &str) {
        self.0.tell(kind, json!({"text": kind}));
    }

    fn reconnecting(&self, message: &str) {
        let (message, details) = message.split_once(" (").unwrap_or((message, ""));
        let details = json!(details.trim_end_matches(')'));
        self.0.error(message, details, true);
    }

    fn answered(&self, answers: u64) {
        let mut state = self.0.state();
        state.answers = answers;
        if !state.over {
            self.0.tell_tokens(plus(self.0.before, answers));
        }
    }

    fn failed(&self, message: &str) {
        self.0.error(message, Value::Null, false);
        let error =
            json!({"message": message, "codexErrorInfo": "other", "additionalDetails": null});
        self.0.end("failed", error);
    }

    fn completed(&self, total: [u64; 5]) {
        if !self.0.is_over() {
            self.0.tell_tokens(total);
        }
        self.0.end("completed", Value::Null);
    }

    fn stays(&self) -> bool {
        true
    }
}

/// One answer to a request.
pub fn answer(id: &Value, result: &Value) {
    write_line(&json!({"id": id, "result": result}));
}

pub fn refuse(id: &Value, message: &str) {
    write_line(&json!({"error": {"code": -32600, "message": message}, "id": id}));
}

pub fn write_garbage() {
    write_all(b"\xff\xfe not json\n");
}
