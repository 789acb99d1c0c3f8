//! `codex app-server --stdio`: threads and turns until its stdin ends.
//!
//! Words in the file `$STAND_IN_DIR/app-server` make it misbehave before any
//! prompt could ask for it: `mute-initialize`, `mute-load`, `mute-turn` leave
//! requests unanswered, `refuse-initialize` answers an error, `die-initialize`, `die-load` end the
//! process, `garbage` and `long` write a line that is no message, or one of 32 MB,
//! before the first answer. `child` has it start one that outlives it, as an
//! MCP server may, with the pid in the file of that name. `snapshot` has each load of a
//! thread start a login shell, which runs until there is the file `done`; `mcp` has it start an MCP server.

use std::array;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::BufRead;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use serde_json::{Value, json};

use super::commands;
use super::files::{Thread, Writer, note_resumed, write_all};
use super::server_voice::{
    ServerVoice, Talk, agent_works, answer, interrupt_agent, notify, refuse, tokens, write_garbage,
};
use super::steps::{Alone, Asked, Turn};

/// As `config/read` reports it.
const DEFAULT_MODEL: &str = "stand-in";

/// inotify instances of a server, of which a user may have 128 by default.
const WATCHERS: usize = 2;

struct Server {
    dir: PathBuf,
    /// As the real one, which does without where there are no more.
    _watchers: [rustix::io::Result<OwnedFd>; WATCHERS],
    unwanted: Arc<HashSet<String>>,
    initialized: bool,
    threads: HashMap<String, Loaded>,
    /// It can be ended only by force.
    deaf: Arc<AtomicBool>,
    mcp: Option<commands::McpServer>,
}

struct Loaded {
    cwd: PathBuf,
    thread: Thread,
    _writer: Writer,
    turn: Option<Running>,
    had_turn: bool,
}

struct Running {
    talk: Arc<Talk>,
    stopped: Arc<AtomicBool>,
    alone: Alone,
}

pub fn run(dir: PathBuf, args: &[String]) {
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("argv"), args.join(" ")).unwrap();
    let deaf = Arc::new(AtomicBool::new(false));
    end_on_term(Arc::clone(&deaf));
    let mut server = Server {
        dir,
        _watchers: watchers(),
        unwanted: Arc::default(),
        initialized: false,
        threads: HashMap::new(),
        deaf,
        mcp: None,
    };
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        // What is no JSON is not answered, as by the real one.
        if let Ok(message) = serde_json::from_str::<Value>(&line) {
            server.hear(&message);
        }
    }
    while server.deaf.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_secs(3600));
    }
    commands::end_all();
    exit(0);
}

/// One of them watches for skills: in the nearest folder that exists where theirs is missing.
fn watchers() -> [rustix::io::Result<OwnedFd>; WATCHERS] {
    let watchers = array::from_fn(|_| init(CreateFlags::CLOEXEC));
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".agents/skills"));
    let folders = home.into_iter().chain(["/etc/codex/skills".into()]);
    for folder in folders {
        let nearest = folder.ancestors().find(|folder| folder.is_dir()).unwrap();
        if let Ok(watcher) = &watchers[0] {
            let events = WatchFlags::OPEN | WatchFlags::CREATE | WatchFlags::CLOSE_WRITE;
            add_watch(watcher, nearest, events).unwrap();
        }
    }
    watchers
}

fn inputs<'a>(params: &'a Value, kind: &'static str) -> impl Iterator<Item = &'a Value> {
    let inputs = params["input"].as_array().unwrap().iter();
    inputs.filter(move |input| input["type"] == kind)
}

fn asked(params: &Value) -> Asked {
    let schema = params.get("outputSchema").map(Value::to_string);
    let images = inputs(params, "image").map(|input| {
        let (_, base64) = input["url"]
            .as_str()
            .unwrap()
            .split_once(";base64,")
            .unwrap();
        STANDARD.decode(base64).unwrap()
    });
    Asked {
        images: images.collect(),
        output_schema: schema,
    }
}

fn end_on_term(deaf: Arc<AtomicBool>) {
    let mut signals = signal_hook::iterator::Signals::new([15]).unwrap();
    thread::spawn(move || {
        for _ in signals.forever() {
            if !deaf.load(Ordering::SeqCst) {
                commands::end_all();
                exit(0);
            }
        }
    });
}

impl Server {
    fn hear(&mut self, message: &Value) {
        let (id, method) = (&message["id"], message["method"].as_str());
        let params = &message["params"];
        match method {
            Some("initialize") => self.initialize(id, params),
            Some("initialized") | None => {}
            Some(_) if !self.initialized => refuse(id, "Not initialized"),
            Some("config/read") => answer(id, &json!({"config": {"model": DEFAULT_MODEL}})),
            Some("thread/start") => self.load(id, params, None),
            Some("thread/resume") => {
                let thread = params["threadId"].as_str().unwrap().to_owned();
                self.load(id, params, Some(thread));
            }
            Some("turn/start") => self.start(id, params),
            Some("turn/interrupt") => self.interrupt(id, params),
            Some(other) => refuse(id, &format!("Invalid request: unknown variant `{other}`")),
        }
    }

    fn misbehaves(&self, how: &str) -> bool {
        let words = fs::read_to_string(self.dir.join("app-server")).unwrap_or_default();
        words.split_whitespace().any(|word| word == how)
    }

