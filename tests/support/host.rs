//! One host with a workspace root, on which `turn-worker run` is called as a
//! person calls it, without a broker.
//!
//! ```ignore
//! let host = Host::new().set("TURN_TIMEOUT", "1s");
//! let turn = host.run("a", "say hi");
//! assert_eq!(turn.stop_reason(), "end_turn");
//! ```
//!
//! Beside what a test looks at itself, each turn's events are checked against
//! the contract, and that all its processes have ended when its end is published.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "not every test needs all of it, and a test fails by panicking"
)]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::engine;
use super::limit::{GROWING, LIMIT};
use super::not_tested::not_tested;
use super::processes::{self, of_workspace};

/// What `probe` finds, as soon as it finds something.
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether this test can be done; if not, that is reported.
pub fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        not_tested(&format!("{what}: that takes root"));
    }
    root
}

pub fn stand_in() -> PathBuf {
    example("stand-in-codex")
}

/// Leaves processes of awkward kinds behind.
pub fn awkward() -> PathBuf {
    example("awkward-process")
}

/// Built along with the tests.
fn example(name: &str) -> PathBuf {
    let worker = PathBuf::from(env!("CARGO_BIN_EXE_turn-worker"));
    let path = worker.with_file_name("examples").join(name);
    assert!(path.exists(), "no {path:?}: run `cargo build --examples`");
    path
}

