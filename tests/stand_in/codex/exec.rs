//! `codex exec --json`: a turn, and gone.

use std::cell::Cell;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::exit;

use serde_json::{Value, json};

use super::files::{Thread, note_resumed, usage, write_line};
use super::steps::{Asked, Turn, Voice};

pub fn run(dir: PathBuf, args: &[String]) {
    let mut prompt = Vec::new();
    std::io::stdin().read_to_end(&mut prompt).unwrap();
    let prompt = String::from_utf8(prompt).unwrap();
    if prompt.trim().is_empty() {
        // As the real one does; a worker that dies before it has handed the prompt over leaves no file.
        eprintln!("No prompt provided via stdin.");
        exit(1);
    }
    let resume = args
        .iter()
        .position(|arg| arg == "resume")
        .map(|at| args[at + 1].clone());
    let resumed = resume.is_some();
    let name = resume.clone();
    let thread = Thread::new(
        &dir,
        name.unwrap_or_else(|| uuid::Uuid::now_v7().to_string()),
    );
    let refuse = |why: &str| {
        eprintln!("Error: thread/resume: thread/resume failed: {why} (code -32600)");
        exit(1)
    };
    if resumed && !thread.exists() {
        refuse(&format!("no rollout found for thread id {}", thread.id));
    }
    // Until the process ends.
    let writer = thread.writer(&dir);
    if writer.is_none() {
        refuse(&format!(
            "thread {} already has an active writer",
            thread.id
        ));
    }
    let here = std::env::current_dir().unwrap();
    let voice = Box::new(ExecVoice::default());
    let mut turn = Turn::start(dir, here, thread, &prompt, voice);
    turn.asked = asked(args);
    fs::write(turn.dir.join("argv"), args.join(" ")).unwrap();
    note_resumed(&turn.dir, resume.as_deref());
    // First: a worker that has read its id and dies at once resumes it.
    turn.thread.create();
    write_line(&json!({"type": "thread.started", "thread_id": turn.thread.id}));
    write_line(&json!({"type": "turn.started"}));
    turn.run(&prompt);
}

/// What the arguments name, which must be readable at once, as for the real one.
fn asked(args: &[String]) -> Asked {
    let named = |flag: &str| args.iter().find_map(|arg| arg.strip_prefix(flag));
    let schema = named("--output-schema=").map(|file| fs::read_to_string(file).unwrap());
    let images = args.iter().filter_map(|arg| arg.strip_prefix("--image="));
    Asked {
        images: images.map(|file| fs::read(file).unwrap()).collect(),
        output_schema: schema,
    }
}

#[derive(Default)]
struct ExecVoice {
    items: Cell<u32>,
}

impl ExecVoice {
    fn next_id(&self) -> String {
        let number = self.items.get();
        self.items.set(number + 1);
        format!("item_{number}")
    }

    fn text(&self, kind: &str, text: &str) {
        let item = json!({"id": self.next_id(), "type": kind, "text": text});
        write_line(&json!({"type": "item.completed", "item": item}));
    }
}

fn command_item(id: &str, command: &str, output: &str, code: Value, status: &str) -> Value {
    json!({"id": id, "type": "command_execution", "command": command,
           "aggregated_output": output, "exit_code": code, "status": status})
}

impl Voice for ExecVoice {
    fn message(&self, text: &str) {
        self.text("agent_message", text);
    }

    fn thought(&self, text: &str) {
        self.text("reasoning", text);
    }

    fn command_started(&self, command: &str) -> String {
        let id = self.next_id();
        let item = command_item(&id, command, "", Value::Null, "in_progress");
        write_line(&json!({"type": "item.started", "item": item}));
        id
    }

    fn command_printed(&self, _id: &str, _bytes: &[u8]) {}

    fn command_ended(&self, id: &str, command: &str, output: &str, code: i32) {
        let status = if code == 0 { "completed" } else { "failed" };
        let item = command_item(id, command, output, json!(code), status);
        write_line(&json!({"type": "item.completed", "item": item}));
    }

    fn unknown(&self, kind: &str) {
        write_line(&json!({"type": kind, "text": kind}));
    }

    fn reconnecting(&self, message: &str) {
        write_line(&json!({"type": "error", "message": message}));
    }

    fn answered(&self, _answers: u64) {}

    fn failed(&self, message: &str) {
        write_line(&json!({"type": "error", "message": message}));
        write_line(&json!({"type": "turn.failed", "error": {"message": message}}));
    }

    fn completed(&self, total: [u64; 5]) {
        write_line(&json!({"type": "turn.completed", "usage": usage(total)}));
    }

    fn stays(&self) -> bool {
        false
    }
}
