#![allow(
    clippy::unwrap_used,
    reason = "a stand-in that fails should fail loudly"
)]
//! A stand-in for `codex exec --json` that does what its prompt says, one
//! step a line, and records when it ran. It is as fast as a process can be,
//! and it can misbehave in every way that the real one was seen to.
//!
//! What it records goes to `$STAND_IN_DIR/log`, one line an event, appended
//! in one write, so that the file's order is the order of events:
//! `start <workspace> <pid> <first word of the prompt's first line> <nanoseconds since 1970>`,
//! then `end …`, and `overlap …` when another one, or anything that one had started,
//! was alive in the workspace at its start.
//! Threads with their token totals live in `$STAND_IN_DIR/threads`.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, exit};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// What each model answer "costs"; a turn has one answer, and one more for each `say`.
const ANSWER: [u64; 5] = [100, 40, 0, 20, 5];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--version") {
        println!("codex-cli 0.169.0");
        return;
    }
    let dir = PathBuf::from(std::env::var_os("STAND_IN_DIR").unwrap_or_else(|| {
        eprintln!("STAND_IN_DIR is not set");
        exit(2)
    }));
    let mut prompt = Vec::new();
    std::io::stdin().read_to_end(&mut prompt).unwrap();
    let prompt = String::from_utf8(prompt).unwrap();
    if prompt.trim().is_empty() {
        // As the real one does; a worker that dies before it has handed the prompt over leaves none.
        eprintln!("No prompt provided via stdin.");
        exit(1);
    }
    let resume = args
        .iter()
        .position(|arg| arg == "resume")
        .map(|at| args[at + 1].clone());

    let mut stand_in = StandIn::start(dir, resume, &prompt, &args);
    for line in prompt.lines() {
        let (step, argument) = line.split_once(' ').unwrap_or((line, ""));
        stand_in.step(step, argument);
    }
    stand_in.complete();
}

struct StandIn {
    dir: PathBuf,
    /// Where it was started; it may be gone by the end.
    here: PathBuf,
    thread: String,
    tag: String,
    items: u32,
    answers: u64,
    /// Where each answer's tokens are told at once, as the real one does; only if wanted.
    rollout: Option<PathBuf>,
    /// Locked as long as this process lives, or one that it has started.
    _alone: File,
}

impl StandIn {
    fn start(dir: PathBuf, resume: Option<String>, prompt: &str, args: &[String]) -> Self {
        fs::create_dir_all(dir.join("threads")).unwrap();
        if let Some(id) = &resume
            && !dir.join("threads").join(id).exists()
        {
            eprintln!(
                "Error: thread/resume: thread/resume failed: no rollout found for thread id {id} (code -32600)"
            );
            exit(1);
        }
        let first = prompt.split_whitespace().next().unwrap_or("-").to_owned();
        let stand_in = Self {
            thread: resume.unwrap_or_else(|| uuid::Uuid::now_v7().to_string()),
            _alone: busy_file(&dir),
            here: std::env::current_dir().unwrap(),
            dir,
            tag: first,
            items: 0,
            answers: 1,
            rollout: None,
        };
        stand_in.record("start");
        if stand_in._alone.try_lock().is_err() {
            stand_in.record("overlap");
        }
        fs::write(stand_in.dir.join("argv"), args.join(" ")).unwrap();
        stand_in.emit(&json!({"type": "thread.started", "thread_id": stand_in.thread}));
        let threads = stand_in.dir.join("threads").join(&stand_in.thread);
        if !threads.exists() {
            write_whole(&threads, "[0,0,0,0,0]");
        }
        stand_in.emit(&json!({"type": "turn.started"}));
        stand_in
    }

