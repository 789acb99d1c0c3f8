//! The API's side of the wire: a response as frames to be sent. Pure.

use std::time::Duration;

use serde_json::{Value, json};

use super::script::{Conversation, Next, Step};

#[derive(Debug)]
pub enum Reply {
    /// Never answered.
    Hang,
    Http {
        status: u16,
        html: bool,
        body: String,
    },
    Stream(Vec<Frame>),
}

#[derive(Debug, PartialEq)]
pub enum Frame {
    Event(Value),
    Raw(&'static str),
    Pause(Duration),
    /// Waits until that name is released.
    Hold(String),
    /// Breaks the connection.
    Cut,
}

/// What `number`, the request's place among all, and `attempt`, its place among those that ask the same, get.
pub fn reply(
    number: usize,
    attempt: usize,
    conversation: &Conversation,
    next: &Next,
) -> (Reply, Option<Value>) {
    let mut failed_before = 0;
    for step in &next.steps {
        match step {
            Step::Hang => return (Reply::Hang, None),
            Step::Fail { kind, times } => {
                if attempt <= failed_before + times {
                    return (failure(number, kind), None);
                }
                failed_before += times;
            }
            Step::Cut(times) => {
                if attempt <= failed_before + times {
                    let mut response = Response::begin(number);
                    response.message_begun("This will be cut off in the middle");
                    response.frames.push(Frame::Cut);
                    return (Reply::Stream(response.frames), None);
                }
                failed_before += times;
            }
            _ => {}
        }
    }
    let mut response = Response::begin(number);
    match next.poll {
        Some(session) => response.call(
            "write_stdin",
            json!({"session_id": session, "chars": "", "yield_time_ms": LONGEST_WAIT}),
        ),
        None => {
            for step in &next.steps {
                response.perform(step);
            }
            if next.ends_silently() {
                let text = match conversation.outputs.is_empty() {
                    true => conversation.answer(),
                    false => conversation.closing(),
                };
                response.message(&text);
            }
        }
    }
    let usage = usage(conversation.items, response.items);
    response.event(
        json!({"type": "response.completed", "response": {"id": response.id, "usage": usage}}),
    );
    (Reply::Stream(response.frames), Some(usage))
}

/// As long as codex lets a call wait for a command, in milliseconds.
const LONGEST_WAIT: u64 = 30_000;

fn usage(items_asked: usize, items_sent: usize) -> Value {
    let (input, output) = (100 + 10 * items_asked, 20 + items_sent);
    json!({
        "input_tokens": input, "input_tokens_details": {"cached_tokens": 40},
        "output_tokens": output, "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": input + output,
    })
}

struct Response {
    id: String,
    number: usize,
    items: usize,
    frames: Vec<Frame>,
}

impl Response {
    fn begin(number: usize) -> Self {
        let id = format!("resp_{number}");
        let created = json!({"type": "response.created", "response": {"id": id}});
        Self {
            id,
            number,
            items: 0,
            frames: vec![Frame::Event(created)],
        }
    }

    fn event(&mut self, event: Value) {
        self.frames.push(Frame::Event(event));
    }

    fn next_id(&mut self, prefix: &str) -> String {
        self.items += 1;
        format!("{prefix}_{}_{}", self.number, self.items)
    }

    fn perform(&mut self, step: &Step) {
        match step {
            Step::Say(text) => self.message(text),
            Step::Think(text) => self.reasoning(text),
            Step::Run(command) => self.exec(command, LONGEST_WAIT),
            Step::Leave(command) => self.exec(command, 250),
            Step::Patch(file) => self.patch(file),
            Step::Plan(items) => self.plan(items),
            Step::Search(query) => self.search(query),
            Step::Slow(words) => self.streamed(
                (1..=*words).map(|n| format!("word {n} ")),
                Duration::from_millis(50),
            ),
            Step::Big(bytes) => {
                let chunks = (0..*bytes)
                    .step_by(4096)
                    .map(|at| "x".repeat(4096.min(bytes - at)));
                self.streamed(chunks, Duration::ZERO);
            }
            Step::Wait(time) => self.frames.push(Frame::Pause(*time)),
            Step::Hold(name) => self.held(name),
            // Past their time, as reply() has found.
            Step::Hang | Step::Cut(_) | Step::Fail { .. } => {}
        }
    }

