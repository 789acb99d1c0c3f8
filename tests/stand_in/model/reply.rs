//! The API's side of the wire: a response as frames to be sent. Pure.

use std::time::Duration;

use serde_json::{Value, json};

use super::script::{Conversation, Next, Poll, Step};
use super::tools::{Call, LONGEST_WAIT, NOT_OFFERED, NotOffered, Offered};

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
    offered: &Offered,
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
    if let Err(NotOffered(tool)) = response.go_on(conversation, next, offered) {
        return (not_offered(&tool, offered), None);
    }
    let mut usage = usage(conversation.items, response.items);
    for step in &next.steps {
        if let Step::Cost(tokens) = step {
            usage["input_tokens"] = json!(usage["input_tokens"].as_u64().unwrap_or(0) + tokens);
            usage["total_tokens"] = json!(usage["total_tokens"].as_u64().unwrap_or(0) + tokens);
        }
    }
    response.event(
        json!({"type": "response.completed", "response": {"id": response.id, "usage": usage}}),
    );
    (Reply::Stream(response.frames), Some(usage))
}

fn not_offered(tool: &str, offered: &Offered) -> Reply {
    let message = format!("{NOT_OFFERED}: {tool}; offered are {}", offered.names());
    Reply::Http {
        status: 400,
        html: false,
        body: json!({"error": {"message": message, "type": "invalid_request_error"}}).to_string(),
    }
}

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

    fn go_on(
        &mut self,
        conversation: &Conversation,
        next: &Next,
        offered: &Offered,
    ) -> Result<(), NotOffered> {
        let outputs = &conversation.outputs;
        if let Some(refusal) = outputs.iter().find_map(|output| {
            let (_, tool) = output.split_once(NOT_OFFERED)?;
            Some(tool.trim_matches([':', ' ']).to_owned())
        }) {
            return Err(NotOffered(refusal));
        }
        match &next.poll {
            Some(Poll::Session(session)) => self.call(offered.poll_session(*session)?),
            Some(Poll::Cell(cell)) => self.call(offered.poll_cell(cell)?),
            None => {
                for step in &next.steps {
                    self.perform(step, conversation, offered)?;
                }
                if next.ends_silently() {
                    let text = match conversation.outputs.is_empty() {
                        true => conversation.answer(),
                        false => conversation.closing(),
                    };
                    self.message(&text);
                }
            }
        }
        Ok(())
    }

    fn perform(
        &mut self,
        step: &Step,
        conversation: &Conversation,
        offered: &Offered,
    ) -> Result<(), NotOffered> {
        match step {
            Step::Say(text) => self.message(text),
            Step::Think(text) => self.reasoning(text),
            Step::Run(command) => self.calls(offered.run(&[command], LONGEST_WAIT)?),
            Step::Leave(command) => self.calls(offered.run(&[command], 250)?),
            Step::Together(commands) => {
                let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
                self.calls(offered.run(&commands, LONGEST_WAIT)?);
            }
            Step::JavaScript(code) | Step::LeaveJavaScript(code) => {
                self.call(offered.javascript(code)?)
            }
            Step::Patch(file) => {
                let patch = format!(
                    "*** Begin Patch\n*** Add File: {file}\n+Written by the stand-in.\n*** End Patch\n"
                );
                self.call(offered.call_with_text("apply_patch", &patch)?);
            }
            Step::Plan(items) => {
                self.call(offered.call("update_plan", json!({"plan": plan(items)}))?);
            }
            Step::Search(query) => self.search(query),
            Step::Mcp {
                server,
                tool,
                arguments,
            } => self.call(offered.mcp(server, tool, arguments.clone())?),
            Step::Spawn { name, script } => {
                self.call(offered.spawn(name, script)?);
            }
            Step::Await => {
                self.call(offered.await_agents(&conversation.agents())?);
            }
            Step::Goal(objective) => {
                self.call(offered.call("create_goal", json!({"objective": objective}))?);
            }
            Step::Nap(time) => {
                let time = json!({"duration_ms": time.as_millis() as u64});
                self.call(offered.call("sleep", time)?);
            }
            Step::Ask(question) => {
                let questions =
                    json!({"questions": [{"title": question, "options": ["yes", "no"]}]});
                self.call(offered.call("request_user_input_async", questions)?);
            }
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
            // The failures are past their time, as reply() has found, and the
            // costs are part of the usage.
            Step::Hang | Step::Cut(_) | Step::Fail { .. } | Step::Cost(_) => {}
        }
        Ok(())
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

    fn calls(&mut self, calls: Vec<Call>) {
        for call in calls {
            self.call(call);
        }
    }

    fn call(&mut self, mut call: Call) {
        let id = self.next_id("call");
        call["id"] = json!(format!("item_{id}"));
        call["call_id"] = json!(id);
        call["status"] = json!("completed");
        self.item_done(call);
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

fn plan(items: &[(String, bool)]) -> Value {
    let mut next = "in_progress";
    let steps = items.iter().map(|(step, done)| {
        let status = match done {
            true => "completed",
            false => std::mem::replace(&mut next, "pending"),
        };
        json!({"step": step, "status": status})
    });
    steps.collect()
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
        // In words without meaning: the code has to do.
        "policy" => failed("cyber_policy", "Sorry, not this one."),
        "bio" => failed("bio_policy", "Sorry, nor this one."),
        "model" => failed("model_not_found", "Sorry, nothing there."),
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