    fn step(&mut self, step: &str, argument: &str) {
        match step {
            "say" => {
                self.answers += 1;
                self.record_answer();
                self.item("agent_message", json!({"text": argument}));
            }
            "think" => self.item("reasoning", json!({"text": argument})),
            "run" => self.run(argument),
            "sleep" => std::thread::sleep(Duration::from_millis(argument.parse().unwrap())),
            // For turns that are run more than once: the next time, they end here.
            "once" => self.only_once(argument),
            "alive" => {
                let words: Vec<&str> = argument.split(' ').map(|name| self.alive(name)).collect();
                self.item("agent_message", json!({"text": words.join(" ")}));
            }
            "touch" => drop(File::create(self.dir.join(argument)).unwrap()),
            "wait" => {
                while !self.dir.join(argument).exists() {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            "hang" => loop {
                std::thread::sleep(Duration::from_secs(3600));
            },
            "flood" => {
                for n in 0..argument.parse().unwrap() {
                    self.item("agent_message", json!({"text": format!("message {n}")}));
                }
            }
            "long" => {
                let text = "x".repeat(argument.parse().unwrap());
                self.item("agent_message", json!({"text": text}));
            }
            "unknown" => self.emit(&json!({"type": argument, "text": argument})),
            "garbage" => write_all(b"\xff\xfe not json\n"),
            "reconnect" => self.emit(
                &json!({"type": "error", "message": "Reconnecting... 1/5 (stream disconnected)"}),
            ),
            "stderr" => eprintln!("{argument}"),
            "env" => {
                let text: Vec<String> = std::env::vars()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                self.item("agent_message", json!({"text": text.join("\n")}));
            }
            "cat" => {
                let text = fs::read_to_string(argument).unwrap_or_else(|error| error.to_string());
                self.item("agent_message", json!({"text": text}));
            }
            "ignore-signals" => {
                for signal in [2, 15, 1] {
                    // Caught and forgotten: as good as ignored, without unsafe code.
                    signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false))).unwrap();
                }
            }
            // Ends on an interrupt, and leaves a file to tell so.
            "until-interrupted" => {
                let interrupted = Arc::new(AtomicBool::new(false));
                signal_hook::flag::register(2, Arc::clone(&interrupted)).unwrap();
                while !interrupted.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                File::create(self.dir.join(argument)).unwrap();
                exit(1);
            }
            "daemon" => self.daemon(argument),
            "keep-records" => self.keep_records(),
            "kill-worker" => kill_worker(),
            // Says that the turn is over, and stays.
            "finish" => self.complete(),
            "limit" => limit(argument),
            "fail" => {
                self.emit(&json!({"type": "error", "message": argument}));
                self.emit(&json!({"type": "turn.failed", "error": {"message": argument}}));
                self.record("end");
                exit(1);
            }
            "exit" => {
                self.record("end");
                exit(argument.parse().unwrap());
            }
            "die" => {
                self.record("end");
                kill(rustix::process::getpid());
            }
            // A tag, or a comment.
            _ => {}
        }
    }

    fn only_once(&self, name: &str) {
        if File::create_new(self.dir.join(name)).is_err() {
            self.complete();
            exit(0);
        }
    }

    /// Under the thread's id, where the real one keeps its rollouts.
    fn keep_records(&mut self) {
        let home = PathBuf::from(std::env::var_os("HOME").unwrap());
        let folder = home.join(".codex/sessions/2026/01/01");
        fs::create_dir_all(&folder).unwrap();
        self.rollout = Some(folder.join(format!("rollout-x-{}.jsonl", self.thread)));
    }

    fn record_answer(&self) {
        self.tell_rollout(&json!({"type": "token_usage_record", "payload": {
            "thread_id": self.thread, "response_id": uuid::Uuid::new_v4(), "usage": usage(ANSWER)}}));
    }

    fn tell_rollout(&self, line: &Value) {
        if let Some(rollout) = &self.rollout {
            append(rollout, &format!("{line}\n"));
        }
    }

    /// A command in a session of its own, as codex runs them.
    fn run(&mut self, command: &str) {
        let id = format!("item_{}", self.items);
        self.items += 1;
        let item = |output: &str, code: Value, status: &str| {
            json!({"id": id, "type": "command_execution", "command": command,
                   "aggregated_output": output, "exit_code": code, "status": status})
        };
        self.emit(&json!({"type": "item.started", "item": item("", Value::Null, "in_progress")}));
        let output = in_own_session(Command::new("sh").args(["-c", command]))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let code = output.status.code().unwrap_or(-1);
        let status = if code == 0 { "completed" } else { "failed" };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        self.emit(&json!({"type": "item.completed", "item": item(&text, json!(code), status)}));
    }

    /// Forks twice into a session of its own, holds stdout and stderr, and
    /// leaves its pid in `$STAND_IN_DIR/<name>`.
    fn daemon(&self, name: &str) {
        let file = self.dir.join(name);
        let script = format!(
            "(nohup setsid sh -c 'trap \"\" TERM INT HUP; echo $$ > {0}.new && mv {0}.new {0}; exec sleep 100000' &)",
            file.display()
        );
        in_own_session(Command::new("sh").args(["-c", &script]))
            .stdin(Stdio::null())
            .status()
            .unwrap();
        while !file.exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether the process lives whose pid is in that file of ours.
    fn alive(&self, name: &str) -> &'static str {
        match fs::read_to_string(self.dir.join(name)) {
            Err(_) => "none",
            Ok(pid) if Path::new("/proc").join(pid.trim()).exists() => "alive",
            Ok(_) => "gone",
        }
    }

    fn item(&mut self, kind: &str, fields: Value) {
        let mut item = json!({"id": format!("item_{}", self.items), "type": kind});
        item.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        self.items += 1;
        self.emit(&json!({"type": "item.completed", "item": item}));
    }

    fn complete(&self) {
        let file = self.dir.join("threads").join(&self.thread);
        let mut total: [u64; 5] = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        for (sum, each) in total.iter_mut().zip(ANSWER) {
            *sum += each * self.answers;
        }
        write_whole(&file, &json!(total).to_string());
        self.record_answer();
        self.tell_rollout(&json!({"type": "event_msg", "payload": {
            "type": "token_count", "info": {"total_token_usage": usage(total)}}}));
        self.record("end");
        self.emit(&json!({"type": "turn.completed", "usage": usage(total)}));
    }

    fn record(&self, what: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        append(
            &self.dir.join("log"),
            &format!(
                "{what} {} {} {} {}\n",
                self.here.display(),
                std::process::id(),
                self.tag,
                now.as_nanos()
            ),
        );
    }

    fn emit(&self, event: &Value) {
        write_all(format!("{event}\n").as_bytes());
    }
}

