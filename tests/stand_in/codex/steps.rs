//! What a prompt can ask for.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::commands;
use super::files::{ANSWER, Thread, append, busy_file, usage, write_all};

/// How a turn is reported, in the words of one of the two modes.
pub trait Voice {
    fn message(&self, text: &str);
    fn thought(&self, text: &str);
    /// A command starts; it is known by the id that comes back.
    fn command_started(&self, command: &str) -> String;
    fn command_printed(&self, id: &str, bytes: &[u8]);
    fn command_ended(&self, id: &str, command: &str, output: &str, code: i32);
    fn unknown(&self, kind: &str);
    fn reconnecting(&self, message: &str);
    /// Another answer of the model's came; `answers` are those of the turn so far.
    fn answered(&self, answers: u64);
    fn failed(&self, message: &str);
    fn completed(&self, total: [u64; 5]);
    /// Whether the process outlives its turns.
    fn stays(&self) -> bool;
    /// The turn's end is reported in another way than it should be.
    fn end_as(&self, _how: &str) {}
    /// A sub-agent starts to work. An interrupt ends it, unless it is deaf.
    fn agent(&self, _deaf: bool) {}
    /// The turn sets a goal.
    fn goal(&self) {}
    /// A tool sleeps.
    fn sleeps(&self, _time: Duration) {}
    /// When there is such a file, a turn starts by itself.
    fn begin_unasked(&self, _when: PathBuf) {}
}

pub struct Turn {
    pub dir: PathBuf,
    /// Where it runs; it may be gone by the end.
    here: PathBuf,
    /// The directory of its commands, where it is not the process's.
    pub cwd: Option<PathBuf>,
    pub thread: Thread,
    pub voice: Box<dyn Voice + Send>,
    /// The turn was interrupted: it stops.
    pub stopped: Arc<AtomicBool>,
    /// It can't be interrupted.
    pub deaf: Arc<AtomicBool>,
    tag: String,
    answers: u64,
    over: bool,
    /// Where each answer's tokens are reported at once, as the real one does; only if wanted.
    rollout: Option<PathBuf>,
    pub alone: Alone,
    pub asked: Asked,
}

/// What came along with the prompt.
#[derive(Default)]
pub struct Asked {
    /// As it is written.
    pub output_schema: Option<String>,
    pub images: Vec<Vec<u8>>,
}

/// Locked as long as the turn lasts, or a process that it has started.
#[derive(Clone)]
pub struct Alone(Arc<Mutex<Option<File>>>);

impl Alone {
    /// Before the turn's end is reported: the next one may start at once.
    pub fn release(&self) {
        self.0.lock().unwrap().take();
    }
}

impl Turn {
    pub fn start(
        dir: PathBuf,
        here: PathBuf,
        thread: Thread,
        prompt: &str,
        voice: Box<dyn Voice + Send>,
    ) -> Self {
        let first = prompt.split_whitespace().next().unwrap_or("-").to_owned();
        let alone = busy_file(&dir, &here);
        let is_alone = alone.try_lock().is_ok();
        let turn = Self {
            alone: Alone(Arc::new(Mutex::new(Some(alone)))),
            dir,
            here,
            cwd: None,
            thread,
            voice,
            stopped: Arc::default(),
            deaf: Arc::default(),
            tag: first,
            answers: 1,
            over: false,
            rollout: None,
            asked: Asked::default(),
        };
        turn.record("start");
        if !is_alone {
            turn.record("overlap");
        }
        turn
    }