/// Makes an executable. Another process writes it: while this one has it open
/// for writing, so may a child of it that another test is just starting, and
/// what is open for writing can't be run.
pub fn write_program(path: &Path, text: &str) {
    let written = Command::new("sh")
        .args(["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .arg(text)
        .status();
    assert!(written.unwrap().success());
}

#[derive(Debug)]
pub struct Host {
    dir: TempDir,
    worker: PathBuf,
    user: Option<u32>,
    settings: Vec<(String, OsString)>,
    environment: Vec<(String, OsString)>,
}

impl Host {
    /// With the stand-in for codex.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["workspaces", "home", "stand-in"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let path = dir.path().to_owned();
        Self {
            dir,
            worker: env!("CARGO_BIN_EXE_turn-worker").into(),
            user: None,
            settings: Vec::new(),
            environment: Vec::new(),
        }
        .env("HOME", path.join("home"))
        .env("STAND_IN_DIR", path.join("stand-in"))
        .set("WORKSPACE_ROOT", path.join("workspaces"))
        .set("CODEX_BIN", stand_in())
        .set("CODEX_ENGINE", engine::engine())
        .set("CODEX_ENV", "PATH,HOME,STAND_IN_DIR")
    }

    /// As another user, who owns all that is in the host's folder and does not
    /// see what only root sees.
    pub fn by_user(mut self, user: u32) -> Self {
        // Where the tests were built may be closed to that user.
        self.worker = self.copied(&self.worker);
        self.user = Some(user);
        let codex = self.copied(&stand_in());
        let give = |path: &Path| std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
        give(self.path());
        for entry in fs::read_dir(self.path()).unwrap() {
            give(&entry.unwrap().path());
        }
        self.set("CODEX_BIN", codex)
    }

    /// With agents of another user, for which the tests' own folders may be
    /// closed. Takes root.
    pub fn run_as(self, user: u32) -> Self {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(self.path(), open).unwrap();
        let codex = self.copied(&stand_in());
        for folder in ["home", "stand-in"] {
            let folder = self.path().join(folder);
            std::os::unix::fs::chown(folder, Some(user), Some(user)).unwrap();
        }
        self.set("CODEX_RUN_AS", format!("{user}:{user}"))
            .set("CODEX_BIN", codex)
    }

    /// Where agents of another user can run it.
    pub fn copied(&self, program: &Path) -> PathBuf {
        let copy = self.path().join(program.file_name().unwrap());
        let copied = Command::new("cp").args([program, &copy]).status();
        assert!(copied.unwrap().success());
        copy
    }

    /// A setting, named without its prefix; the last one counts.
    pub fn set(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.settings
            .push((format!("TURN_WORKER_{name}"), value.into()));
        self
    }

    /// A variable of the worker's environment.
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn workspace(&self, name: &str) -> PathBuf {
        let root = self.path().join("workspaces").canonicalize().unwrap();
        root.join(name)
    }

    pub fn session_file(&self, workspace: &str) -> PathBuf {
        self.workspace(workspace).join(".plexum-codex-session")
    }

    /// A file that the stand-in's steps `touch`, `wait` and `daemon` mean.
    pub fn stand_in_file(&self, name: &str) -> PathBuf {
        self.path().join("stand-in").join(name)
    }

    /// The arguments that the stand-in got last.
    pub fn argv(&self) -> String {
        fs::read_to_string(self.stand_in_file("argv")).unwrap()
    }

    /// The pids of the stand-ins that were started, oldest first.
    pub fn runs(&self) -> Vec<i32> {
        let log = fs::read_to_string(self.stand_in_file("log")).unwrap_or_default();
        let starts = log.lines().filter_map(|line| line.strip_prefix("start "));
        starts
            .map(|line| line.split(' ').nth(1).unwrap().parse().unwrap())
            .collect()
    }

    /// A file with a pid, as soon as it is there.
    pub fn pid_in(&self, name: &str) -> i32 {
        let file = self.stand_in_file(name);
        until(name, || fs::read_to_string(&file).ok()?.trim().parse().ok())
    }

    /// Whether the workspace's lock is free.
    pub fn lock_is_free(&self, workspace: &str) -> bool {
        let state = self.path().join("workspaces/.turn-worker/workspaces");
        let lock = state.join(workspace).join(".state/lock");
        File::open(lock).unwrap().try_lock().is_ok()
    }

    /// Until the lock is free; at that moment all of the turn must have ended.
    pub fn unlocked(&self, workspace: &str, also: &[i32]) {
        let dir = self.workspace(workspace);
        processes::gone_when_free(&dir, also, || self.lock_is_free(workspace));
    }

    pub fn command(&self, workspace: &str) -> Command {
        self.call(&["run", "--json", "--workspace", workspace, "-"])
    }

    /// Any call of `turn-worker`.
    pub fn call(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.worker);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .current_dir(self.path());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    pub fn start(&self, workspace: &str, prompt: &str) -> Running {
        self.start_command(self.command(workspace), workspace, prompt)
    }

    pub fn start_command(&self, mut command: Command, workspace: &str, prompt: &str) -> Running {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.reopen().unwrap())
            .spawn()
            .unwrap();
        let (mut stdin, prompt) = (child.stdin.take().unwrap(), prompt.to_owned());
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || stdin.write_all(prompt.as_bytes()));
        let (told, lines) = channel();
        let dir = self.workspace(workspace);
        thread::spawn(move || {
            for line in stdout.lines() {
                let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
                let over = event["type"] == "message_end";
                let left = if over { of_workspace(&dir) } else { Vec::new() };
                if told.send((event, left)).is_err() {
                    return;
                }
            }
        });
        Running {
            child,
            lines,
            log,
            events: Vec::new(),
            leaves: false,
        }
    }

    pub fn run(&self, workspace: &str, prompt: &str) -> Turn {
        self.start(workspace, prompt).ended()
    }

    /// A turn that runs out of time once it is under way.
    pub fn run_out_of_time(&self, prompt: &str, is_under_way: impl Fn(&Turn) -> bool) -> Turn {
        let turns = GROWING.iter().map(|seconds| {
            let mut command = self.command("a");
            command.env("TURN_WORKER_TURN_TIMEOUT", format!("{seconds}s"));
            self.start_command(command, "a", prompt).ended()
        });
        let mut under_way = turns.filter(is_under_way);
        let turn = under_way
            .next()
            .unwrap_or_else(|| panic!("no time was enough: {prompt}"));
        assert_eq!(turn.stop_reason(), "timeout", "{turn:#?}");
        turn
    }
}

/// A call of `turn-worker run`. Dropping it kills the worker.
#[derive(Debug)]
pub struct Running {
    pub child: Child,
    /// Each event, and with the last one what lived when it came.
    lines: Receiver<(Value, Vec<i32>)>,
    log: tempfile::NamedTempFile,
    events: Vec<Value>,
    leaves: bool,
}

impl Running {
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Of a turn that leaves what can't be killed.
    pub fn leaving_something(mut self) -> Self {
        self.leaves = true;
        self
    }

    /// Until an event is such.
    pub fn event(&mut self, is: impl Fn(&Value) -> bool) -> Value {
        loop {
            let Some(event) = self.next() else {
                panic!(
                    "ended without such an event: {:#?}\n{}",
                    self.events,
                    self.log()
                );
            };
            if is(&event) {
                return event;
            }
        }
    }

    /// Until the agent says this.
    pub fn said(&mut self, text: &str) {
        while !engine::said(&self.events).iter().any(|said| said == text) {
            self.event(|event| event["type"] == "text_delta");
        }
    }