    fn message(&mut self, text: &str) {
        let id = self.message_begun(text);
        self.message_done(&id, text);
    }

    fn message_begun(&mut self, text: &str) -> String {
        let id = self.message_opened();
        self.delta(&id, text);
        id
    }

    fn message_opened(&mut self) -> String {
        let id = self.next_id("msg");
        self.event(json!({"type": "response.output_item.added", "item":
            {"type": "message", "role": "assistant", "id": id, "content": []}}));
        id
    }

    fn delta(&mut self, id: &str, text: &str) {
        self.event(json!({"type": "response.output_text.delta", "item_id": id,
            "output_index": 0, "content_index": 0, "delta": text}));
    }

    fn message_done(&mut self, id: &str, text: &str) {
        self.item_done(json!({"type": "message", "role": "assistant", "id": id,
            "content": [{"type": "output_text", "text": text}]}));
    }

    fn item_done(&mut self, item: Value) {
        self.event(json!({"type": "response.output_item.done", "item": item}));
    }

    fn streamed(&mut self, chunks: impl Iterator<Item = String>, pause: Duration) {
        let id = self.message_opened();
        let mut text = String::new();
        for chunk in chunks {
            self.delta(&id, &chunk);
            text.push_str(&chunk);
            if !pause.is_zero() {
                self.frames.push(Frame::Pause(pause));
            }
        }
        self.message_done(&id, &text);
    }

    fn held(&mut self, name: &str) {
        let id = self.message_begun("Held … ");
        self.frames.push(Frame::Hold(name.to_owned()));
        self.delta(&id, "and released.");
        self.message_done(&id, "Held … and released.");
    }

    fn reasoning(&mut self, text: &str) {
        let id = self.next_id("rs");
        self.event(json!({"type": "response.output_item.added", "item":
            {"type": "reasoning", "id": id, "summary": []}}));
        self.event(
            json!({"type": "response.reasoning_summary_part.added", "item_id": id,
            "output_index": 0, "summary_index": 0, "part": {"type": "summary_text", "text": ""}}),
        );
        self.event(
            json!({"type": "response.reasoning_summary_text.delta", "item_id": id,
            "summary_index": 0, "delta": text}),
        );
        self.item_done(
            json!({"type": "reasoning", "id": id, "encrypted_content": "AAAA",
            "summary": [{"type": "summary_text", "text": text}]}),
        );
    }

    fn call(&mut self, name: &str, arguments: Value) {
        let id = self.next_id("call");
        self.item_done(
            json!({"type": "function_call", "id": format!("fc_{id}"), "call_id": id,
            "name": name, "arguments": arguments.to_string()}),
        );
    }

    fn exec(&mut self, command: &str, wait_ms: u64) {
        self.call(
            "exec_command",
            json!({"cmd": command, "yield_time_ms": wait_ms}),
        );
    }

    fn patch(&mut self, file: &str) {
        let id = self.next_id("call");
        let patch = format!(
            "*** Begin Patch\n*** Add File: {file}\n+Written by the stand-in.\n*** End Patch\n"
        );
        self.item_done(
            json!({"type": "custom_tool_call", "id": format!("ctc_{id}"), "call_id": id,
            "name": "apply_patch", "input": patch, "status": "completed"}),
        );
    }

    fn plan(&mut self, items: &[(String, bool)]) {
        let mut next = "in_progress";
        let plan: Vec<Value> = items
            .iter()
            .map(|(step, done)| {
                let status = match done {
                    true => "completed",
                    false => std::mem::replace(&mut next, "pending"),
                };
                json!({"step": step, "status": status})
            })
            .collect();
        self.call("update_plan", json!({"plan": plan}));
    }

