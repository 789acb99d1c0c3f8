//! A pool as an operator runs it and a producer sees it: processes of
//! `turn-worker serve` on a vhost, with the stand-in for codex.
//!
//! ```ignore
//! let mut pool = Pool::start(2, &[("SLOTS", "1")]).await;
//! pool.enqueue(&[turn("t1", "a", &["say hi"])]).await;
//! assert_eq!(pool.events.ended("t1").await.stop_reason(), "end_turn");
//! pool.stop().await;
//! ```
//!
//! Beside what a test looks at itself, on every event that is published G5 and G6
//! are checked, and on every run of the stand-in that it is alone in its
//! workspace (G3). A test that fails shows the last lines of all logs; all
//! processes end with it.

#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    reason = "not every test binary needs all of it, and a test fails by panicking"
)]

mod deadline;
mod events;
mod heartbeats;
mod process;
mod producer;
mod runs;

use std::fs::{self, File};
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

pub use deadline::Deadline;
pub use events::{Events, Turn};
pub use process::{Metrics, Process, is_alive};
pub use producer::{DeadLetter, Producer, persistent, trace_of};
pub use runs::{Run, Runs};

use super::broker::Broker;
use super::engine;
use super::processes::{describe, of_workspace};

/// See the module.
pub struct Pool {
    /// What is dropped first ends first.
    processes: Vec<Process>,
    pub events: Events,
    pub producer: Producer,
    pub deadline: Deadline,
    pub url: String,
    settings: Vec<(String, String)>,
    /// Runs may overlap, as a test has switched the locks off.
    pub overlaps: bool,
    /// Of [`Pool::all_slots_take`].
    rounds: u32,
    dir: TempDir,
}

/// A request with a script as its prompt for the stand-in, under the turn's id as its tag.
pub fn turn(id: &str, workspace: &str, script: &[&str]) -> Value {
    let prompt = format!("{id}\n{}", script.join("\n"));
    json!({
        "turn_id": id,
        "workspace": workspace,
        "messages": [{"role": "user", "content": prompt}],
    })
}

impl Pool {
    /// `settings` go to every process, named without their prefix; beside them
    /// `FAILPOINTS`, which says what goes wrong in it (see `src/fault.rs`).
    pub async fn start(processes: usize, settings: &[(&str, &str)]) -> Self {
        Self::on(&Broker::vhost(), processes, settings).await
    }