    /// To its end, or until it is stopped.
    pub fn run(&mut self, prompt: &str) {
        for line in prompt.lines() {
            if self.is_stopped() {
                return;
            }
            let (step, argument) = line.split_once(' ').unwrap_or((line, ""));
            self.step(step, argument);
        }
        if !self.is_stopped() {
            self.complete();
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn step(&mut self, step: &str, argument: &str) {
        match step {
            "say" => {
                self.answers += 1;
                self.record_answer();
                self.voice.message(argument);
                self.voice.answered(self.answers - 1);
            }
            "think" => self.voice.thought(argument),
            "run" => self.command(argument),
            // Code mode: `end`, or a script that runs on.
            "script" => commands::run_script(argument),
            "sleep" => self.sleep(Duration::from_millis(argument.parse().unwrap())),
            // For turns that are run more than once: the next time, they end here.
            "once" => self.only_once(argument),
            "alive" => {
                let alive = |name| commands::alive(&self.dir.join(name));
                let words: Vec<&str> = argument.split(' ').map(alive).collect();
                self.voice.message(&words.join(" "));
            }
            "touch" => drop(File::create(self.dir.join(argument)).unwrap()),
            "wait" => {
                while !self.dir.join(argument).exists() && !self.is_stopped() {
                    sleep(Duration::from_millis(5));
                }
            }
            "hang" => self.sleep(Duration::MAX),
            "flood" => {
                for n in 0..argument.parse().unwrap() {
                    self.voice.message(&format!("message {n}"));
                }
            }
            "long" => self.voice.message(&"x".repeat(argument.parse().unwrap())),
            // The schema that the answer is to follow.
            "schema" => {
                let schema = self.asked.output_schema.as_deref();
                self.voice.message(schema.unwrap_or("none"));
            }
            // The sizes of the images that came along.
            "images" => {
                let sizes = self
                    .asked
                    .images
                    .iter()
                    .map(|image| image.len().to_string());
                let sizes: Vec<String> = sizes.collect();
                self.voice.message(&sizes.join(" "));
            }
            "unknown" => self.voice.unknown(argument),
            "garbage" => write_all(b"\xff\xfe not json\n"),
            "reconnect" => self
                .voice
                .reconnecting("Reconnecting... 1/5 (stream disconnected)"),
            "end-as" => self.voice.end_as(argument),
            "agent" => self.voice.agent(argument == "deaf"),
            "goal" => self.voice.goal(),
            "unasked" => self.voice.begin_unasked(self.dir.join(argument)),
            "nap" => {
                let time = Duration::from_millis(argument.parse().unwrap());
                self.voice.sleeps(time);
                self.sleep(time);
            }
            "stderr" => eprintln!("{argument}"),
            "env" => {
                let text: Vec<String> = std::env::vars()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                self.voice.message(&text.join("\n"));
            }
            "cat" => {
                let text = fs::read_to_string(self.cwd.clone().unwrap_or_default().join(argument))
                    .unwrap_or_else(|error| error.to_string());
                self.voice.message(&text);
            }
            "ignore-signals" => {
                self.deaf.store(true, Ordering::SeqCst);
                for signal in [2, 15, 1] {
                    // Caught and forgotten: as good as ignored, without unsafe code.
                    signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false))).unwrap();
                }
            }
            // Ends on an interrupt, and leaves a file as a sign.
            "until-interrupted" => self.until_interrupted(&self.dir.join(argument)),
            "daemon" => commands::daemon(&self.dir.join(argument)),
            "keep-records" => self.keep_records(),
            "kill-worker" => commands::kill_worker(),
            // Says that the turn is over, and stays.
            "finish" => self.complete(),
            "limit" => commands::limit(argument),
            "fail" => {
                self.over = true;
                if !self.voice.stays() {
                    self.voice.failed(argument);
                    self.record("end");
                    exit(1);
                }
                // What was answered before is spent.
                self.thread.add(self.answers - 1);
                self.record("end");
                self.alone.release();
                self.voice.failed(argument);
                self.stopped.store(true, Ordering::SeqCst);
            }
            // `<file> <words>`: fails with these words, unless there is such a file.
            "needs" => {
                let (file, words) = argument.split_once(' ').unwrap();
                if !self.dir.join(file).exists() {
                    self.step("fail", words);
                }
            }
            "exit" => {
                self.record("end");
                exit(argument.parse().unwrap());
            }
            "die" => {
                self.record("end");
                commands::kill(rustix::process::getpid());
            }
            // A tag, or a comment.
            _ => {}
        }
    }

    fn sleep(&self, time: Duration) {
        const NAP: Duration = Duration::from_millis(5);
        if !self.voice.stays() {
            return sleep(time);
        }
        let mut left = time;
        while !left.is_zero() && !self.is_stopped() {
            sleep(left.min(NAP));
            left = left.saturating_sub(NAP);
        }
    }

    fn until_interrupted(&self, file: &Path) {
        let interrupted = Arc::new(AtomicBool::new(false));
        if !self.voice.stays() {
            signal_hook::flag::register(2, Arc::clone(&interrupted)).unwrap();
        }
        while !interrupted.load(Ordering::Relaxed) && !self.is_stopped() {
            sleep(Duration::from_millis(5));
        }
        File::create(file).unwrap();
        if !self.is_stopped() {
            exit(1);
        }
    }

    fn only_once(&mut self, name: &str) {
        if File::create_new(self.dir.join(name)).is_err() {
            self.complete();
            match self.voice.stays() {
                true => self.stopped.store(true, Ordering::SeqCst),
                false => exit(0),
            }
        }
    }

    /// Under the thread's id, where the real one keeps its rollouts.
    fn keep_records(&mut self) {
        let home = PathBuf::from(std::env::var_os("HOME").unwrap());
        let folder = home.join(".codex/sessions/2026/01/01");
        fs::create_dir_all(&folder).unwrap();
        self.rollout = Some(folder.join(format!("rollout-x-{}.jsonl", self.thread.id)));
    }

    fn record_answer(&self) {
        self.tell_rollout(&json!({"type": "token_usage_record", "payload": {
            "thread_id": self.thread.id, "response_id": uuid::Uuid::new_v4(), "usage": usage(ANSWER)}}));
    }

    fn tell_rollout(&self, line: &Value) {
        if let Some(rollout) = &self.rollout {
            append(rollout, &format!("{line}\n"));
        }
    }

    fn command(&mut self, command: &str) {
        let id = self.voice.command_started(command);
        let printed = |bytes: &[u8]| self.voice.command_printed(&id, bytes);
        let (output, code) = commands::run(command, self.cwd.as_deref(), printed);
        self.voice.command_ended(&id, command, &output, code);
    }

    fn complete(&mut self) {
        if self.over && self.voice.stays() {
            return;
        }
        self.over = true;
        let total = self.thread.add(self.answers);
        self.record_answer();
        self.tell_rollout(&json!({"type": "event_msg", "payload": {
            "type": "token_count", "info": {"total_token_usage": usage(total)}}}));
        self.record("end");
        if self.voice.stays() {
            self.alone.release();
        }
        self.voice.completed(total);
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
}