    fn next(&mut self) -> Option<Value> {
        let (event, left) = match self.lines.recv_timeout(LIMIT) {
            Ok(line) => line,
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return None,
            Err(timeout) => panic!("{timeout}: {:#?}\n{}", self.events, self.log()),
        };
        let left: Vec<_> = left.into_iter().map(processes::describe).collect();
        assert!(
            self.leaves || left.is_empty(),
            "live after the turn's end: {left:#?}"
        );
        self.events.push(event.clone());
        Some(event)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log.path()).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid()).unwrap(), signal).unwrap();
    }

    /// Closes the reading end of its stdout; ends when it ends.
    pub fn deaf(mut self) {
        let (_, none) = channel();
        self.lines = none;
        self.child.wait().unwrap();
    }

    /// SIGKILL; the process itself is gone when this returns.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn ended(mut self) -> Turn {
        while self.next().is_some() {}
        let code = self.child.wait().unwrap().code();
        let turn = Turn {
            code,
            events: std::mem::take(&mut self.events),
            log: self.log(),
        };
        turn.check();
        turn
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What came of a call of `turn-worker run`.
#[derive(Debug)]
pub struct Turn {
    pub code: Option<i32>,
    pub events: Vec<Value>,
    pub log: String,
}

impl Turn {
    fn check(&self) {
        let Some(last) = self.events.last() else {
            return;
        };
        for (seq, event) in self.events.iter().enumerate() {
            assert_eq!(event["seq"], seq, "{self:#?}");
            assert_eq!(event["attempt"], last["attempt"], "{self:#?}");
        }
        let kinds = self.kinds();
        let count = |kind: &str| kinds.iter().filter(|of| **of == kind).count();
        assert_eq!(kinds.first().unwrap(), "message_start", "{self:#?}");
        assert_eq!(kinds.last().unwrap(), "message_end", "{self:#?}");
        assert_eq!(count("message_start"), 1, "{self:#?}");
        assert_eq!(count("message_end"), 1, "{self:#?}");
        assert_eq!(count("tool_use"), count("tool_result"), "{self:#?}");
        let failed = matches!(self.stop_reason(), "error" | "timeout");
        assert_eq!(count("error"), usize::from(failed), "{self:#?}");
        if failed {
            assert_eq!(kinds[kinds.len() - 2], "error", "{self:#?}");
        }
        let code = match self.stop_reason() {
            "end_turn" => 0,
            "error" => 1,
            "timeout" => 124,
            "cancelled" => 130,
            other => panic!("no stop reason: {other}"),
        };
        assert_eq!(self.code, Some(code), "{self:#?}");
    }

    pub fn kinds(&self) -> Vec<String> {
        engine::kinds(&self.events)
    }

    fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.events
            .iter()
            .filter(move |event| event["type"] == kind)
    }

    pub fn end(&self) -> &Value {
        self.events
            .last()
            .unwrap_or_else(|| panic!("no event:\n{}", self.log))
    }

    pub fn stop_reason(&self) -> &str {
        self.end()["stop_reason"].as_str().unwrap()
    }

    #[track_caller]
    pub fn assert_end_turn(&self) {
        assert_eq!(self.stop_reason(), "end_turn", "{self:#?}");
    }

    /// Code, reason, whether it may be retried, message.
    #[track_caller]
    pub fn error(&self) -> (&str, &str, bool, &str) {
        let found = self.of_kind("error").next();
        let error = &found.unwrap_or_else(|| panic!("no error: {self:#?}"))["error"];
        (
            error["code"].as_str().unwrap(),
            error["reason"].as_str().unwrap(),
            error["retryable"].as_bool().unwrap(),
            error["message"].as_str().unwrap(),
        )
    }

    /// The codes of the notices, in their order.
    pub fn notices(&self) -> Vec<&str> {
        self.of_kind("notice")
            .map(|notice| notice["code"].as_str().unwrap())
            .collect()
    }

    /// What the agent said, in its order.
    pub fn said(&self) -> Vec<String> {
        engine::said(&self.events)
    }

    /// What the commands printed, in their order.
    pub fn printed(&self) -> Vec<&str> {
        self.of_kind("tool_result")
            .filter_map(|result| result["content"]["aggregated_output"].as_str())
            .collect()
    }

    pub fn thread(&self) -> &str {
        self.end()["thread_id"].as_str().unwrap()
    }

    /// Input, cached and output tokens.
    pub fn usage(&self) -> Option<[u64; 3]> {
        let usage = self.end().get("usage")?;
        let count = |name: &str| usage[name].as_u64().unwrap();
        Some([
            count("input_tokens"),
            count("cache_read_tokens"),
            count("output_tokens"),
        ])
    }
}