    /// On a vhost of one's own choice, which is empty. All processes are
    /// ready when this returns.
    pub async fn on(url: &str, processes: usize, settings: &[(&str, &str)]) -> Self {
        let deadline = Deadline::of_a_test();
        let dir = tempfile::tempdir().unwrap();
        for folder in ["workspaces", "home", "stand-in"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let events = Events::collect(url, deadline).await;
        let mut pool = Self {
            processes: Vec::new(),
            events,
            producer: Producer::new(url, deadline),
            deadline,
            url: url.to_owned(),
            settings: owned(settings),
            overlaps: false,
            rounds: 0,
            dir,
        };
        for _ in 0..processes {
            pool.spawn(&[]);
        }
        pool.ready().await;
        pool
    }

    /// One more process, with settings of its own on top; not waited for.
    pub fn spawn(&mut self, settings: &[(&str, &str)]) -> usize {
        let number = self.processes.len();
        let mut all = vec![
            ("AMQP_URL".to_owned(), self.url.clone()),
            ("WORKSPACE_ROOT".to_owned(), text(&self.root())),
            ("SLOTS".to_owned(), "4".to_owned()),
            ("CODEX_BIN".to_owned(), text(&stand_in())),
            ("CODEX_ENGINE".to_owned(), engine::engine()),
            ("CODEX_ENV".to_owned(), "PATH,HOME,STAND_IN_DIR".to_owned()),
            ("HTTP_ADDR".to_owned(), "127.0.0.1:0".to_owned()),
            // Tests scrape, and are no monitor to wait for.
            ("METRICS_LINGER".to_owned(), "0s".to_owned()),
            ("LOG_FORMAT".to_owned(), "json".to_owned()),
            ("LOG".to_owned(), "info,turn_worker=debug".to_owned()),
        ];
        all.extend(self.settings.iter().cloned());
        all.extend(owned(settings));
        let environment = [
            ("HOME", self.dir.path().join("home")),
            ("STAND_IN_DIR", self.stand_in_dir()),
        ];
        let log = self.dir.path().join(format!("log-{number}"));
        let process = Process::spawn(number, log, &all, &environment, self.deadline);
        self.processes.push(process);
        number
    }

    /// Until every process that lives is ready.
    pub async fn ready(&self) {
        for process in self.processes.iter().filter(|process| process.lives()) {
            process.ready().await;
        }
    }

    pub fn process(&mut self, number: usize) -> &mut Process {
        &mut self.processes[number]
    }

    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// The process under which that run is.
    pub fn process_of(&self, run: &Run) -> usize {
        let guard = process::parent(run.pid);
        let worker = guard.and_then(process::parent);
        let found = self
            .processes
            .iter()
            .position(|process| Some(process.pid()) == worker);
        found.unwrap_or_else(|| panic!("{run:?} is under no worker; its guard: {guard:?}"))
    }

    /// The process with the active sequencer; `None` before the first turn.
    pub async fn active_sequencer(&self) -> usize {
        let probe = async || {
            for (number, process) in self.processes.iter().enumerate() {
                if process.lives()
                    && process.metrics().await.get("turn_worker_sequencer_active") == 1.0
                {
                    return Some(number);
                }
            }
            None
        };
        self.deadline.until("an active sequencer", probe).await
    }

    /// A metric, summed over all processes that live.
    pub async fn metric(&self, series: &str) -> f64 {
        let mut sum = 0.0;
        for process in self.processes.iter().filter(|process| process.lives()) {
            sum += process.metrics().await.get(series);
        }
        sum
    }

    /// Until that metric's sum is `value`.
    pub async fn metric_is(&self, series: &str, value: f64) {
        let what = format!("{series} is {value}");
        let probe = async || (self.metric(series).await == value).then_some(());
        self.deadline.until(&what, probe).await;
    }

    /// Publishes requests, in this order, and waits for all confirms.
    pub async fn enqueue(&mut self, requests: &[Value]) {
        self.producer.enqueue(requests).await;
    }

    pub async fn cancel(&mut self, turn_id: &str) {
        let cancel = json!({"action": "cancel", "turn_id": turn_id});
        self.producer.control(&cancel).await;
    }

    /// The workspace root.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("workspaces")
    }

    /// Where codex would keep its settings and its login.
    pub fn codex_home(&self) -> PathBuf {
        self.dir.path().join("home/.codex")
    }

    /// A file that the stand-in's steps `touch`, `wait` and `daemon` mean.
    pub fn stand_in_file(&self, name: &str) -> PathBuf {
        self.stand_in_dir().join(name)
    }

    fn stand_in_dir(&self) -> PathBuf {
        self.dir.path().join("stand-in")
    }

    /// The process with the pid that the stand-in has left in that file.
    pub fn pid_in(&self, name: &str) -> i32 {
        let text = fs::read_to_string(self.stand_in_file(name)).unwrap();
        text.trim().parse().unwrap()
    }

    /// Until that file is written, one of the stand-in's.
    pub async fn written(&self, name: &str) {
        let file = self.stand_in_file(name);
        let probe = async || {
            fs::read(&file)
                .is_ok_and(|text| !text.is_empty())
                .then_some(())
        };
        self.deadline
            .until(&format!("{name} is written"), probe)
            .await;
    }

    /// Until that many messages are ready in a queue.
    pub async fn ready_in(&mut self, queue: &str, count: u32) {
        let producer = &mut self.producer;
        let probe = async || (producer.depth(queue).await == count).then_some(());
        let what = format!("{count} messages are ready in {queue}");
        self.deadline.until(&what, probe).await;
    }

    /// Lets a stand-in that does `wait NAME` go on.
    pub fn release(&self, name: &str) {
        fs::write(self.stand_in_file(name), "").unwrap();
    }

    /// What the stand-in has recorded so far.
    pub fn runs(&self) -> Runs {
        Runs::read(&self.stand_in_file("log"), &self.root())
    }

