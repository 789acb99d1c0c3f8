//! A turn in the words of `codex app-server`.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::files::{plus, write_all, write_line};
use super::steps::Voice;

/// Numbers the items of the process.
static ITEMS: AtomicU64 = AtomicU64::new(0);

/// The sub-agents that work, by thread: their turns, and whether they are deaf.
static AGENTS: Mutex<BTreeMap<String, (String, bool)>> = Mutex::new(BTreeMap::new());

/// Whether there was such a turn of a sub-agent's, which ends unless it is deaf.
pub fn interrupt_agent(unwanted: &HashSet<String>, thread: &str, turn: &str) -> bool {
    let mut agents = AGENTS.lock().unwrap();
    let Some((of, deaf)) = agents.get(thread).cloned() else {
        return false;
    };
    if of == turn && !deaf {
        agents.remove(thread);
        let status = json!({"threadId": thread, "status": {"type": "idle"}});
        notify(unwanted, "thread/status/changed", &status);
        let turn = json!({"id": turn, "items": [], "status": "interrupted", "error": null});
        let ended = json!({"threadId": thread, "turn": turn});
        notify(unwanted, "turn/completed", &ended);
    }
    of == turn
}

/// Whether a sub-agent works.
pub fn agent_works() -> bool {
    !AGENTS.lock().unwrap().is_empty()
}

/// What is reported about a turn, until it is reported that the turn is over.
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
    /// The last message's item, as the end repeats it.
    last: Option<Value>,
    /// How the end is reported, if not as it should be.
    end_as: String,
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

    /// Reports the turn's end, once.
    pub fn end(&self, status: &str, error: Value) -> bool {
        let mut state = self.state();
        if std::mem::replace(&mut state.over, true) {
            return false;
        }
        if status == "interrupted" {
            self.tell_tokens(plus(self.before, state.answers));
        }
        let thread_status = match status {
            "failed" => "systemError",
            _ => "idle",
        };
        let settled = json!({"status": {"type": thread_status}});
        self.note("thread/status/changed", settled);
        let mut turn = self.as_turn(status, error);
        if let Some(last) = &state.last {
            turn["items"] = json!([last]);
            turn["itemsView"] = json!("summary");
        }
        match state.end_as.as_str() {
            "missing" => return true,
            "garbled" => write_all(b"\xff\xfe not json "),
            _ => {}
        }
        self.note("turn/completed", json!({"turn": turn}));
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
        self.0.state().last = Some(item(text)["item"].clone());
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

    fn end_as(&self, how: &str) {
        how.clone_into(&mut self.0.state().end_as);
    }

    fn agent(&self, deaf: bool) {
        let (thread, turn) = (uuid::Uuid::now_v7(), uuid::Uuid::now_v7());
        let of_agent = |method: &str, mut params: Value| {
            params["threadId"] = json!(thread);
            notify(&self.0.unwanted, method, &params);
        };
        of_agent("thread/status/changed", json!({"status": {"type": "idle"}}));
        let item = json!({"item": {"type": "subAgentActivity", "id": next_id("call"), "kind": "started",
            "agentThreadId": thread, "agentPath": "/root/agent", "model": "stand-in"}});
        self.0.tell("item/started", item.clone());
        self.0.tell("item/completed", item);
        let working = (turn.to_string(), deaf);
        AGENTS.lock().unwrap().insert(thread.to_string(), working);
        let active = json!({"status": {"type": "active", "activeFlags": []}});
        of_agent("thread/status/changed", active);
        let turn =
            json!({"id": turn, "rootTurnId": self.0.turn, "items": [], "status": "inProgress"});
        of_agent("turn/started", json!({"turn": turn}));
    }

    fn goal(&self) {
        let goal = json!({"goal": {"objective": "stand in", "status": "active"}});
        self.0.tell("thread/goal/updated", goal);
    }

    fn sleeps(&self, time: Duration) {
        let item = json!({"type": "sleep", "id": next_id("call"), "durationMs": time.as_millis()});
        self.0.tell("item/started", json!({"item": item}));
    }

    fn begin_unasked(&self, when: PathBuf) {
        let talk = Arc::clone(&self.0);
        thread::spawn(move || {
            while !when.exists() {
                thread::sleep(Duration::from_millis(5));
            }
            let turn = json!({"id": uuid::Uuid::now_v7(), "rootTurnId": talk.turn, "items": [], "status": "inProgress"});
            talk.note("turn/started", json!({"turn": turn}));
        });
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