    fn initialize(&mut self, id: &Value, params: &Value) {
        if self.misbehaves("garbage") {
            write_garbage();
        }
        if self.misbehaves("long") {
            write_all(&vec![b'x'; 32 << 20]);
            write_all(b"\n");
        }
        if self.misbehaves("die-initialize") {
            eprintln!("Error: the stand-in was told to die");
            exit(1);
        }
        if self.misbehaves("mute-initialize") {
            return;
        }
        if self.misbehaves("refuse-initialize") {
            return refuse(id, "the stand-in was told to refuse");
        }
        if self.misbehaves("child") {
            commands::daemon(&self.dir.join("child"));
        }
        let unwanted = &params["capabilities"]["optOutNotificationMethods"];
        self.unwanted = Arc::new(serde_json::from_value(unwanted.clone()).unwrap_or_default());
        self.initialized = true;
        answer(
            id,
            &json!({"userAgent": "stand-in/0.171.0", "platformFamily": "unix", "platformOs": "linux"}),
        );
    }

    fn load(&mut self, id: &Value, params: &Value, resume: Option<String>) {
        if self.misbehaves("die-load") {
            exit(1);
        }
        if self.misbehaves("mute-load") {
            return;
        }
        note_resumed(&self.dir, resume.as_deref());
        let resumed = resume.is_some();
        let name = resume.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let result = json!({"thread": {"id": name, "turns": [], "cwd": params["cwd"]}, "cwd": params["cwd"]});
        if self.threads.contains_key(&name) {
            // It keeps its directory, regardless of the request.
            return answer(id, &result);
        }
        let thread = Thread::new(&self.dir, name.clone());
        if resumed && !thread.exists() {
            return refuse(id, &format!("no rollout found for thread id {name}"));
        }
        let Some(writer) = thread.writer(&self.dir) else {
            return refuse(id, &format!("thread {name} already has an active writer"));
        };
        if self.misbehaves("mcp") {
            self.mcp.get_or_insert_with(commands::McpServer::start);
        }
        if self.misbehaves("snapshot") {
            commands::take_snapshot(&self.dir);
        }
        answer(id, &result);
        match resumed {
            true => notify(
                &self.unwanted,
                "thread/tokenUsage/updated",
                &json!({"threadId": name, "turnId": uuid::Uuid::now_v7(), "tokenUsage": tokens(thread.total())}),
            ),
            false => notify(&self.unwanted, "thread/started", &result),
        }
        let loaded = Loaded {
            cwd: PathBuf::from(params["cwd"].as_str().unwrap()),
            thread,
            _writer: writer,
            turn: None,
            had_turn: false,
        };
        self.threads.insert(name, loaded);
    }

    fn start(&mut self, id: &Value, params: &Value) {
        if self.misbehaves("mute-turn") {
            return;
        }
        let name = params["threadId"].as_str().unwrap();
        let Some(loaded) = self.threads.get_mut(name) else {
            return refuse(id, &format!("thread not found: {name}"));
        };
        if let Some(running) = loaded.turn.as_ref().filter(|turn| !turn.talk.is_over()) {
            // Merged into the turn that runs.
            return answer(
                id,
                &json!({"turn": running.talk.as_turn("inProgress", Value::Null)}),
            );
        }
        if agent_works() {
            // The real one would let it write beside this turn.
            eprintln!("Error: a sub-agent of an earlier turn still works");
            exit(1);
        }
        // The real one, too, asks the model only then.
        if let Some(mcp) = self.mcp.as_mut().filter(|_| !loaded.had_turn) {
            mcp.started();
            let status = json!({"threadId": name, "name": "mcp", "status": "ready"});
            notify(&self.unwanted, "mcpServer/startupStatus/updated", &status);
        }
        loaded.had_turn = true;
        let texts = inputs(params, "text").map(|input| input["text"].as_str().unwrap());
        let prompt = texts.collect::<Vec<_>>().join("\n");
        loaded.thread.create();
        let talk = Arc::new(Talk::new(
            name.to_owned(),
            uuid::Uuid::now_v7().to_string(),
            loaded.thread.total(),
            Arc::clone(&self.unwanted),
        ));
        answer(
            id,
            &json!({"turn": talk.as_turn("inProgress", Value::Null)}),
        );
        let voice = Box::new(ServerVoice(Arc::clone(&talk)));
        let (cwd, thread) = (loaded.cwd.clone(), loaded.thread.clone());
        let mut turn = Turn::start(self.dir.clone(), cwd.clone(), thread, &prompt, voice);
        turn.cwd = Some(cwd);
        turn.asked = asked(params);
        turn.deaf = Arc::clone(&self.deaf);
        talk.begin(&prompt);
        loaded.turn = Some(Running {
            talk,
            stopped: Arc::clone(&turn.stopped),
            alone: turn.alone.clone(),
        });
        thread::spawn(move || turn.run(&prompt));
    }

    /// The turn is over at once; its command lives on.
    fn interrupt(&mut self, id: &Value, params: &Value) {
        if self.deaf.load(Ordering::SeqCst) {
            return;
        }
        let thread = params["threadId"].as_str().unwrap();
        let turn = params["turnId"].as_str().unwrap();
        if interrupt_agent(&self.unwanted, thread, turn) {
            return answer(id, &json!({}));
        }
        let loaded = self.threads.get(thread);
        let running = loaded.and_then(|loaded| Some((loaded, loaded.turn.as_ref()?)));
        let running = running.filter(|(_, turn)| {
            params["turnId"] == turn.talk.turn.as_str() && !turn.talk.is_over()
        });
        let Some((loaded, turn)) = running else {
            return refuse(id, "no active turn to interrupt");
        };
        turn.stopped.store(true, Ordering::SeqCst);
        turn.alone.release();
        // Unless it was completed meanwhile, which has counted them.
        if loaded.thread.total() == turn.talk.before {
            loaded.thread.add(turn.talk.answers());
        }
        answer(id, &json!({}));
        turn.talk.end("interrupted", Value::Null);
    }
}