    /// Until the turn has been started `times` times; that run.
    pub async fn started(&self, turn_id: &str, times: usize) -> Run {
        let probe = async || {
            let runs = self.runs();
            let mut of_turn = runs.of_turn(turn_id);
            of_turn.nth(times - 1).cloned()
        };
        let what = format!("{turn_id} is started, number {times}");
        self.deadline.until(&what, probe).await
    }

    /// New turns, as many as there are slots on all processes that live, run
    /// at the same time: every slot of every process takes offers.
    pub async fn all_slots_take(&mut self) {
        self.ready().await;
        let slots = self.metric("turn_worker_slots").await as usize;
        self.rounds += 1;
        let go = format!("round-{}", self.rounds);
        let ids: Vec<_> = (0..slots).map(|slot| format!("{go}-{slot}")).collect();
        let wait = format!("wait {go}");
        let requests: Vec<_> = ids.iter().map(|id| turn(id, id, &[&wait])).collect();
        self.enqueue(&requests).await;
        for id in &ids {
            self.started(id, 1).await;
        }
        self.release(&go);
        self.events.all_ended(&ids).await;
    }

    /// Until the workspace's lock is free, also of a server that
    /// waits: that is made to make way. At the first moment when it is free,
    /// all of the workspace's turns must have ended.
    pub async fn unlocked(&self, workspace: &str) {
        let state = self.root().join(".turn-worker/workspaces");
        let state = state.join(workspace).join(".state");
        let (lock, bell) = (state.join("lock"), File::open(state.join("bell")));
        let free = async || {
            let _rings = bell.as_ref().is_ok_and(|bell| bell.try_lock().is_ok());
            // Before its first turn there is no sequencer.
            let free = File::open(&lock).map_or(true, |lock| lock.try_lock().is_ok());
            free.then_some(())
        };
        self.deadline.until("the lock is free", free).await;
        let dir = self.root().canonicalize().unwrap().join(workspace);
        let left: Vec<_> = of_workspace(&dir).into_iter().map(describe).collect();
        assert!(left.is_empty(), "live beside a free lock: {left:#?}");
    }

    /// Until no turn is held or running.
    pub async fn idle(&self) {
        self.metric_is("turn_worker_backlog_turns", 0.0).await;
        self.metric_is("turn_worker_slots_busy", 0.0).await;
    }

    /// Until the sequencer that follows on one that was killed holds all that
    /// its predecessor had not acked: that comes before any later turn.
    async fn taken_over(&mut self) {
        let last = "last-of-all";
        self.enqueue(&[turn(last, last, &[])]).await;
        self.events.ended(last).await;
    }

    /// Ends all processes in order and checks what they leave: no turn,
    /// no offer, and no event that was not looked at.
    pub async fn stop(mut self) {
        let living = self.processes.iter().filter(|process| process.lives());
        if (1..self.processes.len()).contains(&living.count()) {
            self.taken_over().await;
        }
        self.idle().await;
        for process in &mut self.processes {
            if process.lives() {
                process.terminate();
            }
        }
        for process in &mut self.processes {
            if process.lives() {
                assert_eq!(process.exited().await, Some(0), "{}", process.name());
            }
        }
        // Where each host has a disk of its own, each has a queue of its own.
        let is_local = self.settings.iter().any(|(_, value)| value == "local");
        let queues: &[&str] = match is_local {
            true => &["codex.turns"],
            false => &["codex.turns", "codex.turns.work"],
        };
        for queue in queues {
            assert_eq!(self.producer.depth(queue).await, 0, "{queue} is not empty");
        }
        self.events.caught_up(&mut self.producer).await;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for process in &self.processes {
                eprintln!("{}", process.tail());
            }
            eprintln!("--- the stand-in\n{}", self.runs().tail());
            eprintln!("--- events\n{}", self.events.tail());
            return;
        }
        self.events.check();
        if !self.overlaps {
            self.runs().check();
        }
    }
}

/// Built as an example along with the tests.
fn stand_in() -> PathBuf {
    let worker = PathBuf::from(env!("CARGO_BIN_EXE_turn-worker"));
    let path = worker.with_file_name("examples").join("stand-in-codex");
    assert!(path.exists(), "no {path:?}: run `cargo build --examples`");
    path
}

fn owned(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    settings.iter().map(own).collect()
}

fn text(path: &std::path::Path) -> String {
    path.to_str().unwrap().to_owned()
}