    fn search(&mut self, query: &str) {
        let id = self.next_id("ws");
        let item = |status: &str| {
            json!({"type": "web_search_call", "id": id, "status": status,
                "action": {"type": "search", "query": query}})
        };
        self.event(json!({"type": "response.output_item.added", "item": item("in_progress")}));
        self.item_done(item("completed"));
    }
}

fn failure(number: usize, kind: &str) -> Reply {
    let id = format!("resp_{number}");
    let created = || Frame::Event(json!({"type": "response.created", "response": {"id": id}}));
    let failed = |code: &str, message: &str| {
        Reply::Stream(vec![
            created(),
            Frame::Event(json!({"type": "response.failed", "response": {"id": id,
                "status": "failed", "error": {"code": code, "message": message}}})),
        ])
    };
    let http = |status: u16, error: Value| Reply::Http {
        status,
        html: false,
        body: json!({"error": error}).to_string(),
    };
    match kind {
        "400" => http(
            400,
            json!({"message": "Invalid value: 'foo'.", "type": "invalid_request_error", "code": "invalid_value"}),
        ),
        "401" => http(
            401,
            json!({"message": "Incorrect API key provided.", "type": "invalid_request_error", "code": "invalid_api_key"}),
        ),
        "403" => http(
            403,
            json!({"message": "Country not supported.", "type": "request_forbidden"}),
        ),
        "404" => http(
            404,
            json!({"message": "The model does not exist.", "type": "invalid_request_error", "code": "model_not_found"}),
        ),
        "429" => http(
            429,
            json!({"message": "Rate limit reached. Please try again in 1.2s.", "type": "rate_limit_exceeded", "code": "rate_limit_exceeded"}),
        ),
        "500" => http(
            500,
            json!({"message": "The server had an error.", "type": "server_error"}),
        ),
        "503" => http(
            503,
            json!({"message": "Overloaded.", "type": "server_error", "code": "server_is_overloaded"}),
        ),
        "usage" => http(
            429,
            json!({"type": "usage_limit_reached", "message": "The usage limit has been reached", "plan_type": "plus", "resets_in_seconds": 3600}),
        ),
        "html" => Reply::Http {
            status: 200,
            html: true,
            body: "<html>captive portal</html>".to_owned(),
        },
        "context" => failed(
            "context_length_exceeded",
            "Your input exceeds the context window of this model.",
        ),
        "quota" => failed("insufficient_quota", "You exceeded your current quota."),
        "policy" => failed("cyber_policy", "This was flagged."),
        "invalid" => failed("invalid_prompt", "Invalid prompt: it was refused."),
        "rate" => failed(
            "rate_limit_exceeded",
            "Rate limit reached. Please try again in 1.5s.",
        ),
        "overloaded" => failed("server_is_overloaded", "Overloaded."),
        "incomplete" => Reply::Stream(vec![
            created(),
            Frame::Event(
                json!({"type": "response.incomplete", "response": {"id": id, "incomplete_details": {"reason": "max_output_tokens"}}}),
            ),
        ]),
        "empty" => Reply::Stream(vec![
            created(),
            Frame::Event(
                json!({"type": "response.completed", "response": {"id": id, "usage": usage(0, 0)}}),
            ),
        ]),
        "garbage" => Reply::Stream(vec![
            created(),
            Frame::Raw("event: response.output_item.done\ndata: {not json\n\n"),
            Frame::Raw("garbage line\n\n"),
            Frame::Event(
                json!({"type": "response.completed", "response": {"id": id, "usage": usage(0, 0)}}),
            ),
        ]),
        other => http(
            400,
            json!({"message": format!("stand-in-model: no failure is called {other:?}; see --help")}),
        ),
    }
}