fn usage(tokens: [u64; 5]) -> Value {
    json!({
        "input_tokens": tokens[0], "cached_input_tokens": tokens[1], "cache_write_input_tokens": tokens[2],
        "output_tokens": tokens[3], "reasoning_output_tokens": tokens[4]})
}

fn kill(pid: rustix::process::Pid) {
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// One for each workspace. Whatever this process starts inherits it.
fn busy_file(dir: &Path) -> File {
    let here = std::env::current_dir().unwrap();
    let name = here.to_str().unwrap().replace('/', "%");
    let file = File::create(dir.join(format!("busy-{name}"))).unwrap();
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    file
}

/// Kills the worker, as a turn does that takes all the memory, and waits for
/// what becomes of that. Looks twice that it is one.
fn kill_worker() {
    let me = std::process::id().cast_signed();
    let worker = parent(me, "__guard").and_then(|guard| parent(guard, "serve"));
    if let Some(worker) = worker.and_then(rustix::process::Pid::from_raw) {
        kill(worker);
    }
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// The parent, if its first argument is that.
fn parent(pid: i32, argument: &str) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let after_name = &stat[stat.rfind(')')? + 1..];
    let parent = after_name.split_whitespace().nth(1)?.parse().ok()?;
    let command = fs::read(format!("/proc/{parent}/cmdline")).ok()?;
    let first = command.split(|byte| *byte == 0).nth(1)?;
    (first == argument.as_bytes()).then_some(parent)
}

/// `<resource> <number>`: no more of it for this process and what it starts.
fn limit(argument: &str) {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let (resource, number) = argument.split_once(' ').unwrap();
    let resource = match resource {
        "core" => Resource::Core,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        other => panic!("no resource {other}"),
    };
    let number = number.parse().ok();
    let limit = Rlimit {
        current: number,
        maximum: number,
    };
    setrlimit(resource, limit).unwrap();
}

fn in_own_session(command: &mut Command) -> &mut Command {
    #[expect(
        unsafe_code,
        reason = "std has no setsid; one system call, no memory touched"
    )]
    // SAFETY: setsid is async-signal-safe.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(|_| ()).map_err(Into::into))
    }
}

fn append(path: &Path, line: &str) {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    file.write_all(line.as_bytes()).unwrap();
}

/// Also where it is killed meanwhile.
fn write_whole(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

fn write_all(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    // The real one panics when its stdout is closed.
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .unwrap_or_else(|_| exit(101));
}
